"""Blocks of text as arrays of code points, each as narrow as the block allows, counted and kept.

ASCII takes a byte a character, what lies in the first plane of Unicode two, the rest four.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from charlm import files
from charlm.data.stream import Block, changed, read_error
from charlm.data.text_warnings import Marks
from charlm.data.tokenizer import END_POINT
from charlm.native.text_kernels import Kernels
from charlm.terminal import one_line

Codes = NDArray[np.unsignedinteger[Any]]
Counts = NDArray[np.int64]

N_POINTS = 0x110000
PLANE = 0x10000
AT_ONCE = 1 << 18  # what is counted or looked up at once: its index, of 8 bytes each, stays in the cache
IN_MEMORY = 32 << 20
MAKES_ROOM = 32 << 20
"""Characters from which a text makes room in the system's cache."""
_NEAR = 0x20000  # emoji and most of what is beyond the first plane lie below
_FEED, _RETURN, _LOST = ord("\n"), ord("\r"), 0xFFFD


def codes_of(block: Block) -> Codes:
    """The code points of a block: (n,)."""
    if block.points is not None:
        return block.points
    if block.utf8.isascii():
        return np.frombuffer(block.utf8, dtype=np.uint8)
    # NumPy's own strings are UTF-32, and made three times as fast as the codec makes them.
    codes: Codes = np.array([block.text]).view(np.uint32)
    return codes if int(codes.max()) >= PLANE else codes.astype(np.uint16)


class Census:
    """How often each code point occurs in what was added."""

    def __init__(self, kernels: Kernels | None = None) -> None:
        self._kernels = kernels or Kernels()
        self._in_c: Counts = np.zeros((2, N_POINTS), dtype=np.int64)  # what they counted, if they did
        self._counted_in_c = False
        self._points: Counts = np.zeros(N_POINTS, dtype=np.int64)
        self._top = 256  # points below which all that were counted here lie
        self._pairs: Counts = np.zeros(1 << 16, dtype=np.int64)  # of ASCII: two characters at a time

    def add(self, codes: Codes) -> None:
        """Count some more."""
        if self._kernels.count(codes, self._in_c):
            self._counted_in_c = True
        elif codes.dtype.itemsize == 1:
            self._add_bytes(codes)
        elif codes.dtype.itemsize == 2 or int(codes.max(initial=0)) < _NEAR:
            self._add_narrow(codes)
        else:
            high = codes >= PLANE
            self._add_narrow(codes[~high].astype(np.uint16))
            points, counts = np.unique(codes[high], return_counts=True)
            self._points[points] += counts
            self._top = max(self._top, int(points.max(initial=0)) + 1)

    def counts(self) -> Counts:
        """One number for each code point up to the highest there is, or a little further."""
        in_c = self._in_c.sum(axis=0) if self._counted_in_c else self._in_c[0, :0]
        top = max(self._top, int(np.flatnonzero(in_c)[-1:].sum()) + 1)
        total = self._points[:top].copy()
        total[: len(in_c)] += in_c[:top]
        pairs = self._pairs.reshape(256, 256)
        total[:256] += pairs.sum(axis=0) + pairs.sum(axis=1)
        return total

    def lines(self) -> int:
        """Line feeds so far, and returns."""
        return sum(map(self._count_of, (_FEED, _RETURN)))

    def _count_of(self, point: int) -> int:
        pairs = self._pairs.reshape(256, 256)
        of_pairs = pairs[point].sum() + pairs[:, point].sum()
        return int(self._points[point] + self._in_c[:, point].sum() + of_pairs)

    def _add_bytes(self, codes: Codes) -> None:
        even = len(codes) // 2 * 2
        self._points[codes[even:]] += 1
        pairs = codes[:even].view(np.uint16)
        for start in range(0, len(pairs), AT_ONCE):
            self._pairs += np.bincount(pairs[start : start + AT_ONCE], minlength=1 << 16)

    def _add_narrow(self, codes: Codes) -> None:
        for start in range(0, len(codes), AT_ONCE):
            counts = np.bincount(codes[start : start + AT_ONCE])
            self._points[: len(counts)] += counts
            self._top = max(self._top, len(counts))


class LineEnds:
    """Counts returns followed by a line feed, across the borders of blocks too."""

    def __init__(self) -> None:
        self.pairs, self._last = 0, b""

    def add(self, block: Block) -> None:
        """Count some more."""
        if not block.utf8:
            return
        if self._last == b"\r" and block.utf8.startswith(b"\n"):
            self.pairs += 1
        if b"\r" in block.utf8:
            self.pairs += block.utf8.count(b"\r\n")
        self._last = block.utf8[-1:]


