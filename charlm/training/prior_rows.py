"""The prior's rows for each batch, made while the batch before is learned from.

They are a pure function of the step, so that it does not matter when they are made, or by whom.
Axes: B windows, T symbols, V symbols of the model.
"""

from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from charlm.compiled import Compiling
from charlm.counts.c_rows import CRows
from charlm.counts.prior import LogRows, TrainingPrior
from charlm.processors import threads
from charlm.randomness import uniform
from charlm.text.batches import Windows

LEFT_OUT = 2
"""Tells the random numbers here from those that windows are drawn by."""


class PriorRows:
    """What the counts say at every position of a batch, each without its own fold of the text.

    What is being compiled to make them faster is used from when it is there; they are the same without.
    """

    def __init__(
        self, prior: TrainingPrior, windows: Windows, dropout: float, compiling: Compiling | None = None
    ) -> None:
        self.prior, self.windows, self.dropout = prior, windows, dropout
        self._compiling = compiling
        self._thread = ThreadPoolExecutor(1) if threads() > 1 else None
        self._ahead: tuple[int, Future[LogRows]] | None = None

    def batch(self, step: int) -> LogRows:
        """Of `step`: (B, T, V). Where there is a thread to spare, those of the next step are begun."""
        ahead, self._ahead = self._ahead, None
        rows = ahead[1].result() if ahead is not None and ahead[0] == step else self.made(step)
        if self._thread is not None:
            self._ahead = (step + 1, self._thread.submit(self.made, step + 1))
        return rows

    def made(self, step: int) -> LogRows:
        """The same, made here and now. Some windows are left without: their rows are zeros."""
        windows = self.windows
        if self._compiling is not None and not self._compiling.waits:
            library, self._compiling = self._compiling.library(), None
            self.prior.model.filler = CRows.of(self.prior.model, library)
        rows = self.prior.log_rows(windows.starts(step), windows.block_size)
        if self.dropout:
            draws = uniform(windows.seed, step, np.arange(windows.batch_size), LEFT_OUT)
            rows[draws < self.dropout] = 0
        return rows
