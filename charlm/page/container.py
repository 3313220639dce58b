"""Write arrays and a JSON header as one gzip file, which unpack.js reads.

Contents: the length of the header (4 bytes, little-endian), the header, then the arrays in the order of the header.
An array of numbers of n bytes is stored in n planes: the lowest byte of each number, then the next byte of each. This
puts similar bytes side by side, which makes gzip's output smaller by a tenth (weights) to a half (counts).
"""

import gzip
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.strict_json import dump_json

Array = NDArray[Any]
FORMAT, VERSION = "charlm page model", 1
LEVEL = 9
"""The gzip level: packing is done once, and reading takes as long at every level."""


def planes(array: Array) -> bytes:
    """Return the bytes of an array as little-endian numbers, plane by plane."""
    flat = np.ascontiguousarray(array.reshape(-1), array.dtype.newbyteorder("<"))
    return flat.view(np.uint8).reshape(len(flat), array.itemsize).T.tobytes()


def compressed_size(*arrays: Array) -> int:
    """Estimate how many bytes these arrays take in the file."""
    return sum(len(zlib.compress(planes(array), LEVEL)) for array in arrays)


def packed(header: Mapping[str, Any], arrays: Mapping[str, Array]) -> bytes:
    """Return the file with a header and arrays by name."""
    described = [[name, array.dtype.str[1:], list(array.shape)] for name, array in arrays.items()]
    said = dump_json({"format": FORMAT, "version": VERSION, **header, "arrays": described}, compact=True)
    parts = [len(said).to_bytes(4, "little"), said, *map(planes, arrays.values())]
    return gzip.compress(b"".join(parts), LEVEL, mtime=0)


def half_precision(weight: NDArray[np.float32]) -> Array:
    """Convert weights to 16 bits, or leave them in 32 if one of them is too large."""
    if len(weight) and np.abs(weight).max(initial=0) > np.finfo(np.float16).max:
        return weight
    return weight.astype(np.float16)


def bits_of(flags: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Pack flags (N,) into bits, the first in the lowest bit of a byte: (N / 8, rounded up)."""
    return np.packbits(flags, bitorder="little")
