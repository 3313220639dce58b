"""The learning rate over a run, as corners: a pure function of the step."""

from dataclasses import dataclass
from math import ceil

import numpy as np

Corners = tuple[tuple[int, float], ...]

WARMUP_STEPS = 40
WARMUP_SHARE = 0.1
COOLDOWN_SHARE = 0.5
DIGITS = 6


@dataclass(frozen=True)
class Schedule:
    """Straight lines between corners (step, factor); the factor multiplies the highest rate.

    Written "0:0,40:1,300:1,600:0": up in 40 steps, level to step 300, down to nothing at 600.
    """

    corners: Corners

    def __post_init__(self) -> None:
        steps = [step for step, _ in self.corners]
        if len(steps) < 2 or steps[0] != 0 or steps != sorted(set(steps)) or steps[-1] > 10**12:
            raise ValueError("a schedule has corners STEP:FACTOR, the first at step 0, in order of steps")
        if not all(0 <= factor <= 1 for _, factor in self.corners):
            raise ValueError("the factors of a schedule lie between 0 and 1")

    @classmethod
    def parse(cls, text: str) -> "Schedule":
        """Read what `str` writes; ValueError where it is no schedule."""
        try:
            pairs = [corner.split(":") for corner in text.split(",")]
            return cls(tuple((int(step), float(factor)) for step, factor in pairs))
        except ValueError as error:
            raise ValueError(f"schedule is {text[:80]!r}: {error}") from None

    @classmethod
    def usual(cls, steps: int) -> "Schedule":
        """Warm up, stay, cool down to zero at `steps`."""
        return cls(_climb_and_cool(((0, 0.0),), steps))

    def __str__(self) -> str:
        return ",".join(f"{step}:{factor:g}" for step, factor in self.corners)

    @property
    def end(self) -> int:
        """The step at which training ends."""
        return self.corners[-1][0]

    def factor(self, step: int) -> float:
        """The factor for the batch of `step` (counted from 0), taken at its middle."""
        steps, factors = zip(*self.corners, strict=True)
        return float(np.interp(step + 0.5, steps, factors))

    def extended(self, step: int, end: int) -> "Schedule":
        """The same up to `step`; from there a short warmup, level, and a cooldown of its own."""
        return Schedule(_climb_and_cool(self._until(step), end))

    def cooling(self, step: int) -> bool:
        """Has the last cooldown begun before `step`?"""
        return step > max((corner for corner, factor in self.corners if factor == 1), default=-1)

    def retimed(self, step: int, end: int) -> "Schedule":
        """The same up to `step`, with the cooldown moved so that it ends at a new end.

        A cooldown that has begun goes on from where it is: the rate never rises again.
        """
        assert step < end
        level = next((i for i, (_, factor) in reversed(list(enumerate(self.corners))) if factor == 1), None)
        if level is not None and step <= self.corners[level][0]:
            first = level - 1 if self.corners[level - 1][1] == 1 else level
            start = self.corners[first][0]
            cool = start + round((1 - COOLDOWN_SHARE) * (end - start))
            if cool > max(step, start):
                return Schedule((*self.corners[: first + 1], (cool, 1.0), (end, 0.0)))
        return Schedule((*self._until(step), (end, 0.0)))

    def _until(self, step: int) -> Corners:
        """The corners before `step`, and one there."""
        steps, factors = zip(*self.corners, strict=True)
        now = round(float(np.interp(step, steps, factors)), DIGITS)
        return (*(corner for corner in self.corners if corner[0] < step), (step, now))


def _climb_and_cool(past: Corners, end: int) -> Corners:
    """From the last corner up to 1, level, and down to 0 at `end`."""
    step = past[-1][0]
    top = step + min(WARMUP_STEPS, ceil(WARMUP_SHARE * (end - step)))
    if top >= end:
        return (*past, (end, 1.0))
    cool = top + round((1 - COOLDOWN_SHARE) * (end - top))
    level = ((cool, 1.0),) if top < cool < end else ()
    return (*past, (top, 1.0), *level, (end, 0.0))
