"""An n-gram model that learns as it reads: it adds each text it has predicted to its counts.

Shapes: N positions, V symbols, E entries of a context.
"""

from dataclasses import dataclass, field

import numpy as np

from charlm.data.tokenizer import Ids
from charlm.ngram.grams import Keys
from charlm.ngram.kneser_ney import KneserNey
from charlm.ngram.table import Floats, Index, Level


class _Context:
    """The counts of the symbols that followed one context."""

    def __init__(self, counts: dict[int, int], discounts: Floats) -> None:
        self.counts = counts
        self._discounts = discounts
        self._shares: tuple[Index, Floats, float] | None = None

    def add(self, symbol: int) -> bool:
        """Count one more; returns whether that symbol never followed before."""
        before = self.counts.get(symbol, 0)
        self.counts[symbol] = before + 1
        self._shares = None
        return before == 0

    def over(self, below: Floats) -> Floats:
        """The row (V,) of this context, from that of the order below."""
        if self._shares is None:
            n = len(self.counts)
            counts = np.fromiter(self.counts.values(), np.int64, n)
            taken, total = self._discounts[np.minimum(counts, 3)], counts.sum()
            symbols = np.fromiter(self.counts, np.int64, n)
            self._shares = symbols, (counts - taken) / total, float(taken.sum() / total)
        symbols, added, back = self._shares
        row: Floats = below * back
        row[symbols] += added
        return row


@dataclass
class _Order:
    """One order: contexts that were looked up live in a dict and are updated there, all others in the level."""

    level: Level
    cached: dict[int, _Context | None] = field(default_factory=dict)  # None: never seen

    def find(self, key: int) -> _Context | None:
        """The context of that key; None if nothing ever followed it."""
        if key not in self.cached:
            contexts, found = self.level.contexts, None
            at = int(contexts.searchsorted(np.uint64(key)))
            if at < len(contexts) and contexts[at] == key:
                entries = slice(*self.level.starts[at : at + 2].tolist())
                symbols, counts = self.level.symbols[entries], self.level.counts[entries]
                found = _Context(
                    dict(zip(symbols.tolist(), counts.tolist(), strict=True)), self.level.discounts
                )
            self.cached[key] = found
        return self.cached[key]

    def add(self, key: int, symbol: int) -> bool:
        """Count a symbol after a context; returns whether it was new there."""
        context = self.find(key)
        if context is None:
            context = self.cached[key] = _Context({}, self.level.discounts)
        return context.add(symbol)


class OnlineKneserNey:
    """A Kneser-Ney model plus the counts of all text learned since, with the original discounts.

    A gram that is new at one order adds one to the continuation count of the order below; a gram that was seen adds
    nothing there. Every count therefore equals the count of the whole text, had it been counted at once. Contexts that
    were dropped to save memory count as never seen. `model` is not changed.
    """

    def __init__(self, model: KneserNey) -> None:
        self.model = model
        self._orders = [_Order(level) for level in model.levels]
        self._masks = [int(model.packing.mask(k)) for k in range(len(model.levels))]

    def contexts(self, ids: Ids) -> Keys:
        """The context of each id of a text (N,)."""
        return np.concatenate((self.model.start(1), self.model.contexts(ids[None, :-1])[0]))

    def rows(self, contexts: Keys) -> Floats:
        """Probabilities (N, V) of the symbol after each context (N,), with the current counts."""
        uniform = np.full(self.model.n_symbols, 1 / self.model.n_symbols)
        made: list[dict[int, Floats]] = [{} for _ in self._orders]  # rows by context, since many are shared
        return np.stack([self._row(key, uniform, made) for key in contexts.tolist()])

    def learn(self, contexts: Keys, ids: Ids) -> None:
        """Count each id (N,) after its context (N,), in order."""
        depths = self._depths(contexts)
        for key, symbol, depth in zip(contexts.tolist(), ids.tolist(), depths.tolist(), strict=True):
            if symbol >= self.model.n_symbols:
                continue
            for k in range(depth, -1, -1):
                if not self._orders[k].add(key & self._masks[k], symbol):
                    break

    def _row(self, key: int, row: Floats, made: list[dict[int, Floats]]) -> Floats:
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
        """How many symbols each context (N,) has before its first boundary."""
        packing = self.model.packing
        shifts = np.arange(self.model.order, dtype=np.uint64) * np.uint64(packing.bits)
        digits = (contexts[:, None] >> shifts) & packing.mask(1)
        depths: Index = np.logical_and.accumulate(digits != packing.n_symbols, axis=1).sum(axis=1)
        return depths
