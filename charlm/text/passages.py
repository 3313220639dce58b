"""Passages of a text, found again in another: by 64-bit hashes of all that are so long."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

PASSAGE = 64
"""Symbols of a passage that is said to stand in two texts."""
FILTER_BITS = 22
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

Symbols = NDArray[np.integer[Any]]
Hashes = NDArray[np.uint64]


class Passages:
    """All passages of a text, to be found in others."""

    def __init__(self, wanted: Hashes) -> None:
        """`wanted`: their hashes, in any order."""
        self.there = np.unique(wanted)
        # A table of bits tells most passages apart before the search, which is slow.
        self._maybe = np.zeros(1 << FILTER_BITS, dtype=bool)
        self._maybe[_short(self.there)] = True

    def find(self, symbols: Symbols) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Where in a text one of them begins, (N,) ascending, and the place of each in `there`, (N,)."""
        if not len(self.there):
            return np.empty(0, np.intp), np.empty(0, np.intp)
        found = hashes_of(symbols)
        starts = np.flatnonzero(self._maybe[_short(found)])
        found = found[starts]
        at = np.searchsorted(self.there, found).clip(max=len(self.there) - 1)
        same = self.there[at] == found
        return starts[same], at[same]


def hashes_of(symbols: Symbols, of: int = PASSAGE) -> Hashes:
    """A hash of each passage of so many: powers of a multiplier times symbols, doubled in length until they are."""
    found = (symbols.astype(np.uint64) + np.uint64(1)) * MULTIPLIER
    power, length = MULTIPLIER, 1
    with np.errstate(over="ignore"):
        while length < of:
            found = found[:-length] * power + found[length:] if len(found) > length else found[:0]
            found ^= found >> np.uint64(29)
            power, length = power * power, 2 * length
    return found


def _short(found: Hashes) -> Hashes:
    return found >> np.uint64(64 - FILTER_BITS)
