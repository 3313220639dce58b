"""The same rows as `KneserNey.row`, by a compiled function: one call for the contexts of many texts."""

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.counts.grams import Keys
from charlm.counts.kneser_ney import KneserNey

Pointer = ctypes.c_void_p
Size = ctypes.c_int64
ARRAYS = ("contexts", "starts", "symbols", "added", "back")


class _Level(ctypes.Structure):
    _fields_ = [*((name, Pointer) for name in ARRAYS), ("n", Size)]


class CRows:
    """Counts laid out for charlm/counts/rows.c; what is pointed to is kept."""

    def __init__(self, model: KneserNey, library: ctypes.CDLL) -> None:
        arrays = [(level.contexts, level.starts, level.symbols, *level.ready) for level in model.levels]
        self._kept = [tuple(map(np.ascontiguousarray, each)) for each in arrays]
        self._levels = (_Level * len(arrays))(
            *(_Level(*(array.ctypes.data for array in each), len(each[0])) for each in self._kept)
        )
        self._V = model.n_symbols
        self._first = (
            ctypes.addressof(self._levels),
            len(arrays),
            model.packing.bits,
            model.levels[0].symbols.itemsize,
            self._V,
        )
        self._call = library.log_rows
        self._call.argtypes = [Pointer, Size, Size, Size, Size, Pointer, Size, Pointer]
        self._call.restype = None

    def log_next(self, contexts: Keys) -> NDArray[np.floating[Any]]:
        """Log-probabilities (B, V) of what follows each context (B,)."""
        contexts = np.ascontiguousarray(contexts)
        out = np.empty((len(contexts), self._V), np.float32)
        self._call(*self._first, contexts.ctypes.data, len(contexts), out.ctypes.data)
        return out
