"""The bytes of one file, or of standard input: read in pieces, decompressed, and never silently cut short."""

import codecs
import importlib
import os
import stat
import sys
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import IO, TYPE_CHECKING, BinaryIO, Protocol, cast

from charlm.data.addresses import address_advice
from charlm.data.detection import byte_order_mark, compression_of
from charlm.errors import ResourceError, TextError
from charlm.terminal import one_line

if TYPE_CHECKING:  # NumPy takes a while to import
    import numpy as np
    from numpy.typing import NDArray

STDIN = "-"
PIECE = 1 << 19
"""Bytes that are read, or decompressed, at once."""
EXPANDS_SAFELY, MOST_EXPANSION = 10_000_000, 200
"""Zip bomb limit: so many decompressed bytes are always allowed; more, up to so many times the compressed ones."""
_SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


Span = tuple[int, int]  # of bytes


@dataclass(frozen=True, slots=True)
class Block:
    """Some characters of a text, as UTF-8 and, where they were decoded already, as a string.

    `origin`: the file and the offset from which the same bytes can be read again, if there is one.
    `ends`: after how many of its characters documents end, ascending; None where none does.
    """

    utf8: bytes
    decoded: str | None = None
    origin: tuple[str, int] | None = None
    ends: "NDArray[np.int64] | None" = None

    @classmethod
    def of(cls, text: str, ends: "NDArray[np.int64] | None" = None) -> "Block":
        """Make a block of these characters."""
        return cls(text.encode(), text, ends=ends)

    @property
    def text(self) -> str:
        """The characters."""
        return self.decoded if self.decoded is not None else str(self.utf8, "utf-8")

    @property
    def n_chars(self) -> int:
        """The number of characters."""
        return len(self.utf8) if self.utf8.isascii() else len(self.text)


