"""Interpolated modified Kneser-Ney: the distribution over the next symbol after any context, and scores of whole texts.

Axes: N positions, V symbols, M positions whose context was seen, E entries of those contexts.

Axes: N positions, X contexts and E entries of a level.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from charlm.data.tokenizer import Ids
from charlm.ngram.folds import Share
from charlm.ngram.grams import DiscountsNumbers, Index, Keys, Level, Packing

DENSE_NUMBERS = 1 << 21
"""How many numbers the rows that are made beforehand may have, for the lowest orders."""
NUMBERS_AT_ONCE = 1 << 21
"""How many numbers the rows have that are made together."""
DIGITS = 21
"""Bits of a number that counts symbols: three of them fit a word, and there are fewer symbols than that."""
ONE_OF = np.array([0, 1, 1 << DIGITS, 1 << 2 * DIGITS])
"""What one count of 0, 1, 2, or of 3 or more adds to such a word."""
LEAST = np.float32(np.finfo(np.float32).tiny)
"""A probability whose logarithm is still a number."""


class Follower(Protocol):
    """What moves the contexts (B,) of texts side by side on, character by character."""

    def read(self, ids: NDArray[np.int64]) -> None:
        """Move on by an id (B,) of each text."""

    def leap(self) -> None:
        """The contexts were changed by somebody else."""

    def log_next(self) -> NDArray[np.float32]:
        """Log-probabilities (B, V) of what comes next; they hold until the next are asked for."""


class Filler(Protocol):
    """What makes rows faster than NumPy does, to the last bit the same."""

    def following(self, contexts: Keys) -> Follower:
        """What reads on from those contexts (B,) and moves them on in place."""

    def fill(self, contexts: Keys, folds: Index | None, out: NDArray[np.float32]) -> None:
        """Put the rows of contexts (N,), without the fold of each (N,) if given, into out (N, V), none below LEAST."""


@dataclass(frozen=True)
class _Step:
    """What one order does to the rows of the one below: shrink some, and add to places of them."""

    rows: Index  # (M,)
    back: DiscountsNumbers  # (M,): what is left to the order below, between 0 and 1
    of_place: Index  # (E,): the row of each place
    symbols: Ids  # (E,)
    added: DiscountsNumbers  # (E,)


@dataclass(frozen=True)
class Sparse:
    """Rows as a few places (E,) of a row in common: elsewhere row n is weight[n] * base[base index n]."""

    base: Index  # (N,): which row of the model's `base`
    weight: DiscountsNumbers  # (N,)
    rows: Index  # (E,), ascending
    symbols: Index  # (E,), ascending within a row
    probabilities: DiscountsNumbers  # (E,): there, in place of the product


class KneserNey:
    """p_k(s | h) = (c(h s) - D(c(h s))) / c(h) + b(h) p_(k-1)(s | h without its first symbol).

    c counts occurrences at the highest order, and below it the distinct symbols seen before h s; c(h)
    is their sum over s; D is one of three discounts, and b(h), the discounts' sum over c(h), makes it
    sum to one. A context never seen leaves all to the order below, and order 0 discounts towards the
    uniform distribution over the V symbols. A context has `order` symbols, or those there are. Without
    a fold of the text, c is what is left without the fold's occurrences, and D stays. Kneser and Ney
    1995, ICASSP 1:181; Chen and Goodman 1998, Harvard TR-10-98.
    """

    def __init__(
        self,
        packing: Packing,
        levels: Sequence[Level],
        shares: Sequence[Share] | None = None,
        *,
        dense: bool = True,  # are many rows wanted? then those of low orders are made beforehand
    ) -> None:
        self.packing = packing
        self.levels = levels
        self.shares = shares  # what each fold has of each order, where one may be left out
        self.filler: Filler | None = None  # may come at any time
        self._dense = np.full((1, packing.n_symbols), 1 / packing.n_symbols)  # rows known beforehand
        self._masks = [packing.mask(k) for k in range(len(levels))]
        self._offsets: list[int] = []  # where those of each order begin
        for k, level in enumerate(levels):
            rows = (1 + self.n_folds) * len(level.contexts)
            if not dense or (k and (len(self._dense) + rows) * packing.n_symbols > DENSE_NUMBERS):
                break
            self._add_dense(k)

    @property
    def order(self) -> int:
        """How many symbols of context it looks at."""
        return len(self.levels) - 1

    @property
    def n_symbols(self) -> int:
        """V."""
        return self.packing.n_symbols

    @property
    def n_folds(self) -> int:
        """Folds that can be left out; 0: none."""
        return self.shares[0].n_folds if self.shares else 0

    @property
    def nbytes(self) -> int:
        """In memory: the counts, what each fold has of them, the rows known beforehand."""
        shares = sum(share.nbytes for share in self.shares or ())
        return self._dense.nbytes + sum(level.nbytes for level in self.levels) + shares

    def start(self, batch_size: int) -> Keys:
        """The context of texts of which nothing was read: (B,)."""
        nothing = sum(self.n_symbols << (i * self.packing.bits) for i in range(self.order))
        return np.full(batch_size, nothing, dtype=np.uint64)

    def step(self, contexts: Keys, ids: Ids) -> Keys:
        """The contexts (B,) after one more symbol of each text, ids (B,)."""
        known = np.minimum(ids, self.n_symbols).astype(np.uint64)
        if self.packing.end is not None:
            contexts = np.where(known == self.packing.end, self.start(1), contexts)
        return ((contexts << np.uint64(self.packing.bits)) | known) & self.packing.mask(self.order)

    def contexts(self, ids: Ids) -> Keys:
        """The context after each symbol of texts that nothing precedes: (B, T) from ids (B, T)."""
        B, T = ids.shape
        padded = np.full((B, self.order + T), self.n_symbols, dtype=np.uint64)
        np.minimum(ids, self.n_symbols, out=padded[:, self.order :], casting="unsafe")
        keys = np.zeros((B, T), dtype=np.uint64)
        for i in range(1, self.order + 1):
            keys = (keys << np.uint64(self.packing.bits)) | padded[:, i : i + T]
        if self.packing.end is not None:
            row, place = np.nonzero(ids == self.packing.end)
            for back in range(self.order - 1):
                inside = place + back < T
                self.packing.cut(keys.reshape(-1), (row * T + place + back)[inside], back, self.order)
        return keys

    def rows(
        self, contexts: Keys, folds: Index | None = None, *, up_to: int | None = None
    ) -> DiscountsNumbers:
        """Probabilities (N, V) of what follows each context (N,), without the fold of each (N,) if given.

        By the orders 0 to `up_to`, or all.
        """
        levels = self.levels if up_to is None else self.levels[: up_to + 1]
        at, weight, steps = self._parts(levels, contexts, folds)
        rows: DiscountsNumbers = self._dense[at]
        rows *= weight[:, None]
        flat = rows.reshape(-1)
        for step in steps:  # within one, no place occurs twice
            flat[step.of_place * self.n_symbols + step.symbols] += step.added
        return rows

    @property
    def offsets(self) -> Sequence[int]:
        """Where the rows of each low order begin in `base`: of all its contexts, then again without each fold."""
        return self._offsets

    @property
    def base(self) -> DiscountsNumbers:
        """The rows (R, V) that sparse rows refer to: uniform, then those of the lowest orders."""
        return self._dense

    def sparse(self, contexts: Keys, folds: Index | None = None) -> Sparse:
        """The same as `rows` for vocabularies of thousands, where most of a row is a multiple of another."""
        at, weight, steps = self._parts(self.levels, contexts, folds)
        flat = [step.of_place * self.n_symbols + step.symbols for step in steps]
        places, which = np.unique(np.concatenate([np.empty(0, np.int64), *flat]), return_inverse=True)
        rows, symbols = np.divmod(places, self.n_symbols)
        added = np.concatenate([np.empty(0), *(step.added for step in steps)])
        summed = np.bincount(which, added, minlength=len(places)).astype(np.float64)
        summed += weight[rows] * self._dense[at[rows], symbols]
        return Sparse(at, weight, rows, symbols, summed)

    def row(self, context: np.uint64) -> DiscountsNumbers:
        """The same (V,) for one context: one after another they are faster so, since little is looked up."""
        known, row = len(self._offsets), self._dense[0]
        for k, level in enumerate(self.levels):
            key = context & self._masks[k]
            at = int(level.contexts.searchsorted(key))
            if at == len(level.contexts) or level.contexts[at] != key:
                break  # then no longer context was seen either
            if k < known:
                row = self._dense[self._offsets[k] + at]
                continue
            start, end = level.starts[at : at + 2].tolist()
            added, back = level.ready
            row = row * back[at]
            row[level.symbols[start:end]] += added[start:end]
        return np.array(row)

    def log_rows(self, contexts: Keys, folds: Index | None = None) -> NDArray[np.float32]:
        """Their logarithms in float32, for contexts and folds of any shape: (..., V)."""
        flat, of_flat = contexts.reshape(-1), None if folds is None else folds.reshape(-1)
        out = np.empty((len(flat), self.n_symbols), dtype=np.float32)
        (self if self.filler is None else self.filler).fill(flat, of_flat, out)
        np.log(out, out=out)
        return out.reshape(*contexts.shape, -1)

    def fill(self, contexts: Keys, folds: Index | None, out: NDArray[np.float32]) -> None:
        """Put the rows of contexts (N,), without the fold of each (N,) if given, into out (N, V), none below LEAST."""
        n = max(1, NUMBERS_AT_ONCE // self.n_symbols)
        for i in range(0, len(contexts), n):
            out[i : i + n] = self.rows(contexts[i : i + n], None if folds is None else folds[i : i + n])
        np.maximum(out, LEAST, out=out)

    def _parts(
        self, levels: Sequence[Level], contexts: Keys, folds: Index | None
    ) -> tuple[Index, DiscountsNumbers, list[_Step]]:
        """The known row below each row, what it is to be multiplied with, and what is then added."""
        assert folds is None or self.shares is not None
        rows = np.arange(len(contexts))
        at, steps = np.zeros(len(contexts), dtype=np.int64), []
        for k, level in enumerate(levels):
            found = level.find(contexts[rows] & self.packing.mask(k))
            seen = found >= 0
            rows, found = (rows, found) if seen.all() else (rows[seen], found[seen])
            fold = None if folds is None else folds[rows]
            if k < len(self._offsets):
                variant = 0 if fold is None else fold + 1
                at[rows] = self._offsets[k] + variant * len(level.contexts) + found
            elif len(rows):
                steps.append(self._step(k, rows, found, fold))
        weight = np.ones(len(contexts))
        for step in reversed(steps):
            step.added[:] *= weight[step.of_place]
            weight[step.rows] *= step.back
        return at, weight, steps

    def _step(self, k: int, rows: Index, found: Index, fold: Index | None) -> _Step:
        """What order k adds to rows whose contexts were found in it."""
        level = self.levels[k]
        firsts = level.starts[found].astype(np.int64)
        lengths = level.starts[found + 1] - firsts
        ends = np.cumsum(lengths)
        offsets = ends - lengths
        segment = np.repeat(np.arange(len(rows)), lengths)
        entries = np.arange(ends[-1]) + (firsts - offsets)[segment]
        counts = level.counts[entries].astype(np.int64)
        if fold is not None:
            assert self.shares is not None
            counts -= self.shares[k].counts[fold[segment], entries]
        kinds = np.minimum(counts, 3)
        taken = level.discounts[kinds]
        total = np.add.reduceat(counts, offsets)
        gone = total == 0  # all occurrences lie in the fold: as if never seen
        total[gone] = 1
        # By how many there are of each kind: the sum of many numbers depends on who adds them up.
        of_kinds = np.add.reduceat(ONE_OF[kinds], offsets)
        ones, twos, threes = (of_kinds >> i * DIGITS & ONE_OF[2] - 1 for i in range(3))
        d = level.discounts
        back = (ones * d[1] + twos * d[2] + threes * d[3]) / total
        back[gone] = 1
        return _Step(rows, back, rows[segment], level.symbols[entries], (counts - taken) / total[segment])

    def _add_dense(self, k: int) -> None:
        """Make the rows of every context of order k: all counted, then without each fold."""
        contexts = self.levels[k].contexts
        without = [np.full(len(contexts), fold) for fold in range(self.n_folds)]
        rows = [self.rows(contexts, folds, up_to=k) for folds in (None, *without)]
        self._offsets.append(len(self._dense))
        self._dense = np.concatenate((self._dense, *rows))


AT_ONCE = 1 << 20


def probabilities(model: KneserNey, ids: Ids, start: int = 0) -> DiscountsNumbers:
    """The probability of each id from `start` on, given what stands before it: (N - start,).

    That of an id that is no symbol is 0.
    """
    found = np.zeros(len(ids) - start)
    packing = model.packing
    for first in range(start, len(ids), AT_ONCE):
        stop = min(first + AT_ONCE, len(ids))
        found[first - start : stop - start] = _of_keys(model, packing.pack(ids, first, stop, model.order + 1))
    found[ids[start:] >= packing.n_symbols] = 0
    return found


def share_of_level(
    level: Level, packing: Packing, order: int, keys: Keys
) -> tuple[Index, DiscountsNumbers, DiscountsNumbers]:
    """What one order says of the last symbol of grams (N,): which of them (M,) have a context it knows.

    For those, the probability that it gives by itself, and how much it leaves to the order below: (M,) both.
    """
    at = level.find((keys >> np.uint64(packing.bits)) & packing.mask(order))
    seen = np.flatnonzero(at >= 0)
    if not len(seen):
        return seen, np.empty(0), np.empty(0)
    at = at[seen]
    counts = _counts(level, level.gram_keys(packing), keys[seen] & packing.mask(order + 1))
    totals, taken = level.totals()
    return seen, (counts - level.discounts[np.minimum(counts, 3)]) / totals[at], taken[at] / totals[at]


def probabilities_at(
    model: KneserNey, ids: Ids, places: Index, most: Index | None = None
) -> DiscountsNumbers:
    """The same at places (N,), N > 0; by at most so many symbols of context each, (N,), if given."""
    runs = np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)
    keys = [model.packing.pack(ids, int(run[0]), int(run[-1]) + 1, model.order + 1) for run in runs]
    found = _of_keys(model, np.concatenate(keys), most)
    found[ids[places] >= model.packing.n_symbols] = 0
    return found


def _of_keys(model: KneserNey, keys: Keys, most: Index | None = None) -> DiscountsNumbers:
    """The probability of the last symbol of each gram (N,) given those before it, or at most so many of them."""
    packing = model.packing
    order = np.argsort(keys)  # neighbours then are found near one another, which is much faster
    keys = keys[order]
    found = np.full(len(keys), 1 / packing.n_symbols)
    rows = np.arange(len(keys))
    most = None if most is None else most[order]
    for k, level in enumerate(model.levels):
        if most is not None:
            rows = rows[most[rows] >= k]
        seen, added, back = share_of_level(level, packing, k, keys[rows])
        rows = rows[seen]
        if not len(rows):
            break
        found[rows] = added + back * found[rows]
    out = np.empty_like(found)
    out[order] = found
    return out


def _counts(level: Level, entries: Keys, keys: Keys) -> DiscountsNumbers:
    """How often each gram (N,) was counted, by the keys of the level's entries (E,)."""
    at = np.searchsorted(entries, keys)
    at[at == len(entries)] = 0
    return np.where(entries[at] == keys, level.counts[at], 0)
