"""Divergence detection and early stopping from a run's losses. Pure state, saved with the checkpoint."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from statistics import fmean

import numpy as np

from charlm.evaluation.bootstrap import standard_error

RECENT = 50
RISE = 1.0  # nats above the lowest mean of RECENT losses that count as divergence
MARGIN = 0.1  # nats around the unigram entropy, where a run may linger before it learns
MAX_NONFINITE = 3  # losses in a row
MAX_ROLLBACKS = 3
COOLDOWN_GAIN = 0.03
"""Nats that the cooldown recovers: at a high learning rate the held-out loss fluctuates by this much."""


@dataclass
class Divergence:
    """Detects divergence: the training loss has risen for good, or is not finite."""

    unigram_nats: float  # per symbol: the loss of unigram frequencies
    recent: list[float] = field(default_factory=list)
    lowest: float | None = None  # mean of RECENT losses so far
    nonfinite_in_row: int = 0

    @property
    def suspected(self) -> bool:
        """Whether the loss is not finite or has risen half as far, so that these weights are not worth returning to."""
        if self.nonfinite_in_row:
            return True
        return bool(self.recent) and self.lowest is not None and fmean(self.recent) > self.lowest + RISE / 2

    def update(self, loss: float) -> str | None:
        """Record the loss of a step; return the reason to roll back, if there is one."""
        if not isfinite(loss):
            self.nonfinite_in_row += 1
            if self.nonfinite_in_row < MAX_NONFINITE:
                return None
            return f"the loss was not finite {MAX_NONFINITE} times in a row"
        self.nonfinite_in_row = 0
        self.recent = [*self.recent, loss][-RECENT:]
        if len(self.recent) < RECENT:
            return None
        mean = fmean(self.recent)
        was_below = self.lowest is not None and self.lowest < self.unigram_nats - MARGIN
        self.lowest = mean if self.lowest is None else min(self.lowest, mean)
        if mean > self.lowest + RISE:
            return f"the loss rose by {mean - self.lowest:.2f} nats"
        if was_below and mean > self.unigram_nats + MARGIN:
            return "the loss rose above that of unigram frequencies"
        return None


@dataclass
class EarlyStopping:
    """Tracks the best held-out loss and counts the evaluations that are significantly worse (overfitting)."""

    best_step: int | None = None
    best_blocks: list[float] = field(
        default_factory=list
    )  # nats of each block of text, at the best evaluation
    rises: int = 0

    def __post_init__(self) -> None:
        if self.best_step is not None and not self.best_blocks:
            raise ValueError("best_blocks is empty, and best_step is set")

    def update(self, step: int, blocks: Sequence[float], margin: float = 0.0) -> bool:
        """Record the mean nats of each block of the held-out text; return whether this is the best evaluation so far.

        A rise counts if the mean paired difference exceeds both its standard error and `margin` (nats).
        """
        if self.best_step is not None:
            paired = len(blocks) == len(self.best_blocks)
            change = np.array(blocks) - (np.array(self.best_blocks) if paired else fmean(self.best_blocks))
            if change.mean() >= 0:
                if change.mean() > max(margin, standard_error(change) or 0.0):
                    self.rises += 1
                return False
        self.best_step, self.best_blocks, self.rises = step, list(blocks), 0
        return True
