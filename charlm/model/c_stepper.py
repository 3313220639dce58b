"""The same as `Stepper`, by a compiled step: one call reads a character of many texts.

Axes: B texts, S places, T of them read now, V symbols.
"""

import ctypes
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.model.folded import Folded, Numbers
from charlm.model.norm import NORM_EPS
from charlm.processors import threads

TILE = 32  # as in step.c
PARTS_FROM = 16
"""Fewer texts are not worth a second thread."""

Pointer = ctypes.c_void_p
Size = ctypes.c_int64
SIZES = ("n_layer", "C", "H", "K", "D", "W", "F", "V", "symbols", "orders", "rows")
SHARED = ("embedding", "added", "ngrams", "turns", "head")
OF_LAYER = ("qkv", "gains", "out", "gate_up", "down")


class _Layer(ctypes.Structure):
    _fields_ = [(name, Pointer) for name in (*OF_LAYER, "keys", "values")]


class _Model(ctypes.Structure):
    _fields_ = [
        *((name, Size) for name in SIZES),
        *((name, Pointer) for name in SHARED),
        ("eps", ctypes.c_float),
    ]


class CStepper:
    """Keys and values of texts side by side, in parts that threads work on."""

    def __init__(self, folded: Folded, batch_size: int, library: ctypes.CDLL) -> None:
        n_parts = min(threads(), batch_size // PARTS_FROM) or 1
        bounds = [batch_size * i // n_parts for i in range(n_parts + 1)]
        self._texts = [slice(start, end) for start, end in pairwise(bounds)]
        self._parts = [_Part(folded, part.stop - part.start, library) for part in self._texts]
        self._threads = ThreadPoolExecutor(n_parts - 1) if n_parts > 1 else None

    @staticmethod
    def fits(folded: Folded, library: ctypes.CDLL) -> bool:
        """Was the step compiled, and can it stand for this model?"""
        return (
            hasattr(library, "read_ids")
            and folded.dtype == np.float32
            and folded.bias is None
            and folded.small
        )

    def read(self, ids: NDArray[np.int64], at: int, told: Numbers | None = None) -> Numbers:
        """Logits (B, V) of what follows the last of ids (B, S), of which the first `at` were read.

        `told` (B, T, C) is added to the rows of those that were not.
        """
        first = self._parts[0]
        if self._threads is None:
            return first.read(ids, at, told)
        heard = [None if told is None else told[texts] for texts in self._texts]
        others = list(zip(self._parts, self._texts, heard, strict=True))[1:]
        waited = [self._threads.submit(part.read, ids[texts], at, to) for part, texts, to in others]
        mine = first.read(ids[self._texts[0]], at, heard[0])
        return np.concatenate([mine, *(future.result() for future in waited)])


class _Part:
    """Some of the texts, by one thread; what is pointed to is kept."""

    def __init__(self, folded: Folded, batch_size: int, library: ctypes.CDLL) -> None:
        layer, C, W = folded.layers[0], folded.width, folded.block_size
        D, K, H, F = layer.head_size, layer.n_kv_head, layer.n_head, layer.hidden
        L, ngrams = len(folded.layers), folded.ngrams
        self._B, self._C = batch_size, C
        self._keys, self._values = np.empty((2, L, batch_size, K, W, D), np.float32)
        sizes = (L, C, H, K, D, W, F, folded.head.shape[1], len(folded.embedding) - 1)
        of_ngrams = (ngrams.reach, ngrams.rows) if ngrams else (0, 0)
        table = ngrams.table if ngrams else None
        shared = (folded.embedding, folded.added, table, folded.turns, folded.head)
        self._model = _Model(*sizes, *of_ngrams, *(_pointer(array) for array in shared), NORM_EPS)
        self._layers = (_Layer * L)(
            *(
                _Layer(
                    *(_pointer(getattr(layer, name)) for name in OF_LAYER), _pointer(keys), _pointer(values)
                )
                for layer, keys, values in zip(folded.layers, self._keys, self._values, strict=True)
            )
        )
        self._room = np.empty(TILE * (3 * C + (H + 2 * K) * D + 3 * F) + W, np.float32)
        self._x = np.empty((batch_size, C), np.float32)
        self._logits = np.empty((batch_size, folded.head.shape[1]), np.float32)
        self._call = library.read_ids
        self._call.argtypes = [*[Pointer] * 3, *[Size] * 4, *[Pointer] * 4]
        self._call.restype = None
        self._kept = folded
        self._first = (ctypes.addressof(self._model), ctypes.addressof(self._layers))
        self._last = (_pointer(self._room), _pointer(self._logits))

    def read(self, ids: NDArray[np.int64], at: int, told: Numbers | None) -> Numbers:
        """Logits (B, V) of what follows; they are overwritten by the next."""
        T = ids.shape[1] - at
        if len(self._x) < self._B * T:
            self._x = np.empty((self._B * T, self._C), np.float32)
        stride = ids.strides[0] // ids.itemsize
        assert ids.strides[1] == ids.itemsize and ids.dtype == np.int64
        assert told is None or told.dtype == np.float32
        read = (ids.ctypes.data, stride, self._B, T, at, _pointer(told))
        self._call(*self._first, *read, self._x.ctypes.data, *self._last)
        return self._logits


def _pointer(array: NDArray[Any] | None) -> int | None:
    assert array is None or array.flags.c_contiguous
    return None if array is None else array.ctypes.data
