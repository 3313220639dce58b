"""The rank of a process among those that train together, from the environment variables that torchrun sets."""

import os
from dataclasses import dataclass

from charlm.errors import RankError

PLACE_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun sets for each process; other launchers may."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """The rank of a process, and how many there are, from torchrun's environment variables; by default a single process."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    restarts: int = 0  # by torchrun, of all ranks
    job: str = ""

    @classmethod
    def of_environment(cls) -> "Place":
        """Read the place from the environment. Raises RankError where a variable is not a number, or the rank too high."""
        if not all(os.environ.get(name) for name in PLACE_VARIABLES):
            return cls()
        rank, size = _number("RANK"), _number("WORLD_SIZE")
        if rank >= size:
            raise RankError(f"RANK is {rank} and WORLD_SIZE {size}; a rank is from 0 to {size - 1}")
        return cls(
            rank=rank,
            size=size,
            local_rank=_number("LOCAL_RANK", rank),
            local_size=_number("LOCAL_WORLD_SIZE", size),
            restarts=_number("TORCHELASTIC_RESTART_COUNT", 0),
            job=os.environ.get("TORCHELASTIC_RUN_ID", ""),
        )


def _number(name: str, default: int = 0) -> int:
    text = os.environ.get(name, str(default))
    if not text.isascii() or not text.isdigit():
        raise RankError(f"{name} is {text!r}; it must be a whole number, as torchrun sets it")
    return int(text)
