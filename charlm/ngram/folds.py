"""What each contiguous part (fold) of a text has of its counts, so that any one can be left out.

A fold has the occurrences whose last symbol lies in it; what stands before may lie in another. For
the counts below the highest order, which are of distinct grams, a fold has those that occur in no
other, and the occurrences of those that begin a document. So what is left are exactly the counts of the occurrences outside the fold.
Axes: E entries of a level, F folds, N positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.data.tokenizer import Ids
from charlm.ngram.grams import Grams, Index, Level, Packing, Span, count, join

FOLDS = 10


@dataclass(frozen=True)
class Share:
    """What each fold has of the counts of one level."""

    counts: NDArray[np.unsignedinteger[Any]]  # (F, E)

    @property
    def n_folds(self) -> int:
        """F."""
        return int(self.counts.shape[0])

    @property
    def nbytes(self) -> int:
        """In memory; nothing of it is saved."""
        return self.counts.nbytes


def bounds(n: int, n_folds: int) -> Index:
    """Where the folds of n positions begin and end: (F + 1,)."""
    return np.arange(n_folds + 1) * n // n_folds


def fold_of(positions: Index, n: int, n_folds: int) -> Index:
    """The fold that each of n positions lies in, the same shape."""
    return np.searchsorted(bounds(n, n_folds), positions, side="right") - 1


def count_in_folds(
    ids: Ids, packing: Packing, order: int, spans: Sequence[Span], n_folds: int, memory: int = 1 << 62
) -> tuple[int, list[Grams]]:
    """The grams of the highest order that end in the spans, fold by fold, and that order (may be lower)."""
    edges = bounds(len(ids), n_folds).tolist()
    found: list[Grams] = []
    for start, stop in pairwise(edges):
        inside = [(max(start, a), min(stop, b)) for a, b in spans if a < stop and b > start]
        reached, grams = count(ids, packing, order, inside, memory)
        if reached < order:
            order = reached
            found = [earlier.shortened(packing, order + 1) for earlier in found]
        found.append(grams)
    return order, found


def levels_and_shares(
    parts: Sequence[Grams], packing: Packing, order: int
) -> tuple[list[Level], list[Share]]:
    """All orders from 0 up, and what each fold has of them, from the grams of each at the highest order."""
    whole, parts = join(parts), list(parts)
    had = [(np.searchsorted(whole.keys, part.keys), part.counts) for part in parts]
    levels, shares = [], []
    for k in range(order, -1, -1):
        levels.append(Level.of(whole.within(packing, k), packing))
        shares.append(_share(had, len(levels[-1].counts)))
        if k == 0:
            break
        at = [np.searchsorted(whole.keys, part.keys) for part in parts]
        in_folds = np.zeros(len(whole), dtype=np.int16)
        for places in at:
            in_folds[places] += 1
        only = [part.only(in_folds[places] == 1, packing, k) for part, places in zip(parts, at, strict=True)]
        whole, parts = whole.distinct(packing, k), [part.distinct(packing, k) for part in parts]
        had = [(np.searchsorted(whole.keys, part.keys), part.counts) for part in only]
    return levels[::-1], shares[::-1]


def _share(had: Sequence[tuple[Index, NDArray[np.uint32]]], entries: int) -> Share:
    """From where and how much each fold has; what lies beyond the entries has a boundary."""
    most = max((int(counts.max(initial=0)) for _, counts in had), default=0)
    share = np.zeros((len(had), entries), dtype=np.min_scalar_type(most))
    for fold, (at, counts) in enumerate(had):
        inside = at < entries
        share[fold, at[inside]] = counts[inside]
    return Share(share)
