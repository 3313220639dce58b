"""Passages of a text that stand in the training part too: what was seen is no test."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charlm.text.vocabulary import Ids

PASSAGE = 64
AT_ONCE = 1 << 20
FILTER_BITS = 22
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class Overlap:
    """How much of a text lies in passages of PASSAGE or more that training has seen."""

    symbols: int
    of_symbols: int

    @property
    def share(self) -> float:
        """Between 0 and 1."""
        return self.symbols / max(1, self.of_symbols)


def overlap(train: Ids, text: Ids) -> Overlap:
    """Find every passage of PASSAGE ids of `text` that occurs anywhere in `train`.

    By 64-bit hashes of all passages; the training part is read in pieces, so memory is bounded by
    the text.
    """
    wanted = _hashes(text)
    if not len(wanted) or len(train) < PASSAGE:
        return Overlap(0, len(text))
    there = np.unique(wanted)
    # A table of bits tells most passages apart before the search, which is slow.
    maybe = np.zeros(1 << FILTER_BITS, dtype=bool)
    maybe[_short(there)] = True
    seen = np.zeros(len(there), dtype=bool)
    for start in range(0, len(train) - PASSAGE + 1, AT_ONCE):
        hashes = _hashes(train[start : start + AT_ONCE + PASSAGE - 1])
        hashes = hashes[maybe[_short(hashes)]]
        at = np.searchsorted(there, hashes).clip(max=len(there) - 1)
        seen[at[there[at] == hashes]] = True
    starts = np.flatnonzero(seen[np.searchsorted(there, wanted)])
    edges = np.zeros(len(text) + 1, dtype=np.int64)
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + PASSAGE, -1)
    return Overlap(int((np.cumsum(edges[:-1]) > 0).sum()), len(text))


def _hashes(ids: Ids) -> Hashes:
    """A hash of each passage: powers of a multiplier times ids, doubled in length six times."""
    hashes = (ids.astype(np.uint64) + np.uint64(1)) * MULTIPLIER
    power, length = MULTIPLIER, 1
    with np.errstate(over="ignore"):
        while length < PASSAGE:
            hashes = hashes[:-length] * power + hashes[length:] if len(hashes) > length else hashes[:0]
            hashes ^= hashes >> np.uint64(29)
            power, length = power * power, 2 * length
    return hashes


def _short(hashes: Hashes) -> Hashes:
    return hashes >> np.uint64(64 - FILTER_BITS)
