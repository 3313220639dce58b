"""One order of an n-gram model as arrays: built from grams and looked up.

Shapes: X contexts, E entries (a context and a symbol that followed it), F folds, N positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.data.tokenizer import Ids
from charlm.ngram.grams import Grams, join, run_starts
from charlm.ngram.keys import Keys, Packing

Floats64 = NDArray[np.float64]
Index = NDArray[np.int64]
FoldCounts = NDArray[np.unsignedinteger[Any]]
"""The share of each fold in the counts of a level: (F, E). A fold is a contiguous part of the text."""
Contexts = NDArray[np.unsignedinteger[Any]]
MOST_ORDERS = 64
FALLBACK = (0.5, 1.0, 1.5)
"""Discounts for counts of 1, 2, and 3 or more, where a text has too few grams for the formula: half of the count."""


def discounts(counts: NDArray[np.integer[Any]]) -> Floats64:
    """Return the discounts of counts of 0, 1, 2, and 3 or more: (4,), the first of them 0.

    With n_i grams of count i and Y = n_1 / (n_1 + 2 n_2): D_i = i - (i + 1) Y n_(i+1) / n_i, where i = 3 stands for 3 or
    more (Chen and Goodman 1998, "An empirical study of smoothing techniques for language modeling", Harvard TR-10-98,
    equations 26 and 27). Where the formula divides by 0 or gives nothing above 0, the discount is i / 2.
    """
    n = np.bincount(np.minimum(counts, 5).astype(np.int64), minlength=6)[:5].astype(np.float64)
    found = np.array([0.0, *FALLBACK])
    if n[1] == 0:
        return found
    y = n[1] / (n[1] + 2 * n[2])
    for i in (1, 2, 3):
        if n[i] > 0 and (discount := i - (i + 1) * y * n[i + 1] / n[i]) > 0:
            found[i] = discount
    return found


@dataclass(frozen=True)
class Level:
    """The counts of one order. The entries of context x are starts[x] .. starts[x + 1] - 1.

    A context is an entry of the order below: the symbols of that entry's context, and its own. So no order needs the
    symbols of its contexts, however many they are.

    At the highest order a count is the number of occurrences. Below, it is the number of distinct symbols before the
    gram (Kneser and Ney's continuation count).
    """

    contexts: Contexts  # (X,), ascending: entries of the order below; order 0 has one context at most, 0
    starts: NDArray[np.uint32]  # (X + 1,)
    symbols: NDArray[np.unsignedinteger[Any]]  # (E,), ascending within a context
    counts: NDArray[np.unsignedinteger[Any]]  # (E,)
    discounts: Floats64  # (4,): of a count of 0, 1, 2, and 3 or more

    @property
    def nbytes(self) -> int:
        """Size in memory."""
        return sum(part.nbytes for part in (self.contexts, self.starts, self.symbols, self.counts))

    def find(self, at: Index, symbols: Ids) -> Index:
        """Return the entries of symbols in contexts `at`, of the same shape; -1 if never seen there, or if `at` is -1."""
        entries, known = np.full(at.shape, -1), at >= 0
        at, symbols = at[known], symbols[known]
        low = self.starts[at].astype(np.int64)
        n = self.starts[at + 1] - low
        while n.max(initial=0) > 1:
            half = n // 2
            low += np.where(self.symbols[low + half] <= symbols, half, 0)
            n -= half
        entries[known] = np.where(self.symbols[low] == symbols, low, -1)
        return entries

    def totals(self) -> tuple[Index, Floats64]:
        """Return the sum of each context's counts, and of their discounts: (X,) both."""
        firsts = self.starts[:-1].astype(np.int64)
        if not len(firsts):
            return firsts, np.empty(0)
        taken = self.discounts[np.minimum(self.counts, 3)]
        return np.add.reduceat(self.counts, firsts, dtype=np.int64), np.add.reduceat(taken, firsts)

    def interpolate(self, below: Floats64, at: Index, entries: Index) -> Floats64:
        """Return the probabilities (N,) of entries (-1: never seen) in contexts `at`, given those of the order below.

        Where `at` is -1, they are those of the order below.
        """
        found, seen = below.copy(), np.flatnonzero(at >= 0)
        if len(seen):
            at, entries = at[seen], entries[seen]
            counts = np.where(entries >= 0, self.counts[entries], 0)
            totals, taken = self.totals()
            added = (counts - self.discounts[np.minimum(counts, 3)]) / totals[at]
            found[seen] = added + taken[at] / totals[at] * below[seen]
        return found


Kept = NDArray[np.bool_]
EMPTY_CONTEXT: Keys = np.zeros(1, np.uint64)
"""The keys of no digits, of which there is one: the context of order 0."""


def level_of(grams: Grams, below: Keys, packing: Packing) -> tuple[Level, Kept]:
    """Return the level of grams without a boundary, with discounts from their counts, and which contexts are in `below`.

    `below` are the keys of the entries of the order below. Some are missing where a counted part of a text begins.
    """
    keys, symbols = packing.parted(grams.keys)
    starts = run_starts(keys)
    contexts, kept = places(keys[starts], below)
    level = Level(
        contexts=contexts,
        starts=np.append(starts, len(keys)).astype(np.uint32),
        symbols=symbols.astype(np.min_scalar_type(packing.n_symbols - 1)),
        counts=grams.counts.astype(np.min_scalar_type(int(grams.counts.max(initial=1)))),
        discounts=discounts(grams.counts),
    )
    return level, kept


def places(keys: Keys, among: Keys) -> tuple[NDArray[np.uint32], Kept]:
    """Return the index of each of ascending keys among others, and whether it is there."""
    if not len(among):
        return np.zeros(len(keys), np.uint32), np.zeros(len(keys), bool)
    at = np.searchsorted(among, keys)
    at[at == len(among)] = 0
    return at.astype(np.uint32), among[at] == keys


def pruned(
    levels: Sequence[Level], fold_counts: Sequence[FoldCounts], kept: Sequence[Kept]
) -> tuple[list[Level], list[FoldCounts]]:
    """Return the levels with only the contexts (X,) in `kept`, and no longer contexts that begin with a dropped one."""
    levels, fold_counts = list(levels), list(fold_counts)
    if all(each.all() for each in kept):
        return levels, fold_counts
    number = np.zeros(
        1, np.uint32
    )  # new index of each entry of the order below, or NOWHERE; NOWHERE once more at the end
    for k, level in enumerate(levels):
        contexts = number[level.contexts]
        stay = kept[k] & (contexts != NOWHERE)
        lengths = np.diff(level.starts)
        entries = np.repeat(stay, lengths)
        number = np.append(np.where(entries, np.cumsum(entries) - 1, NOWHERE), NOWHERE).astype(np.uint32)
        levels[k] = replace(
            level,
            contexts=contexts[stay],
            starts=np.concatenate(([0], np.cumsum(lengths[stay]))).astype(np.uint32),
            symbols=level.symbols[entries],
            counts=level.counts[entries],
        )
        if fold_counts:
            fold_counts[k] = fold_counts[k][:, entries]
    return levels, fold_counts


def levels(grams: Grams, packing: Packing, order: int) -> list[Level]:
    """Build the levels of all orders from 0 up, from the grams of the highest order."""
    made = []
    for k in range(order, -1, -1):
        inside, below = grams.within(packing, k), EMPTY_CONTEXT
        if k:
            grams = grams.distinct(packing, k)
            below = grams.within(packing, k - 1).keys
        made.append(level_of(inside, below, packing))
    return pruned([level for level, _ in made[::-1]], [], [kept for _, kept in made[::-1]])[0]


def levels_with_folds(
    parts: Sequence[Grams], packing: Packing, order: int
) -> tuple[list[Level], list[FoldCounts]]:
    """Build the levels of all orders from 0 up, and each fold's share of each, from each fold's grams of the highest order.

    Below the highest order, counts are of distinct grams: there, a fold's share are the grams that occur in no other
    fold (and the occurrences of those that start a document). The counts minus the share are exactly the counts of the
    text outside the fold.
    """
    whole = join(parts)
    # From here on, the keys of a part are indices into `whole`: integers, which are compared faster than long keys.
    parts = [Grams(np.searchsorted(whole.keys, part.keys), part.counts) for part in parts]
    only, made, fold_counts = parts, [], []
    for k in range(order, -1, -1):
        inside, below = whole.within(packing, k), EMPTY_CONTEXT
        most = max((int(part.counts.max(initial=0)) for part in only), default=0)
        share = np.zeros((len(parts), len(inside)), dtype=np.min_scalar_type(most))
        for of_fold, part in zip(share, only, strict=True):
            n = np.searchsorted(part.keys, len(inside))  # grams with a boundary are not entries
            of_fold[part.keys[:n]] = part.counts[:n]
        fold_counts.append(share)
        if k:
            first_start = whole.first_start(packing, k)
            shorter, ends = np.unique(packing.last(whole.keys, k), return_inverse=True)
            alone = np.bincount(np.concatenate([part.keys for part in parts])) == 1
            alone[first_start:] = True
            only = [Grams(part.keys[alone[part.keys]], part.counts[alone[part.keys]]) for part in parts]
            only = [_distinct(part, ends, first_start) for part in only]
            parts = [_distinct(part, ends, first_start) for part in parts]
            whole = Grams(shorter, whole.counted_by(ends, first_start).counts)
            below = whole.within(packing, k - 1).keys
        made.append(level_of(inside, below, packing))
    return pruned([level for level, _ in made[::-1]], fold_counts[::-1], [kept for _, kept in made[::-1]])


def _distinct(part: Grams, ends: Index, first_start: int) -> Grams:
    """Compute `Grams.distinct` of a part whose keys are indices into the whole, given what the grams there end in."""
    return part.counted_by(ends[part.keys], int(np.searchsorted(part.keys, first_start)))


Longer = NDArray[np.uint32] | None
"""Index of each entry (E,) of a level as a context of the level above; NOWHERE: nothing follows it. None: its own index."""
NOWHERE = 2**32 - 1


def longer(level: Level, above: Level) -> Longer:
    """Return the index of each entry of a level among the contexts of the level above."""
    if len(above.contexts) == len(level.symbols):
        return None
    found = np.full(len(level.symbols), NOWHERE, np.uint32)
    found[above.contexts] = np.arange(len(above.contexts))
    return found
