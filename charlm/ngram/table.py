"""One order of an n-gram model as arrays: built from grams, looked up, saved and loaded.

Shapes: X contexts, E entries (a context and a symbol that followed it), F folds, N positions.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from charlm.errors import CheckpointError
from charlm.ngram.grams import Grams, Keys, Packing, join, run_starts

Floats64 = NDArray[np.float64]
Index = NDArray[np.int64]
FoldCounts = NDArray[np.unsignedinteger[Any]]
"""The share of each fold in the counts of a level: (F, E). A fold is a contiguous part of the text."""
ARRAYS = ("contexts", "starts", "symbols", "counts", "discounts")
MOST_ORDERS = 64
FALLBACK = (0.5, 1.0, 1.5)
"""Discounts for counts of 1, 2, and 3 or more, where a text has too few grams for the formula: half of the count."""


def discounts(counts: NDArray[np.integer[Any]]) -> Floats64:
    """The discounts of counts of 0, 1, 2, and 3 or more: (4,), the first of them 0.

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

    At the highest order a count is the number of occurrences. Below, it is the number of distinct symbols before the
    gram (Kneser and Ney's continuation count).
    """

    contexts: Keys  # (X,), ascending; the last symbol of a context is in the lowest digit
    starts: NDArray[np.uint32]  # (X + 1,)
    symbols: NDArray[np.unsignedinteger[Any]]  # (E,), ascending within a context
    counts: NDArray[np.unsignedinteger[Any]]  # (E,)
    discounts: Floats64  # (4,): of a count of 0, 1, 2, and 3 or more

    @classmethod
    def of(cls, grams: Grams, packing: Packing) -> "Level":
        """The level of grams without a boundary, with discounts from their counts."""
        contexts = grams.keys >> np.uint64(packing.bits)
        starts = run_starts(contexts)
        symbols = (grams.keys & packing.mask(1)).astype(np.min_scalar_type(packing.n_symbols - 1))
        return cls(
            contexts=contexts[starts],
            starts=np.append(starts, len(contexts)).astype(np.uint32),
            symbols=symbols,
            counts=grams.counts.astype(np.min_scalar_type(int(grams.counts.max(initial=1)))),
            discounts=discounts(grams.counts),
        )

    @property
    def nbytes(self) -> int:
        """Size in memory, and about the size on disk."""
        return sum(part.nbytes for part in (self.contexts, self.starts, self.symbols, self.counts))

    def find(self, keys: Keys) -> Index:
        """The index of each context (N,) in this level, -1 where it was never seen."""
        if not len(self.contexts):
            return np.full(len(keys), -1)
        at = np.searchsorted(self.contexts, keys)
        at[at == len(self.contexts)] = 0
        return np.where(self.contexts[at] == keys, at, -1)

    def gram_keys(self, packing: Packing) -> Keys:
        """The key of every entry: (E,), ascending."""
        lengths = np.diff(self.starts)
        keys: Keys = np.repeat(self.contexts << np.uint64(packing.bits), lengths) | self.symbols
        return keys

    def totals(self) -> tuple[Index, Floats64]:
        """The sum of each context's counts, and of their discounts: (X,) both."""
        firsts = self.starts[:-1].astype(np.int64)
        if not len(firsts):
            return firsts, np.empty(0)
        taken = self.discounts[np.minimum(self.counts, 3)]
        return np.add.reduceat(self.counts, firsts, dtype=np.int64), np.add.reduceat(taken, firsts)

    def lookup(self, keys: Keys, packing: Packing, order: int) -> tuple[Index, Floats64, Floats64]:
        """The probability that this order gives to the last symbol of grams (N,), without lower orders.

        Returns which grams (M,) have a context that was seen, their probabilities, and the weight of the order below.
        """
        at = self.find((keys >> np.uint64(packing.bits)) & packing.mask(order))
        seen = np.flatnonzero(at >= 0)
        if not len(seen):
            return seen, np.empty(0), np.empty(0)
        at = at[seen]
        entries, grams = self.gram_keys(packing), keys[seen] & packing.mask(order + 1)
        entry = np.searchsorted(entries, grams)
        entry[entry == len(entries)] = 0
        counts = np.where(entries[entry] == grams, self.counts[entry], 0)
        totals, taken = self.totals()
        added = (counts - self.discounts[np.minimum(counts, 3)]) / totals[at]
        return seen, added, taken[at] / totals[at]

    def without(self, kept: NDArray[np.bool_]) -> "Level":
        """This level with only the contexts (X,) in `kept`, and its own discounts."""
        lengths = np.diff(self.starts)
        entries = np.repeat(kept, lengths)
        return replace(
            self,
            contexts=self.contexts[kept],
            starts=np.concatenate(([0], np.cumsum(lengths[kept]))).astype(np.uint32),
            symbols=self.symbols[entries],
            counts=self.counts[entries],
        )


def levels(grams: Grams, packing: Packing, order: int) -> list[Level]:
    """The levels of all orders from 0 up, from the grams of the highest order."""
    made = []
    for k in range(order, -1, -1):
        made.append(Level.of(grams.within(packing, k), packing))
        if k:
            grams = grams.distinct(packing, k)
    return made[::-1]


def levels_with_folds(
    parts: Sequence[Grams], packing: Packing, order: int
) -> tuple[list[Level], list[FoldCounts]]:
    """The levels of all orders from 0 up, and each fold's share of each, from each fold's grams of the highest order.

    Below the highest order, counts are of distinct grams: there, a fold's share are the grams that occur in no other
    fold (and the occurrences of those that start a document). The counts minus the share are exactly the counts of the
    text outside the fold.
    """
    whole = join(parts)
    only, parts = parts, list(parts)
    levels, fold_counts = [], []
    for k in range(order, -1, -1):
        levels.append(Level.of(whole.within(packing, k), packing))
        most = max((int(part.counts.max(initial=0)) for part in only), default=0)
        share = np.zeros((len(parts), len(levels[-1].counts)), dtype=np.min_scalar_type(most))
        for of_fold, part in zip(share, only, strict=True):
            part = part.within(packing, k)  # what has a boundary is no entry
            of_fold[np.searchsorted(whole.keys, part.keys)] = part.counts
        fold_counts.append(share)
        if k == 0:
            break
        at = [np.searchsorted(whole.keys, part.keys) for part in parts]
        in_folds = np.zeros(len(whole), dtype=np.int16)
        for places in at:
            in_folds[places] += 1
        only = [part.only(in_folds[places] == 1, packing, k) for part, places in zip(parts, at, strict=True)]
        whole, parts = whole.distinct(packing, k), [part.distinct(packing, k) for part in parts]
    return levels[::-1], fold_counts[::-1]


Longer = NDArray[np.uint32] | None
"""Where each entry (E,) of a level, as a context, is in the level above; NOWHERE: nothing follows it. None: at its own index."""
NOWHERE = 2**32 - 1


def linked(
    levels: Sequence[Level], fold_counts: Sequence[FoldCounts] | None, packing: Packing
) -> tuple[list[Level], list[FoldCounts] | None, list[Longer]]:
    """The levels, the counts of their folds, and how each level leads to the one above.

    Contexts that are no entry of the level below are dropped: nothing could lead there. Counts of parts of a text have
    some, where a part begins.
    """
    levels, fold_counts = list(levels), None if fold_counts is None else list(fold_counts)
    longer: list[Longer] = [None] * len(levels)
    for k in range(1, len(levels)):
        keys = levels[k - 1].gram_keys(packing)
        if np.array_equal(keys, levels[k].contexts):
            continue
        at = levels[k].find(keys)
        kept = np.zeros(len(levels[k].contexts), dtype=bool)
        kept[at[at >= 0]] = True
        if not kept.all():
            if fold_counts is not None:
                fold_counts[k] = fold_counts[k][:, np.repeat(kept, np.diff(levels[k].starts))]
            levels[k] = levels[k].without(kept)
            at = levels[k].find(keys)
        longer[k - 1] = np.where(at < 0, NOWHERE, at).astype(np.uint32)
    return levels, fold_counts, longer


def save_levels(levels: Sequence[Level]) -> bytes:
    """The levels as a safetensors file."""
    arrays = {
        f"{k}.{name}": np.ascontiguousarray(getattr(level, name))
        for k, level in enumerate(levels)
        for name in ARRAYS
    }
    return safetensors.numpy.save(arrays)


def load_levels(data: bytes, packing: Packing, name: str) -> list[Level]:
    """The levels of a file of that name. Raises CheckpointError if it is damaged or holds anything else."""
    try:
        arrays = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{name} is damaged: {error}") from None
    orders = len(arrays) // len(ARRAYS)
    names = {f"{k}.{array}" for k in range(min(orders, MOST_ORDERS)) for array in ARRAYS}
    if set(arrays) != names or not 1 <= orders <= packing.highest_order + 1:
        raise CheckpointError(f"{name} is damaged: it does not hold the orders from 0 up")
    made = [Level(**{array: arrays[f"{k}.{array}"] for array in ARRAYS}) for k in range(orders)]
    for k, level in enumerate(made):
        problem = _problem(level, packing, k)
        if problem:
            raise CheckpointError(f"{name} is damaged: wrong {problem} in order {k}")
    return made


def _problem(level: Level, packing: Packing, order: int) -> str | None:
    """What is wrong with the arrays, if anything; lookups rely on their types, sizes, order and limits."""
    dtypes = {
        "contexts": (np.uint64,),
        "starts": (np.uint32,),
        "symbols": (np.min_scalar_type(packing.n_symbols - 1),),
        "counts": (np.uint8, np.uint16, np.uint32),
        "discounts": (np.float64,),
    }
    for part, allowed in dtypes.items():
        array: NDArray[Any] = getattr(level, part)
        if array.ndim != 1 or array.dtype not in allowed:
            return f"type of the {part}"
    n, starts = len(level.contexts), level.starts.astype(np.int64)
    if len(starts) != n + 1 or len(level.symbols) != starts[-1] or len(level.counts) != starts[-1]:
        return "sizes"
    if starts[0] != 0 or (np.diff(starts) < 1).any():
        return "starts"
    if (level.symbols >= packing.n_symbols).any() or (level.counts < 1).any():
        return "symbols or counts"
    digits = [(level.contexts >> np.uint64(packing.bits * i)) & packing.mask(1) for i in range(order)]
    if (level.contexts & ~packing.mask(order)).any() or any((d >= packing.n_symbols).any() for d in digits):
        return "contexts"
    if (level.contexts[1:] <= level.contexts[:-1]).any():
        return "order of the contexts"
    keys = level.gram_keys(packing)
    if (keys[1:] <= keys[:-1]).any():
        return "order of the entries"
    d = level.discounts
    if len(d) != 4 or d[0] != 0 or not ((d[1:] > 0) & (d[1:] <= (1, 2, 3))).all():
        return "discounts"
    return None
