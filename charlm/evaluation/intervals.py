"""How far a figure could lie from that of more text of the same kind, and of other seeds."""

import numpy as np
from numpy.typing import NDArray

BLOCK = 1_000
FEWEST_BLOCKS = 20
FEWEST_SEEDS = 3
RESAMPLES = 2_000


def bootstrap_interval(values: NDArray[np.float64], seed: int = 0) -> tuple[float, float] | None:
    """A 95 % interval for the mean of the values of a text (N,), or of several seeds on it (S, N).

    The text's part comes from blocks of BLOCK values drawn with replacement, the same for all seeds:
    blocks, since neighbouring characters are surprising together (Künsch 1989). From FEWEST_SEEDS
    seeds on, what their means differ by is added, as Student's t has it for so few. None where there
    are fewer than FEWEST_BLOCKS whole blocks.
    """
    each = np.atleast_2d(values)
    blocks = each.shape[1] // BLOCK
    if blocks < FEWEST_BLOCKS:
        return None
    random = np.random.default_rng(seed)
    means = each.mean(axis=0)[: blocks * BLOCK].reshape(blocks, BLOCK).mean(axis=1)
    drawn = means[random.integers(0, blocks, (RESAMPLES, blocks))].mean(axis=1)
    n = len(each)
    if n >= FEWEST_SEEDS:
        error = each.mean(axis=1).std(ddof=1) / np.sqrt(n)
        drawn = drawn + error * random.standard_t(n - 1, RESAMPLES)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)
