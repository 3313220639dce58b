"""Build an n-gram model from a text, within limits of memory and time, and choose its order."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf

import numpy as np
from numpy.typing import NDArray

from charlm.data.shards import TextIds
from charlm.ngram.grams import Grams, Span, count, join
from charlm.ngram.keys import KEY_BITS, Packing
from charlm.ngram.kneser_ney import KneserNey
from charlm.ngram.table import (
    EMPTY_CONTEXT,
    FoldCounts,
    Index,
    Level,
    discounts,
    level_of,
    levels,
    levels_with_folds,
    pruned,
)

FOLDS = 10
EQUAL_DISCOUNT = 0.5
"""The discount of all counts in `count_unigram`; any value up to 1 gives the same add-one smoothing."""
TAIL_SHARE, TAIL_MOST, BEFORE_MOST, BEFORE_MOST_LONG_KEYS = 0.1, 100_000, 4_000_000, 1_000_000
"""The order is chosen on the tail of the text, with counts of the text before it; both are bounded."""
UNIGRAM_MEMORY = 1 << 26
"""Working memory for counting single symbols, in bytes."""
LEAST_HIGHEST = 8
"""Orders up to this one are tried on the tail, and higher ones as long as their keys fit integers."""
PARTS = 32
MOST_RARE = 4
"""To save memory, contexts of the highest order seen up to this often are dropped before the order is lowered."""


@dataclass(frozen=True)
class Built:
    """An n-gram model, and what had to be left out for lack of memory or time."""

    model: KneserNey
    wanted_order: int
    symbols: int
    of_symbols: int
    rare: int  # contexts of the highest order seen this often or less were dropped; 0: none

    @property
    def limits(self) -> str:
        """What was left out, in words for the user; empty if nothing was."""
        limits = []
        if self.symbols < self.of_symbols:
            limits.append(f"counts {self.symbols:,} of {self.of_symbols:,} symbols, evenly spread")
        if self.model.order < self.wanted_order:
            limits.append(
                f"{self.model.order} symbols of context instead of {self.wanted_order}, to fit the memory limit"
            )
        if self.rare:
            limits.append(
                f"drops contexts of {self.model.order} seen {self.rare} times or less, to fit the memory limit"
            )
        return "; ".join(limits)


def build(
    ids: TextIds,
    n_symbols: int,
    order: int,
    *,
    memory: int,
    most: int | None = None,
    folds: Index | None = None,
    end: int | None = None,
    beside: Sequence[TextIds] = (),
) -> Built:
    """Build a model with `order` symbols of context, in at most `memory` bytes.

    `most`: count at most this many symbols, in evenly spread contiguous parts of the texts.
    `folds` (F + 1,): the edges of folds that can be left out of a prediction; without them it is faster and smaller.
    `end`: the symbol that ends a document; no context crosses it.
    `beside`: further texts to count; they are in no fold.
    """
    packing = Packing(n_symbols, end)
    wanted = order
    texts = (ids, *beside)
    of_symbols = sum(map(len, texts))
    most = of_symbols if most is None else min(most, of_symbols)
    spans = [spread_chars(len(text), -(-most * len(text) // max(1, of_symbols))) for text in texts]
    first = [spans[0]] if folds is None else split_spans(spans[0], folds)
    to_count = [*((ids, of_fold) for of_fold in first), *zip(beside, spans[1:], strict=True)]
    order, parts = count_parts(to_count, packing, order, memory // len(first))
    while True:
        if len(parts) == 1:
            made, fold_counts = levels(parts[0], packing, order), list[FoldCounts]()
        else:
            made, fold_counts = levels_with_folds(parts, packing, order)
        rare = _rarity_to_drop(made, fold_counts, memory)
        if rare is not None or order == 0:
            break
        order -= 1
        while order > 0 and _size(made[:order], fold_counts[:order]) > memory:  # lower orders do not change
            order -= 1
        parts = [part.shortened(packing, order + 1) for part in parts]
    if rare:
        kept = [np.ones(len(level.contexts), bool) for level in made[:-1]]
        made, fold_counts = pruned(made, fold_counts, [*kept, made[-1].totals()[0] > rare])
    model = KneserNey(n_symbols, made, fold_counts)
    counted = sum(b - a for of_text in spans for a, b in of_text)
    return Built(model, wanted, counted, of_symbols, rare or 0)


def lower_orders(
    ids: TextIds, n_symbols: int, order: int, *, memory: int, most: int | None = None, end: int | None = None
) -> Iterator[KneserNey]:
    """Yield the models that `build` would make with order - 1, order - 2, ... down to 1 symbols of context, in one pass."""
    packing = Packing(n_symbols, end)
    spans = spread_chars(len(ids), len(ids) if most is None else most)
    order, grams = count(ids, packing, max(0, order - 1), spans, memory)
    while order > 0:
        yield KneserNey(n_symbols, levels(grams, packing, order), dense=False)
        order -= 1
        grams = grams.shortened(packing, order + 1)


def fit(
    ids: TextIds,
    n_symbols: int,
    order: int | None = None,
    *,
    memory: int,
    most: int | None = None,
    end: int | None = None,
) -> Built:
    """Build a stand-alone model, by default of the order that predicts the end of the text best.

    Order 0 uses Kneser-Ney's discounts or add-one smoothing, whichever predicts that end better, so the model is never
    worse there than the unigram baseline. The other arguments are those of `build`.
    """
    smooth = False
    if not order:
        near = ids[-min(most, TAIL_MOST + BEFORE_MOST) :] if most else ids  # `tail_losses` reads no more
        losses = tail_losses(near, n_symbols, end=end)
        order = losses.order if order is None else order
        smooth = order == 0 and losses.smooth
    if smooth:
        return count_unigram(ids, Packing(n_symbols, end), most)
    return build(ids, n_symbols, order, memory=memory, most=most, end=end)


@dataclass(frozen=True)
class TailLosses:
    """Mean nats per symbol of the end of a text, predicted from counts of the text before it."""

    by_order: Sequence[float]  # Kneser-Ney with 0, 1, 2, ... symbols of context
    unigram: float  # add-one smoothing without context

    @property
    def order(self) -> int:
        """The best order, the lowest of equals; 0 if the unigram beats all."""
        if not self.by_order:  # too short to tell
            return 1
        best = min(range(len(self.by_order)), key=self.by_order.__getitem__)
        return 0 if self.unigram < self.by_order[best] else best

    @property
    def smooth(self) -> bool:
        """Whether add-one smoothing beats Kneser-Ney's discounts at order 0."""
        return bool(self.by_order) and self.unigram < self.by_order[0]


