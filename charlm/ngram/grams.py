"""The n-grams of a text as sorted 64-bit keys, how often each occurs, and the table of one order.

A gram of order k is a symbol with the k symbols before it: k + 1 digits of a fixed number of bits,
the symbol itself in the lowest. Where fewer than k symbols stand before it, the digit BOUNDARY (one
above the last symbol) fills the place, as it does for all that stands before the end of another
document: that end is a symbol too, and the first of the next document. Equal keys are equal grams, since all digits fit.
Axes: N positions, G distinct grams.

Axes: X contexts, E entries (a context and a symbol that followed it), N positions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.data.tokenizer import Ids

Keys = NDArray[np.uint64]
Numbers = NDArray[np.integer]
Span = tuple[int, int]
KEY_BITS = 64
BYTES_PER_POSITION = 40
"""What counting a piece of text takes at its peak: keys, their shifted copy, where they change."""
BYTES_PER_GRAM = 48
"""What joining two counted pieces takes at its peak, for each gram of both."""


@dataclass(frozen=True)
class Packing:
    """How many symbols there are, and so how wide a digit is."""

    n_symbols: int
    end: int | None = None  # the symbol that ends a document and begins the next

    @property
    def bits(self) -> int:
        """Of a digit; the boundary, digit `n_symbols`, is one more than there are symbols."""
        return self.n_symbols.bit_length()

    @property
    def highest_order(self) -> int:
        """The largest order whose grams fit a key."""
        return KEY_BITS // self.bits - 1

    def mask(self, digits: int) -> np.uint64:
        """All bits of the lowest `digits` digits."""
        return np.uint64((1 << (self.bits * digits)) - 1)

    def pack(self, symbols: Ids, start: int, stop: int, digits: int) -> Keys:
        """The keys of the `digits` symbols up to each position of start .. stop - 1: (stop - start,).

        What is no symbol of the model (a byte never seen in training) becomes the boundary.
        """
        assert digits >= 1 and digits * self.bits <= KEY_BITS
        first = start - digits + 1
        row = np.full(stop - first, self.n_symbols, dtype=np.uint64)
        np.minimum(symbols[max(0, first) : stop], self.n_symbols, out=row[max(0, -first) :], casting="unsafe")
        keys, done = row, 1
        for bit in f"{digits:b}"[1:]:  # doubled, and one more where the binary digit says so
            keys, done = (keys[:-done] << np.uint64(done * self.bits)) | keys[done:], 2 * done
            if bit == "1":
                keys, done = (keys[:-1] << np.uint64(self.bits)) | row[done:], done + 1
        if self.end is not None:
            ends = np.flatnonzero(row == self.end) - (digits - 1)  # the key that has it as its last digit
            for back in range(1, digits - 1):
                at = ends + back
                self.cut(keys, at[(at >= 0) & (at < len(keys))], back, digits)
        return keys

    def cut(self, keys: Keys, at: NDArray[np.intp], back: int, digits: int) -> None:
        """Put boundaries before the digit `back` places from the last in some of the keys, in place."""
        filled = sum(self.n_symbols << (self.bits * i) for i in range(back + 1, digits))
        keys[at] = (keys[at] & self.mask(back + 1)) | np.uint64(filled)


@dataclass(frozen=True)
class Grams:
    """Distinct grams of one order, in the order of their keys, and a count above 0 of each: (G,)."""

    keys: Keys
    counts: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def of(cls, keys: Keys) -> "Grams":
        """What a heap of keys holds. It is sorted in place."""
        keys.sort()
        starts = run_starts(keys)
        return cls(keys[starts], np.diff(starts, append=len(keys)).astype(np.uint32))

    def distinct(self, packing: Packing, digits: int) -> "Grams":
        """The grams of fewer digits, each counted once for every gram of this order that ends in it.

        For one digit fewer these are Kneser and Ney's continuation counts. What begins a document has
        nothing before it to be counted by: it keeps its occurrences.
        """
        if packing.end is None:
            return Grams.of(self.keys & packing.mask(digits))
        inside = len(self.within(packing, digits))
        begins = Grams(self.keys[inside:] & packing.mask(digits), self.counts[inside:])
        return join([Grams.of(self.keys[:inside] & packing.mask(digits)), begins])

    def only(self, alone: NDArray[np.bool_], packing: Packing, digits: int) -> "Grams":
        """As `distinct`, of those that are `alone` (G,); what begins a document is taken as it is."""
        if packing.end is not None:
            alone = alone.copy()
            alone[len(self.within(packing, digits)) :] = True
        return Grams(self.keys[alone], self.counts[alone]).distinct(packing, digits)

    def shortened(self, packing: Packing, digits: int) -> "Grams":
        """The grams of fewer digits with as many occurrences as the longer ones have together."""
        return _joined(self.keys & packing.mask(digits), self.counts)

    def within(self, packing: Packing, order: int) -> "Grams":
        """Those that lie wholly inside the text. The others have a boundary, always their first digit."""
        end = np.uint64(packing.n_symbols << (packing.bits * order))
        kept = int(np.searchsorted(self.keys, end))
        return Grams(self.keys[:kept], self.counts[:kept])


def count(
    ids: Ids, packing: Packing, order: int, spans: Sequence[Span], memory: int = 1 << 62
) -> tuple[int, Grams]:
    """How often each gram occurs whose last symbol lies in one of the spans; its order may be lowered.

    Symbols before a span are read, not counted. `memory` in bytes bounds what is held on the way: a
    long text is counted in pieces, and where its distinct grams are too many, the order goes down.
    """
    at_once = max(1 << 14, memory // 4 // BYTES_PER_POSITION)
    most = max(1 << 14, memory // BYTES_PER_GRAM)
    runs: list[Grams] = []
    for start, stop in _pieces(spans, at_once):
        runs.append(Grams.of(packing.pack(ids, start, stop, order + 1)))
        while len(runs) > 1 and len(runs[-2]) < 2 * len(runs[-1]):
            runs[-2:] = [join(runs[-2:])]
        while sum(map(len, runs)) > most and order > 0:
            runs = [join(runs)]
            if len(runs[0]) > most // 2:
                order -= 1
                runs = [runs[0].shortened(packing, order + 1)]
    return order, join(runs)


def join(parts: Sequence[Grams]) -> Grams:
    """All grams of several heaps, with the sums of their counts."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Grams(np.empty(0, np.uint64), np.empty(0, np.uint32))
    return _joined(np.concatenate([p.keys for p in parts]), np.concatenate([p.counts for p in parts]))


