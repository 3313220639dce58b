"""Decoding, counting and looking up in C, where a long text makes it worth compiling: a few times as fast as NumPy.

Each says None or False where it cannot, and NumPy does it then.
"""

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.native.library import Compiling, codes_alone

LONG = 256 << 20
"""Bytes of text from which compiling takes less than it saves, even on a single core."""
Array = NDArray[np.unsignedinteger[Any]]
Pointer, Size = ctypes.c_void_p, ctypes.c_int64


class Kernels:
    """What is compiled, as soon as it is; nothing waits for it."""

    def __init__(self, compiling: Compiling | None = None) -> None:
        self._compiling, self._found = compiling, False
        self._library: ctypes.CDLL | None = None

    @classmethod
    def of_text(cls, size: int | None) -> "Kernels":
        """For a text of so many bytes, where that is known."""
        return cls(codes_alone() if size is not None and size >= LONG else None)

    def decode(self, utf8: bytes) -> tuple[Array, int] | None:
        """The code points of UTF-8 as far as it is valid and whole, and how many bytes they are of."""
        library = self._ready()
        if library is None:
            return None
        points, used = np.empty(len(utf8), np.uint32), Size()
        n = library.decode(utf8, len(utf8), points.ctypes.data, ctypes.byref(used))
        return points[:n], used.value

    def count(self, codes: Array, counts: NDArray[np.int64]) -> bool:
        """Add how often each code occurs to the sum of counts (2, N), where it is below N."""
        library = self._ready()
        width = codes.dtype.itemsize
        if library is None or width not in (1, 4) or not codes.flags.c_contiguous:
            return False
        assert counts.flags.c_contiguous and counts.dtype == np.int64 and counts.shape[0] == 2
        assert counts.shape[1] >= 256
        if width == 1:
            library.count_1(codes.ctypes.data, len(codes), counts.ctypes.data)
        else:
            library.count_4(codes.ctypes.data, len(codes), counts.ctypes.data, counts.shape[1])
        return True

    def look_up(self, codes: Array, table: Array, out: Array) -> bool:
        """Into out (n,) what the table has for each code (n,), its last number for those beyond it."""
        library = self._ready()
        widths = codes.dtype.itemsize, table.dtype.itemsize
        if library is None or widths[0] not in (1, 4) or widths[1] not in (1, 2):
            return False
        assert len(out) == len(codes) and out.dtype == table.dtype and len(table)
        if not (codes.flags.c_contiguous and out.flags.c_contiguous and table.flags.c_contiguous):
            return False
        call = getattr(library, f"look_up_{widths[0]}_{widths[1]}")
        call(codes.ctypes.data, len(codes), table.ctypes.data, len(table), out.ctypes.data)
        return True

    def _ready(self) -> ctypes.CDLL | None:
        if not self._found and self._compiling is not None and not self._compiling.waits:
            self._found, self._library = True, self._compiling.library()
            if self._library is not None:
                _declare(self._library)
        return self._library


def _declare(library: ctypes.CDLL) -> None:
    library.decode.argtypes = [ctypes.c_char_p, Size, Pointer, Pointer]
    library.decode.restype = Size
    library.count_1.argtypes, library.count_1.restype = [Pointer, Size, Pointer], None
    library.count_4.argtypes, library.count_4.restype = [Pointer, Size, Pointer, Size], None
    for width in (1, 4):
        for wide in (1, 2):
            look_up = getattr(library, f"look_up_{width}_{wide}")
            look_up.argtypes, look_up.restype = [Pointer, Size, Pointer, Size, Pointer], None
