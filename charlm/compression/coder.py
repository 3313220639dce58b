"""An arithmetic coder: turns log-probabilities into integer frequencies, and symbols into bytes and back.

The unit interval is narrowed to the share of each symbol in turn; the shortest number in the final interval encodes all
of them. Here the interval is [low, low + width) in 64 bits, and its top byte is written out whenever the width has
shrunk by one byte. Rissanen and Langdon 1979, IBM Journal of Research and Development 23:149; in bytes, as a range
coder: Martin 1979, Video & Data Recording Conference.

Shapes: B texts side by side, V symbols.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.errors import CheckpointError

Bounds = NDArray[np.int64]


def bounds(logp: NDArray[np.floating[Any]]) -> Bounds:
    """Return cumulative integer frequencies (B, V + 1): the share of symbol v is from [v] to [v + 1], out of [V].

    Each share is at least 1, however improbable the symbol, and they sum to at most 2^32. Raises CheckpointError if the
    probabilities are not finite.
    """
    p = np.exp(logp, dtype=np.float64)
    sums = p.sum(axis=1, keepdims=True)
    if not (np.isfinite(sums).all() and (sums > 0).all()):
        raise CheckpointError("the model's probabilities are not finite, so it cannot compress a text")
    B, V = p.shape
    p *= (HIGHEST_TOTAL - 2 * V) / sums  # V for the minimum shares, V for what rounding could add
    found = np.zeros((B, V + 1), dtype=np.int64)
    np.cumsum(p.astype(np.int64) + 1, axis=1, out=found[:, 1:])
    return found


BITS = 64
TOP = 1 << BITS
LEAST_WIDTH = TOP >> 8
PADDING = 2 * BITS // 8
"""Zero bytes that may be missing at the end. This encoder leaves out up to 8; an earlier version left out more."""
HIGHEST_TOTAL = 1 << 32
"""The largest sum of frequencies; rounding then loses next to nothing."""


class Encoder:
    """Encodes symbols as bytes."""

    def __init__(self) -> None:
        self._out = bytearray()
        self._low, self._width = 0, TOP

    def add(self, start: int, size: int, total: int) -> None:
        """Encode a symbol whose share is `size` out of `total`, after shares of `start` in all."""
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
        """Return all bytes. Trailing zeros among the last eight are left out."""
        # The number in the interval with the most trailing zero bytes.
        for bits in range(BITS, -1, -8):
            value = -(-self._low >> bits) << bits
            if value < self._low + self._width:
                break
        self._low = value
        if self._low >= TOP:
            self._carry()
        return bytes(self._out) + self._low.to_bytes(BITS // 8, "big").rstrip(b"\0")

    def _carry(self) -> None:
        """Add one to the bytes already written."""
        self._low -= TOP
        i = len(self._out) - 1
        while self._out[i] == 0xFF:  # stops at the first byte at the latest: the number is below one
            self._out[i] = 0
            i -= 1
        self._out[i] += 1


class Decoder:
    """Decodes bytes: ask for the `target`, find the symbol whose share holds it, and `take` that share.

    Up to PADDING zeros follow the bytes. Raises EOFError beyond, when more symbols are asked for than were encoded.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, BITS // 8
        self._offset = int.from_bytes(
            data[: self._at].ljust(self._at, b"\0"), "big"
        )  # of the encoded number above low
        self._width, self._unit = TOP, 1

    def target(self, total: int) -> int:
        """Return a number below `total` that lies in the share of the next symbol."""
        self._unit = self._width // total
        return min(self._offset // self._unit, total - 1)

    def take(self, start: int, size: int) -> None:
        """Consume that symbol's share, as it was encoded."""
        self._offset -= self._unit * start
        self._width = self._unit * size
        while self._width < LEAST_WIDTH:
            byte = self._data[self._at] if self._at < len(self._data) else 0
            self._at += 1
            if self._at > len(self._data) + PADDING:
                raise EOFError
            self._offset = (self._offset << 8 | byte) & (TOP - 1)
            self._width <<= 8
