"""Rows of n-gram probabilities in C (ngram_rows.c), equal to `KneserNey.rows` to the last bit.

Shapes: B texts or windows, T positions, V symbols, X contexts and E entries of a level, F folds.
"""

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.native.library import Library, Pointer, Size

LANES, PIECE = 16, 16


class LevelArrays(NamedTuple):
    """One order of the model, as charlm/ngram/table.py defines it."""

    starts: NDArray[np.uint32]  # (X + 1,)
    symbols: NDArray[np.unsignedinteger[Any]]  # (E,)
    counts: NDArray[np.unsignedinteger[Any]]  # (E,)
    fold_counts: NDArray[np.unsignedinteger[Any]] | None  # (F, E)
    longer: NDArray[np.uint32] | None  # (E,): places in the order above, as `Level.longer` gives them
    discounts: NDArray[np.float64]  # (4,)
    dense_start: int  # where this order's rows begin among the precomputed ones; -1: it has none


def _structure(name: str, pointers: str, sizes: str) -> type[ctypes.Structure]:
    fields = [*((field, Pointer) for field in pointers.split()), *((field, Size) for field in sizes.split())]
    return type(name, (ctypes.Structure,), {"_fields_": fields})


_Level = _structure(
    "_Level",
    "starts symbols counts fold_counts longer discounts",
    "n entries symbol_bytes count_bytes fold_count_bytes dense_start",
)
_Table = _structure("_Table", "levels dense", "n_levels V")


_Text = _structure("_Text", "ids starts edges", "n id_bytes B T n_folds before")


class NgramKernel:
    """An n-gram model laid out for C. It keeps every array that C has a pointer to; threads may share it."""

    def __init__(self, library: Library, levels: Sequence[LevelArrays], dense: NDArray[np.float64]) -> None:
        """`dense` (R, V) are the precomputed rows."""
        self._kept: list[NDArray[Any]] = []
        self._levels = (_Level * len(levels))(*map(self._level, levels))
        self.n_levels, self.n_symbols = len(levels), dense.shape[1]
        self.n_folds = 0 if levels[0].fold_counts is None else len(levels[0].fold_counts)
        self._table = _Table(
            ctypes.addressof(self._levels),
            self._pointer(dense),
            self.n_levels,
            self.n_symbols,
        )
        self.at = ctypes.addressof(self._table)
        self._text_rows = library.function("text_rows", "exact", *[Pointer] * 4)
        self.start = library.function("ngram_start", "exact", Pointer, Pointer, Size)
        self.read = library.function("ngram_read", "exact", *[Pointer] * 3, Size, Size)
        self.next = library.function("ngram_next", "exact", Pointer, Pointer, Size, Pointer)

    def text_rows(
        self,
        ids: NDArray[Any],
        starts: NDArray[np.int64],
        before: int,
        edges: NDArray[np.int64] | None,
        out: NDArray[np.float32],
    ) -> None:
        """Write the probabilities after each of T positions from each of `starts` (B,) into out (B, T, V).

        `before`: how many ids before a start are read as context; `edges` (F + 1,): of the folds; that of the predicted
        symbol is left out.
        """
        B, T, V = out.shape
        assert out.flags.c_contiguous and out.dtype == np.float32 and (len(starts), V) == (B, self.n_symbols)
        assert edges is None or len(edges) <= self.n_folds + 1  # texts counted besides are the last folds
        ids, starts = np.ascontiguousarray(ids), np.ascontiguousarray(starts, dtype=np.int64)
        edges = None if edges is None else np.ascontiguousarray(edges, dtype=np.int64)
        addresses = (None if array is None else array.ctypes.data for array in (ids, starts, edges))
        n_folds = 0 if edges is None else len(edges) - 1
        text = _Text(*addresses, len(ids), ids.itemsize, B, T, n_folds, before)
        room = np.empty((-(-B * -(-T // PIECE) // LANES), V))
        self._text_rows(self.at, ctypes.addressof(text), room.ctypes.data, out.ctypes.data)

    def _level(self, level: LevelArrays) -> ctypes.Structure:
        folds = level.fold_counts
        return _Level(
            *map(
                self._pointer,
                (level.starts, level.symbols, level.counts, folds, level.longer, level.discounts),
            ),
            len(level.starts) - 1,
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
    """The contexts of B texts in each order of a model, as they are read symbol by symbol."""

    def __init__(self, kernel: NgramKernel, batch_size: int) -> None:
        self._kernel, self._B = kernel, batch_size
        self._places = np.empty((kernel.n_levels, batch_size), np.int64)
        self._out = np.empty((batch_size, kernel.n_symbols))
        kernel.start(kernel.at, self._places.ctypes.data, batch_size)

    def read(self, ids: NDArray[np.int64]) -> None:
        """Read the next ids (B, T)."""
        B, T = ids.shape
        assert B == self._B
        ids = np.ascontiguousarray(ids, dtype=np.int64)
        self._kernel.read(self._kernel.at, ids.ctypes.data, self._places.ctypes.data, B, T)

    def next(self) -> NDArray[np.float64]:
        """Return probabilities (B, V) of the next symbol; the next call overwrites them."""
        self._kernel.next(self._kernel.at, self._places.ctypes.data, self._B, self._out.ctypes.data)
        return self._out
