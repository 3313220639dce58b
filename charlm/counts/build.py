"""From a text to its counts, within a memory and a number of symbols; what was left out can be said."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from charlm.counts.folds import Share, count_in_folds, levels_and_shares
from charlm.counts.grams import Grams, Packing, Span, count
from charlm.counts.kneser_ney import KneserNey
from charlm.counts.level import Level, levels
from charlm.counts.scoring import probabilities
from charlm.text.vocabulary import Ids

MOST_ORDER = 12
FIRST_ORDER_BITS = 36
"""Where the search for an order begins: as many symbols of context as make about so many bits."""
TAIL_SHARE, TAIL_MOST, BEFORE_MOST = 0.1, 100_000, 4_000_000
"""The order is chosen on a tail of the text, counted on what stands before it; both are bounded."""
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
    spans = [spread(len(text), -(-most * len(text) // max(1, of_symbols))) for text in texts]
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
    spans = spread(len(ids), len(ids) if most is None else most)
    order, grams = count(ids, packing, max(0, order - 1), spans, memory)
    while order > 0:
        yield KneserNey(packing, levels(grams, packing, order), dense=False)
        order -= 1
        grams = grams.shortened(packing, order + 1)


def choose_order(ids: Ids, n_symbols: int, most_order: int = MOST_ORDER, *, end: int | None = None) -> int:
    """How many symbols of context predict the end of a text best, counted on what stands before it.

    The search goes up or down from a first guess for as long as that helps.
    """
    packing = Packing(n_symbols, end)
    tail = min(int(len(ids) * TAIL_SHARE), TAIL_MOST)
    near = ids[max(0, len(ids) - tail - BEFORE_MOST) :]
    most_order = min(most_order, packing.highest_order)
    order = min(most_order, max(2, FIRST_ORDER_BITS // packing.bits))
    if not tail:
        return min(1, most_order)
    found: dict[int, float] = {}

    def loss(k: int) -> float:
        if k not in found:
            _, grams = count(near, packing, k, [(0, len(near) - tail)])
            model = KneserNey(packing, levels(grams, packing, k), dense=False)
            found[k] = -float(np.log(probabilities(model, near, len(near) - tail)).mean())
        return found[k]

    while True:
        around = [k for k in (order, order - 1, order + 1) if 0 <= k <= most_order]
        best = min(around, key=loss)
        if best == order:
            return order
        order = best


def spread(n: int, most: int) -> list[Span]:
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