class Excerpt:
    """The part of one file to read: all of it, or the lines within spans of bytes, and no more text than a budget."""

    def __init__(self, spans: Sequence[Span] | None, budget: int, encoding: str | None = None) -> None:
        """`budget`: the most bytes of text, as UTF-8, to read of a file that has to be read from its beginning."""
        self.spans, self.budget, self._encoding = spans, budget, encoding
        self.cut = False  # whether the budget ended before the text
        self._is_entered = False  # whether only the spans are read

    def of_file(self, file: BinaryIO) -> Iterator[bytes]:
        """Yield the whole lines within the spans; or all bytes, if the file cannot be read from the middle."""
        first = file.read(PIECE)
        codec = codecs.lookup(self._encoding or byte_order_mark(first)[1]).name
        has_lines = b"\n" in first and "\n".encode(codec) == b"\n"  # then a line can be found from anywhere
        if self.spans is None or compression_of(first) or not has_lines:
            yield first
            yield from iter(lambda: file.read(PIECE), b"")
            return
        size, self._is_entered = file.seek(0, os.SEEK_END), True
        for start, end in self.spans:
            file.seek(start)
            data = b"".join(iter(lambda end=end: file.read(end - file.tell()), b""))  # type: ignore[misc]
            data = data[data.find(b"\n") + 1 if start else 0 :]
            yield data if end == size else data[: data.rfind(b"\n") + 1]

    def beginning(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """Yield as much of the text as the budget allows, up to the end of a line if there is one."""
        for block in blocks:
            if self._is_entered:
                yield block
                continue
            if len(block.utf8) > self.budget:
                text = block.utf8[: self.budget].decode("utf-8", "ignore")
                yield Block.of(text[: text.rfind("\n") + 1 or None])
                self.budget, self.cut = 0, True
                return
            self.budget -= len(block.utf8)
            yield block


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A member of an archive, which stays open as long as this is in use."""

    size: int  # in bytes, decompressed
    open: Callable[[], IO[bytes]]
    within: object


class ByteStream:
    """A file, standard input or a member of an archive, read once from its beginning.

    Known once `pieces` has begun: `compression` (None if it is not compressed) and `is_plain` (whether an
    offset in the pieces is one in the file).
    """

    def __init__(
        self,
        path: str,
        label: str,
        *,
        member: Opened | None = None,
        watch: Callable[[int], None] = lambda n_bytes: None,
        excerpt: Excerpt | None = None,
    ) -> None:
        """`member`: what is read in place of the file at `path`. `excerpt` limits what is read.

        `watch` is called with the size of each piece read, before decompression.
        """
        self._path, self._label, self._watch, self._excerpt = path, label, watch, excerpt
        self._member = member
        self.size: int | None = None
        self.compression: str | None = None
        self.is_plain = False

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes, decompressed. Raises TextError for what is missing, unreadable, changing or damaged."""
        raw = self.raw_pieces()
        first = next(raw, b"")
        pieces: Iterator[bytes] = chain([first], raw)
        self.compression = compression_of(first)
        if self.compression is not None:
            pieces = decompress(self.compression, pieces, self._label, self.size)
        elif self._path != STDIN and self._member is None:
            self.is_plain = self._excerpt is None or self._excerpt.spans is None
        return pieces

    def raw_pieces(self) -> Generator[bytes, None, None]:
        """Yield the bytes as they are stored. Raises TextError for what is missing, unreadable or changing."""
        if self._member is not None:
            return self._from_archive(self._member)
        return self._from_stdin() if self._path == STDIN else self._from_file()

    def _from_archive(self, member: Opened) -> Generator[bytes, None, None]:
        self.size = member.size
        try:
            with member.open() as file:
                while piece := file.read(PIECE):
                    self._watch(len(piece))
                    yield piece
        except Exception as error:  # noqa: BLE001  whatever zipfile, tarfile and their decompressors raise for damage
            raise TextError(
                f"{self._label} cannot be read from its archive: {error or type(error).__name__}"
            ) from None

    def _from_file(self) -> Generator[bytes, None, None]:
        label = self._label
        try:
            special = special_kind(os.stat(self._path))  # before opening, which a named pipe would block
            if special:
                raise TextError(f"{label} is {special}, not a regular file; give a file, or - to read a pipe")
            with open(self._path, "rb", buffering=0) as file:
                before = os.fstat(file.fileno())
                self.size = before.st_size
                whole = iter(lambda: file.read(PIECE), b"")
                for piece in self._excerpt.of_file(cast(BinaryIO, file)) if self._excerpt else whole:
                    self._watch(len(piece))
                    yield piece
                after = os.fstat(file.fileno())
        except (OSError, ValueError) as error:
            raise read_error(label, error) from error
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise changed(label)

    def _from_stdin(self) -> Generator[bytes, None, None]:
        stream = getattr(sys.stdin, "buffer", None)
        if stream is None:
            raise TextError("standard input is closed; give a file, or connect a pipe")
        if _is_device(stream):
            raise TextError("standard input is a device, not a text; give a file, or connect a pipe")
        try:
            while piece := stream.read(PIECE):
                self._watch(len(piece))
                yield piece
        except (OSError, ValueError) as error:
            raise read_error("standard input", error) from error


def read_bytes(path: str, label: str, magic: bytes = b"") -> bytes:
    """Return all bytes of a regular file or, for `-`, of standard input, as they are stored.

    Of a file that does not begin with `magic`, only the first piece is read. Raises TextError for what
    cannot be read, ResourceError when memory is too small.
    """
    pieces = ByteStream(path, label).raw_pieces()
    first = next(pieces, b"")
    if not first.startswith(magic):
        return first
    try:
        return b"".join([first, *pieces])
    except MemoryError:
        raise too_large(label) from None


def label_of(path: str) -> str:
    """A file's name as shown to the user."""
    return "standard input" if path == STDIN else one_line(path)


def special_kind(status: os.stat_result) -> str | None:
    """Describe a file that is not a regular one, such as "a device"; None for a regular file."""
    if stat.S_ISREG(status.st_mode):
        return None
    return _SPECIAL.get(stat.S_IFMT(status.st_mode), "a special file")


def read_error(label: str, error: OSError | ValueError) -> TextError:
    """The TextError to raise when the operating system cannot read a file."""
    address = None if isinstance(error, PermissionError) else address_advice(label)
    if address is not None:
        return TextError(address)
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return TextError(f"{label} does not exist; check its name and the folder you are in")
    if isinstance(error, PermissionError):
        return TextError(f"{label} cannot be read: permission denied; change its permissions or give a copy")
    reason = getattr(error, "strerror", None) or error
    return TextError(f"{label} cannot be read: {reason}; check the name, or give another file")


def changed(label: str) -> TextError:
    """The TextError to raise when a file changes while it is read."""
    return TextError(f"{label} changed while it was read; wait until nothing writes to it, or give a copy")


def too_large(label: str) -> ResourceError:
    """The ResourceError to raise when a file does not fit into memory."""
    return ResourceError(
        f"{label} does not fit into memory; give a smaller file, or use a machine with more memory"
    )


def _is_device(stream: BinaryIO) -> bool:
    """Whether it is a device other than a terminal; most of those never end."""
    try:
        return stat.S_ISCHR(os.fstat(stream.fileno()).st_mode) and not stream.isatty()
    except (AttributeError, OSError, ValueError):  # not a stream of the operating system
        return False


def decompress(kind: str, pieces: Iterable[bytes], label: str, size: int | None = None) -> Iterator[bytes]:
    """Yield the decompressed bytes, of one compressed stream or several one after another.

    `label` names the text in errors; `size` is the compressed size in bytes, if known. Raises TextError for
    data that is cut short or damaged, for a zip bomb, and if this Python lacks the library.
    """
    taken = produced = 0
    try:
        start, failure = _library(kind)
    except ImportError:
        raise TextError(
            f"{label} is compressed with {kind}, which this Python was built without; decompress it first"
        ) from None
    stream: _Decompressor | None = None
    try:
        for piece in pieces:
            taken, rest = taken + len(piece), piece
            while stream or rest:
                if stream is None:
                    rest = rest.lstrip(b"\0")  # padding between streams
                    if not rest:
                        break
                    stream = start()
                out = stream.decompress(rest, PIECE)
                produced, rest = produced + len(out), b""
                if produced > max(EXPANDS_SAFELY, MOST_EXPANSION * (size or taken)):
                    raise TextError(
                        f"{label} expands to more than {MOST_EXPANSION} times its {size or taken:,} bytes, which "
                        "ordinary text never does; if you trust it, decompress it yourself and give the result"
                    )
                if out:
                    yield out
                if stream.eof:
                    rest, stream = stream.unused_data, None
                elif stream.needs_input:
                    break
    except (EOFError, OSError, ValueError, failure) as cause:
        raise TextError(
            f"{label} is damaged: its {kind} data cannot be decompressed ({cause}); get the file again"
        ) from cause
    if stream is not None:
        raise TextError(f"{label} is cut short: its {kind} data ends too early; get the whole file again")


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Gunzip:
    """zlib's decompressor of gzip streams, with the interface of those of bz2 and xz."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail + data, max_length)


def _library(kind: str) -> tuple[Callable[[], _Decompressor], type[Exception]]:
    """Return the decompressor of a format and the error it raises for damage. Raises ImportError where it is missing."""
    if kind == "gzip":
        return _Gunzip, zlib.error
    if kind == "bz2":
        return importlib.import_module("bz2").BZ2Decompressor, OSError
    if kind == "xz":
        lzma = importlib.import_module("lzma")
        return lzma.LZMADecompressor, lzma.LZMAError
    try:
        zstd = importlib.import_module("compression.zstd")
    except ImportError:  # before Python 3.14
        zstd = importlib.import_module("backports.zstd")
    return zstd.ZstdDecompressor, zstd.ZstdError