def _joined(keys: Keys, counts: NDArray[np.uint32]) -> Grams:
    order = np.argsort(keys, kind="stable")  # which finds the sorted runs, and merges them
    keys = keys[order]
    starts = run_starts(keys)
    sums = np.add.reduceat(counts[order], starts) if len(keys) else counts
    return Grams(keys[starts], sums.astype(np.uint32))


def run_starts(keys: Keys) -> NDArray[np.int64]:
    """Where a new key begins."""
    if not len(keys):
        return np.empty(0, np.int64)
    return np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))


def _pieces(spans: Iterable[Span], at_once: int) -> Iterable[Span]:
    for start, stop in spans:
        for first in range(start, stop, at_once):
            yield first, min(first + at_once, stop)


DiscountsNumbers = NDArray[np.float64]
FALLBACK = (0.5, 1.0, 1.5)
"""Where a text has too few grams of a count for the formula; each is half of the count it is for."""


def discounts(counts: NDArray[np.integer[Any]]) -> DiscountsNumbers:
    """What is taken from a count of 0, 1, 2, and of 3 or more: (4,), the first of them 0.

    With n_i grams of count i and Y = n_1 / (n_1 + 2 n_2): D_i = i - (i + 1) Y n_(i+1) / n_i, for 3 or
    more i = 3 (Chen and Goodman 1998, "An empirical study of smoothing techniques for language
    modeling", Harvard TR-10-98, equations 26 and 27). Where a divisor is 0, or the result not above 0, it says
    nothing, and half of i is taken.
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
    discounts: DiscountsNumbers  # (4,): of a count of 0, 1, 2, and 3 or more

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

    def totals(self) -> tuple[Index, DiscountsNumbers]:
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
