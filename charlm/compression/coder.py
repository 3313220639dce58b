"""An arithmetic coder: log-probabilities to integer frequencies, and symbols to bytes and back, exactly.

Axes: B texts side by side, V symbols.

The unit interval is narrowed to each symbol's share in turn, and the shortest number inside what is
left names them all. Here the interval is [low, low + width) in 64 bits, of which a byte leaves at the
top whenever the width has shrunk by one. Rissanen and Langdon 1979, IBM Journal of Research and
Development 23:149; in bytes, as a range coder: Martin 1979, Video & Data Recording Conference.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.errors import CheckpointError

Bounds = NDArray[np.int64]


def bounds(logp: NDArray[np.floating[Any]]) -> Bounds:
    """Where each symbol's share begins and ends, (B, V + 1): that of v is [v] to [v + 1] of a row's [V].

    Each is at least 1 wide, however improbable, and they sum to at most 2^32. The same numbers in give
    the same out; CheckpointError for what is no probability.
    """
    p = np.exp(logp, dtype=np.float64)
    sums = p.sum(axis=1, keepdims=True)
    if not (np.isfinite(sums).all() and (sums > 0).all()):
        raise CheckpointError("the model predicts no finite probabilities, so it cannot code a text")
    B, V = p.shape
    p *= (HIGHEST_TOTAL - 2 * V) / sums  # V for the least widths, V for what rounding could add
    found = np.zeros((B, V + 1), dtype=np.int64)
    np.cumsum(p.astype(np.int64) + 1, axis=1, out=found[:, 1:])
    return found


BITS = 64
TOP = 1 << BITS
LEAST_WIDTH = TOP >> 8
PADDING = 2 * BITS // 8
"""Zeros that may be missing at the end; eight are what an encoder leaves out, but an earlier one left out all."""
HIGHEST_TOTAL = 1 << 32
"""What the frequencies of a symbol's alternatives may sum to; at this width nothing is lost by rounding."""


class Encoder:
    """Symbols to bytes."""

    def __init__(self) -> None:
        self._out = bytearray()
        self._low, self._width = 0, TOP

    def add(self, start: int, size: int, total: int) -> None:
        """A symbol whose share is `size` of `total`, after `start` of the symbols before it.

        0 <= start, 1 <= size, start + size <= total <= HIGHEST_TOTAL.
        """
        assert start >= 0 and size >= 1 and start + size <= total <= HIGHEST_TOTAL
        unit = self._width // total
        self._low += unit * start
        self._width = unit * size
        if self._low >= TOP:
            self._carry()
        while self._width < LEAST_WIDTH:
            self._out.append(self._low >> BITS - 8)
            self._low = (self._low << 8) & (TOP - 1)
            self._width <<= 8

    def finish(self) -> bytes:
        """All bytes: after the last, any may follow. Zeros among the last eight that end them are left out."""
        # A number in the interval that ends in as many zero bytes as possible.
        for bits in range(BITS, -1, -8):
            value = -(-self._low >> bits) << bits
            if value < self._low + self._width:
                break
        self._low = value
        if self._low >= TOP:
            self._carry()
        return bytes(self._out) + self._low.to_bytes(BITS // 8, "big").rstrip(b"\0")

    def _carry(self) -> None:
        """Add one to what has left already."""
        self._low -= TOP
        i = len(self._out) - 1
        while self._out[i] == 0xFF:  # never past the first: the number is below one
            self._out[i] = 0
            i -= 1
        self._out[i] += 1


class Decoder:
    """The bytes of an `Encoder` to what was encoded: first ask `target`, then say whose share it was.

    Behind the end of the bytes there are zeros, up to PADDING of them: an encoder leaves out no more. Who asks
    for more was told to decode more symbols than were encoded: EOFError.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, BITS // 8
        self._offset = int.from_bytes(data[: self._at].ljust(self._at, b"\0"), "big")  # of it above low
        self._width, self._unit = TOP, 1

    def target(self, total: int) -> int:
        """A number below `total` within the share of the next symbol."""
        self._unit = self._width // total
        return min(self._offset // self._unit, total - 1)

    def take(self, start: int, size: int) -> None:
        """That symbol's share, as it was encoded."""
        self._offset -= self._unit * start
        self._width = self._unit * size
        while self._width < LEAST_WIDTH:
            byte = self._data[self._at] if self._at < len(self._data) else 0
            self._at += 1
            if self._at > len(self._data) + PADDING:
                raise EOFError
            self._offset = (self._offset << 8 | byte) & (TOP - 1)
            self._width <<= 8
