"""Counts that go on counting: the text just read is added to them, as if counted from the start.

Axes: N positions, V symbols, E entries of a context.
"""

from dataclasses import dataclass, field

import numpy as np

from charlm.data.tokenizer import Ids
from charlm.ngram.grams import DiscountsNumbers, Index, Keys, Level
from charlm.ngram.kneser_ney import KneserNey


class _Context:
    """What followed one context, and how often."""

    def __init__(self, counts: dict[int, int], discounts: DiscountsNumbers) -> None:
        self.counts = counts
        self._discounts = discounts
        self._shares: tuple[Index, DiscountsNumbers, float] | None = None

    def add(self, symbol: int) -> bool:
        """Count one more; had that symbol never followed?"""
        before = self.counts.get(symbol, 0)
        self.counts[symbol] = before + 1
        self._shares = None
        return before == 0

    def over(self, below: DiscountsNumbers) -> DiscountsNumbers:
        """The row (V,) of this context, from that of the order below."""
        if self._shares is None:
            n = len(self.counts)
            counts = np.fromiter(self.counts.values(), np.int64, n)
            taken, total = self._discounts[np.minimum(counts, 3)], counts.sum()
            symbols = np.fromiter(self.counts, np.int64, n)
            self._shares = symbols, (counts - taken) / total, float(taken.sum() / total)
        symbols, added, back = self._shares
        row: DiscountsNumbers = below * back
        row[symbols] += added
        return row


@dataclass
class _Order:
    """One order: the contexts met so far as they are now, all others as they were counted."""

    level: Level
    met: dict[int, _Context | None] = field(default_factory=dict)  # None: never seen

    def find(self, key: int) -> _Context | None:
        """The context of that key, None where nothing ever followed it."""
        if key not in self.met:
            contexts, found = self.level.contexts, None
            at = int(contexts.searchsorted(np.uint64(key)))
            if at < len(contexts) and contexts[at] == key:
                entries = slice(*self.level.starts[at : at + 2].tolist())
                symbols, counts = self.level.symbols[entries], self.level.counts[entries]
                found = _Context(
                    dict(zip(symbols.tolist(), counts.tolist(), strict=True)), self.level.discounts
                )
            self.met[key] = found
        return self.met[key]

    def add(self, key: int, symbol: int) -> bool:
        """Count a symbol after a context; was it new there?"""
        context = self.find(key)
        if context is None:
            context = self.met[key] = _Context({}, self.level.discounts)
        return context.add(symbol)


class OnlineCounts:
    """The counts of a text and of all that was learned since, with the discounts of the text.

    A gram that is new at one order adds to the continuation count of the order below; one that was
    seen adds nothing there. So every count is that of the whole, had it been counted at once. What
    stands before a text, and an id that is no symbol, is each time a symbol unlike any other. Contexts
    that were left out for lack of memory count as never seen. `model` stays as it is.
    """

    def __init__(self, model: KneserNey) -> None:
        self.model = model
        self._orders = [_Order(level) for level in model.levels]
        self._masks = [int(model.packing.mask(k)) for k in range(len(model.levels))]

    def contexts(self, ids: Ids) -> Keys:
        """What stands before each id of a text (N,), the first of which nothing precedes."""
        return np.concatenate((self.model.start(1), self.model.contexts(ids[None, :-1])[0]))

    def rows(self, contexts: Keys) -> DiscountsNumbers:
        """Probabilities (N, V) of what follows each context (N,), by the counts as they are now."""
        uniform = np.full(self.model.n_symbols, 1 / self.model.n_symbols)
        made: list[dict[int, DiscountsNumbers]] = [
            {} for _ in self._orders
        ]  # neighbours share their short ends
        return np.stack([self._row(key, uniform, made) for key in contexts.tolist()])

    def learn(self, contexts: Keys, ids: Ids) -> None:
        """Count each id (N,) after its context (N,), in their order."""
        depths = self._depths(contexts)
        for key, symbol, depth in zip(contexts.tolist(), ids.tolist(), depths.tolist(), strict=True):
            if symbol >= self.model.n_symbols:
                continue
            for k in range(depth, -1, -1):
                if not self._orders[k].add(key & self._masks[k], symbol):
                    break

    def _row(
        self, key: int, row: DiscountsNumbers, made: list[dict[int, DiscountsNumbers]]
    ) -> DiscountsNumbers:
        for order, mask, known in zip(self._orders, self._masks, made, strict=True):
            short = key & mask
            if short not in known:
                context = order.find(short)
                if context is None:
                    break  # then no longer context was seen either
                known[short] = context.over(row)
            row = known[short]
        return row

    def _depths(self, contexts: Keys) -> Index:
        """How many symbols each context (N,) has up to the first that is none."""
        packing = self.model.packing
        shifts = np.arange(self.model.order, dtype=np.uint64) * np.uint64(packing.bits)
        digits = (contexts[:, None] >> shifts) & packing.mask(1)
        depths: Index = np.logical_and.accumulate(digits != packing.n_symbols, axis=1).sum(axis=1)
        return depths