def marks_of(counts: Counts, pairs: int) -> Marks:
    """What deserves a remark, from a text's counts and its pairs of return and line feed."""
    counts = counts.copy()
    counts[END_POINT : END_POINT + 1] = 0
    present = np.flatnonzero(counts)
    return Marks(
        pairs=pairs,
        returns=int(counts[_RETURN]),
        feeds=int(counts[_FEED]),
        nul=int(counts[0]),
        lost=int(counts[_LOST : _LOST + 1].sum()),
        white=all(chr(point).isspace() for point in present.tolist()),
        same=len(present) == 1 and int(counts[present[0]]) > 1,
    )


class Spool:
    """Code points kept until they are encoded: in memory while they are few, else on disk.

    UTF-8 that stands in a file as it is stays there, and is read again.
    """

    def __init__(self, folder: Path, kernels: Kernels | None = None) -> None:
        """`folder` is where they go when they are many. Nothing is left there afterwards."""
        self._kernels = kernels or Kernels()
        self._file = files.scratch(folder, in_memory=IN_MEMORY)
        self._end = 0
        self._runs: list[_Run] = []
        self._again: tuple[str, BinaryIO] | None = None
        self._seen: dict[str, tuple[int, int]] = {}  # size and time of files that will be read again
        self._lets_go = False
        self.chars = 0

    def add(self, codes: Codes, block: Block | None = None) -> None:
        """Keep the code points of a block. Raises OSError where the disk has no room."""
        self.chars += len(codes)
        read_again = block is not None and block.origin is not None
        if not read_again and codes.dtype.itemsize == 4 and int(codes.max(initial=0)) < PLANE:
            codes = codes.astype(np.uint16)
        width = codes.dtype.itemsize
        if block is not None and block.origin is not None:
            path, offset = block.origin
            if width > 1:
                width = -len(block.utf8)
            if path not in self._seen:
                self._seen[path] = _state(os.stat(path))
        else:
            path, offset = None, self._end
            self._file.write(codes.data)
            self._end += codes.nbytes
        last = self._runs[-1] if self._runs else None
        if last and last.width == width > 0 and last.end == (path, offset):
            last.chars += len(codes)
        else:
            self._runs.append(_Run(path, offset, width, len(codes)))

    def read(self, start: int, end: int) -> Iterator[Codes]:
        """Yield the characters from `start` to before `end`, in order, in blocks.

        Raises TextError for a file that changed since it was added.
        """
        first = 0
        for run in self._runs:
            low, high = max(start, first), min(end, first + run.chars)
            if run.width < 0:
                if low < high:
                    yield self._decoded(run)[low - first : high - first]
                first += run.chars
                continue
            step = 2 * AT_ONCE // run.width
            for at in range(low, high, step):
                offset, size = run.offset + run.width * (at - first), run.width * min(step, high - at)
                data = self._bytes(run.path, offset, size)
                yield np.frombuffer(data, dtype=f"<u{run.width}")
            first += run.chars

    def let_go(self) -> None:
        """From now on hardly any character is read twice.

        The pages of a long text then make room in the system's cache for what is written meanwhile: a page that
        nothing used before is the dearest part of writing on a virtual machine.
        """
        self._lets_go = self.chars >= MAKES_ROOM and hasattr(os, "posix_fadvise")

    def close(self) -> None:
        """Give back what it takes."""
        self._file.close()
        if self._again is not None:
            self._again[1].close()

    def _bytes(self, path: str | None, offset: int, size: int) -> bytes:
        """What stands there in a file, or in its own."""
        if path is None:
            self._file.seek(offset)
            return self._file.read(size)
        file = self._open(path)
        file.seek(offset)
        data = file.read(size)
        if self._lets_go:
            with suppress(OSError):  # it is advice
                os.posix_fadvise(file.fileno(), offset, size, os.POSIX_FADV_DONTNEED)
        return data

    def _decoded(self, run: "_Run") -> Codes:
        assert run.path is not None
        utf8 = self._bytes(run.path, run.offset, -run.width)
        points, used = self._kernels.decode(utf8) or (None, 0)
        codes = codes_of(Block(utf8, points=points if used == len(utf8) else None))
        if len(codes) != run.chars:
            raise changed(one_line(run.path))
        return codes

    def _open(self, path: str) -> BinaryIO:
        if self._again is None or self._again[0] != path:
            if self._again is not None:
                self._again[1].close()
            try:
                file = open(path, "rb", buffering=0)  # noqa: SIM115  closed when the next one is opened
            except OSError as error:
                raise read_error(one_line(path), error) from error
            self._again = path, cast(BinaryIO, file)
        if _state(os.fstat(self._again[1].fileno())) != self._seen[path]:
            raise changed(one_line(path))
        return self._again[1]


@dataclass
class _Run:
    """Characters of one width that stand one after another."""

    path: str | None  # None: in the spool's own file
    offset: int
    width: int  # bytes a character; below 0: bytes of UTF-8 in all, of a single block
    chars: int

    @property
    def end(self) -> tuple[str | None, int]:
        """Where the next character would stand."""
        return self.path, self.offset + self.width * self.chars


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns
