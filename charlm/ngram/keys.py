"""Keys of grams: all symbols of a gram in one integer or one byte string, which sorts as the symbols do.

Integers sort many times as fast, but hold 64 bits: 9 symbols of a vocabulary of 65, or 5 of one of 2,000. Byte strings are
for longer grams. The digits of a key all have one width, so equal keys are equal grams.

Shapes: N positions, V symbols.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.data.shards import TextIds
from charlm.data.tokenizer import Ids

Keys = NDArray[Any]  # of uint64, or of byte strings of one size
KEY_BITS = 64


@dataclass(frozen=True)
class Packing:
    """How the symbols of grams are packed: as digits just wide enough for V symbols and the boundary."""

    n_symbols: int
    end: int | None = None  # the symbol that ends a document and begins the next

    @property
    def bits(self) -> int:
        """Width of a digit of an integer. The boundary is digit `n_symbols`."""
        return self.n_symbols.bit_length()

    @property
    def digit_type(self) -> np.dtype[np.unsignedinteger[Any]]:
        """The dtype of a digit of a byte string: big-endian, so that byte strings sort as the numbers do."""
        return np.dtype(np.min_scalar_type(self.n_symbols)).newbyteorder(">")

    def fits(self, digits: int) -> bool:
        """Whether this many digits fit an integer."""
        return digits * self.bits <= KEY_BITS

    def key_bytes(self, digits: int) -> int:
        """Return the size of a key in bytes."""
        return KEY_BITS // 8 if self.fits(digits) else digits * self.digit_type.itemsize

    def mask(self, digits: int) -> np.uint64:
        """Return a mask of the lowest `digits` digits of an integer."""
        return np.uint64((1 << (self.bits * digits)) - 1)

    def pack(self, symbols: TextIds, start: int, stop: int, digits: int) -> Keys:
        """Return the key of the `digits` symbols that end at each position start .. stop - 1: (stop - start,).

        An id outside the vocabulary (a byte that training never saw) becomes the boundary.
        """
        first, fits = start - digits + 1, self.fits(digits)
        row = np.full(stop - first, self.n_symbols, dtype=np.uint64 if fits else self.digit_type)
        most = min(self.n_symbols, np.iinfo(symbols.dtype).max)  # the boundary may not fit what holds the ids
        np.minimum(symbols[max(0, first) : stop], most, out=row[max(0, -first) :], casting="unsafe")
        if fits:
            keys: Keys = self._packed(row, digits)
        else:
            keys = self._joined(np.stack([row[i : i + stop - start] for i in range(digits)], axis=1))
        if self.end is not None:
            ends = np.flatnonzero(row == self.end) - (digits - 1)  # the key in which it is the first digit
            for back in range(1, digits - 1):
                at = ends + back
                self._cut(keys, at[(at >= 0) & (at < len(keys))], back, digits)
        return keys

    def last(self, keys: Keys, digits: int) -> Keys:
        """Return the keys of the last `digits` digits."""
        if keys.dtype == np.uint64:
            return keys & self.mask(digits)
        return self._joined(self._apart(keys)[:, -digits:])

    def parted(self, keys: Keys) -> tuple[Keys, Ids]:
        """Split each key into the key of all digits but the last, and the last digit."""
        if keys.dtype == np.uint64:
            return keys >> np.uint64(self.bits), keys & self.mask(1)
        digits = self._apart(keys)
        return self._joined(digits[:, :-1]), digits[:, -1]

    def inside(self, keys: Keys, digits: int) -> int:
        """Return how many sorted keys have no boundary. The others have it as their first digit, so they come last."""
        if keys.dtype == np.uint64:
            return int(np.searchsorted(keys, np.uint64(self.n_symbols << (self.bits * (digits - 1)))))
        return int(np.searchsorted(self._apart(keys)[:, 0], self.n_symbols))

    def _packed(self, row: NDArray[np.uint64], digits: int) -> NDArray[np.uint64]:
        """Return the integer of the `digits` digits that end at each position of a row, from position `digits` - 1 on."""
        keys, done = row, 1
        for bit in f"{digits:b}"[1:]:  # double the digits, and add one where the binary digit is 1
            keys, done = (keys[:-done] << np.uint64(done * self.bits)) | keys[done:], 2 * done
            if bit == "1":
                keys, done = (keys[:-1] << np.uint64(self.bits)) | row[done:], done + 1
        return keys

    def _joined(self, digits: NDArray[np.unsignedinteger[Any]]) -> Keys:
        """Return the keys of rows of digits."""
        n = digits.shape[1]
        if not self.fits(n):
            return np.ascontiguousarray(digits, self.digit_type).view(f"S{self.key_bytes(n)}")[:, 0]
        keys = np.zeros(len(digits), np.uint64)
        for column in digits.T:
            keys = (keys << np.uint64(self.bits)) | column
        return keys

    def _apart(self, keys: Keys) -> NDArray[np.unsignedinteger[Any]]:
        """View byte strings as rows of digits."""
        size = self.digit_type.itemsize
        return keys.view(self.digit_type).reshape(len(keys), keys.itemsize // size)

    def _cut(self, keys: Keys, at: NDArray[np.intp], back: int, digits: int) -> None:
        """In the keys `at`, replace all digits before the one `back` places from the last by boundaries, in place."""
        if keys.dtype == np.uint64:
            filled = sum(self.n_symbols << (self.bits * i) for i in range(back + 1, digits))
            keys[at] = (keys[at] & self.mask(back + 1)) | np.uint64(filled)
        else:
            self._apart(keys)[at, : digits - 1 - back] = self.n_symbols
