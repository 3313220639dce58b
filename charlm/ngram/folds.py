"""The share of each fold (contiguous part of a text) in the counts, so that any one fold can be left out.

An occurrence belongs to the fold of its last symbol; its context may lie in the fold before. Below the highest order,
counts are of distinct grams: there, a fold's share are the grams that occur in no other fold (and the occurrences of
those that start a document). The counts minus the share are exactly the counts of the text outside the fold.

Shapes: E entries of a level, F folds, N positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.data.tokenizer import Ids
from charlm.ngram.grams import Grams, Packing, Span, count, join
from charlm.ngram.table import Index, Level

FOLDS = 10


@dataclass(frozen=True)
class FoldCounts:
    """The share of each fold in the counts of one level."""

    counts: NDArray[np.unsignedinteger[Any]]  # (F, E)

    @property
    def n_folds(self) -> int:
        """F."""
        return int(self.counts.shape[0])

    @property
    def nbytes(self) -> int:
        """Size in memory; folds are not saved."""
        return self.counts.nbytes


def bounds(n: int, n_folds: int) -> Index:
    """The edges of the folds of n positions: (F + 1,)."""
    return np.arange(n_folds + 1) * n // n_folds


def fold_of(positions: Index, n: int, n_folds: int) -> Index:
    """The fold of each of `positions`, out of n, in the same shape."""
    return np.searchsorted(bounds(n, n_folds), positions, side="right") - 1


def count_in_folds(
    ids: Ids, packing: Packing, order: int, spans: Sequence[Span], n_folds: int, memory: int = 1 << 62
) -> tuple[int, list[Grams]]:
    """Count the grams that end in the spans, fold by fold; return their order, which may be lower."""
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


def levels_with_folds(
    parts: Sequence[Grams], packing: Packing, order: int
) -> tuple[list[Level], list[FoldCounts]]:
    """The levels of all orders from 0 up, and each fold's share, from each fold's grams of the highest order."""
    whole, parts = join(parts), list(parts)
    shares = [(np.searchsorted(whole.keys, part.keys), part.counts) for part in parts]
    levels, fold_counts = [], []
    for k in range(order, -1, -1):
        levels.append(Level.of(whole.within(packing, k), packing))
        fold_counts.append(_fold_counts(shares, len(levels[-1].counts)))
        if k == 0:
            break
        at = [np.searchsorted(whole.keys, part.keys) for part in parts]
        in_folds = np.zeros(len(whole), dtype=np.int16)
        for places in at:
            in_folds[places] += 1
        only = [part.only(in_folds[places] == 1, packing, k) for part, places in zip(parts, at, strict=True)]
        whole, parts = whole.distinct(packing, k), [part.distinct(packing, k) for part in parts]
        shares = [(np.searchsorted(whole.keys, part.keys), part.counts) for part in only]
    return levels[::-1], fold_counts[::-1]


def _fold_counts(shares: Sequence[tuple[Index, NDArray[np.uint32]]], entries: int) -> FoldCounts:
    """From each fold's entries and counts; what lies beyond `entries` has a boundary, and is no entry."""
    most = max((int(counts.max(initial=0)) for _, counts in shares), default=0)
    table = np.zeros((len(shares), entries), dtype=np.min_scalar_type(most))
    for fold, (at, counts) in enumerate(shares):
        inside = at < entries
        table[fold, at[inside]] = counts[inside]
    return FoldCounts(table)
