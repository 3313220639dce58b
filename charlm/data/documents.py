"""Where documents end: found in blocks of text, and marked among their code points."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import numpy as np

from charlm.config import TextConfig
from charlm.data.codes import Codes, codes_of
from charlm.data.stream import Block
from charlm.data.tokenizer import END_POINT
from charlm.terminal import unescaped

Ends = Callable[[Iterable[Block]], Iterator[Block]]
FILE_END = Block(b"", ends=np.zeros(1, dtype=np.int64))
"""A block without characters that ends what stands before it: every file is followed by one."""
NEVER = 1 << 40
_FEED, _RETURN = ord("\n"), ord("\r")


def with_ends(blocks: Iterable[Block], config: TextConfig) -> Iterable[Block]:
    """The blocks of a file, told where its documents end by these settings.

    The file's end is one of them wherever documents are kept apart. A record of `field` is a line.
    """
    return blocks if config.documents == "none" else _finder(config)(chain(blocks, [FILE_END]))


class Joiner:
    """Keeps the lines of files apart: after one that does not end its last line, a newline comes before the next.

    It is of the kind that the lines before end with.
    """

    def __init__(self) -> None:
        self.added = 0
        self._newline, self._last, self._name = b"\n", b"", ""
        self.names: list[str] = []  # of the files that were followed by one

    def joined(self, blocks: Iterable[Block], name: str) -> Iterator[Block]:
        """The blocks of the next file, after a newline where one is needed."""
        begun = False
        for block in blocks:
            if block.utf8 and not begun:
                begun = True
                if self._last not in (b"", b"\n", b"\r"):
                    self.names.append(self._name)
                    self.added += self._newline != b"\r"  # as lines are counted
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


def _finder(config: TextConfig) -> Ends:
    if config.documents == "line" and config.field is None:
        return _lines
    if config.documents == "blank-line":
        return _blank_lines
    if config.documents == "separator":
        return Separator(between(config)).blocks
    return iter


def between(config: TextConfig) -> str:
    """What stands between two documents in the text; the setting may have escapes."""
    return "" if config.separator is None else unescaped(config.separator)


def _lines(blocks: Iterable[Block]) -> Iterator[Block]:
    """Documents end after every line feed."""
    for block in blocks:
        ends = np.flatnonzero(codes_of(block) == _FEED) + 1 if b"\n" in block.utf8 else None
        yield block if ends is None else Block(block.utf8, block.decoded, ends=ends)


def _blank_lines(blocks: Iterable[Block]) -> Iterator[Block]:
    """Documents end after one or more empty lines, whatever ends the lines."""
    feeds = returns = -NEVER  # that stand in a row at the end of what was read: none before the first line
    for block in blocks:
        if not block.utf8:
            yield block
            continue
        codes = codes_of(block)
        breaks = (codes == _FEED) | (codes == _RETURN)
        places = np.flatnonzero(~breaks)  # of what is no line end
        before = [np.concatenate(([0], np.cumsum(codes == code)))[places] for code in (_FEED, _RETURN)]
        runs = [np.diff(counts, prepend=-held) for counts, held in zip(before, (feeds, returns), strict=True)]
        ends = places[(runs[0] > 1) | (runs[1] > 1)]
        last = int(places[-1]) + 1 if len(places) else 0
        feeds = int((codes[last:] == _FEED).sum()) + (0 if len(places) else feeds)
        returns = int((codes[last:] == _RETURN).sum()) + (0 if len(places) else returns)
        yield Block(block.utf8, block.decoded, ends=ends) if len(ends) else block


class Separator:
    """Documents end where a separator stands, which is no part of the text."""

    def __init__(self, separator: str) -> None:
        self._separator = separator

    def blocks(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """The text without separators; what may begin one is held until the next block."""
        held = ""
        for block in blocks:
            *whole, rest = (held + block.text).split(self._separator)
            kept = self._overlap(rest) if block.utf8 else 0
            held = rest[len(rest) - kept :]
            text = "".join([*whole, rest[: len(rest) - kept]])
            ends = np.cumsum([len(piece) for piece in whole], dtype=np.int64)
            if block.ends is not None:  # the end of the file
                ends = np.append(ends, len(text))
            yield Block(text.encode(), text, ends=ends)
        assert not held, "every file is followed by its end"

    def _overlap(self, text: str) -> int:
        """The longest end of a text that may begin a separator, in characters."""
        longest = min(len(self._separator) - 1, len(text))
        return next((n for n in range(longest, 0, -1) if text.endswith(self._separator[:n])), 0)


class Marker:
    """Puts the mark of an end among code points; documents without a character are left out."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._chars = 0
        self._last = 0  # where the last document ended
        self.documents = 0

    def mark(self, block: Block) -> Codes:
        """The code points of a block, with END_POINT where a document ends: (n,) or more."""
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
        marked: Codes = np.insert(wide, ends, wide.dtype.type(END_POINT))
        return marked

    def digest(self) -> str:
        """A hash of where all documents end."""
        return self._digest.hexdigest()


def marked_text(files: Iterable[str], config: TextConfig) -> str:
    """Texts in memory, one after another, with END where documents end."""
    marker, out = Marker(), list[str]()
    for text in files:
        for block in with_ends([Block(text.encode(), text)] if text else [], config):
            codes = marker.mark(block).astype("<u4")
            out.append(codes.tobytes().decode("utf-32-le", "surrogatepass"))
    return "".join(out)
