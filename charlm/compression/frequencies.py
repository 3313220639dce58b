"""Log-probabilities to integer frequencies, of which an arithmetic coder makes bits.

Axes: B texts side by side, V symbols.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.compression.coder import HIGHEST_TOTAL
from charlm.errors import CheckpointError

Bounds = NDArray[np.int64]


def bounds(logp: NDArray[np.floating[Any]]) -> Bounds:
    """Where each symbol's share begins and ends, (B, V + 1): that of v is [v] to [v + 1] of a row's [V].

    Each is at least 1 wide, however improbable, and they sum to at most 2^32. The same numbers in give
    the same out; CheckpointError for what is no probability.
    """
    p = np.exp(logp, dtype=np.float64)
    sums = p.sum(axis=1, keepdims=True)
    if not (np.isfinite(sums).all() and (sums > 0).all()):
        raise CheckpointError("the model predicts no finite probabilities, so it cannot code a text")
    B, V = p.shape
    p *= (HIGHEST_TOTAL - 2 * V) / sums  # V for the least widths, V for what rounding could add
    found = np.zeros((B, V + 1), dtype=np.int64)
    np.cumsum(p.astype(np.int64) + 1, axis=1, out=found[:, 1:])
    return found
