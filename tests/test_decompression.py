"""Compressed text is read whole, or refused: never a part of it."""

import bz2
import contextlib
import gzip
import importlib
import lzma
import os
import sys
from collections.abc import Callable

import pytest

from charlm.errors import TextError
from tests.reading import piped, refused

zstd = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
FRENCH = "Le café était naïve, où l'été dernier nous avons mangé des crêpes.\n"
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1}),
}


pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.mark.parametrize("kind", COMPRESS)
def test_compressed_text_is_read_and_noted(kind: str) -> None:
    read = piped(COMPRESS[kind](FRENCH.encode()))
    assert read.joined == FRENCH
    assert read.notes == (f"Standard input: decompressed from {kind}.",)


@pytest.mark.parametrize("kind", COMPRESS)
def test_streams_one_after_another_are_one_text(kind: str) -> None:
    first, second = os.urandom(300_000).hex(), FRENCH
    data = COMPRESS[kind](first.encode()) + COMPRESS[kind](second.encode())
    assert piped(data + bytes(8)).joined == first + second


@pytest.mark.parametrize("kind", COMPRESS)
def test_every_truncation_is_refused(kind: str) -> None:
    data = COMPRESS[kind](FRENCH.encode())
    for end in range(11, len(data)):
        refused(data[:end], "t is cut short", kind)


@pytest.mark.parametrize("kind", COMPRESS)
def test_flipped_bytes_never_pass_for_the_text(kind: str) -> None:
    data = bytearray(COMPRESS[kind](FRENCH.encode()))
    for at in range(10, len(data)):
        data[at] ^= 0x55
        with contextlib.suppress(TextError):
            assert piped(bytes(data)).joined == FRENCH  # a header byte that means nothing
        data[at] ^= 0x55


def test_damage_is_named() -> None:
    data = bytearray(gzip.compress(FRENCH.encode()))
    data[-5] ^= 1  # the checksum
    refused(bytes(data), "t is damaged", "gzip", "incorrect data check")
    for pack in (bz2.compress, lzma.compress):
        refused(pack(b"good") + b"no stream", "t is damaged")


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_bomb_is_refused_before_it_bursts(kind: str) -> None:
    refused(COMPRESS[kind](bytes(40_000_000)), "more than 200 times")


def test_what_expands_much_but_not_far_is_read() -> None:
    assert len(piped(gzip.compress(b"\n" * 9_000_000)).joined) == 9_000_000


def test_nested_compression_is_refused() -> None:
    refused(gzip.compress(bz2.compress(b"text")), "compressed more than once (bz2)")


def test_text_that_begins_like_a_magic_is_text() -> None:
    for text in ("BZh9 is a magic", "MZ is the mark of Mark Z.", "GIF89a is a format", "PK was"):
        assert piped(text.encode()).joined == text
