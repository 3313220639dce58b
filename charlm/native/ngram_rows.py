"""Rows of n-gram probabilities in C (ngram_rows.c), equal to `KneserNey.rows` to the last bit.

Shapes: B contexts, V symbols, X contexts and E entries of a level, F folds.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.native.library import Library, Pointer, Size

MARK_EVERY, LANES, UNKNOWN = 16, 8, -2  # as in ngram_rows.c

ARRAYS = ("contexts", "marks", "starts", "symbols", "counts", "fold_counts", "discounts")
SIZES = ("n", "entries", "symbol_bytes", "count_bytes", "fold_count_bytes", "dense_start")


class LevelArrays(NamedTuple):
    """One order of the model, as charlm/ngram/table.py defines it."""

    contexts: NDArray[np.uint64]  # (X,)
    starts: NDArray[np.uint32]  # (X + 1,)
    symbols: NDArray[np.unsignedinteger[Any]]  # (E,)
    counts: NDArray[np.unsignedinteger[Any]]  # (E,)
    discounts: NDArray[np.float64]  # (4,)
    fold_counts: NDArray[np.unsignedinteger[Any]] | None  # (F, E)
    dense_start: int  # where its rows begin among the precomputed ones; -1: it has none


class _Level(ctypes.Structure):
    _fields_ = [*((name, Pointer) for name in ARRAYS), *((name, Size) for name in SIZES)]


class _Table(ctypes.Structure):
    _fields_ = [
        ("levels", Pointer),
        ("dense", Pointer),
        *((name, Size) for name in ("n", "bits", "V", "end")),
    ]


class NgramKernel:
    """An n-gram model laid out for C. It keeps every array that C has a pointer to; threads may share it."""

    def __init__(
        self,
        library: Library,
        levels: Sequence[LevelArrays],
        dense: NDArray[np.float64],
        *,
        bits: int,
        end: int | None,
    ) -> None:
        """`dense` (R, V) are the precomputed rows, `bits` the width of a digit, `end` the end symbol of documents."""
        self._kept: list[NDArray[Any]] = []
        self._levels = (_Level * len(levels))(*map(self._level, levels))
        self.n_levels, self.n_symbols = len(levels), dense.shape[1]
        self._table = _Table(
            ctypes.addressof(self._levels),
            self._pointer(dense),
            self.n_levels,
            bits,
            self.n_symbols,
            -1 if end is None else end,
        )
        self.at = ctypes.addressof(self._table)
        fill = (*[Pointer] * 3, Size, *[Pointer] * 2)
        self._fill = library.function("ngram_rows", "exact", *fill)
        self.fill_advanced = library.function("ngram_rows_advanced", "exact", *fill)
        self.advance = library.function("advance", "exact", *[Pointer] * 4, Size)

    def fill(
        self,
        contexts: NDArray[np.uint64],
        folds: NDArray[np.int64] | None,
        out: NDArray[np.float32],
    ) -> None:
        """Write the rows of contexts (B,), each without its fold (B,) if given, into out (B, V)."""
        assert (
            out.flags.c_contiguous
            and out.dtype == np.float32
            and (folds is None or len(folds) == len(contexts))
        )
        contexts = np.ascontiguousarray(contexts, dtype=np.uint64)
        folds = None if folds is None else np.ascontiguousarray(folds, dtype=np.int64)
        room, address = self.room(), None if folds is None else folds.ctypes.data
        self._fill(self.at, contexts.ctypes.data, address, len(contexts), room.ctypes.data, out.ctypes.data)

    def room(self) -> NDArray[np.float64]:
        """A buffer for one call of `fill`."""
        return np.empty((self.n_symbols + LANES) * (self.n_levels + 1))

    def _level(self, level: LevelArrays) -> _Level:
        marks, folds = level.contexts[::MARK_EVERY], level.fold_counts
        arrays = (level.contexts, marks, level.starts, level.symbols, level.counts, folds, level.discounts)
        return _Level(
            *map(self._pointer, arrays),
            len(level.contexts),
            len(level.counts),
            level.symbols.itemsize,
            level.counts.itemsize,
            folds.itemsize if folds is not None else 0,
            level.dense_start,
        )

    def _pointer(self, array: NDArray[Any] | None) -> int | None:
        if array is None:
            return None
        self._kept.append(np.require(array, requirements=("C", "A")))
        return self._kept[-1].ctypes.data


class Cursor:
    """Contexts (B,) of texts that are read character by character.

    A context and its next symbol are an entry of their level. The position of that entry tells where the longer context
    stands in the level above, so there is hardly ever a search among all contexts.
    """

    def __init__(self, kernel: NgramKernel, contexts: NDArray[np.uint64]) -> None:
        self._kernel, self._B = kernel, len(contexts)
        self._contexts, self._ids = contexts.copy(), np.empty(len(contexts), np.int64)
        self._places = np.full((kernel.n_levels, len(contexts)), UNKNOWN, np.int64)
        self._room, self._out = kernel.room(), np.empty((len(contexts), kernel.n_symbols), np.float32)
        both = (kernel.at, self._contexts.ctypes.data, self._places.ctypes.data)
        self._to_advance = (*both, self._ids.ctypes.data, self._B)
        self._to_fill = (*both, self._B, self._room.ctypes.data, self._out.ctypes.data)

    def read(self, ids: NDArray[np.int64]) -> None:
        """Advance by an id (B,) of each text."""
        self._ids[:] = ids
        self._kernel.advance(*self._to_advance)

    def jump(self, contexts: NDArray[np.uint64]) -> None:
        """Continue from other contexts (B,)."""
        self._contexts[:] = contexts
        self._places[:] = UNKNOWN

    def log_next(self) -> NDArray[np.float32]:
        """Log-probabilities (B, V) of the next symbol; the next call overwrites them."""
        self._kernel.fill_advanced(*self._to_fill)
        return np.log(self._out, out=self._out)
