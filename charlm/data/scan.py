"""What only reading a text tells of it, beside its corpus: encodings, counts, a bounded sample in order."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from charlm.config import TextConfig
from charlm.data.codes import Codes, Counts
from charlm.data.excerpts import WHOLE_UP_TO, Budget, Excerpt, spread_over
from charlm.data.reader import FileReader
from charlm.data.stream import STDIN
from charlm.data.text_warnings import Marks
from charlm.data.tokenizer import END_POINT

PIECE, MOST_PIECES = 1 << 15, 64
"""A sample is all of a text of up to so many pieces of so many characters, else evenly spread ones."""


@dataclass(frozen=True, kw_only=True)
class FileRead:
    """How a file was read."""

    name: str
    codec: str
    marked: bool  # did a byte order mark say so?
    compression: str | None


class Sample:
    """Pieces of a text, evenly spread, whose length need not be known before. Memory is bounded."""

    def __init__(self, piece: int = PIECE, most: int = MOST_PIECES) -> None:
        self._piece, self._most = piece, most
        self._kept: list[Codes] = []
        self._held: list[Codes] = []  # of the piece that is being read
        self._size, self._number, self._stride = 0, 0, 1

    def add(self, codes: Codes) -> None:
        """Read on."""
        while len(codes):
            taken = codes[: self._piece - self._size]
            if self._number % self._stride == 0:
                self._held.append(taken.astype(np.uint32))
            self._size += len(taken)
            codes = codes[len(taken) :]
            if self._size == self._piece:
                self._next()

    @property
    def whole(self) -> bool:
        """Is it all of the text?"""
        return self._stride == 1

    def codes(self) -> Codes:
        """Their code points, with END_POINT where a document ends, and between pieces that are no neighbours."""
        pieces = [*self._kept, np.concatenate(self._held)] if self._held else list(self._kept)
        if not self.whole:
            bound = np.array([END_POINT], dtype=np.uint32)
            pieces = [part for piece in pieces for part in (piece, bound)]
        return np.concatenate(pieces) if pieces else np.empty(0, np.uint32)

    def _next(self) -> None:
        if self._held:
            self._kept.append(np.concatenate(self._held))
        self._held, self._size = [], 0
        self._number += 1
        if len(self._kept) > self._most:
            self._kept, self._stride = self._kept[::2], 2 * self._stride


class Look:
    """A look at a text while it is read. Of more than WHOLE_UP_TO bytes only excerpts are."""

    def __init__(self) -> None:
        self.files: list[FileRead] = []
        self.named: tuple[str, ...] = ()  # all files that were meant, read or not
        self.fields: list[str] = []  # of files of records that are read as they stand
        self.sample = Sample()
        self.counts: Counts = np.zeros(0, np.int64)  # of each code point
        self.marks: Marks | None = None
        self.boilerplate: str | None = None  # what is to be said of Project Gutenberg's header and licence
        self.bytes_read = 0
        self.of_bytes: int | None = 0  # of all files; None where that is not known
        self._excerpts: dict[str, Excerpt] = {}
        self._budget = Budget()
        self._jumped = False

    @property
    def partial(self) -> bool:
        """Was a part of the text left unread?"""
        return self._jumped or self._budget.spent

    @property
    def manner(self) -> str:
        """Which part was read, in words; empty where all of it was."""
        if self._budget.spent:
            return "from the beginning"
        return "in pieces spread evenly" if self._jumped else ""

    def plan(self, paths: Sequence[str], config: TextConfig) -> list[str]:
        """Decide what is read of each file; those of which anything is, in order.

        Tables and records are read from their beginning, since they cannot be entered anywhere.
        """
        self.named = (*self.named, *paths)
        sizes = {path: os.stat(path).st_size for path in paths if path != STDIN}
        known = self.of_bytes is not None and STDIN not in paths
        self.of_bytes = (self.of_bytes or 0) + sum(sizes.values()) if known else None
        spans = {}
        if sum(sizes.values()) > WHOLE_UP_TO:
            self._jumped = True
            spans = spread_over(sizes)
            if config.field is not None:
                spans = {path: [(0, sum(b - a for a, b in of))] for path, of in spans.items()}
            paths = [path for path in paths if path in spans or path == STDIN]
        for path in paths:
            self._excerpts[path] = Excerpt(spans.get(path), self._budget, config.encoding)
        return list(paths)

    def excerpt(self, path: str) -> Excerpt | None:
        """What is to be read of a file."""
        return self._excerpts.get(path)

    def read(self, path: str, reader: FileReader) -> None:
        """A file was read to its end."""
        decoder = reader.decoder
        said = FileRead(
            name=path, codec=decoder.codec, marked=decoder.has_mark, compression=reader.stream.compression
        )
        self.files.append(said)
