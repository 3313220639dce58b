"""The learning-rate schedule, warmup-stable-decay (trapezoidal): a pure function of the step, piecewise linear."""

from dataclasses import dataclass
from math import ceil

import numpy as np

Points = tuple[tuple[int, float], ...]

WARMUP_STEPS = 40
WARMUP_SHARE = 0.1
COOLDOWN_SHARE = 0.5
DIGITS = 6
MAX_POINTS = 10_000


@dataclass(frozen=True)
class Schedule:
    """Points (step, factor), linearly interpolated; the factor multiplies the peak learning rate.

    Written "0:0,40:1,300:1,600:0": warm up in 40 steps, constant until step 300, cool down to zero at 600.
    If the end is moved during the cooldown, a new piece begins, and the past stays the same bit for bit:
    "0:0,40:1,300:1,600:0/450:0.5,620:0".
    """

    pieces: tuple[Points, ...]

    def __post_init__(self) -> None:
        starts = [piece[0][0] for piece in self.pieces if piece]
        if len(starts) != len(self.pieces) or starts[:1] != [0] or starts != sorted(set(starts)):
            raise ValueError("the first piece must begin at step 0, and each later piece at a later step")
        for piece in self.pieces:
            steps = [step for step, _ in piece]
            if len(steps) < 2 or steps != sorted(set(steps)) or steps[-1] > 10**12:
                raise ValueError("a piece needs at least two points STEP:FACTOR, steps ascending")
            if not all(0 <= factor <= 1 for _, factor in piece):
                raise ValueError("factors must be between 0 and 1")

    @classmethod
    def parse(cls, text: str) -> "Schedule":
        """Parse a schedule as written by `str`. Raises ValueError."""
        if text.count(":") > MAX_POINTS:
            raise ValueError(f"`schedule` has more than {MAX_POINTS:,} points")
        try:
            pieces = [[point.split(":") for point in piece.split(",")] for piece in text.split("/")]
            return cls(tuple(tuple((int(step), float(factor)) for step, factor in piece) for piece in pieces))
        except ValueError as error:
            raise ValueError(f"`schedule` is {text[:80]!r}: {error}") from None

    @classmethod
    def warmup_cooldown(cls, steps: int) -> "Schedule":
        """Return the default: warmup, constant, linear cooldown to zero at `steps`."""
        return cls((_warmup_cooldown(0, 0.0, steps),))

    def __str__(self) -> str:
        return "/".join(
            ",".join(f"{step}:{factor:.{DIGITS}g}" for step, factor in piece) for piece in self.pieces
        )

    @property
    def end(self) -> int:
        """The step at which training ends."""
        return self.pieces[-1][-1][0]

    def factor(self, step: int) -> float:
        """Return the factor for a step (counted from 0), at its middle."""
        steps, factors = zip(*self._pieces_to(step)[-1], strict=True)
        return float(np.interp(step + 0.5, steps, factors))

    def is_cooling(self, step: int) -> bool:
        """Whether the cooldown has begun before `step`."""
        return step > max((at for at, factor in self._pieces_to(step)[-1] if factor == 1), default=-1)

    def before(self, step: int) -> "Schedule":
        """Return the schedule with only the pieces that begin before `step`."""
        return Schedule(tuple(piece for piece in self.pieces if piece[0][0] < step))

    def with_restart(self, step: int, end: int, factor: float | None = None) -> "Schedule":
        """Return the schedule with a restart at `step`: a new warmup, constant phase and cooldown until `end`.

        The warmup begins at `factor`, by default that of the schedule at `step`.
        """
        begin = self._factor_before(step) if factor is None else factor
        return self._with_piece(_warmup_cooldown(step, begin, end))

    def with_end_moved(self, step: int, end: int) -> "Schedule":
        """Return the schedule, unchanged up to `step`, with the cooldown moved so that training ends at `end`.

        A cooldown that has begun continues from its current factor: the rate never rises again.
        """
        assert step < end
        if not self.is_cooling(step):
            *earlier, last = self._pieces_to(step)
            warmup = last[: [factor for _, factor in last].index(1) + 1]
            top = warmup[-1][0]  # the step at which the factor reaches 1
            cooldown = _cooldown_start(top, end)
            if max(step, top) < cooldown < end:
                return Schedule((*earlier, (*warmup, (cooldown, 1.0), (end, 0.0))))
        return self._with_piece(((step, self._factor_before(step)), (end, 0.0)))

    def _factor_before(self, step: int) -> float:
        """Return the factor at the start of `step`, rounded as `str` writes it."""
        steps, factors = zip(*self._pieces_to(step)[-1], strict=True)
        return round(float(np.interp(step, steps, factors)), DIGITS)

    def _pieces_to(self, step: int) -> list[Points]:
        """Return the pieces that have begun at `step`: not always all, since a run that diverges goes back."""
        return [piece for piece in self.pieces if piece[0][0] <= step]

    def _with_piece(self, piece: Points) -> "Schedule":
        """Return the schedule with `piece` appended; pieces that begin at the same step or later are dropped."""
        return Schedule((*(p for p in self.pieces if p[0][0] < piece[0][0]), piece))


def _cooldown_start(top: int, end: int) -> int:
    return top + round((1 - COOLDOWN_SHARE) * (end - top))


def _warmup_cooldown(step: int, factor: float, end: int) -> Points:
    """Return points from `factor` at `step` up to 1, constant, and down to 0 at `end`; too few steps only warm up."""
    top = step + min(WARMUP_STEPS, ceil(WARMUP_SHARE * (end - step)))
    if top >= end:
        return (step, factor), (end, 1.0)
    cooldown = _cooldown_start(top, end)
    constant = ((cooldown, 1.0),) if top < cooldown < end else ()
    return (step, factor), (top, 1.0), *constant, (end, 0.0)
