"""From a text to its counts, within a memory and a number of symbols; what was left out can be said."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from charlm.data.tokenizer import Ids
from charlm.ngram.folds import Share, count_in_folds, levels_and_shares
from charlm.ngram.grams import DiscountsNumbers, Grams, Index, Level, Packing, Span, count, join, levels
from charlm.ngram.kneser_ney import KneserNey, share_of_level

EQUAL_DISCOUNT = 0.5
"""Taken from every count alike and given back to all symbols alike, any discount up to 1 changes nothing."""
TAIL_SHARE, TAIL_MOST, BEFORE_MOST = 0.1, 100_000, 4_000_000
"""The order is chosen on a tail of the text, counted on what stands before it; both are bounded."""
UNIGRAM_MEMORY = 1 << 26
"""Bytes that counting symbols takes, whatever the length of the text."""
PARTS = 32
MOST_RARE = 4
"""Contexts of the highest order that were seen up to so often may be left out before the order goes down."""


@dataclass(frozen=True)
class Built:
    """Counts, and what memory or time made of the wish."""

    model: KneserNey
    wanted_order: int
    symbols: int
    of_symbols: int
    rare: int  # contexts of the highest order that were seen so often or less were left out; 0: none

    @property
    def limits(self) -> str:
        """What was left out, in words; empty where nothing was."""
        said = []
        if self.symbols < self.of_symbols:
            said.append(f"counted on {self.symbols:,} of {self.of_symbols:,} symbols, evenly spread")
        if self.model.order < self.wanted_order:
            fits = self.model.packing.highest_order
            why = (
                "to keep within the memory" if self.model.order < fits else "as many as fit a key of 64 bits"
            )
            said.append(f"{self.model.order} symbols of context instead of {self.wanted_order}, {why}")
        if self.rare:
            said.append(
                f"contexts of {self.model.order} seen {self.rare} times or less left out, to keep within the memory"
            )
        return "; ".join(said)


def build(
    ids: Ids,
    n_symbols: int,
    order: int,
    *,
    memory: int,
    most: int | None = None,
    n_folds: int = 0,
    end: int | None = None,
    beside: Sequence[Ids] = (),
) -> Built:
    """Count `order` symbols of context, in at most `memory` bytes.

    `beside`: further texts that are counted too; they are in no fold, so they are never left out.
    `most`: symbols that there is time for, taken as evenly spread contiguous parts of the texts.
    `n_folds`: folds that can be left out of the prediction; 0 for none, which is faster and smaller.
    `end`: the symbol that ends a document, before which nothing is looked at.
    """
    packing = Packing(n_symbols, end)
    wanted, order = order, min(order, packing.highest_order)
    texts = (ids, *beside)
    of_symbols = sum(map(len, texts))
    most = of_symbols if most is None else min(most, of_symbols)
    spans = [spread_chars(len(text), -(-most * len(text) // max(1, of_symbols))) for text in texts]
    order, parts = _counted(texts, packing, order, spans, n_folds, memory)
    while True:
        made, shares = _made(parts, packing, order)
        rare = _rare(made, shares, memory)
        if rare is not None or order == 0:
            break
        order -= 1
        parts = [part.shortened(packing, order + 1) for part in parts]
    if rare:
        _leave_out(made, shares, rare)
    model = KneserNey(packing, made, shares or None)
    counted = sum(b - a for of_text in spans for a, b in of_text)
    return Built(model, wanted, counted, of_symbols, rare or 0)


def lower_orders(
    ids: Ids, n_symbols: int, order: int, *, memory: int, most: int | None = None, end: int | None = None
) -> Iterator[KneserNey]:
    """The counts of one symbol of context fewer than `order`, of two fewer and so on, down to one.

    Each is what `build` makes of that order; the text is gone through once for all.
    """
    packing = Packing(n_symbols, end)
    spans = spread_chars(len(ids), len(ids) if most is None else most)
    order, grams = count(ids, packing, max(0, order - 1), spans, memory)
    while order > 0:
        yield KneserNey(packing, levels(grams, packing, order), dense=False)
        order -= 1
        grams = grams.shortened(packing, order + 1)


def fit(
    ids: Ids,
    n_symbols: int,
    order: int | None = None,
    *,
    memory: int,
    most: int | None = None,
    end: int | None = None,
) -> Built:
    """Count a text for a model of counts alone, by default of the order that predicts its end best.

    At order 0 either Kneser-Ney's discounts or add-one smoothing is taken, whichever predicts that end
    better. So the model is never worse there than the unigram. The other arguments are those of `build`.
    """
    smooth = False
    if not order:
        losses = tail_losses(ids[-most:] if most else ids, n_symbols, end=end)
        order = losses.order if order is None else order
        smooth = order == 0 and losses.smooth
    if smooth:
        return count_unigram(ids, Packing(n_symbols, end), most)
    return build(ids, n_symbols, order, memory=memory, most=most, end=end)


@dataclass(frozen=True)
class TailLosses:
    """Mean nats per symbol of the end of a text, under counts of what stands before it."""

    by_order: Sequence[float]  # of Kneser-Ney with 0, 1, 2, ... symbols of context: as many as fit a key
    unigram: float  # of add-one smoothing without context

    @property
    def order(self) -> int:
        """The best order, the lowest among equals; 0 where the unigram is better than all."""
        if not self.by_order:  # too short to tell
            return 1
        best = min(range(len(self.by_order)), key=self.by_order.__getitem__)
        return 0 if self.unigram < self.by_order[best] else best

    @property
    def smooth(self) -> bool:
        """Does add-one smoothing predict better than Kneser-Ney's discounts, both without context?"""
        return bool(self.by_order) and self.unigram < self.by_order[0]


