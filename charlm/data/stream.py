"""One file, or standard input, as blocks of text: read, decompressed and decoded piece by piece."""

import codecs
import os
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from charlm.data.decoding import (
    decode,
    dropped,
    invalid,
    mark_of,
    reads,
    refuse_other_formats,
    refuse_unmarked,
    surrogate,
    unlike_ascii,
    unlike_its_mark,
)
from charlm.data.decompression import compression, decompress
from charlm.data.excerpts import Excerpt
from charlm.data.sources import STDIN, kind_unless_regular, trouble
from charlm.errors import ResourceError, TextError

if TYPE_CHECKING:  # NumPy takes a while to import
    import numpy as np
    from numpy.typing import NDArray

    from charlm.native.text_kernels import Kernels

PIECE = 1 << 19
WHOLE = 1 << 23
"""Bytes up to which a text is decoded at once; what is said of its errors then knows all of it."""
_NOT_IN_PIECES = ("punycode", "idna", "unicode-escape", "raw-unicode-escape", "utf-7")


@dataclass(frozen=True, slots=True)
class Block:
    """Some characters of a text, as UTF-8 and, where they were decoded already, as a string or code points.

    `origin`: the file and the offset where they stand as they are, if they do: it may be read again.
    `ends`: after how many of its characters documents end, ascending; None where none does.
    """

    utf8: bytes
    decoded: str | None = None
    origin: tuple[str, int] | None = None
    ends: "NDArray[np.int64] | None" = None
    points: "NDArray[np.unsignedinteger[Any]] | None" = None

    @property
    def text(self) -> str:
        """The characters."""
        return self.decoded if self.decoded is not None else str(self.utf8, "utf-8")


def file_bytes(path: str, label: str, magic: bytes = b"") -> bytes:
    """The bytes of a regular file or, for `-`, of standard input; TextError where there are none, or they change.

    Of a file that does not begin with `magic` only the first piece is read. ResourceError where memory is too small.
    """
    stream = TextStream(path, label)
    pieces = stream.stdin_pieces() if path == STDIN else stream.file_pieces()
    first = next(pieces, b"")
    if not first.startswith(magic):
        return first
    try:
        return b"".join([first, *pieces])
    except MemoryError:
        raise ResourceError(
            f"{label} does not fit into memory. Give a smaller file, or use a larger machine."
        ) from None


