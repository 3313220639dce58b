"""Which windows of the text make up step s: a pure function of (seed, plan, step).

An epoch cuts the text into windows of one block, from a start drawn for that epoch, and takes
each once, in a random order.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.randomness import mix, permute


@dataclass(frozen=True)
class Windows:
    """The windows of a training text of `n` ids: `block_size` ids to read and the one after each."""

    n: int
    block_size: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        assert self.n > self.block_size > 0 and self.batch_size > 0

    @property
    def per_epoch(self) -> int:
        """Windows in an epoch: one fewer than fit, so that their start has room to move."""
        return max(1, (self.n - 1) // self.block_size - 1)

    def starts(self, step: int) -> NDArray[np.int64]:
        """Where each window of the batch of `step` (counted from 0) starts: (B,)."""
        windows = step * self.batch_size + np.arange(self.batch_size)
        epochs, index = windows // self.per_epoch, windows % self.per_epoch
        starts = np.empty_like(index)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            starts[chosen] = self._phase(epoch) + self.block_size * permute(
                index[chosen], self.per_epoch, int(mix(self.seed, epoch))
            )
        return starts

    def _phase(self, epoch: int) -> int:
        """Where the first window of an epoch starts."""
        room = self.n - 1 - self.per_epoch * self.block_size
        return int(mix(self.seed, epoch, 1) % np.uint64(room + 1))

    def batch(self, ids: NDArray[Any], step: int) -> NDArray[np.int64]:
        """The ids of the windows of `step`, each with the one that follows: (B, T + 1)."""
        starts = self.starts(step)
        windows: NDArray[np.int64] = ids[starts[:, None] + np.arange(self.block_size + 1)].astype(np.int64)
        return windows