def tail_losses(ids: Ids, n_symbols: int, *, end: int | None = None) -> TailLosses:
    """The losses of all orders on the end of a text.

    Orders share their work: below its highest order, every model has the same continuation counts. So each
    order takes one level of those, and one of occurrences, which is its highest.
    """
    packing = Packing(n_symbols, end)
    tail = min(int(len(ids) * TAIL_SHARE), TAIL_MOST)
    if not tail:
        return TailLosses([], inf)
    near = ids[max(0, len(ids) - tail - BEFORE_MOST) :]
    before = len(near) - tail
    order, occurrences = count(near, packing, packing.highest_order, [(0, before)])
    keys = np.sort(packing.pack(near, before, len(near), order + 1))
    continuations = occurrences
    shares = []
    for k in range(order, -1, -1):
        levels_of_k = [Level.of(grams.within(packing, k), packing) for grams in (occurrences, continuations)]
        shares.append([share_of_level(level, packing, k, keys) for level in levels_of_k])
        if k:
            occurrences = occurrences.shortened(packing, k)
            continuations = continuations.distinct(packing, k)
    below, losses = np.full(tail, 1 / n_symbols), []
    for highest, lower in reversed(shares):
        losses.append(-float(np.log(_over(below, *highest)).mean()))
        below = _over(below, *lower)
    counts = np.bincount(near, minlength=n_symbols)[:n_symbols] + 1.0
    counts -= np.bincount(near[before:], minlength=n_symbols)[:n_symbols]
    unigram = -float(np.log(counts[near[before:]] / counts.sum()).mean())
    return TailLosses(losses, unigram)


def _over(
    below: DiscountsNumbers, seen: Index, added: DiscountsNumbers, back: DiscountsNumbers
) -> DiscountsNumbers:
    """Probabilities (N,) of an order, from those of the order below."""
    found = below.copy()
    found[seen] = added + back * below[seen]
    return found


def count_unigram(ids: Ids, packing: Packing, most: int | None) -> Built:
    """Add-one smoothing without context: each symbol is counted once more, and all are discounted alike."""
    spans = spread_chars(len(ids), len(ids) if most is None else most)
    _, grams = count(ids, packing, 0, spans, UNIGRAM_MEMORY)
    once = Grams(np.arange(packing.n_symbols, dtype=np.uint64), np.ones(packing.n_symbols, dtype=np.uint32))
    level = replace(Level.of(join([grams, once]), packing), discounts=np.array([0, *[EQUAL_DISCOUNT] * 3]))
    return Built(KneserNey(packing, [level]), 0, sum(b - a for a, b in spans), len(ids), 0)


def spread_chars(n: int, most: int) -> list[Span]:
    """At most `most` of n positions, as up to PARTS contiguous parts that are evenly spread."""
    if most >= n:
        return [(0, n)] if n else []
    parts = max(1, min(PARTS, most))
    starts = [i * n // parts for i in range(parts)]
    return [(start, start + most // parts) for start in starts if most >= parts]


def _counted(
    texts: Sequence[Ids],
    packing: Packing,
    order: int,
    spans: Sequence[Sequence[Span]],
    n_folds: int,
    memory: int,
) -> tuple[int, list[Grams]]:
    """The grams of the first text, fold by fold if there are folds, then those of each other; and their order."""
    if n_folds:
        order, parts = count_in_folds(texts[0], packing, order, spans[0], n_folds, memory // n_folds)
    else:
        order, whole = count(texts[0], packing, order, spans[0], memory)
        parts = [whole]
    for text, of_text in zip(texts[1:], spans[1:], strict=True):
        reached, more = count(text, packing, order, of_text, memory // max(1, n_folds))
        if reached < order:
            order, parts = reached, [part.shortened(packing, reached + 1) for part in parts]
        parts.append(more)
    return order, parts


def _made(parts: Sequence[Grams], packing: Packing, order: int) -> tuple[list[Level], list[Share]]:
    if len(parts) == 1:
        return levels(parts[0], packing, order), []
    return levels_and_shares(parts, packing, order)


def _rare(made: Sequence[Level], shares: Sequence[Share], memory: int) -> int | None:
    """How often a context of the highest order must be seen, and more, to be kept; None: no way to fit."""
    size = sum(level.nbytes for level in made) + sum(share.nbytes for share in shares)
    if size <= memory:
        return 0
    level, entry = made[-1], sum(part.nbytes for part in shares[-1:])
    totals, lengths = level.totals()[0], np.diff(level.starts)
    each = (level.symbols.itemsize + level.counts.itemsize) + entry // max(1, len(level.counts))
    for rare in range(1, MOST_RARE + 1):
        gone = totals <= rare
        context = level.contexts.itemsize + level.starts.itemsize
        if size - int(gone.sum()) * context - int(lengths[gone].sum()) * each <= memory:
            return rare
    return None


def _leave_out(made: list[Level], shares: list[Share], rare: int) -> None:
    """Take the rare contexts out of the highest order."""
    level = made[-1]
    kept = level.totals()[0] > rare
    made[-1] = level.without(kept)
    if shares:
        shares[-1] = Share(shares[-1].counts[:, np.repeat(kept, np.diff(level.starts))])
