"""Random numbers as pure functions: the same integers in, the same numbers out, nothing stored."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Words = NDArray[np.uint64]

ROUNDS = 4


def mix(*parts: ArrayLike) -> Words:
    """Scramble integers (arrays broadcast) into 64 random bits each.

    The finaliser of SplitMix64 (Steele, Lea and Flood 2014) after each part.
    """
    state = np.zeros((), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            state = (state ^ np.asarray(part).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state


def uniform(*parts: ArrayLike) -> NDArray[np.float64]:
    """Return numbers in [0, 1), of 53 bits, from integers."""
    return (mix(*parts) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permute(items: NDArray[np.int64], n: int, key: int) -> NDArray[np.int64]:
    """Return where a random permutation of 0..n-1 sends `items`, without computing all of it.

    A Feistel network over the next power of four; what falls outside goes round again
    (Black and Rogaway 2002), so memory and time do not depend on n.
    """
    half_bits = np.uint64(max(1, (int(n - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    out = items.astype(np.uint64)
    todo = np.ones(out.shape, dtype=bool)
    while todo.any():
        left, right = out[todo] >> half_bits, out[todo] & mask
        for turn in range(ROUNDS):
            left, right = right, left ^ (mix(key, turn, right) & mask)
        out[todo] = (left << half_bits) | right
        todo[todo] = out[todo] >= np.uint64(n)
    return out.astype(np.int64)
