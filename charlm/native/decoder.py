"""The fast decoder in C (decoder.c): a few more characters of each text per call, on several threads.

Shapes: B texts, S positions so far, T of them new, C width, H query heads, K key heads, D head size, V symbols.
"""

import ctypes
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charlm.native.library import Pointer, Size, library
from charlm.threads import threads

Floats = NDArray[np.floating[Any]]
TILE = 32  # as in decoder.c
TEXTS_PER_THREAD = 16
"""Fewer texts are not worth a second thread."""

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


class CModel(NamedTuple):
    """A model laid out for C (decoder.c): the sizes named in SIZES, and float32 arrays."""

    sizes: Mapping[str, int]
    shared: Mapping[str, NDArray[Any] | None]  # by the names of SHARED; None where the model lacks one
    layers: Sequence[Mapping[str, NDArray[Any]]]  # each by the names of OF_LAYER
    eps: float


class CDecoder:
    """The keys and values of a batch of texts, divided among threads."""

    def __init__(self, model: CModel, batch_size: int) -> None:
        n_parts = min(threads(), batch_size // TEXTS_PER_THREAD) or 1
        bounds = [batch_size * i // n_parts for i in range(n_parts + 1)]
        self._texts = [slice(start, end) for start, end in pairwise(bounds)]
        self._parts = [_Part(model, part.stop - part.start) for part in self._texts]
        self._threads = ThreadPoolExecutor(n_parts) if n_parts > 1 else None

    def next_logits(self, ids: NDArray[np.int64], at: int, added: Floats | None = None) -> Floats:
        """Logits (B, V) after the last of ids (B, S), of which the first `at` are in the cache already.

        `added` (B, T, C) is added to the embeddings of the new ones. The next call overwrites the result.
        """
        if self._threads is None:
            return self._parts[0].next_logits(ids, at, added)
        futures = [
            self._threads.submit(part.next_logits, ids[texts], at, None if added is None else added[texts])
            for part, texts in zip(self._parts, self._texts, strict=True)
        ]
        return np.concatenate([future.result() for future in futures])


class _Part:
    """The texts of one thread. It keeps every array that C has a pointer to."""

    def __init__(self, model: CModel, batch_size: int) -> None:
        sizes, shared, layers, eps = self._kept = model
        L, C, H, K, D, W, F, V = (sizes[name] for name in SIZES[:8])
        self._B, self._C = batch_size, C
        self._keys, self._values = np.empty((2, L, batch_size, K, W, D), np.float32)
        self._model = _Model(
            *(sizes[name] for name in SIZES), *(_pointer(shared[name]) for name in SHARED), eps
        )
        self._layers = (_Layer * L)(
            *(
                _Layer(*(_pointer(layer[name]) for name in OF_LAYER), _pointer(keys), _pointer(values))
                for layer, keys, values in zip(layers, self._keys, self._values, strict=True)
            )
        )
        self._room = np.empty(TILE * (3 * C + (H + 2 * K) * D + 3 * F) + W, np.float32)
        self._x = np.empty((batch_size, C), np.float32)
        self._logits = np.empty((batch_size, V), np.float32)
        kernels = library()
        assert kernels is not None
        self._call = kernels.function("next_logits", "fast", *[Pointer] * 3, *[Size] * 4, *[Pointer] * 4)
        self._first = (ctypes.addressof(self._model), ctypes.addressof(self._layers))
        self._last = (_pointer(self._room), _pointer(self._logits))

    def next_logits(self, ids: NDArray[np.int64], at: int, added: Floats | None) -> Floats:
        """Logits (B, V); the next call overwrites them."""
        T = ids.shape[1] - at
        if len(self._x) < self._B * T:
            self._x = np.empty((self._B * T, self._C), np.float32)
        stride = ids.strides[0] // ids.itemsize
        assert ids.strides[1] == ids.itemsize and ids.dtype == np.int64
        assert added is None or added.dtype == np.float32
        arguments = (ids.ctypes.data, stride, self._B, T, at, _pointer(added))
        self._call(*self._first, *arguments, self._x.ctypes.data, *self._last)
        return self._logits


def _pointer(array: NDArray[Any] | None) -> int | None:
    assert array is None or array.flags.c_contiguous
    return None if array is None else array.ctypes.data
