"""Interpolated modified Kneser-Ney: the distribution of the next symbol after a context, and scores of texts.

A context is an array (K + 1,): for each order k from 0 to the highest, K, the index of its last k symbols among the
contexts of that order; -1: never seen. Reading one more symbol leads from an index of order k to one of order k + 1.

Shapes: N positions, B texts, V symbols, M positions whose context was seen, E entries of those contexts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from charlm.data.shards import Shards, TextIds
from charlm.data.tokenizer import Ids
from charlm.native.library import library
from charlm.native.ngram_rows import Cursor, LevelArrays, NgramKernel
from charlm.ngram.keys import Packing
from charlm.ngram.table import (
    MOST_ORDERS,
    NOWHERE,
    Floats64,
    FoldCounts,
    Index,
    Level,
    longer,
)
from charlm.ngram.table_file import load_levels, save_levels

DENSE_NUMBERS = 1 << 21
"""Limit on the numbers in the precomputed rows of the lowest orders."""
NUMBERS_AT_ONCE = 1 << 21
POSITIONS_AT_ONCE = 1 << 20
DIGITS = 21
"""Bits of a number of symbols: three such numbers fit a word, and the vocabulary is smaller than 2^21."""
ONE_OF = np.array([0, 1, 1 << DIGITS, 1 << 2 * DIGITS])
"""What an entry with a count of 0, 1, 2, or 3 or more adds to such a word."""
LEAST = np.float32(np.finfo(np.float32).tiny)
"""The smallest probability in float32 rows, so that its logarithm is finite."""


@dataclass(frozen=True)
class _Interpolation:
    """How one order updates the rows of the order below: it scales some, and adds to some of their symbols."""

    rows: Index  # (M,): the rows whose context this order has
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
        n_symbols: int,
        levels: Sequence[Level],
        fold_counts: Sequence[FoldCounts] = (),
        *,
        dense: bool = True,
    ) -> None:
        """`levels` are the orders from 0 up, `fold_counts` the share of each fold in their counts, if one may be left out.

        `dense`: precompute the rows of low orders, which pays off if many rows are computed.
        """
        assert len(levels) <= MOST_ORDERS
        self.n_symbols, self.levels, self.fold_counts = n_symbols, levels, fold_counts
        self._longer = [longer(level, above) for level, above in pairwise(levels)]
        self._dense = np.full((1, n_symbols), 1 / n_symbols)  # precomputed rows: uniform first
        self._dense_starts: list[
            int
        ] = []  # of each low order: all its contexts, then again without each fold
        contexts = self.start(len(levels[0].contexts))
        for k, level in enumerate(levels):
            rows = (1 + self.n_folds) * len(level.contexts)
            if not dense or (k and (len(self._dense) + rows) * n_symbols > DENSE_NUMBERS):
                break
            if k:  # extend the contexts of the order below by each of their entries; some are contexts
                lengths = np.diff(levels[k - 1].starts)
                contexts = self.step(np.repeat(contexts, lengths, axis=0), levels[k - 1].symbols)[
                    level.contexts
                ]
            self._add_dense(contexts, k)

    @classmethod
    def from_bytes(cls, data: bytes, n_symbols: int, name: str) -> "KneserNey":
        """Load a model saved by `to_bytes` in a file of that name. Raises CheckpointError if the file is damaged."""
        return cls(n_symbols, load_levels(data, Packing(n_symbols), name))

    def to_bytes(self) -> bytes:
        """Return the model as a safetensors file, without the counts of folds."""
        return save_levels(self.levels, Packing(self.n_symbols))

    @property
    def order(self) -> int:
        """Symbols of context."""
        return len(self.levels) - 1

    @property
    def n_folds(self) -> int:
        """Folds that can be left out; 0: none."""
        return len(self.fold_counts[0]) if self.fold_counts else 0

    @property
    def nbytes(self) -> int:
        """Size in memory: counts, counts of folds, precomputed rows."""
        folds = sum(counts.nbytes for counts in self.fold_counts)
        return self._dense.nbytes + sum(level.nbytes for level in self.levels) + folds

    @cached_property
    def kernel(self) -> NgramKernel | None:
        """The model laid out for the kernel that computes rows in C; None where the compiled kernels are not used."""
        kernels = library()
        if kernels is None:
            return None
        arrays = [
            LevelArrays(
                starts=level.starts,
                symbols=level.symbols,
                counts=level.counts,
                fold_counts=self.fold_counts[k] if self.fold_counts else None,
                longer=self._longer[k] if k < self.order else None,
                discounts=level.discounts,
                dense_start=self._dense_starts[k] if k < len(self._dense_starts) else -1,
            )
            for k, level in enumerate(self.levels)
        ]
        return NgramKernel(kernels, arrays, self._dense)

    def start(self, batch_size: int) -> Index:
        """Return the contexts before the first symbol: (B, K + 1)."""
        contexts = np.full((batch_size, len(self.levels)), -1)
        contexts[:, 0] = 0 if len(self.levels[0].contexts) else -1
        return contexts

    def step(self, contexts: Index, ids: Ids) -> Index:
        """Return the contexts (B, K + 1) after one more symbol of each text, ids (B,)."""
        after = self.start(len(contexts))
        for k, level in enumerate(self.levels[:-1]):
            after[:, k + 1] = self._as_contexts(k, level.find(contexts[:, k], ids))
        return after

    def contexts(self, ids: Ids) -> Index:
        """Return the context after each symbol of whole texts: (B, T, K + 1) from ids (B, T)."""
        ids = np.pad(ids.astype(np.int64), ((0, 0), (0, 1)))
        return np.stack([at[:, 1:] for at, _ in self.follow(ids)], axis=-1)

    def follow(self, ids: Ids) -> Iterator[tuple[Index, Index]]:
        """Yield, order by order, the index of each id's context (..., T), and of the id's entry there; -1: never seen."""
        at = np.full(ids.shape, 0 if len(self.levels[0].contexts) else -1)
        for k, level in enumerate(self.levels):
            entries = level.find(at, ids)
            yield at, entries
            if k < self.order:
                at = np.full(ids.shape, -1)
                at[..., 1:] = self._as_contexts(k, entries[..., :-1])

    def _as_contexts(self, k: int, entries: Index) -> Index:
        """Return the indices of entries of order k among the contexts of order k + 1; -1 if none, or if the entry is -1."""
        places = self._longer[k]
        if places is None:
            return entries
        found = places[entries].astype(np.int64)
        return np.where((entries < 0) | (found == NOWHERE), -1, found)

    def rows(self, contexts: Index, folds: Index | None = None, *, up_to: int | None = None) -> Floats64:
        """Return probabilities (N, V) of the next symbol after contexts (N, K + 1), each without its fold (N,) if given.

        `up_to`: use the orders 0 to this one only. ngram_rows.c does the same operations in the same order.
        """
        assert folds is None or self.fold_counts
        remaining = np.arange(len(contexts))
        at, steps = np.zeros(len(contexts), dtype=np.int64), []  # at: the precomputed row to start from
        for k, level in enumerate(self.levels if up_to is None else self.levels[: up_to + 1]):
            found = contexts[remaining, k]
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
        self, ids: TextIds, starts: Index, T: int, *, before: int | None = None, folds: Index | None = None
    ) -> NDArray[np.float32]:
        """Return log-probabilities (B, T, V) of the symbol after each of T positions of a text, from each of `starts` (B,).

        `before`: how many symbols before a start are read as context, by default `order`; there are none outside the text.
        `folds` (F + 1,): the edges of the folds; the fold of the predicted symbol is left out.
        """
        B, V, before = len(starts), self.n_symbols, self.order if before is None else before
        out = np.empty((B, T, V), dtype=np.float32)
        if isinstance(ids, Shards):
            for which, part, first in ids.windows(starts - before, starts + T):
                edges = None if folds is None else folds - first
                out[which] = self.log_rows(part, starts[which] - first, T, before=before, folds=edges)
            return out
        if self.kernel is not None:
            self.kernel.text_rows(ids, starts, before, folds, out)
            return np.log(out, out=out)
        offsets = np.arange(-self.order, T)
        at = starts[:, None] + offsets  # (B, order + T)
        inside = (at >= 0) & (at < len(ids)) & (offsets >= -before)
        read = np.where(inside, ids[np.clip(at, 0, len(ids) - 1)], np.int64(V))  # V may not fit their type
        contexts, fold = self.contexts(read)[:, self.order :].reshape(B * T, -1), None
        if folds is not None:
            fold = np.searchsorted(folds[1:-1], at[:, self.order :].reshape(-1) + 1, side="right")
        flat, n = out.reshape(-1, V), max(1, NUMBERS_AT_ONCE // V)
        for i in range(0, B * T, n):
            rows = self.rows(contexts[i : i + n], None if fold is None else fold[i : i + n])
            flat[i : i + n] = log_float32(rows)
        return out

    def cursor(self, batch_size: int) -> "Cursor | PlainCursor":
        """Return a cursor at the start of texts (B,) that are read symbol by symbol."""
        return PlainCursor(self, batch_size) if self.kernel is None else Cursor(self.kernel, batch_size)

    def probabilities(self, ids: Ids) -> Floats64:
        """Return the probability of each symbol of a text given the ones before it: (N,); 0 outside the vocabulary."""
        found = np.empty(len(ids))
        for start in range(0, len(ids), POSITIONS_AT_ONCE):
            first, stop = max(0, start - self.order), start + POSITIONS_AT_ONCE
            found[start:stop] = self._of_text(ids[first:stop])[start - first :]
        return found

    def probabilities_at(self, ids: TextIds, at: Index, most: Index | None = None) -> Floats64:
        """Return `probabilities` at positions `at` (N,), N > 0, each with at most `most` (N,) symbols of context if given."""
        runs = np.split(at, np.flatnonzero(np.diff(at) != 1) + 1)
        parts, wanted = list[Ids](), list[NDArray[np.bool_]]()
        for run in runs:
            first, stop = max(0, int(run[0]) - self.order), int(run[-1]) + 1
            parts += [np.array([self.n_symbols]), ids[first:stop]]  # no symbol: no context reaches across it
            wanted.append(np.arange(first - 1, stop) >= run[0])
        text, chosen = np.concatenate(parts), np.concatenate(wanted)
        limits = None
        if most is not None:
            limits = np.zeros(len(text), np.int64)
            limits[chosen] = most
        return self._of_text(text, limits)[chosen]

    def _of_text(self, ids: Ids, most: Index | None = None) -> Floats64:
        """Return the probability of each symbol of a text (N,), given at most `most` (N,) of those before it."""
        found, seen = np.full(len(ids), 1 / self.n_symbols), np.ones(len(ids), bool)
        for k, (at, entries) in enumerate(self.follow(ids)):
            seen &= at >= 0 if most is None else (at >= 0) & (most >= k)
            found = self.levels[k].interpolate(found, np.where(seen, at, -1), entries)
        found[ids >= self.n_symbols] = 0
        return found

    def _interpolation(self, k: int, rows: Index, found: Index, fold: Index | None) -> _Interpolation:
        """Return how order k updates rows (M,), whose contexts are at `found` (M,) in its level."""
        level = self.levels[k]
        firsts = level.starts[found].astype(np.int64)
        lengths = level.starts[found + 1] - firsts
        ends = np.cumsum(lengths)
        offsets = ends - lengths
        segment = np.repeat(np.arange(len(rows)), lengths)
        entries = np.arange(ends[-1]) + (firsts - offsets)[segment]
        counts = level.counts[entries].astype(np.int64)
        if fold is not None:
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

    def _add_dense(self, contexts: Index, k: int) -> None:
        """Precompute the rows of every context of order k (X, K + 1): with all counts, then without each fold."""
        without = [np.full(len(contexts), fold) for fold in range(self.n_folds)]
        rows = [self.rows(contexts, folds, up_to=k) for folds in (None, *without)]
        self._dense_starts.append(len(self._dense))
        self._dense = np.concatenate((self._dense, *rows))


class PlainCursor:
    """A cursor in NumPy over texts (B,) that are read symbol by symbol; `Cursor` (charlm/native/ngram_rows.py) is in C."""

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
    """Return the logarithm of probabilities in float32; those below LEAST count as LEAST."""
    return np.log(np.maximum(rows.astype(np.float32), LEAST))
