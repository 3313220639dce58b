"""The grams of one order by their contexts: which symbols followed each, and how often.

Axes: X contexts, E entries (a context and a symbol that followed it), N positions.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.counts.discounts import Numbers, discounts
from charlm.counts.grams import Grams, Keys, Packing, run_starts

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Level:
    """One order of the counts. The entries of context x are starts[x] .. starts[x + 1] - 1.

    Counts are of occurrences at the highest order, and of distinct symbols before the gram below it.
    """

    contexts: Keys  # (X,), ascending; the symbols of the context, the last one in the lowest digit
    starts: NDArray[np.uint32]  # (X + 1,)
    symbols: NDArray[np.unsignedinteger[Any]]  # (E,), ascending within a context
    counts: NDArray[np.unsignedinteger[Any]]  # (E,)
    discounts: Numbers  # (4,): of a count of 0, 1, 2, and 3 or more

    @classmethod
    def of(cls, grams: Grams, packing: Packing) -> "Level":
        """From grams without a boundary; the discounts come from their counts."""
        of_entry = grams.keys >> np.uint64(packing.bits)
        starts = run_starts(of_entry)
        symbols = (grams.keys & packing.mask(1)).astype(np.min_scalar_type(packing.n_symbols - 1))
        return cls(
            contexts=of_entry[starts],
            starts=np.append(starts, len(of_entry)).astype(np.uint32),
            symbols=symbols,
            counts=grams.counts.astype(np.min_scalar_type(int(grams.counts.max(initial=1)))),
            discounts=discounts(grams.counts),
        )

    @property
    def nbytes(self) -> int:
        """In memory, and about as much on disk."""
        return sum(part.nbytes for part in (self.contexts, self.starts, self.symbols, self.counts))

    def find(self, keys: Keys) -> Index:
        """Where each context stands in this level, -1 where it was never seen: (N,)."""
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

    def totals(self) -> tuple[Index, Numbers]:
        """The counts of each context together, and their discounts together: (X,) both."""
        firsts = self.starts[:-1].astype(np.int64)
        if not len(firsts):
            return firsts, np.empty(0)
        taken = self.discounts[np.minimum(self.counts, 3)]
        return np.add.reduceat(self.counts, firsts, dtype=np.int64), np.add.reduceat(taken, firsts)

    @cached_property
    def ready(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What each entry adds to its row (E,), and what each context leaves to the order below (X,).

        Kept once made: who asks for one row at a time saves most of the work so.
        """
        totals, taken = self.totals()
        added = self.counts - self.discounts[np.minimum(self.counts, 3)]
        added /= np.repeat(totals, np.diff(self.starts))
        return added.astype(np.float32), (taken / totals).astype(np.float32)

    def without(self, kept: NDArray[np.bool_]) -> "Level":
        """The same with those contexts (X,) only that are kept, and with its discounts."""
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
    """All orders from 0 up, from the grams of the highest."""
    made = []
    for k in range(order, -1, -1):
        made.append(Level.of(grams.within(packing, k), packing))
        if k:
            grams = grams.distinct(packing, k)
    return made[::-1]
