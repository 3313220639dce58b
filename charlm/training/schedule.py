"""The learning rate over a run, as corners: a pure function of the step."""

from dataclasses import dataclass
from math import ceil

import numpy as np

Corners = tuple[tuple[int, float], ...]

WARMUP_STEPS = 40
WARMUP_SHARE = 0.1
COOLDOWN_SHARE = 0.5
DIGITS = 6
MOST_CORNERS = 10_000


@dataclass(frozen=True)
class Schedule:
    """Straight lines between corners (step, factor); the factor multiplies the highest rate.

    Written "0:0,40:1,300:1,600:0": up in 40 steps, level to step 300, down to nothing at 600.
    Where the end was moved in the middle of coming down, a new piece begins, and what was before
    stays as it was, to the bit: "0:0,40:1,300:1,600:0/450:0.5,620:0".
    """

    pieces: tuple[Corners, ...]

    def __post_init__(self) -> None:
        starts = [piece[0][0] for piece in self.pieces if piece]
        if len(starts) != len(self.pieces) or starts[:1] != [0] or starts != sorted(set(starts)):
            raise ValueError("its pieces begin at step 0 and then later and later")
        for piece in self.pieces:
            steps = [step for step, _ in piece]
            if len(steps) < 2 or steps != sorted(set(steps)) or steps[-1] > 10**12:
                raise ValueError("it has corners STEP:FACTOR, at least two, in order of steps")
            if not all(0 <= factor <= 1 for _, factor in piece):
                raise ValueError("its factors lie between 0 and 1")

    @classmethod
    def parse(cls, text: str) -> "Schedule":
        """Read what `str` writes; ValueError where it is no schedule."""
        if text.count(":") > MOST_CORNERS:
            raise ValueError(f"schedule has more than {MOST_CORNERS:,} corners")
        try:
            pieces = [[corner.split(":") for corner in piece.split(",")] for piece in text.split("/")]
            return cls(tuple(tuple((int(step), float(factor)) for step, factor in piece) for piece in pieces))
        except ValueError as error:
            raise ValueError(f"schedule is {text[:80]!r}: {error}") from None

    @classmethod
    def usual(cls, steps: int) -> "Schedule":
        """Warm up, stay, cool down to zero at `steps`."""
        return cls((_climb_and_cool(0, 0.0, steps),))

    def __str__(self) -> str:
        return "/".join(
            ",".join(f"{step}:{factor:.{DIGITS}g}" for step, factor in piece) for piece in self.pieces
        )

    @property
    def end(self) -> int:
        """The step at which training ends."""
        return self.pieces[-1][-1][0]

    def factor(self, step: int) -> float:
        """The factor for the batch of `step` (counted from 0), taken at its middle."""
        piece = [piece for piece in self.pieces if piece[0][0] <= step][-1]
        steps, factors = zip(*piece, strict=True)
        return float(np.interp(step + 0.5, steps, factors))

    def extended(self, step: int, end: int) -> "Schedule":
        """The same up to `step`; from there a short warmup, level, and a cooldown of its own."""
        return self._then(_climb_and_cool(step, self._at(step), end))

    def cooling(self, step: int) -> bool:
        """Has the cooldown begun before `step`?"""
        return step > max((corner for corner, factor in self.pieces[-1] if factor == 1), default=-1)

    def retimed(self, step: int, end: int) -> "Schedule":
        """The same up to `step`, with the cooldown moved so that it ends at a new end.

        A cooldown that has begun goes on from where it is: the rate never rises again.
        """
        assert step < end
        if not self.cooling(step):
            last = self.pieces[-1]
            climb = last[: [factor for _, factor in last].index(1) + 1]
            top = climb[-1][0]
            cool = top + round((1 - COOLDOWN_SHARE) * (end - top))
            if max(step, top) < cool < end:
                return Schedule((*self.pieces[:-1], (*climb, (cool, 1.0), (end, 0.0))))
        return self._then(((step, self._at(step)), (end, 0.0)))

    def _at(self, step: int) -> float:
        """The factor that has been reached at the beginning of a step."""
        steps, factors = zip(*self.pieces[-1], strict=True)
        return round(float(np.interp(step, steps, factors)), DIGITS)

    def _then(self, piece: Corners) -> "Schedule":
        """The pieces begun before this one, and this one."""
        return Schedule((*(p for p in self.pieces if p[0][0] < piece[0][0]), piece))


def _climb_and_cool(step: int, factor: float, end: int) -> Corners:
    """From a factor up to 1, level, and down to 0 at `end`."""
    top = step + min(WARMUP_STEPS, ceil(WARMUP_SHARE * (end - step)))
    if top >= end:
        return (step, factor), (end, 1.0)
    cool = top + round((1 - COOLDOWN_SHARE) * (end - top))
    level = ((cool, 1.0),) if top < cool < end else ()
    return (step, factor), (top, 1.0), *level, (end, 0.0)
