"""The n-grams of a text as sorted 64-bit keys, and how often each occurs.

A gram of order k is a symbol with the k symbols before it: k + 1 digits of a fixed number of bits, the symbol itself in
the lowest. If fewer than k symbols precede it in its document, the boundary digit V (one above the last symbol) fills
the gap. The end symbol of a document is the first symbol of the next one. All digits fit, so equal keys are equal grams.

Shapes: N positions, G distinct grams, V symbols.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charlm.data.tokenizer import Ids

Keys = NDArray[np.uint64]
Span = tuple[int, int]
KEY_BITS = 64
BYTES_PER_POSITION = 40
"""Peak memory of counting a piece of text: keys, their shifted copy, and where they change."""
BYTES_PER_GRAM = 48
"""Peak memory of merging two counted pieces, for each gram of both."""


@dataclass(frozen=True)
class Packing:
    """How symbols are packed into a key: as digits just wide enough for V symbols and the boundary."""

    n_symbols: int
    end: int | None = None  # the symbol that ends a document and begins the next

    @property
    def bits(self) -> int:
        """Width of a digit. The boundary is digit `n_symbols`."""
        return self.n_symbols.bit_length()

    @property
    def highest_order(self) -> int:
        """The largest order whose grams fit a key."""
        return KEY_BITS // self.bits - 1

    def mask(self, digits: int) -> np.uint64:
        """A mask of the lowest `digits` digits."""
        return np.uint64((1 << (self.bits * digits)) - 1)

    def pack(self, symbols: Ids, start: int, stop: int, digits: int) -> Keys:
        """The key of the `digits` symbols that end at each position start .. stop - 1: (stop - start,).

        An id outside the vocabulary (a byte that training never saw) becomes the boundary.
        """
        assert digits >= 1 and digits * self.bits <= KEY_BITS
        first = start - digits + 1
        row = np.full(stop - first, self.n_symbols, dtype=np.uint64)
        np.minimum(symbols[max(0, first) : stop], self.n_symbols, out=row[max(0, -first) :], casting="unsafe")
        keys, done = row, 1
        for bit in f"{digits:b}"[1:]:  # double the digits, and add one where the binary digit is 1
            keys, done = (keys[:-done] << np.uint64(done * self.bits)) | keys[done:], 2 * done
            if bit == "1":
                keys, done = (keys[:-1] << np.uint64(self.bits)) | row[done:], done + 1
        if self.end is not None:
            ends = np.flatnonzero(row == self.end) - (digits - 1)  # the key in which it is the first digit
            for back in range(1, digits - 1):
                at = ends + back
                self.cut(keys, at[(at >= 0) & (at < len(keys))], back, digits)
        return keys

    def cut(self, keys: Keys, at: NDArray[np.intp], back: int, digits: int) -> None:
        """In the keys `at`, replace all digits before the one `back` places from the last by boundaries, in place."""
        filled = sum(self.n_symbols << (self.bits * i) for i in range(back + 1, digits))
        keys[at] = (keys[at] & self.mask(back + 1)) | np.uint64(filled)


@dataclass(frozen=True)
class Grams:
    """Distinct grams of one order, sorted by key, and the count of each, above 0: (G,) both."""

    keys: Keys
    counts: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def of(cls, keys: Keys) -> "Grams":
        """Count equal keys; `keys` is sorted in place."""
        keys.sort()
        starts = run_starts(keys)
        return cls(keys[starts], np.diff(starts, append=len(keys)).astype(np.uint32))

    def distinct(self, packing: Packing, digits: int) -> "Grams":
        """The grams of fewer digits, each counted once for every distinct gram of this order that ends in it.

        For one digit fewer these are Kneser and Ney's continuation counts. A gram at the start of a document has
        nothing before it, and keeps its occurrences instead.
        """
        if packing.end is None:
            return Grams.of(self.keys & packing.mask(digits))
        inside = len(self.within(packing, digits))
        begins = Grams(self.keys[inside:] & packing.mask(digits), self.counts[inside:])
        return join([Grams.of(self.keys[:inside] & packing.mask(digits)), begins])

    def only(self, alone: NDArray[np.bool_], packing: Packing, digits: int) -> "Grams":
        """`distinct` of the grams selected by `alone` (G,), and of all that start a document."""
        if packing.end is not None:
            alone = alone.copy()
            alone[len(self.within(packing, digits)) :] = True
        return Grams(self.keys[alone], self.counts[alone]).distinct(packing, digits)

    def shortened(self, packing: Packing, digits: int) -> "Grams":
        """The grams of fewer digits, with the sum of the occurrences of the longer ones."""
        return _joined(self.keys & packing.mask(digits), self.counts)

    def within(self, packing: Packing, order: int) -> "Grams":
        """The grams without a boundary. The others have it as their first digit, so they come last."""
        end = np.uint64(packing.n_symbols << (packing.bits * order))
        kept = int(np.searchsorted(self.keys, end))
        return Grams(self.keys[:kept], self.counts[:kept])


def count(
    ids: Ids, packing: Packing, order: int, spans: Sequence[Span], memory: int = 1 << 62
) -> tuple[int, Grams]:
    """Count the grams whose last symbol lies in one of the spans, and return their order, which may be lower.

    Symbols before a span serve as context. `memory` in bytes bounds the working memory: a long text is counted in
    pieces, and the order is reduced if there are too many distinct grams.
    """
    at_once = max(1 << 14, memory // 4 // BYTES_PER_POSITION)
    limit = max(1 << 14, memory // BYTES_PER_GRAM)
    runs: list[Grams] = []
    for start, stop in _pieces(spans, at_once):
        runs.append(Grams.of(packing.pack(ids, start, stop, order + 1)))
        while len(runs) > 1 and len(runs[-2]) < 2 * len(runs[-1]):
            runs[-2:] = [join(runs[-2:])]
        while sum(map(len, runs)) > limit and order > 0:
            runs = [join(runs)]
            if len(runs[0]) > limit // 2:
                order -= 1
                runs = [runs[0].shortened(packing, order + 1)]
    return order, join(runs)


def join(parts: Sequence[Grams]) -> Grams:
    """Merge several sets of grams, adding their counts."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        return Grams(np.empty(0, np.uint64), np.empty(0, np.uint32))
    return _joined(np.concatenate([p.keys for p in parts]), np.concatenate([p.counts for p in parts]))


def _joined(keys: Keys, counts: NDArray[np.uint32]) -> Grams:
    order = np.argsort(keys, kind="stable")  # a merge sort, which finds the sorted runs
    keys = keys[order]
    starts = run_starts(keys)
    sums = np.add.reduceat(counts[order], starts) if len(keys) else counts
    return Grams(keys[starts], sums.astype(np.uint32))


def run_starts(keys: Keys) -> NDArray[np.int64]:
    """The positions at which a new key begins in sorted keys."""
    if not len(keys):
        return np.empty(0, np.int64)
    return np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))


def _pieces(spans: Iterable[Span], at_once: int) -> Iterable[Span]:
    for start, stop in spans:
        for first in range(start, stop, at_once):
            yield first, min(first + at_once, stop)
