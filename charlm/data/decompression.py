"""Compressed bytes -> the bytes they stand for, piece by piece, within a bound."""

import importlib
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

from charlm.errors import TextError

_CHUNK = 1 << 19
_FEED = 1 << 16
# A text of one repeated character reaches a ratio of 1,000; below 10 MB it does no harm.
_HARMLESS = 10_000_000
_RATIO = 200

_MAGIC = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\x00": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_BZ2_STARTS = (b"1AY&SY", b"\x17rE8P\x90")  # the first block, or none; "BZh9" alone could be text


def compression(data: bytes) -> str | None:
    """The compression that `data` begins with: gzip, bz2, xz, zstd or None. Raises nothing."""
    if data[:3] == b"BZh" and data[4:10] in _BZ2_STARTS:
        return "bz2"
    return next((kind for magic, kind in _MAGIC.items() if data.startswith(magic)), None)


def decompress(kind: str, pieces: Iterator[bytes], label: str, size: int | None = None) -> Iterator[bytes]:
    """Yield what compressed `pieces` stand for, none of it before it is known to be harmless.

    `label` is the text's name as shown to the user, `size` the bytes of all pieces where that is
    known. Raises TextError for data that is cut short or damaged, for what expands beyond all
    measure, and where this Python lacks the library.
    """
    file = _Joined(pieces)
    whole = 0
    try:
        for piece in _PIECES[kind](file):
            whole += len(piece)
            _refuse_bomb(whole, size or file.taken, label)
            yield piece
    except EOFError:
        raise TextError(
            f"{label} is cut short: its {kind} data ends too early. Get the whole file again."
        ) from None
    except ImportError:
        raise TextError(
            f"{label} is compressed with {kind}, which this Python was built without. Decompress it first."
        ) from None
    except (OSError, ValueError, zlib.error) as cause:
        raise TextError(
            f"{label} is damaged: its {kind} data cannot be decompressed ({cause}). Get the file again."
        ) from cause


def _refuse_bomb(whole: int, compressed: int, label: str) -> None:
    if whole > _HARMLESS and whole > _RATIO * compressed:
        raise TextError(
            f"{label} expands to more than {_RATIO} times its {compressed:,} bytes, which no"
            " ordinary text does. Decompress it yourself if you trust it, and give the result."
        )


class _Joined:
    """Pieces as a file that is read in portions."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest, self.taken = pieces, b"", 0

    def read(self, size: int) -> bytes:
        """At most `size` bytes; none at the end only."""
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self.taken += len(piece)
            self._rest = piece
        give, self._rest = self._rest[:size], self._rest[size:]
        return give


def _gzip(file: _Joined) -> Iterator[bytes]:
    import gzip

    with gzip.GzipFile(fileobj=file, mode="rb") as opened:  # type: ignore[call-overload]
        while piece := opened.read(_CHUNK):
            yield piece


def _bz2(file: _Joined) -> Iterator[bytes]:
    import bz2

    yield from _streams(file, bz2.BZ2Decompressor)


def _xz(file: _Joined) -> Iterator[bytes]:
    import lzma

    try:
        yield from _streams(file, lzma.LZMADecompressor)
    except lzma.LZMAError as error:  # a class that exists only where lzma was built
        raise ValueError(error) from error


def _zstd(file: _Joined) -> Iterator[bytes]:
    try:
        zstd = importlib.import_module("compression.zstd")
    except ImportError:  # before Python 3.14
        zstd = importlib.import_module("backports.zstd")
    try:
        yield from _streams(file, zstd.ZstdDecompressor)
    except zstd.ZstdError as error:
        raise ValueError(error) from error


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def _streams(file: _Joined, start: Callable[[], _Decompressor]) -> Iterator[bytes]:
    # Not BZ2File or LZMAFile: they drop a damaged second stream without a word.
    piece = file.read(_FEED)
    while piece:
        piece = piece.lstrip(b"\0") or file.read(_FEED)  # padding between streams
        if not piece or piece[0] == 0:
            continue
        stream = start()
        while not stream.eof:
            if stream.needs_input:
                piece = piece or file.read(_FEED)
                if not piece:
                    raise EOFError
                yield stream.decompress(piece, _CHUNK)
                piece = b""
            else:
                yield stream.decompress(b"", _CHUNK)
        piece = stream.unused_data or file.read(_FEED)


_PIECES: dict[str, Callable[[_Joined], Iterator[bytes]]] = {
    "gzip": _gzip,
    "bz2": _bz2,
    "xz": _xz,
    "zstd": _zstd,
}
