"""What is read of texts too long to read through: pieces of files, spread evenly over all of them."""

import codecs
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import BinaryIO

from charlm.data.decoding import byte_order_mark
from charlm.data.stream import compression_of

WHOLE_UP_TO = 1_000_000_000
"""Bytes of all files together up to which every one is read."""
PIECES, PIECE_BYTES = 64, 2 << 20
"""Of more, so many pieces of so many bytes."""
LEAST_SHARE = 4
"""Less of a piece than one in so many bytes is left out where it is no whole file: it may hold no whole line."""
AT_ONCE = 1 << 19
WIDEST = 4  # bytes of a character: where a piece begins is a multiple of it

Span = tuple[int, int]


@dataclass
class Budget:
    """Bytes that may still be taken of what can only be read from its beginning."""

    left: int = WHOLE_UP_TO
    spent: bool = False  # and there was more to read


class Excerpt:
    """What is read of one file, or of standard input."""

    def __init__(self, spans: Sequence[Span] | None, budget: Budget, encoding: str | None = None) -> None:
        """`spans` of bytes, ascending, the first from 0; None: all of them."""
        self._spans, self._budget, self._encoding = spans, budget, encoding

    @property
    def whole(self) -> bool:
        """Is a file, if it is not compressed, read from its first byte to its last?"""
        return self._spans is None

    def of_file(self, file: BinaryIO) -> Iterator[bytes]:
        """The file's bytes, or the lines that lie whole within the spans. Of a compressed file, all."""
        first = file.read(AT_ONCE)
        if not first:
            return
        if self._spans is None or compression_of(first):
            yield first
            yield from iter(lambda: file.read(AT_ONCE), b"")
            return
        codec = _codec(first, self._encoding)
        size = file.seek(0, 2)
        for start, end in self._spans:
            file.seek(start)
            data = _exactly(file, end - start)
            yield _whole_lines(data, codec, begins=start == 0, ends=end >= size)

    def beginning(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """As many of these bytes as the budget allows, up to the end of a line."""
        codec = ""
        for piece in pieces:
            codec = codec or (_codec(piece, self._encoding) if piece else "")
            if len(piece) > self._budget.left:
                self._budget.spent = True
                kept = piece[: self._budget.left // WIDEST * WIDEST]
                self._budget.left = 0
                yield _whole_lines(kept, codec, begins=True, ends=False)
                return
            self._budget.left -= len(piece)
            yield piece


def spread_over(sizes: Mapping[str, int]) -> dict[str, list[Span]]:
    """Of each file the spans of bytes to read: none of those that no piece falls into.

    The first span of a file is moved to its beginning, where a mark or a header may stand.
    """
    names, ends = list(sizes), list(accumulate(sizes.values()))
    total = ends[-1]
    spans: dict[str, list[Span]] = {}
    for i in range(PIECES):
        start = (total - PIECE_BYTES) * i // (PIECES - 1)
        at = bisect_right(ends, start)
        while at < len(names) and ends[at] - sizes[names[at]] < start + PIECE_BYTES:
            offset = ends[at] - sizes[names[at]]
            low = max(0, start - offset) // WIDEST * WIDEST
            high = min(sizes[names[at]], start + PIECE_BYTES - offset)
            whole = high - low == sizes[names[at]] > 0
            if whole or high - low >= PIECE_BYTES // LEAST_SHARE:
                spans.setdefault(names[at], []).append((low, high))
            at += 1
    return {name: [(0, of[0][1] - of[0][0]), *of[1:]] for name, of in spans.items()}


def _exactly(file: BinaryIO, size: int) -> bytes:
    """So many bytes, fewer at the end of the file only."""
    data = b""
    while len(data) < size and (more := file.read(size - len(data))):
        data += more
    return data


def _codec(first: bytes, encoding: str | None) -> str:
    """The codec that single characters are encoded with, without a mark."""
    mark, marked = byte_order_mark(first)
    name = codecs.lookup(encoding or marked).name
    if name in ("utf-16", "utf-32"):
        return marked if mark else f"{name}-le"
    return "utf-8" if name == "utf-8-sig" else name


def _whole_lines(data: bytes, codec: str, *, begins: bool, ends: bool) -> bytes:
    """Without the half line at the beginning, unless it `begins` there, and the one at the end.

    Where there is no end of a line, without half characters of UTF-8.
    """
    newline = "\n".encode(codec)
    start = 0 if begins else _after(data, newline)
    end = len(data) if ends else _after(data, newline, last=True)
    if start is not None and end is not None and start < end:
        return data[start:end]
    if codec == "utf-8":
        start = 0 if begins else next((i for i in range(min(4, len(data))) if data[i] & 0xC0 != 0x80), 0)
        data = data[start:]
        return data if ends else data[: _characters(data)]
    return data


def _after(data: bytes, newline: bytes, *, last: bool = False) -> int | None:
    """The place after the first (or the last) end of a line; None where there is none."""
    width = len(newline)
    at = data.rfind(newline) if last else data.find(newline)
    while at >= 0 and at % width:  # halves of two characters
        at = data.rfind(newline, 0, at + width - 1) if last else data.find(newline, at + 1)
    return at + width if at >= 0 else None


def _characters(data: bytes) -> int:
    """How many of the bytes make whole characters of UTF-8."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 != 0x80:
            needed = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - (back if needed > back else 0)
    return len(data)
