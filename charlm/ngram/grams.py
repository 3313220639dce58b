"""The n-grams of a text as sorted keys, and how often each occurs.

A gram of order k is a symbol with the k symbols before it: a key of k + 1 digits, the symbol itself the last. If fewer
than k symbols precede it in its document, the boundary digit V (one above the last symbol) fills the gap. The end symbol
of a document is the first symbol of the next one.

Shapes: N positions, G distinct grams, V symbols.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charlm.data.shards import TextIds
from charlm.ngram.keys import Keys, Packing

Span = tuple[int, int]
KEY_COPIES = 3
"""How many copies of the keys are in memory at once, while packing and sorting, and while merging pieces."""
BYTES_PER_POSITION, BYTES_PER_GRAM = 16, 24
"""Peak memory besides the keys: per position while counting a piece of text, per gram while merging two pieces."""


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
        """Return the grams of fewer digits, each counted once for every distinct gram of this order that ends in it.

        For one digit fewer these are Kneser and Ney's continuation counts. A gram at the start of a document has
        nothing before it, and keeps its occurrences instead.
        """
        return self.counted_by(packing.last(self.keys, digits), self.first_start(packing, digits))

    def counted_by(self, keys: Keys, first_start: int) -> "Grams":
        """Compute `distinct` from what each gram ends in (G,) and the index of the first gram that starts a document."""
        if first_start == len(self):
            return Grams.of(keys)
        return join([Grams.of(keys[:first_start]), Grams(keys[first_start:], self.counts[first_start:])])

    def first_start(self, packing: Packing, order: int) -> int:
        """Return the index of the first gram that starts a document, which come last; the number of grams if none does."""
        return len(self) if packing.end is None else len(self.within(packing, order))

    def shortened(self, packing: Packing, digits: int) -> "Grams":
        """Return the grams of fewer digits, with the summed counts of the longer ones."""
        return _joined(packing.last(self.keys, digits), self.counts)

    def within(self, packing: Packing, order: int) -> "Grams":
        """Return the grams of this order without a boundary."""
        kept = packing.inside(self.keys, order + 1)
        return Grams(self.keys[:kept], self.counts[:kept])


def count(
    ids: TextIds, packing: Packing, order: int, spans: Sequence[Span], memory: int = 1 << 62
) -> tuple[int, Grams]:
    """Count the grams whose last symbol lies in one of the spans, and return their order, which may be lower.

    Symbols before a span serve as context. `memory` in bytes bounds the working memory: a long text is counted in
    pieces, and the order is reduced if there are too many distinct grams.
    """

    def room(memory: int, beside: int) -> int:
        return max(1 << 14, memory // (beside + KEY_COPIES * packing.key_bytes(order + 1)))

    at_once = room(memory // 4, BYTES_PER_POSITION)
    runs = [Grams.of(packing.pack(ids, 0, 0, order + 1))]
    for start, stop in _pieces(spans, at_once):
        runs.append(Grams.of(packing.pack(ids, start, stop, order + 1)))
        while len(runs) > 1 and len(runs[-2]) < 2 * len(runs[-1]):
            runs[-2:] = [join(runs[-2:])]
        while sum(map(len, runs)) > room(memory, BYTES_PER_GRAM) and order > 0:
            runs = [join(runs)]
            if len(runs[0]) > room(memory, BYTES_PER_GRAM) // 2:
                order -= 1
                runs = [runs[0].shortened(packing, order + 1)]
    return order, join(runs)


def join(parts: Sequence[Grams]) -> Grams:
    """Merge several sets of grams, adding their counts."""
    parts = [part for part in parts if len(part)] or parts[:1]
    if len(parts) == 1:
        return parts[0]
    return _joined(np.concatenate([p.keys for p in parts]), np.concatenate([p.counts for p in parts]))


def _joined(keys: Keys, counts: NDArray[np.uint32]) -> Grams:
    order = np.argsort(keys, kind="stable")  # a merge sort, which finds the sorted runs
    keys = keys[order]
    starts = run_starts(keys)
    sums = np.add.reduceat(counts[order], starts) if len(keys) else counts
    return Grams(keys[starts], sums.astype(np.uint32))


def run_starts(keys: Keys) -> NDArray[np.int64]:
    """Return the positions at which a new key begins in sorted keys."""
    if not len(keys):
        return np.empty(0, np.int64)
    return np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))


def _pieces(spans: Iterable[Span], at_once: int) -> Iterable[Span]:
    for start, stop in spans:
        for first in range(start, stop, at_once):
            yield first, min(first + at_once, stop)
