"""How far a figure could lie from that of more text of the same kind."""

import numpy as np
from numpy.typing import NDArray

BLOCK = 1_000
FEWEST_BLOCKS = 20
RESAMPLES = 2_000


def bootstrap_interval(values: NDArray[np.float64], seed: int = 0) -> tuple[float, float] | None:
    """A 95 % interval for the mean, from blocks of BLOCK values drawn with replacement.

    Blocks, since neighbouring characters are surprising together (Künsch 1989). None where there
    are fewer than FEWEST_BLOCKS whole blocks.
    """
    blocks = len(values) // BLOCK
    if blocks < FEWEST_BLOCKS:
        return None
    means = values[: blocks * BLOCK].reshape(blocks, BLOCK).mean(axis=1)
    drawn = np.random.default_rng(seed).integers(0, blocks, (RESAMPLES, blocks))
    low, high = np.quantile(means[drawn].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)
