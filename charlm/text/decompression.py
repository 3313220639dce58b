"""Compressed bytes -> the bytes they stand for, within a bound."""

import io
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

from charlm.errors import TextError

_CHUNK = 1 << 20
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


def decompress(data: bytes, label: str) -> bytes:
    """Return `data` decompressed, or as it is when it is not compressed.

    `label` is its name as shown to the user. Raises TextError for data that is cut short or
    damaged, for what expands beyond all measure, and for zstd, which this version cannot read.
    """
    kind = compression(data)
    if kind is None:
        return data
    if kind == "zstd":
        raise TextError(
            f"{label} is compressed with zstd, which this version does not support."
            " Decompress it first, with unzstd."
        )
    try:
        return _bounded(_PIECES[kind](data), len(data), label)
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


def _bounded(pieces: Iterator[bytes], compressed: int, label: str) -> bytes:
    whole = io.BytesIO()
    for piece in pieces:
        size = whole.tell() + len(piece)
        if size > _HARMLESS and size > _RATIO * compressed:
            raise TextError(
                f"{label} expands to more than {_RATIO} times its {compressed:,} bytes, which no"
                " ordinary text does. Decompress it yourself if you trust it, and give the result."
            )
        whole.write(piece)
    return whole.getvalue()


def _gzip(data: bytes) -> Iterator[bytes]:
    import gzip

    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        while piece := file.read(_CHUNK):
            yield piece


def _bz2(data: bytes) -> Iterator[bytes]:
    import bz2

    yield from _streams(data, bz2.BZ2Decompressor)


def _xz(data: bytes) -> Iterator[bytes]:
    import lzma

    try:
        yield from _streams(data, lzma.LZMADecompressor)
    except lzma.LZMAError as error:  # a class that exists only where lzma was built
        raise ValueError(error) from error


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def _streams(data: bytes, start: Callable[[], _Decompressor]) -> Iterator[bytes]:
    # Not BZ2File or LZMAFile: they drop a damaged second stream without a word.
    at = 0
    while at < len(data):
        if data[at] == 0:  # padding between streams
            at += 1
            continue
        stream = start()
        while not stream.eof:
            piece = data[at : at + _FEED] if stream.needs_input else b""
            if stream.needs_input and not piece:
                raise EOFError
            at += len(piece)
            yield stream.decompress(piece, _CHUNK)
        at -= len(stream.unused_data)


_PIECES: dict[str, Callable[[bytes], Iterator[bytes]]] = {"gzip": _gzip, "bz2": _bz2, "xz": _xz}
