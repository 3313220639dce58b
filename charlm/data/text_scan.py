"""Collect warnings, counts and a sample while a text is read, and choose which parts of a very long text to read.

A text is read whole up to READ_WHOLE bytes. Of a longer one `charlm inspect` reads pieces spread evenly over
all files; a file that cannot be entered in the middle (compressed, records, UTF-16) is read from its beginning.
"""

import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from charlm.data.downloads import local_path
from charlm.data.encode import Counts
from charlm.data.stream import STDIN, Excerpt, Span
from charlm.data.text_config import TextConfig
from charlm.data.tokenizer import END_POINT, Points

READ_WHOLE = 1_000_000_000
PIECES, PIECE_BYTES = 64, 2 << 20
"""How many pieces of a longer text are read, and their size in bytes."""
SAMPLE_PIECE, MOST_SAMPLE_PIECES = 1 << 15, 64
"""A sample has at most so many pieces of so many characters: the whole text if it is short, else spread evenly."""


class TextMarks:
    """How often characters occur that deserve a warning, and what the text consists of."""

    def __init__(self, counts: Counts, crlf: int) -> None:
        """`counts`: how often each code point occurs, (n,). `crlf`: pairs of return and line feed."""
        found = {chr(point): int(counts[point]) for point in np.flatnonzero(counts) if point != END_POINT}
        self.returns, feeds = found.get("\r", 0), found.get("\n", 0)
        self.line_ends = {"LF": feeds - crlf, "CRLF": crlf, "CR": self.returns - crlf}
        self.nul, self.replaced = found.get("\0", 0), found.get("\ufffd", 0)
        self.only_space = all(map(str.isspace, found))
        self.one_character = len(found) == 1 and sum(found.values()) > 1

    def warnings(self) -> list[str]:
        """A sentence for each thing that a user should know before training."""
        found = []
        if self.returns:
            met = [f"{name} ({count:,})" for name, count in self.line_ends.items() if count]
            found.append(f"Lines end in {' and '.join(met)}; kept as they are.")
        if self.nul:
            found.append(f"NUL characters (U+0000) in the text: {self.nul:,}; kept.")
        if self.replaced:
            found.append(
                f"Replacement characters (U+FFFD) in the text: {self.replaced:,}; another program could not decode "
                "the original text."
            )
        if self.only_space:
            found.append("The text is only white space.")
        if self.one_character:
            found.append("The text is one character repeated; there is nothing to learn.")
        return found


class Sample:
    """Pieces of a text, evenly spread, though its length is not known in advance. Memory is bounded."""

    def __init__(self, piece: int = SAMPLE_PIECE, most: int = MOST_SAMPLE_PIECES) -> None:
        self._piece, self._most = piece, most
        self._kept: list[Points] = []
        self._current: list[Points] = []  # of the piece that is not yet complete
        self._size, self._number, self._stride = 0, 0, 1

    def add(self, codes: Points) -> None:
        """Take the next code points of the text."""
        while len(codes):
            taken = codes[: self._piece - self._size]
            if self._number % self._stride == 0:
                self._current.append(taken.astype(np.uint32))
            self._size += len(taken)
            codes = codes[len(taken) :]
            if self._size == self._piece:
                self._next_piece()

    @property
    def whole(self) -> bool:
        """Whether the sample is the whole text."""
        return self._stride == 1

    def codes(self) -> Points:
        """Their code points, with END_POINT after documents and, unless the sample is whole, after each piece."""
        pieces = [*self._kept, *([np.concatenate(self._current)] if self._current else [])]
        if not self.whole:
            pieces = [np.append(piece, np.uint32(END_POINT)) for piece in pieces]
        return np.concatenate(pieces) if pieces else np.empty(0, np.uint32)

    def _next_piece(self) -> None:
        if self._current:
            self._kept.append(np.concatenate(self._current))
        self._current, self._size = [], 0
        self._number += 1
        if len(self._kept) > self._most:
            self._kept, self._stride = self._kept[::2], 2 * self._stride


class TextScan:
    """Findings from reading a text; also decides which parts of a text longer than READ_WHOLE are read."""

    def __init__(self) -> None:
        self.files: list[FileRead] = []
        self.named: tuple[str, ...] = ()  # all files, read or not
        self.record_fields: list[str] = []  # of files of records that are read as plain text
        self.sample = Sample()
        self.counts = np.zeros(0, np.int64)  # of each code point
        self.marks: TextMarks | None = None
        self.boilerplate: str | None = None  # a sentence on Project Gutenberg's header and licence
        self.bytes_read = 0
        self.total_bytes: int | None = 0  # of all files; None if unknown
        self._budget = READ_WHOLE  # bytes that are read of files that have to be read from their beginning
        self._excerpts: list[Excerpt] = []  # of the files so far
        self._spread: dict[str, list[Span]] | None = None  # of each file; None: all of it

    @property
    def cut(self) -> bool:
        """Whether the budget ended before the text."""
        return any(excerpt.cut for excerpt in self._excerpts)

    @property
    def partial(self) -> bool:
        """Whether a part of the text was left unread."""
        return self.cut or self._spread is not None

    @property
    def manner(self) -> str:
        """Which part was read, in words; empty if all of it was."""
        if self.cut:
            return "from the beginning"
        return "in pieces spread evenly" if self.partial else ""

    def plan(self, paths: Sequence[str], config: TextConfig) -> list[str]:
        """Decide what to read of each file. Return the files of which anything is read, in order."""
        self.named = (*self.named, *paths)
        sizes = {path: os.stat(local_path(path)).st_size for path in paths if path != STDIN}
        known = self.total_bytes is not None and STDIN not in paths
        self.total_bytes = (self.total_bytes or 0) + sum(sizes.values()) if known else None
        if sum(sizes.values()) <= READ_WHOLE:
            return list(paths)
        self._budget = PIECES * PIECE_BYTES
        if config.field is not None:
            return list(paths)
        self._spread = (self._spread or {}) | spread_over(sizes)
        return [path for path in paths if path in self._spread or path == STDIN]

    def excerpt(self, path: str, config: TextConfig) -> Excerpt:
        """Return what to read of the next file."""
        spans = None if self._spread is None else self._spread.get(path)
        budget = self._excerpts[-1].budget if self._excerpts else self._budget
        self._excerpts.append(Excerpt(spans, budget, config.encoding))
        return self._excerpts[-1]


@dataclass(frozen=True, kw_only=True)
class FileRead:
    """How a file was read."""

    name: str
    codec: str
    marked: bool  # by a byte order mark
    compression: str | None


def spread_over(sizes: dict[str, int]) -> dict[str, list[Span]]:
    """The spans of bytes to read of each file: PIECES of PIECE_BYTES, spread evenly over all files together."""
    names, ends = list(sizes), list(accumulate(sizes.values()))
    spans: dict[str, list[Span]] = {}
    for start in np.linspace(0, ends[-1] - PIECE_BYTES, PIECES).astype(int).tolist():
        for i in range(bisect_right(ends, start), len(names)):
            offset = ends[i] - sizes[names[i]]
            if offset >= start + PIECE_BYTES:
                break
            span = max(0, start - offset), min(sizes[names[i]], start + PIECE_BYTES - offset)
            spans.setdefault(names[i], []).append(span)
    return spans
