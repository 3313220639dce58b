"""Find where documents end in blocks of text, and mark these ends among the code points."""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np

from charlm.data.encode import codes_of
from charlm.data.stream import Block
from charlm.data.text_config import TextConfig
from charlm.data.tokenizer import END_POINT, Points, text_of
from charlm.terminal import unescaped

FILE_END = Block(b"", ends=np.zeros(1, dtype=np.int64))
"""A block without characters that ends the document before it; it follows every file."""
_NEVER = 1 << 40
_FEED, _RETURN = ord("\n"), ord("\r")


class FileJoiner:
    """Joins files line by line: adds a newline after a file that does not end with one.

    The newline is of the kind that the last line ended with. `unended`: the names of those files.
    """

    def __init__(self) -> None:
        self.unended: list[str] = []
        self._newline, self._last, self._name = b"\n", b"", ""

    def join(self, blocks: Iterable[Block], name: str) -> Iterator[Block]:
        """Yield the blocks of the next file, after a newline if one is needed."""
        is_first = True
        for block in blocks:
            if block.utf8 and is_first:
                is_first = False
                if self._last not in (b"", b"\n", b"\r"):
                    self.unended.append(self._name)
                    yield Block(self._newline)
                self._last, self._name = b"", name
            if block.utf8:
                self._read(block.utf8)
            yield block

    def _read(self, utf8: bytes) -> None:
        at = max(utf8.rfind(b"\n"), utf8.rfind(b"\r"))
        if at >= 0:
            before = utf8[at - 1 : at] if at else self._last
            pair = utf8[at : at + 1] == b"\n" and before == b"\r"
            self._newline = b"\r\n" if pair else utf8[at : at + 1]
        self._last = utf8[-1:]


def separator_of(config: TextConfig) -> str:
    """Return the separator of documents, with the setting's escapes decoded."""
    return "" if config.separator is None else unescaped(config.separator)


def split_documents(blocks: Iterable[Block], config: TextConfig) -> Iterable[Block]:
    """Add the ends of documents to the blocks of a file, by these settings; the file's end is one of them.

    With `documents` "none" the blocks are returned unchanged.
    """
    if config.documents == "none":
        return blocks
    blocks = chain(blocks, [FILE_END])
    if config.documents == "line" and config.field is None:  # a record has its end already
        return _end_at_lines(blocks)
    if config.documents == "blank-line":
        return _end_at_blank_lines(blocks)
    if config.documents == "separator":
        return _end_at_separators(blocks, separator_of(config))
    return blocks


def _end_at_lines(blocks: Iterable[Block]) -> Iterator[Block]:
    """End documents after every line feed."""
    for block in blocks:
        ends = np.flatnonzero(codes_of(block) == _FEED) + 1 if b"\n" in block.utf8 else None
        yield block if ends is None else Block(block.utf8, block.decoded, ends=ends)


def _end_at_blank_lines(blocks: Iterable[Block]) -> Iterator[Block]:
    """End documents after one or more empty lines, whatever the line endings."""
    feeds = returns = -_NEVER  # in a row at the end of the text so far; leading ones never count
    for block in blocks:
        if not block.utf8:
            yield block
            continue
        codes = codes_of(block)
        breaks = (codes == _FEED) | (codes == _RETURN)
        places = np.flatnonzero(~breaks)  # of characters that end no line
        before = [np.concatenate(([0], np.cumsum(codes == code)))[places] for code in (_FEED, _RETURN)]
        runs = [np.diff(counts, prepend=-held) for counts, held in zip(before, (feeds, returns), strict=True)]
        ends = places[(runs[0] > 1) | (runs[1] > 1)]
        last = int(places[-1]) + 1 if len(places) else 0
        feeds = int((codes[last:] == _FEED).sum()) + (0 if len(places) else feeds)
        returns = int((codes[last:] == _RETURN).sum()) + (0 if len(places) else returns)
        yield Block(block.utf8, block.decoded, ends=ends) if len(ends) else block


def _end_at_separators(blocks: Iterable[Block], separator: str) -> Iterator[Block]:
    """End documents at separators, which are left out; a part of one is held until the next block."""
    held = ""
    for block in blocks:
        *whole, rest = (held + block.text).split(separator)
        longest = min(len(separator) - 1, len(rest)) if block.utf8 else 0
        n_held = next((n for n in range(longest, 0, -1) if rest.endswith(separator[:n])), 0)
        held = rest[len(rest) - n_held :]
        text = "".join([*whole, rest[: len(rest) - n_held]])
        ends = np.cumsum([len(piece) for piece in whole], dtype=np.int64)
        if block.ends is not None:  # the end of the file
            ends = np.append(ends, len(text))
        yield Block.of(text, ends)
    assert not held, "every file is followed by its end"


class EndMarker:
    """Puts END_POINT among code points where documents end; documents without a character are left out."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._chars = 0
        self._last = 0  # where the last document ended
        self.documents = 0

    def mark(self, block: Block) -> Points:
        """The code points of a block, with END_POINT after each document: (n,) or more."""
        codes = codes_of(block)
        if block.ends is None or not len(block.ends):
            self._chars += len(codes)
            return codes
        at = block.ends + self._chars
        kept = at > np.concatenate(([self._last], at[:-1]))
        ends = block.ends[kept]
        self._chars += len(codes)
        if not len(ends):
            return codes
        self._last = int(at[-1])
        self.documents += len(ends)
        self._digest.update(at[kept].astype("<i8").tobytes())
        wide = codes.astype(np.uint16) if codes.dtype.itemsize == 1 else codes
        marked: Points = np.insert(wide, ends, wide.dtype.type(END_POINT))
        return marked

    def digest(self) -> str:
        """A hash of where all documents end."""
        return self._digest.hexdigest()


def marked_pieces(blocks: Iterable[Block]) -> Iterator[str]:
    """The text of each block, with END where documents end."""
    marker = EndMarker()
    for block in blocks:
        yield text_of(marker.mark(block))


def marked_text(blocks: Iterable[Block]) -> str:
    """The text of blocks, with END where documents end."""
    return "".join(marked_pieces(blocks))
