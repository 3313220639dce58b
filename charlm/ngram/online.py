"""An n-gram model that learns as it reads: it adds each text it has predicted to its counts.

Shapes: N positions, V symbols, E entries of a context.
"""

import numpy as np

from charlm.data.tokenizer import Ids
from charlm.ngram.kneser_ney import KneserNey
from charlm.ngram.table import Floats64, Index, Level


class _Order:
    """One order: counts of contexts are copied from the level to dicts when first looked up, and updated there."""

    def __init__(self, level: Level) -> None:
        self._level = level
        self._new: dict[tuple[int, int], int] = {}  # the indices of contexts that the level lacks
        self._counts: dict[int, dict[int, int]] = {}  # by context, then by symbol
        self._shares: dict[
            int, tuple[Index, Floats64, float]
        ] = {}  # symbols, what each adds, weight of the order below

    def add(self, context: int, symbol: int) -> bool:
        """Count a symbol after a context; return whether it was new there."""
        counts = self._after(context)
        counts[symbol] = counts.get(symbol, 0) + 1
        self._shares.pop(context, None)
        return counts[symbol] == 1

    def over(self, context: int, below: Floats64) -> Floats64 | None:
        """Return the row (V,) of a context, given that of the order below; None if nothing ever followed the context."""
        counts = self._after(context)
        if not counts:
            return None
        if context not in self._shares:
            n = len(counts)
            values = np.fromiter(counts.values(), np.int64, n)
            taken, total = self._level.discounts[np.minimum(values, 3)], values.sum()
            symbols = np.fromiter(counts, np.int64, n)
            self._shares[context] = symbols, (values - taken) / total, float(taken.sum() / total)
        symbols, added, back = self._shares[context]
        row: Floats64 = below * back
        row[symbols] += added
        return row

    def place_of(self, context: int, symbol: int) -> int:
        """Return the index of a context that the level lacks: a context of the order below, and one more symbol."""
        return self._new.setdefault((context, symbol), len(self._level.contexts) + len(self._new))

    def _after(self, context: int) -> dict[int, int]:
        if context not in self._counts:
            level = self._level
            seen = context < len(level.contexts)
            entries = slice(*level.starts[context : context + 2].tolist()) if seen else slice(0)
            counts = zip(level.symbols[entries].tolist(), level.counts[entries].tolist(), strict=True)
            self._counts[context] = dict(counts)
        return self._counts[context]


class OnlineKneserNey:
    """A Kneser-Ney model plus the counts of all text learned since, with the original discounts.

    A gram that is new at one order adds one to the continuation count of the order below; a gram that was seen adds
    nothing there. Every count therefore equals the count of the whole text, had it been counted at once. Contexts that
    were dropped to save memory count as never seen. `model` is not changed.
    """

    def __init__(self, model: KneserNey, end: int | None = None) -> None:
        """`end`: the symbol that ends a document; no context crosses it."""
        self.model, self._end = model, end
        self._orders = [_Order(level) for level in model.levels]

    def contexts(self, ids: Ids) -> Index:
        """Return the context of each id of a text, (N, K + 1); one never seen has an index too, unless it has a boundary."""
        at = np.concatenate((self.model.start(1), self.model.contexts(ids[None, :-1])[0]))
        at[:, 0] = 0
        length = 0  # of the document so far
        for t, symbol in enumerate(ids[:-1].tolist(), 1):
            length = 0 if symbol >= self.model.n_symbols else 1 if symbol == self._end else length + 1
            for k in range(1, min(length, self.model.order) + 1):
                if at[t, k] < 0:
                    at[t, k] = self._orders[k].place_of(int(at[t - 1, k - 1]), symbol)
        return at

    def rows(self, contexts: Index) -> Floats64:
        """Return probabilities (N, V) of the symbol after each context (N, K + 1), with the current counts."""
        uniform = np.full(self.model.n_symbols, 1 / self.model.n_symbols)
        made: list[dict[int, Floats64]] = [{} for _ in self._orders]  # rows by context, since many are shared
        return np.stack([self._row(places, uniform, made) for places in contexts.tolist()])

    def learn(self, contexts: Index, ids: Ids) -> None:
        """Count each id (N,) after its context (N, K + 1), in order."""
        for places, symbol in zip(contexts.tolist(), ids.tolist(), strict=True):
            if symbol >= self.model.n_symbols:
                continue
            known = [(order, place) for order, place in zip(self._orders, places, strict=True) if place >= 0]
            for order, place in reversed(known):
                if not order.add(place, symbol):
                    break

    def _row(self, places: list[int], row: Floats64, made: list[dict[int, Floats64]]) -> Floats64:
        for order, place, known in zip(self._orders, places, made, strict=True):
            if place < 0:
                break
            if place not in known:
                longer = order.over(place, row)
                if longer is None:
                    break  # then no longer context was seen either
                known[place] = longer
            row = known[place]
        return row
