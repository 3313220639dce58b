"""A mixture's log-probabilities in C (mixture.c): pools the distributions of its members.

Shapes: M members, N rows, V symbols, F = 2 M features.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.native.library import Library, Pointer, Size  # not torch: listing runs must not load it

Floats = NDArray[np.floating[Any]]
Floats32 = NDArray[np.float32]
MOST_MEMBERS = 16


class _Mixture(ctypes.Structure):
    _fields_ = [("bias", Pointer), ("weights", Pointer), ("M", Size)]


class MixtureKernel:
    """The weights of a mixture laid out for C. Threads may share it."""

    def __init__(self, library: Library, bias: Sequence[float], weights: Sequence[Sequence[float]]) -> None:
        """`bias` (M,) and `weights` (M, F) of the gate."""
        self._M = M = len(bias)
        self._kept: tuple[Floats32, Floats32] = np.array(bias, np.float32), np.array(weights, np.float32)
        assert 1 < M <= MOST_MEMBERS and self._kept[1].shape == (M, 2 * M)
        self._mixture = _Mixture(*(array.ctypes.data for array in self._kept), M)
        self._at = ctypes.addressof(self._mixture)
        self._pool = library.function("mixture", "fast", *[Pointer] * 3, *[Size] * 2, Pointer)

    def log_probs(self, logits: Sequence[Floats]) -> Floats32:
        """Return log-probabilities (N, V) from the logits or log-probabilities (N, V) of each member."""
        shape = logits[0].shape
        assert len(logits) == self._M and len(shape) == 2 and shape[1] > 0
        rows = [_with_rows(of_member) for of_member in logits]
        addresses, strides = (Pointer * self._M)(), (Size * self._M)()
        for i, array in enumerate(rows):
            assert array.shape == shape
            addresses[i], strides[i] = array.ctypes.data, array.strides[0] // array.itemsize
        out: Floats32 = np.empty(shape, np.float32)
        self._pool(self._at, addresses, strides, *shape, out.ctypes.data)
        return out


def _with_rows(logits: Floats) -> Floats32:
    """Return logits (N, V) in float32 with contiguous rows."""
    if logits.dtype == np.float32 and logits.strides[1] == logits.itemsize:
        return logits
    return np.ascontiguousarray(logits, np.float32)
