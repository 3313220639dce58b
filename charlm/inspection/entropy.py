"""The conditional empirical entropy of a text: what its own counts say that a character tells, given those before it."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charlm.data.tokenizer import END_POINT, Points

MOST_ORDER = 5
KIND = "conditional empirical entropy"
"""By the counts of the very text that it is of: H = -1/N sum log2 c(context, character) / c(context)."""


@dataclass(frozen=True)
class Entropy:
    """What a character tells, in bits, given `order` characters before it."""

    order: int
    bits_per_char: float | None  # None: no character has so many before it
    seen_once: float  # share of characters whose context occurs nowhere else: they seem to tell nothing


def entropies(codes: Points, most_order: int = MOST_ORDER) -> list[Entropy]:
    """Of each order from 0. Contexts end at END_POINT, where a document or a piece of a sample ends.

    No estimate for other text: a context seen once looks certain, so high orders on short texts are far
    too low.
    """
    different, symbols = np.unique(codes, return_inverse=True)
    inside = codes != END_POINT
    starts = np.flatnonzero(inside)  # of windows: a context and the character after it
    names = np.zeros(len(starts), dtype=np.int64)  # of the contexts
    found = []
    for order in range(most_order + 1):
        last = starts + order
        there = last < len(codes)
        there[there] = inside[last[there]]
        starts, names = starts[there], names[there]
        if not len(starts):
            found.append(Entropy(order, None, 0.0))
            continue
        keys = names * len(different) + symbols[starts + order]
        _, windows, counts = np.unique(keys, return_inverse=True, return_counts=True)
        contexts = np.bincount(names)
        total = _n_log_n(contexts) - _n_log_n(counts)
        once = float((contexts == 1).sum()) / len(starts)
        found.append(Entropy(order, max(0.0, total / len(starts)), once))
        names = windows
    return found


def _n_log_n(counts: NDArray[np.int64]) -> float:
    counts = counts[counts > 1]
    return float((counts * np.log2(counts)).sum())
