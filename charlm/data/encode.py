"""Turn blocks of text into arrays of code points, count them, keep them for the second pass, and encode them as ids.

Each array is as narrow as its block allows: a byte a character for ASCII, two bytes for the first plane of
Unicode, four for the rest.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from charlm import files
from charlm.data.stream import Block, changed, read_error
from charlm.data.tokenizer import N_POINTS, Ids, Points, Vocabulary, utf8_lengths
from charlm.terminal import one_line

Counts = NDArray[np.int64]  # of each code point, (n,), up to the highest that occurs

AT_ONCE = 1 << 18
"""Characters counted or looked up at once, so that NumPy's indices (8 bytes each) stay in the processor's cache."""
IN_MEMORY = 32 << 20
"""Bytes of code points kept in memory; more go to a temporary file."""


def codes_of(block: Block) -> Points:
    """The code points of a block: (n,)."""
    if block.utf8.isascii():
        return np.frombuffer(block.utf8, dtype=np.uint8)
    # NumPy's own strings are UTF-32, and made three times as fast as the codec makes them.
    codes: Points = np.array([block.text]).view(np.uint32)
    return codes if int(codes.max()) > 0xFFFF else codes.astype(np.uint16)


class TextCounter:
    """Counts code points, and pairs of return and line feed."""

    def __init__(self) -> None:
        self._points: Counts = np.zeros(N_POINTS, dtype=np.int64)
        # ASCII is counted two characters at a time, which is twice as fast: by [second, first].
        self._pairs: Counts = np.zeros(1 << 16, dtype=np.int64)
        self.crlf, self._last_byte = 0, b""

    def add(self, codes: Points) -> None:
        """Count code points."""
        totals = self._points
        if codes.dtype.itemsize == 1:
            even = len(codes) // 2 * 2
            self._points[codes[even:]] += 1
            codes, totals = codes[:even].view(np.uint16), self._pairs
        for start in range(0, len(codes), AT_ONCE):
            counts = np.bincount(codes[start : start + AT_ONCE])
            totals[: len(counts)] += counts

    def add_line_ends(self, utf8: bytes) -> None:
        """Count pairs of return and line feed in the next block of UTF-8, also across its border."""
        if self._last_byte == b"\r" and utf8.startswith(b"\n"):
            self.crlf += 1
        if b"\r" in utf8:
            self.crlf += utf8.count(b"\r\n")
        self._last_byte = utf8[-1:] or self._last_byte

    def counts(self) -> Counts:
        """How often each code point occurs: (n,), up to the highest that does."""
        pairs, total = self._pairs.reshape(256, 256), self._points.copy()
        total[:256] += pairs.sum(axis=0) + pairs.sum(axis=1)
        return total[: int(np.flatnonzero(total)[-1:].sum()) + 1]


class Spool:
    """Code points kept between the two passes over a text: in memory while they are few, else on disk.

    ASCII that a file contains unchanged is not copied, but read from that file again.
    """

    def __init__(self, folder: Path) -> None:
        """`folder`: for the temporary file, of which nothing is left afterwards."""
        self._file = cast(BinaryIO, files.scratch(folder, in_memory=IN_MEMORY))
        self._end = 0
        self._runs: list[_Run] = []
        self._opened: tuple[str, BinaryIO] | None = None
        self._seen: dict[str, tuple[int, int]] = {}  # size and time of the files that will be read again
        self.chars = 0

    def add(self, codes: Points, block: Block | None = None) -> None:
        """Keep code points; ASCII of a `block` with an origin is read from there again instead.

        Raises OSError where the disk has no room.
        """
        self.chars += len(codes)
        width = codes.dtype.itemsize
        if width == 1 and block is not None and block.origin is not None:
            path, offset = block.origin
            if path not in self._seen:
                self._seen[path] = _state(os.stat(path))
        else:
            path, offset = None, self._end
            self._file.write(codes.data)
            self._end += codes.nbytes
        last = self._runs[-1] if self._runs else None
        if last and last.width == width and (last.path, last.end) == (path, offset):
            last.chars += len(codes)
        else:
            self._runs.append(_Run(path, offset, width, len(codes)))

    def read(self, start: int, end: int) -> Iterator[Points]:
        """Yield the characters from `start` to before `end`, in order, in blocks.

        Raises TextError for a file that changed since it was added.
        """
        first = 0
        for run in self._runs:
            low, high = max(start, first), min(end, first + run.chars)
            for at in range(low, high, AT_ONCE):
                file = self._file if run.path is None else self._source(run.path)
                file.seek(run.offset + run.width * (at - first))
                yield np.frombuffer(file.read(run.width * min(AT_ONCE, high - at)), dtype=f"<u{run.width}")
            first += run.chars

    def close(self) -> None:
        """Remove the temporary file."""
        self._file.close()
        if self._opened is not None:
            self._opened[1].close()

    def _source(self, path: str) -> BinaryIO:
        """Open a file of the text again. Raises TextError if it has changed."""
        if self._opened is None or self._opened[0] != path:
            if self._opened is not None:
                self._opened[1].close()
            try:
                file = open(path, "rb", buffering=0)  # noqa: SIM115  closed when the next one is opened
            except OSError as error:
                raise read_error(one_line(path), error) from error
            self._opened = path, cast(BinaryIO, file)
        if _state(os.fstat(self._opened[1].fileno())) != self._seen[path]:
            raise changed(one_line(path))
        return self._opened[1]


@dataclass
class _Run:
    """Consecutive characters of one width in one file."""

    path: str | None  # None: the spool's own file
    offset: int
    width: int  # bytes a character
    chars: int

    @property
    def end(self) -> int:
        """The offset of the next character."""
        return self.offset + self.width * self.chars


def _state(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


class Encoder:
    """Encodes blocks in the narrowest integer type that holds the ids of a text."""

    def __init__(self, vocabulary: Vocabulary, counts: Counts) -> None:
        """`counts`: how often each code point occurs in the whole text."""
        self._vocabulary = vocabulary
        present = vocabulary.encode_points(np.flatnonzero(counts).astype(np.uint32))
        self.dtype: np.dtype[Any] = np.min_scalar_type(int(present.max(initial=0)))
        ids = vocabulary.id_of_point[:0x80]
        # ASCII is one id a character, spelled or not; ids that do not occur may not fit.
        self._ascii = np.where(ids < 0, vocabulary.id_of_byte[:0x80], ids).astype(self.dtype)

    def length(self, counts: Counts) -> int:
        """Return how many ids a part becomes, given how often each code point occurs in it."""
        points = np.flatnonzero(counts)
        spelled = self._vocabulary.id_of_point[points] < 0
        return int((counts[points] * np.where(spelled, utf8_lengths(points), 1)).sum())

    def encode(self, codes: Points) -> Ids:
        """The ids of a block: (n,) to (m,), m >= n, as `Vocabulary.encode` gives them."""
        if codes.dtype.itemsize == 1:
            return self._ascii.take(codes)
        return self._vocabulary.encode_points(codes).astype(self.dtype)
