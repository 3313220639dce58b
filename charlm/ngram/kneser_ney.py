"""Interpolated modified Kneser-Ney: the distribution of the next symbol after a context, and scores of texts.

Shapes: N positions, B texts, V symbols, M positions whose context was seen, E entries of those contexts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from charlm.data.tokenizer import Ids
from charlm.native.library import library
from charlm.native.ngram_rows import Cursor, LevelArrays, NgramKernel
from charlm.ngram.grams import Keys, Packing
from charlm.ngram.table import Floats64, FoldCounts, Index, Level, linked, load_levels, save_levels

DENSE_NUMBERS = 1 << 21
"""How many numbers the precomputed rows of the lowest orders may have."""
NUMBERS_AT_ONCE = 1 << 21
POSITIONS_AT_ONCE = 1 << 20
DIGITS = 21
"""Bits of a number that counts symbols: three fit a word, and there are fewer symbols than that."""
ONE_OF = np.array([0, 1, 1 << DIGITS, 1 << 2 * DIGITS])
"""What a count of 0, 1, 2, or of 3 or more adds to such a word."""
LEAST = np.float32(np.finfo(np.float32).tiny)
"""The smallest probability in float32 rows, so that its logarithm is finite."""


@dataclass(frozen=True)
class _Interpolation:
    """What one order does to the rows of the order below: it scales some, and adds to some of their symbols."""

    rows: Index  # (M,): the rows whose context it has
    back: Floats64  # (M,): the weight of the order below, between 0 and 1
    row_of_entry: Index  # (E,)
    symbols: Ids  # (E,)
    added: Floats64  # (E,)


class KneserNey:
    """Kneser-Ney smoothing: discounted n-gram counts that fall back on shorter ones.

    p_k(s | h) = (c(h s) - D(c(h s))) / c(h) + b(h) p_(k-1)(s | h without its first symbol). c
    counts occurrences at the highest order; below, it counts the distinct symbols seen before h
    s ("Francisco" is frequent, but follows only "San", so alone it is improbable). c(h) is the
    sum over s, D is one of three discounts (for counts of 1, 2, and 3 or more), and b(h), the
    discounts' sum over c(h), makes the probabilities sum to one. A context never seen leaves
    everything to the order below, and order 0 falls back on the uniform distribution. Kneser
    and Ney 1995, ICASSP 1:181; modified, as here: Chen and Goodman 1998, Harvard TR-10-98.
    """

    def __init__(
        self,
        packing: Packing,
        levels: Sequence[Level],
        fold_counts: Sequence[FoldCounts] | None = None,
        *,
        dense: bool = True,
    ) -> None:
        """`levels` are the orders from 0 up, `fold_counts` the share of each fold, if one may be left out.

        `dense`: precompute the rows of low orders, which pays if many rows are asked for.
        """
        self.packing = packing
        self.levels, self.fold_counts, self._longer = linked(levels, fold_counts, packing)
        self._dense = np.full(
            (1, packing.n_symbols), 1 / packing.n_symbols
        )  # precomputed rows: uniform first
        self._dense_starts: list[
            int
        ] = []  # of each low order: all its contexts, then again without each fold
        for k, level in enumerate(self.levels):
            rows = (1 + self.n_folds) * len(level.contexts)
            if not dense or (k and (len(self._dense) + rows) * packing.n_symbols > DENSE_NUMBERS):
                break
            self._add_dense(k)

    @classmethod
    def from_bytes(cls, data: bytes, n_symbols: int, name: str, end: int | None = None) -> "KneserNey":
        """Load a model saved by `to_bytes` in a file of that name; `end` is the end symbol of documents.

        Raises CheckpointError if the file is damaged.
        """
        packing = Packing(n_symbols, end)
        return cls(packing, load_levels(data, packing, name))

    def to_bytes(self) -> bytes:
        """The model as a safetensors file, without the counts of folds."""
        return save_levels(self.levels)

    @property
    def order(self) -> int:
        """Symbols of context."""
        return len(self.levels) - 1

    @property
    def n_symbols(self) -> int:
        """V."""
        return self.packing.n_symbols

    @property
    def n_folds(self) -> int:
        """Folds that can be left out; 0: none."""
        return len(self.fold_counts[0]) if self.fold_counts else 0

    @property
    def nbytes(self) -> int:
        """Size in memory: counts, counts of folds, precomputed rows."""
        folds = sum(counts.nbytes for counts in self.fold_counts or ())
        return self._dense.nbytes + sum(level.nbytes for level in self.levels) + folds

    @cached_property
    def kernel(self) -> NgramKernel | None:
        """What computes rows in C; None where the compiled kernels are not used."""
        kernels = library()
        if kernels is None:
            return None
        arrays = [
            LevelArrays(
                starts=level.starts,
                symbols=level.symbols,
                counts=level.counts,
                fold_counts=self.fold_counts[k] if self.fold_counts else None,
                longer=self._longer[k],
                discounts=level.discounts,
                dense_start=self._dense_starts[k] if k < len(self._dense_starts) else -1,
            )
            for k, level in enumerate(self.levels)
        ]
        return NgramKernel(kernels, arrays, self._dense)

    def start(self, batch_size: int) -> Keys:
        """The context before the first symbol: (B,)."""
        boundaries = sum(self.n_symbols << (i * self.packing.bits) for i in range(self.order))
        return np.full(batch_size, boundaries, dtype=np.uint64)

    def step(self, contexts: Keys, ids: Ids) -> Keys:
        """The contexts (B,) after one more symbol of each text, ids (B,)."""
        known = np.minimum(ids, self.n_symbols).astype(np.uint64)
        if self.packing.end is not None:
            contexts = np.where(known == self.packing.end, self.start(1), contexts)
        return ((contexts << np.uint64(self.packing.bits)) | known) & self.packing.mask(self.order)

    def contexts(self, ids: Ids) -> Keys:
        """The context after each symbol of whole texts: (B, T) from ids (B, T)."""
        B, T = ids.shape
        padded = np.full((B, self.order + T), self.n_symbols, dtype=np.uint64)
        np.minimum(ids, self.n_symbols, out=padded[:, self.order :], casting="unsafe")
        keys = np.zeros((B, T), dtype=np.uint64)
        for i in range(1, self.order + 1):
            keys = (keys << np.uint64(self.packing.bits)) | padded[:, i : i + T]
        if self.packing.end is not None:
            row, column = np.nonzero(ids == self.packing.end)
            for back in range(self.order - 1):
                inside = column + back < T
                self.packing.cut(keys.reshape(-1), (row * T + column + back)[inside], back, self.order)
        return keys

    def rows(self, contexts: Keys, folds: Index | None = None, *, up_to: int | None = None) -> Floats64:
        """Probabilities (N, V) of the next symbol after contexts (N,), each without its fold (N,) if given.

        `up_to`: use the orders 0 to this one only. ngram_rows.c does the same operations in the same order.
        """
        assert folds is None or self.fold_counts is not None
        remaining = np.arange(len(contexts))
        at, steps = np.zeros(len(contexts), dtype=np.int64), []  # at: the precomputed row to start from
        for k, level in enumerate(self.levels if up_to is None else self.levels[: up_to + 1]):
            found = level.find(contexts[remaining] & self.packing.mask(k))
            seen = found >= 0
            remaining, found = remaining[seen], found[seen]
            fold = None if folds is None else folds[remaining]
            if k < len(self._dense_starts):
                variant = 0 if fold is None else fold + 1
                at[remaining] = self._dense_starts[k] + variant * len(level.contexts) + found
            elif len(remaining):
                steps.append(self._interpolation(k, remaining, found, fold))
        weight = np.ones(len(contexts))
        for step in reversed(steps):
            step.added[:] *= weight[step.row_of_entry]
            weight[step.rows] *= step.back
        rows: Floats64 = self._dense[at]
        rows *= weight[:, None]
        flat = rows.reshape(-1)
        for step in steps:  # within a step, no place occurs twice
            flat[step.row_of_entry * self.n_symbols + step.symbols] += step.added
        return rows

    def log_rows(
        self, ids: Ids, starts: Index, T: int, *, before: int | None = None, folds: Index | None = None
    ) -> NDArray[np.float32]:
        """Log-probabilities (B, T, V) of the symbol after each of T positions of a text, from each of `starts` (B,).

        `before`: read so many symbols before a start as context, by default `order`; what lies outside the text is none.
        `folds` (F + 1,): the edges of the folds, of which the one that the predicted symbol lies in is left out.
        """
        B, V, before = len(starts), self.n_symbols, self.order if before is None else before
        out = np.empty((B, T, V), dtype=np.float32)
        if self.kernel is not None:
            self.kernel.text_rows(ids, starts, before, folds, out)
            return np.log(out, out=out)
        offsets = np.arange(-self.order, T)
        at = starts[:, None] + offsets  # (B, order + T)
        inside = (at >= 0) & (at < len(ids)) & (offsets >= -before)
        read = np.where(inside, ids[np.clip(at, 0, len(ids) - 1)], V)
        contexts, fold = self.contexts(read)[:, self.order :].reshape(-1), None
        if folds is not None:
            fold = np.searchsorted(folds[1:-1], at[:, self.order :].reshape(-1) + 1, side="right")
        flat, n = out.reshape(-1, V), max(1, NUMBERS_AT_ONCE // V)
        for i in range(0, B * T, n):
            rows = self.rows(contexts[i : i + n], None if fold is None else fold[i : i + n])
            flat[i : i + n] = log_float32(rows)
        return out

    def cursor(self, batch_size: int) -> "Cursor | PlainCursor":
        """Texts (B,) to be read symbol by symbol, of which nothing was read."""
        return PlainCursor(self, batch_size) if self.kernel is None else Cursor(self.kernel, batch_size)

    def probabilities(self, ids: Ids) -> Floats64:
        """The probability of each symbol of a text given the ones before it: (N,); 0 outside the vocabulary."""
        found, packing = np.zeros(len(ids)), self.packing
        for start in range(0, len(ids), POSITIONS_AT_ONCE):
            stop = min(start + POSITIONS_AT_ONCE, len(ids))
            found[start:stop] = self._of_grams(packing.pack(ids, start, stop, self.order + 1))
        found[ids >= packing.n_symbols] = 0
        return found

    def probabilities_at(self, ids: Ids, at: Index, most: Index | None = None) -> Floats64:
        """The same at positions `at` (N,), N > 0, with at most `most` (N,) symbols of context each if given."""
        runs = np.split(at, np.flatnonzero(np.diff(at) != 1) + 1)
        keys = [self.packing.pack(ids, int(run[0]), int(run[-1]) + 1, self.order + 1) for run in runs]
        found = self._of_grams(np.concatenate(keys), most)
        found[ids[at] >= self.packing.n_symbols] = 0
        return found

    def _of_grams(self, keys: Keys, most: Index | None = None) -> Floats64:
        """The probability of the last symbol of each gram (N,), given at most `most` (N,) of those before it."""
        order = np.argsort(keys)  # neighbours are found near each other, which is much faster
        keys = keys[order]
        found = np.full(len(keys), 1 / self.n_symbols)
        rows = np.arange(len(keys))
        most = None if most is None else most[order]
        for k, level in enumerate(self.levels):
            if most is not None:
                rows = rows[most[rows] >= k]
            seen, added, back = level.lookup(keys[rows], self.packing, k)
            rows = rows[seen]
            if not len(rows):
                break
            found[rows] = added + back * found[rows]
        out = np.empty_like(found)
        out[order] = found
        return out

    def _interpolation(self, k: int, rows: Index, found: Index, fold: Index | None) -> _Interpolation:
        """What order k does to rows whose contexts it has at `found` (M,)."""
        level = self.levels[k]
        firsts = level.starts[found].astype(np.int64)
        lengths = level.starts[found + 1] - firsts
        ends = np.cumsum(lengths)
        offsets = ends - lengths
        segment = np.repeat(np.arange(len(rows)), lengths)
        entries = np.arange(ends[-1]) + (firsts - offsets)[segment]
        counts = level.counts[entries].astype(np.int64)
        if fold is not None:
            assert self.fold_counts is not None
            counts -= self.fold_counts[k][fold[segment], entries]
        capped = np.minimum(counts, 3)
        total = np.add.reduceat(counts, offsets)
        gone = total == 0  # all occurrences lie in the fold: as if never seen
        total[gone] = 1
        # Count the counts of 1, 2 and 3, since a float sum would depend on the order of summation.
        packed = np.add.reduceat(ONE_OF[capped], offsets)
        ones, twos, threes = (packed >> i * DIGITS & ONE_OF[2] - 1 for i in range(3))
        d = level.discounts
        back = (ones * d[1] + twos * d[2] + threes * d[3]) / total
        back[gone] = 1
        added = (counts - d[capped]) / total[segment]
        return _Interpolation(rows, back, rows[segment], level.symbols[entries], added)

    def _add_dense(self, k: int) -> None:
        """Precompute the rows of every context of order k: with all counts, then without each fold."""
        contexts = self.levels[k].contexts
        without = [np.full(len(contexts), fold) for fold in range(self.n_folds)]
        rows = [self.rows(contexts, folds, up_to=k) for folds in (None, *without)]
        self._dense_starts.append(len(self._dense))
        self._dense = np.concatenate((self._dense, *rows))


class PlainCursor:
    """Texts (B,) that are read symbol by symbol, as by `Cursor` (charlm/native/ngram_rows.py) but in NumPy."""

    def __init__(self, model: KneserNey, batch_size: int) -> None:
        self._model, self._contexts = model, model.start(batch_size)

    def read(self, ids: Ids) -> None:
        """Read the next ids (B, T)."""
        for column in ids.T:
            self._contexts = self._model.step(self._contexts, column)

    def next(self) -> Floats64:
        """Probabilities (B, V) of the next symbol."""
        return self._model.rows(self._contexts)


def log_float32(rows: Floats64) -> NDArray[np.float32]:
    """The logarithm of probabilities, in float32; those too small for it count as the smallest."""
    return np.log(np.maximum(rows.astype(np.float32), LEAST))
