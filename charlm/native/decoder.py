"""The fast decoder in C (decoder.c), which reads the next few characters of each text of a batch per call.

Shapes: B texts, S positions so far, T of them new, C width, H query heads, K key heads, D head size,
W positions of the cache, F hidden width of the MLP, V symbols.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from charlm.native.library import Library, Pointer, Size

Floats = NDArray[np.floating[Any]]
Floats32 = NDArray[np.float32]
TILE = 32  # rows that C computes at once
PANEL = 64  # columns of a panel


@dataclass(frozen=True)
class LayerArrays:
    """The matrices of one layer, float32, in `panels`."""

    qkv: Floats32  # of (C, (H + 2 K) D)
    gains: Floats32  # (H + K, D), in rows as usual
    out: Floats32  # of (H D, C)
    gate_up: Floats32  # of (C, 2 F)
    down: Floats32  # of (F, C)


@dataclass(frozen=True, kw_only=True)
class ModelArrays:
    """A model laid out for C: float32 arrays, whose shapes give all sizes."""

    block_size: int
    layers: Sequence[LayerArrays]
    embedding: Floats32  # (V + 1, C); the last row is for ids without one of their own
    added: Floats32 | None  # (block_size, C): position embeddings
    ngrams: Floats32 | None  # (orders * rows + 1, C)
    orders: int  # n-gram lengths above 1
    turns: Floats32 | None  # (block_size, D): cosine and sine of each pair
    read: Floats32 | None  # panels of (V, C): the prior's input weights
    head: Floats32  # panels of (C, V), or with a prior of (C, V + 1): the last column is for its gate
    eps: float


class _Layer(ctypes.Structure):
    _fields_ = [(name, Pointer) for name in ("qkv", "gains", "out", "gate_up", "down", "keys", "values")]


_SIZES = ("n_layer", "C", "H", "K", "D", "W", "F", "V", "outputs", "orders", "rows")
_SHARED = ("embedding", "added", "ngrams", "turns", "read", "head")


class _Model(ctypes.Structure):
    _fields_ = [
        *((name, Size) for name in _SIZES),
        *((name, Pointer) for name in _SHARED),
        ("eps", ctypes.c_float),
    ]


class CDecoder:
    """Decodes a batch of texts with a KV cache. It keeps every array that C has a pointer to."""

    def __init__(self, library: Library, model: ModelArrays, batch_size: int) -> None:
        assert batch_size > 0
        self._arrays, self._B = model, batch_size
        sizes = self._sizes = _sizes_of(model)
        H, K, D, W = (sizes[name] for name in "HKDW")
        self._keys, self._values = np.empty((2, len(model.layers), batch_size, K * W * D), np.float32)
        self._model = _Model(
            *sizes.values(), *(_pointer(getattr(model, name)) for name in _SHARED), model.eps
        )
        self._layers = (_Layer * len(model.layers))(
            *(
                _Layer(*map(_pointer, (*vars(layer).values(), keys, values)))
                for layer, keys, values in zip(model.layers, self._keys, self._values, strict=True)
            )
        )
        self._tile = TILE * (sizes["C"] + (2 * H + 2 * K) * D + max(3 * sizes["F"], sizes["V"]))
        self._tile += max(TILE, H) * W
        self._room = np.empty(0, np.float32)
        self._out = np.empty((batch_size, sizes["outputs"]), np.float32)
        self._logits = self._out[:, : sizes["V"]]
        self._call = library.function(
            "next_logits", "fast", *[Pointer] * 3, *[Size] * 4, *[Pointer] * 2, *[Size] * 2, Pointer
        )
        self._first = (ctypes.addressof(self._model), ctypes.addressof(self._layers))
        self._last = self._out.ctypes.data

    def next_logits(self, ids: NDArray[np.int64], at: int, prior: Floats32 | None) -> Floats32:
        """Return logits (B, V) after the last of ids (B, S), of which the first `at` are in the cache already.

        `prior` (B, T, V): the n-gram model's log-probabilities after each of the new ones. The next call
        overwrites the result.
        """
        T, V = ids.shape[1] - at, self._sizes["V"]
        assert len(ids) == self._B and 0 <= at < ids.shape[1] <= self._arrays.block_size
        assert ids.dtype == np.int64 and ids.strides[1] == ids.itemsize and ids.strides[0] >= 0
        assert (prior is None) == (self._arrays.read is None)
        assert prior is None or (prior.shape == (self._B, T, V) and prior.dtype == np.float32)
        parts = -(-self._B // TILE) if T == 1 else self._B
        threads = min(torch.get_num_threads(), parts)
        room = self._tile + max(TILE, T) * self._sizes["C"]  # of one thread
        if len(self._room) < threads * room:
            self._room = np.empty(threads * room, np.float32)
        self._call(
            *self._first,
            ids.ctypes.data,
            ids.strides[0] // ids.itemsize,
            self._B,
            T,
            at,
            _pointer(prior),
            self._room.ctypes.data,
            room,
            threads,
            self._last,
        )
        return self._logits


def _sizes_of(model: ModelArrays) -> dict[str, int]:
    """Return the sizes that C needs, by the names of _SIZES; all arrays are checked against them."""
    embedding, first = model.embedding, model.layers[0]
    V, C = embedding.shape[0] - 1, embedding.shape[1]
    heads, D = first.gains.shape
    H, F = first.out.shape[1] // D, first.down.shape[1]
    K = heads - H
    rows = 0 if model.ngrams is None else (len(model.ngrams) - 1) // model.orders
    outputs = V if model.read is None else V + 1
    assert V > 0 and K > 0 and H % K == 0 and (model.orders > 0) == (rows > 0)
    for layer in model.layers:
        _check(layer.qkv, *_panels_of(C, (H + 2 * K) * D))
        _check(layer.gains, H + K, D)
        _check(layer.out, *_panels_of(H * D, C))
        _check(layer.gate_up, *_panels_of(C, 2 * F))
        _check(layer.down, *_panels_of(F, C))
    _check(embedding, V + 1, C)
    _check(model.added, model.block_size, C)
    _check(model.ngrams, model.orders * rows + 1, C)
    _check(model.turns, model.block_size, D)
    assert model.turns is None or D % 2 == 0
    _check(model.read, *_panels_of(V, C))
    _check(model.head, *_panels_of(C, outputs))
    W = -(-model.block_size // PANEL) * PANEL
    values = (len(model.layers), C, H, K, D, W, F, V, outputs, model.orders, rows)
    return dict(zip(_SIZES, values, strict=True))


def panels(matrix: Floats32) -> Floats32:
    """Split a matrix (n, m) into panels of 64 columns, the last one padded with zeros: (m / 64, n, 64)."""
    n, m = matrix.shape
    filled = np.pad(matrix, ((0, 0), (0, -m % PANEL)))
    return np.ascontiguousarray(filled.reshape(n, -1, PANEL).swapaxes(0, 1))


def _panels_of(n: int, m: int) -> tuple[int, int, int]:
    return -(-m // PANEL), n, PANEL


def _check(array: Floats32 | None, *shape: int) -> None:
    assert array is None or (array.shape == shape and array.dtype == np.float32)


def _pointer(array: NDArray[Any] | None) -> int | None:
    assert array is None or array.flags.c_contiguous
    return None if array is None else array.ctypes.data
