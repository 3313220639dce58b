"""The settings of sampling (standard library only)."""

import os
from dataclasses import dataclass, replace
from typing import Annotated, Self

from charlm.settings import Range, Settings


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Settings):
    """How the next character is chosen from its probabilities."""

    temperature: Annotated[
        float,
        "Sampling temperature: lower is more predictable, higher more varied; 0 always picks the likeliest character.",
        Range(0, 100),
    ] = 0.8
    top_k: Annotated[int | None, "Sample from the N likeliest characters.", Range(1, 2**63 - 1)] = None
    top_p: Annotated[
        float | None,
        "Sample from the likeliest characters whose probabilities add up to X (nucleus sampling).",
        Range(0, 1),
    ] = None
    min_p: Annotated[
        float | None,
        "Drop characters whose probability is below this fraction of the likeliest one's.",
        Range(0, 1),
    ] = None
    seed: Annotated[
        int | None,
        "Random seed; the same seed gives the same text on the same machine and device. [default: random]",
        Range(0, 2**63 - 1),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("top_k", "top_p", "min_p"):
            if self.temperature == 0 and getattr(self, name) is not None:
                raise ValueError(
                    f"`{name}` has no effect at `temperature=0`, which always takes the likeliest character"
                )

    def seeded(self) -> Self:
        """The same with a seed: its own, or one drawn at random."""
        return (
            self if self.seed is not None else replace(self, seed=int.from_bytes(os.urandom(4), "big") >> 1)
        )
