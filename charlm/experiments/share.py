"""Divide a comparison's runs among several processes: each trains every n-th one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from charlm.errors import UsageError
from charlm.place import Place
from charlm.terminal import one_line

T = TypeVar("T")
MOST_SHARES = 10_000


@dataclass(frozen=True)
class Share:
    """The share of one process: by default everything."""

    number: int = 1  # from 1
    of: int = 1

    def part(self, runs: Sequence[T]) -> list[tuple[int, T]]:
        """Return every run of this share, with its number among all of them, from 1."""
        return list(enumerate(runs, 1))[self.number - 1 :: self.of]

    def __str__(self) -> str:
        return f"{self.number} of {self.of}"


WHOLE = Share()


def share_of(given: str | None, place: Place) -> Share:
    """Parse `--share`, or return the share of a rank. Raises UsageError."""
    if given is None:
        return Share(place.rank + 1, place.size)
    if place.size > 1:
        raise UsageError(f"--share has no effect with {place.size} ranks, each of which trains its share")
    match = re.fullmatch(r"([0-9]{1,5})/([0-9]{1,5})", given)
    if match is None or not 1 <= int(match[1]) <= int(match[2]) <= MOST_SHARES:
        raise UsageError(
            f"--share is {one_line(given)!r}; it must be I/N with I from 1 to N, and N at most {MOST_SHARES:,}, such as "
            "2/8; a Slurm array counts so with --array=1-8"
        )
    return Share(int(match[1]), int(match[2]))
