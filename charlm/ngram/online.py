"""An n-gram model that learns as it reads: it adds each text it has predicted to its counts.

Shapes: N positions, V symbols, E entries of a context.
"""

import numpy as np

from charlm.data.tokenizer import Ids
from charlm.ngram.grams import Keys
from charlm.ngram.kneser_ney import KneserNey
from charlm.ngram.table import Floats64, Index, Level


class _Order:
    """One order: the counts after contexts that were looked up are in dicts and are updated there, others in the level."""

    def __init__(self, level: Level) -> None:
        self._level = level
        self._counts: dict[int, dict[int, int]] = {}  # by context, then by symbol
        self._shares: dict[
            int, tuple[Index, Floats64, float]
        ] = {}  # symbols, what each adds, weight of the order below

    def add(self, key: int, symbol: int) -> bool:
        """Count a symbol after a context; returns whether it was new there."""
        counts = self._after(key)
        counts[symbol] = counts.get(symbol, 0) + 1
        self._shares.pop(key, None)
        return counts[symbol] == 1

    def over(self, key: int, below: Floats64) -> Floats64 | None:
        """The row (V,) of a context, from that of the order below; None if nothing ever followed the context."""
        counts = self._after(key)
        if not counts:
            return None
        if key not in self._shares:
            n = len(counts)
            values = np.fromiter(counts.values(), np.int64, n)
            taken, total = self._level.discounts[np.minimum(values, 3)], values.sum()
            symbols = np.fromiter(counts, np.int64, n)
            self._shares[key] = symbols, (values - taken) / total, float(taken.sum() / total)
        symbols, added, back = self._shares[key]
        row: Floats64 = below * back
        row[symbols] += added
        return row

    def _after(self, key: int) -> dict[int, int]:
        if key not in self._counts:
            level = self._level
            at = int(level.find(np.array([key], np.uint64))[0])
            entries = slice(*level.starts[at : at + 2].tolist()) if at >= 0 else slice(0)
            counts = zip(level.symbols[entries].tolist(), level.counts[entries].tolist(), strict=True)
            self._counts[key] = dict(counts)
        return self._counts[key]


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

    def rows(self, contexts: Keys) -> Floats64:
        """Probabilities (N, V) of the symbol after each context (N,), with the current counts."""
        uniform = np.full(self.model.n_symbols, 1 / self.model.n_symbols)
        made: list[dict[int, Floats64]] = [{} for _ in self._orders]  # rows by context, since many are shared
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

    def _row(self, key: int, row: Floats64, made: list[dict[int, Floats64]]) -> Floats64:
        for order, mask, known in zip(self._orders, self._masks, made, strict=True):
            short = key & mask
            if short not in known:
                longer = order.over(short, row)
                if longer is None:
                    break  # then no longer context was seen either
                known[short] = longer
            row = known[short]
        return row

    def _depths(self, contexts: Keys) -> Index:
        """How many symbols each context (N,) has before its first boundary."""
        packing = self.model.packing
        shifts = np.arange(self.model.order, dtype=np.uint64) * np.uint64(packing.bits)
        digits = (contexts[:, None] >> shifts) & packing.mask(1)
        depths: Index = np.logical_and.accumulate(digits != packing.n_symbols, axis=1).sum(axis=1)
        return depths
