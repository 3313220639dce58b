"""Judging a run as it goes: has it diverged, has it begun to memorise. Pure state, saved with it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from statistics import fmean

import numpy as np

from charlm.evaluation.bootstrap import standard_error

RECENT = 50
RISE = 1.0  # nats above the lowest mean of RECENT losses: diverged
MARGIN = 0.1  # nats around the unigram entropy, where a slow text may linger
BAD_IN_ROW = 3
MOST_RETURNS = 3
COOLED_AWAY = 0.03
"""Nats of a rise that the cooldown takes back: at a high rate the weights only sway by so much."""


@dataclass
class Divergence:
    """Has the loss left for good?"""

    unigram: float  # nats: what a model knows that only counts characters
    recent: list[float] = field(default_factory=list)
    lowest: float = inf
    bad_in_row: int = 0

    @property
    def doubtful(self) -> bool:
        """Is it halfway there? Then the weights are no place to go back to."""
        return bool(self.bad_in_row) or (bool(self.recent) and fmean(self.recent) > self.lowest + RISE / 2)

    def see(self, loss: float) -> str | None:
        """Take in the loss of a step; the reason to go back to the last save, if there is one."""
        if not isfinite(loss):
            self.bad_in_row += 1
            return f"{BAD_IN_ROW} losses in a row were not finite" if self.bad_in_row >= BAD_IN_ROW else None
        self.bad_in_row = 0
        self.recent = [*self.recent, loss][-RECENT:]
        if len(self.recent) < RECENT:
            return None
        mean = fmean(self.recent)
        was_below = self.lowest < self.unigram - MARGIN
        self.lowest = min(self.lowest, mean)
        if mean > self.lowest + RISE:
            return f"the loss rose by {mean - self.lowest:.2f} nats"
        if was_below and mean > self.unigram + MARGIN:
            return "the loss rose above what counting characters gives"
        return None


@dataclass
class Memorising:
    """Has the held-out loss turned upwards? Judged by the same blocks of text each time."""

    best_step: int | None = None
    best_blocks: list[float] = field(default_factory=list)  # nats of each block at the best evaluation
    rises: int = 0

    def see(self, step: int, blocks: Sequence[float], margin: float = 0.0) -> bool:
        """Take in an evaluation's mean nats of each block; True if it is the best so far.

        A rise counts if the mean of the paired differences is larger than its standard error, and
        than the `margin`.
        """
        if self.best_step is None:
            self.best_step, self.best_blocks, self.rises = step, list(blocks), 0
            return True
        paired = len(blocks) == len(self.best_blocks)
        change = np.array(blocks) - (np.array(self.best_blocks) if paired else fmean(self.best_blocks))
        if change.mean() < 0:
            self.best_step, self.best_blocks, self.rises = step, list(blocks), 0
            return True
        if change.mean() > max(margin, standard_error(change) or 0.0):
            self.rises += 1
        return False