def tail_losses(ids: TextIds, n_symbols: int, *, end: int | None = None) -> TailLosses:
    """Return the losses of all orders on the end of a text.

    Models of all orders share their lower levels, which hold continuation counts. Where an order is the highest, its
    level differs only in holding occurrence counts instead.
    """
    packing = Packing(n_symbols, end)
    tail = min(int(len(ids) * TAIL_SHARE), TAIL_MOST)
    if not tail:
        return TailLosses([], inf)
    highest = max(LEAST_HIGHEST, KEY_BITS // packing.bits - 1)
    most = BEFORE_MOST if packing.fits(highest + 1) else BEFORE_MOST_LONG_KEYS
    near = ids[max(0, len(ids) - tail - most) :]
    before = len(near) - tail
    order, grams = count(near, packing, highest, [(0, before)])
    model = KneserNey(n_symbols, levels(grams, packing, order), dense=False)
    occurrences = [grams]
    for k in range(order, 0, -1):
        occurrences.append(occurrences[-1].shortened(packing, k))
    below, losses = np.full(tail, 1 / n_symbols), []
    for k, (at, entries) in enumerate(model.follow(near[max(0, before - order) :])):
        level, of_grams = model.levels[k], occurrences[order - k].within(packing, k).counts
        as_highest = replace(level, counts=of_grams, discounts=discounts(of_grams))
        at, entries = at[-tail:], entries[-tail:]
        losses.append(-float(np.log(as_highest.interpolate(below, at, entries)).mean()))
        below = level.interpolate(below, at, entries)
    counts = np.bincount(near, minlength=n_symbols)[:n_symbols] + 1.0
    counts -= np.bincount(near[before:], minlength=n_symbols)[:n_symbols]
    unigram = -float(np.log(counts[near[before:]] / counts.sum()).mean())
    return TailLosses(losses, unigram)


def count_unigram(ids: TextIds, packing: Packing, most: int | None) -> Built:
    """Build a model with add-one smoothing and no context, as a Kneser-Ney model of order 0."""
    spans = spread_chars(len(ids), len(ids) if most is None else most)
    _, grams = count(ids, packing, 0, spans, UNIGRAM_MEMORY)
    once = Grams(np.arange(packing.n_symbols, dtype=np.uint64), np.ones(packing.n_symbols, dtype=np.uint32))
    level, _ = level_of(join([grams, once]), EMPTY_CONTEXT, packing)
    level = replace(level, discounts=np.array([0, *[EQUAL_DISCOUNT] * 3]))
    return Built(KneserNey(packing.n_symbols, [level]), 0, sum(b - a for a, b in spans), len(ids), 0)


def spread_chars(n: int, most: int) -> list[Span]:
    """Return at most `most` of n positions, as up to PARTS contiguous parts that are evenly spread."""
    if most >= n:
        return [(0, n)] if n else []
    parts = max(1, min(PARTS, most))
    starts = [i * n // parts for i in range(parts)]
    return [(start, start + most // parts) for start in starts if most >= parts]


def fold_edges(n: int, n_folds: int) -> Index:
    """Return the edges of the folds of n positions: (F + 1,). A symbol's context may lie in the fold before its own."""
    return np.arange(n_folds + 1) * n // n_folds


def fold_of(positions: Index, n: int, n_folds: int) -> Index:
    """Return the fold of each of `positions`, out of n, in the same shape."""
    return np.searchsorted(fold_edges(n, n_folds), positions, side="right") - 1


def split_spans(spans: Sequence[Span], folds: Index) -> list[list[Span]]:
    """Return the parts of spans that lie in each of the folds with these edges."""
    return [
        [(max(start, a), min(stop, b)) for a, b in spans if a < stop and b > start]
        for start, stop in pairwise(folds.tolist())
    ]


def count_parts(
    parts: Iterable[tuple[TextIds, Sequence[Span]]], packing: Packing, order: int, memory: int = 1 << 62
) -> tuple[int, list[Grams]]:
    """Count the grams of each part (spans of a text); return their common order, which may be lower."""
    found: list[Grams] = []
    for text, spans in parts:
        reached, grams = count(text, packing, order, spans, memory)
        if reached < order:
            order, found = reached, [earlier.shortened(packing, reached + 1) for earlier in found]
        found.append(grams)
    return order, found


def _size(made: Sequence[Level], fold_counts: Sequence[FoldCounts]) -> int:
    return sum(level.nbytes for level in made) + sum(counts.nbytes for counts in fold_counts)


def _rarity_to_drop(made: Sequence[Level], fold_counts: Sequence[FoldCounts], memory: int) -> int | None:
    """Return up to which count contexts of the highest order must be dropped to fit; None: dropping is not enough."""
    size = _size(made, fold_counts)
    if size <= memory:
        return 0
    level, of_folds = made[-1], sum(counts.nbytes for counts in fold_counts[-1:])
    totals, lengths = level.totals()[0], np.diff(level.starts)
    entry = level.symbols.itemsize + level.counts.itemsize + of_folds // max(1, len(level.counts))
    for rare in range(1, MOST_RARE + 1):
        gone = totals <= rare
        context = level.contexts.itemsize + level.starts.itemsize
        if size - int(gone.sum()) * context - int(lengths[gone].sum()) * entry <= memory:
            return rare
    return None


@dataclass(frozen=True)
class TrainingPrior:
    """The n-gram model of a training text, from which any of several contiguous parts can be left out.

    An n-gram model that has counted the very characters it predicts is far too sure of them, and a transformer trained
    beside it would trust it far too much. So every training position gets the prior of the other folds.
    """

    model: KneserNey  # of the whole text, with folds
    train: TextIds
    folds: Index  # their edges: FOLDS of the trained part, and one of the reserved part

    def log_rows(self, starts: Index, T: int) -> NDArray[np.float32]:
        """Return log-probabilities (B, T, V) of the symbol after each of the T positions from each of `starts` (B,)."""
        return self.model.log_rows(self.train, starts, T, folds=self.folds)


def training_folds(n: int, reserved: int) -> Index:
    """Return the fold edges of a training text of n symbols, whose last `reserved` symbols are a fold of their own."""
    edges = fold_edges(n - reserved, FOLDS)
    return np.append(edges, n) if reserved else edges