class TextStream:
    """A text that is read once. `notes`: what is to be said of it, complete once it is read.

    So are `codec`, `marked` (a byte order mark named it) and `compression`.
    """

    def __init__(
        self,
        path: str,
        label: str,
        encoding: str | None = None,
        *,
        usual: str | None = None,
        stdin: BinaryIO | None = None,
        lines: Callable[[], int] = lambda: 0,
        watch: Callable[[int], None] = lambda taken: None,
        excerpt: Excerpt | None = None,
        kernels: "Kernels | None" = None,
    ) -> None:
        """`lines` tells how many lines the blocks so far held; `watch` is told of bytes taken.

        `usual`: the encoding of a text that has no byte order mark and does not begin as UTF-8 does.
        `excerpt`: what is read of it, where that is not all. `kernels` decode a long text.
        """
        self._path, self._label, self._encoding, self._stdin = path, label, encoding, stdin
        self._usual = usual
        self._excerpt, self._kernels = excerpt, kernels
        self._lines, self._watch = lines, watch
        self._size: int | None = None
        self._plain = False  # in a file, and not compressed
        self.notes: list[str] = []
        self.codec, self.marked = encoding or "utf-8", False
        self.compression: str | None = None

    def blocks(self) -> Iterator[Block]:
        """Yield the text, strictly decoded, in order; characters are never cut.

        Raises TextError for what is missing, unreadable, changing, damaged, or no text.
        """
        pieces = self._decompressed()
        head: list[bytes] = []
        for piece in pieces:
            head.append(piece)
            if sum(map(len, head)) > WHOLE:
                self._choose_encoding(b"".join(head))
                yield from self._decoded(head, pieces)
                return
        data = b"".join(head)
        self._choose_encoding(data)
        self._note_codec(data)
        text, said = decode(data, self._label, self._encoding)
        self.notes += said + ([] if text else ["empty"])
        if text:
            yield Block(text.encode(), text)

    def _choose_encoding(self, begin: bytes) -> None:
        """Take the usual encoding, unless a mark or characters of UTF-8 say otherwise."""
        if self._usual is None or not begin or self._usual == "utf-8":
            return
        mark, codec = mark_of(begin)
        if mark or (not begin.isascii() and reads(begin, "utf-8")):
            self.notes.append(
                f"read as {codec}, which it is, and not as {self._usual}, as the run's text was"
            )
        else:
            self._encoding = self._usual
            self.notes.append(f"read as {self._usual}, as the run's text was")

    def _note_codec(self, data: bytes) -> None:
        mark, marked = mark_of(data)
        self.marked = bool(mark) and self._encoding is None
        self.codec = codecs.lookup(self._encoding or marked).name

    def _decompressed(self) -> Iterator[bytes]:
        pieces = self.stdin_pieces() if self._path == STDIN else self.file_pieces()
        first = next(pieces, b"")
        kind = self.compression = compression(first)
        everything = chain([first], pieces)
        limited = self._excerpt.beginning if self._excerpt else iter
        if kind is None:
            self._plain = self._path != STDIN and (self._excerpt is None or self._excerpt.whole)
            return everything if self._path != STDIN else limited(everything)
        self.notes.append(f"decompressed from {kind}")
        return limited(decompress(kind, everything, self._label, self._size))

    def file_pieces(self) -> Iterator[bytes]:
        """The bytes of the file. Raises TextError for what is missing, unreadable, changing."""
        label = self._label
        try:
            _refuse_special(os.stat(self._path), label)  # before opening, which a named pipe would block
            with open(self._path, "rb", buffering=0) as file:
                before = os.fstat(file.fileno())
                self._size = before.st_size
                whole = iter(lambda: file.read(PIECE), b"")
                for piece in self._excerpt.of_file(cast(BinaryIO, file)) if self._excerpt else whole:
                    self._watch(len(piece))
                    yield piece
                after = os.fstat(file.fileno())
        except (OSError, ValueError) as error:
            raise trouble(label, error) from error
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise changed(label)

    def stdin_pieces(self) -> Iterator[bytes]:
        """The bytes of standard input. Raises TextError for what is closed, unreadable, endless."""
        stream = self._stdin if self._stdin is not None else getattr(sys.stdin, "buffer", None)
        if stream is None:
            raise TextError("Standard input is closed. Give a file, or connect a pipe.")
        _refuse_endless(stream)
        try:
            while piece := stream.read(PIECE):
                self._watch(len(piece))
                yield piece
        except (OSError, ValueError) as error:
            raise trouble("Standard input", error) from error

    def _decoded(self, head: list[bytes], rest: Iterator[bytes]) -> Iterator[Block]:
        """A long text, of which `head` is the beginning."""
        begin, label = b"".join(head), self._label
        self._note_codec(begin)
        refuse_other_formats(begin, label)
        mark, codec = (b"", self._encoding) if self._encoding is not None else mark_of(begin)
        if mark:
            self.notes.append(dropped(codec))
        elif self._encoding is None:
            refuse_unmarked(begin, label)
            self.notes += unlike_ascii(begin)
        if codecs.lookup(codec).name in _NOT_IN_PIECES:
            text, said = decode(begin + b"".join(rest), label, codec)
            self.notes += said
            yield Block(text.encode(), text)
            return
        if self._encoding is not None:
            said = unlike_its_mark(begin, codec)
        del begin
        head[0] = head[0][len(mark) :]
        pieces = chain(head, rest)
        blocks = self._utf8(pieces, len(mark)) if codec == "utf-8" else self._other(pieces, codec, len(mark))
        if self._encoding is None:
            yield from blocks
        else:
            yield from self._unmarked(blocks, said)

    def _unmarked(self, blocks: Iterator[Block], said: list[str]) -> Iterator[Block]:
        """Blocks read as the user said, less the mark that the first may begin with."""
        first = next(blocks)
        if first.text.startswith("\ufeff"):
            said, text = [dropped()], first.text[1:]
            first = Block(text.encode(), text)
        self.notes += said
        yield first
        yield from blocks

    def _utf8(self, pieces: Iterator[bytes], offset: int) -> Iterator[Block]:
        rest = b""
        for piece in chain(pieces, [b""]):
            data = rest + piece if rest else piece
            decoded, points = None, None
            if data.isascii():
                used = len(data)
            elif (found := self._points(data, not piece)) is not None:
                points, used = found
            else:
                try:
                    decoded, used = codecs.utf_8_decode(data, "strict", not piece)
                except UnicodeDecodeError as error:
                    raise self._invalid(data, "utf-8", error, offset) from None
            if used:
                origin = (self._path, offset) if self._plain else None
                utf8 = data[:used] if used < len(data) else data
                yield Block(utf8, decoded, origin, points=points)
            offset, rest = offset + used, data[used:]

    def _points(self, data: bytes, last: bool) -> "tuple[NDArray[np.unsignedinteger[Any]], int] | None":
        """Its code points but for a character that the end cuts; None where there is more to say of it."""
        found = None if self._kernels is None else self._kernels.decode(data)
        if found is None or found[1] == len(data):
            return found
        try:
            codecs.utf_8_decode(data[found[1] :], "strict", last)
        except UnicodeDecodeError:
            return None
        return found

    def _other(self, pieces: Iterator[bytes], codec: str, offset: int) -> Iterator[Block]:
        decoder, chars = codecs.getincrementaldecoder(codec)(), 0
        for piece in chain(pieces, [b""]):
            offset += len(piece)
            try:
                text = decoder.decode(piece, not piece)
                utf8 = text.encode()
            except UnicodeDecodeError as error:
                raise self._invalid(error.object, codec, error, offset - len(error.object)) from None
            except UnicodeEncodeError as error:
                raise surrogate(self._label, codec, text[error.start], chars + error.start) from None
            chars += len(text)
            if text:
                yield Block(utf8, text)

    def _invalid(self, data: bytes, codec: str, error: UnicodeDecodeError, offset: int) -> TextError:
        whole_lines = data[: data.rfind(b"\n", error.end) + 1 or None]  # half a character misleads
        return invalid(whole_lines, self._label, codec, error, offset=offset, lines=self._lines())


def changed(label: str) -> TextError:
    """The error to raise for a file that changes while it is read."""
    return TextError(f"{label} changed while it was read. Wait until nothing writes to it, or give a copy.")


def _refuse_special(status: os.stat_result, label: str) -> None:
    kind = kind_unless_regular(status)
    if kind:
        raise TextError(f"{label} is {kind}, not a regular file. Give a file, or - to read a pipe.")


def _refuse_endless(stream: BinaryIO) -> None:
    try:
        endless = stat.S_ISCHR(os.fstat(stream.fileno()).st_mode) and not stream.isatty()
    except (AttributeError, OSError, ValueError):  # not a stream of the operating system
        return
    if endless:
        raise TextError("Standard input is a device, not a text. Give a file, or connect a pipe.")
