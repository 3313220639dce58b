"""One text is read exactly, or refused with what is wrong, where, and what to do."""

import bz2
import codecs
import contextlib
import errno
import gzip
import importlib
import io
import lzma
import os
import random
import sys
import zipfile
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.data.decoding import TextDecoder
from charlm.data.load import load
from charlm.data.text_config import TextConfig
from charlm.errors import ResourceError, TextError, UsageError
from tests.reading import decode, piped, read, refused, write

pytestmark = pytest.mark.usefixtures("elsewhere")

FRENCH = "Le café était naïve, où l'été dernier nous avons mangé des crêpes.\n"
RUSSIAN = "Привет, мир! Это небольшой текст на русском языке.\n"
POLISH = "Zażółć gęślą jaźń, proszę państwa. Łódź jest piękna.\n"
JAPANESE = "これは日本語のテキストです。文字コードを推測します。\n"
SURROGATELESS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"))


@given(st.text(st.sampled_from("\r\n ax\u2028\x85\x0b\x0c"), min_size=1))
def test_every_kind_of_newline_is_kept(text: str) -> None:
    assert piped(text.encode()).joined == text


def test_odd_texts_are_read() -> None:
    for text in (
        "a",
        " \n\t",
        "👩‍👩‍👧 e\u0301",
        "שלום עالم",
        "\n" * 1_000_000,
        "字" * 5000,
        "x" * 20_000_000,
    ):
        assert piped(text.encode()).joined == text
    for text in ("BZh9 is a magic", "MZ is the mark of Mark Z.", "GIF89a is a format", "PK was"):
        assert piped(text.encode()).joined == text


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("a\nb\n", None),
        ("a\r\nb\r\n", "Lines end in CRLF (2); kept"),
        ("a\rb", "Lines end in CR (1); kept"),
        ("a\nb\r\nc\r\r\n", "Lines end in LF (1) and CRLF (2) and CR (1); kept"),
        ("poem\0poem and more", "NUL characters (U+0000) in the text: 1"),
        (" \n ", "only white space"),
        ("was \ufffd here", "U+FFFD"),
    ],
)
def test_what_is_said_of_a_text(text: str, note: str | None) -> None:
    notes = load([write("t", text)], TextConfig(val=0.0)).notes
    assert len(notes) == (note is not None)
    assert note is None or note in notes[0]


def test_several_files_are_joined_in_order_and_their_lines_stay_apart() -> None:
    names = [write("b", "one"), write("a", "\r\ntwo")]
    texts = read([*names, "-"], stdin=io.BytesIO(b"three"))
    assert texts.joined == "one\n\r\ntwo\r\nthree"
    assert [name for name, _ in texts.files] == ["b", "a", "-"]


def test_an_empty_file_among_others_is_noted_once_for_all() -> None:
    for name in "abcd":
        write(f"poems/{name}", "" if name < "d" else "text")
    assert read(["poems"]).notes == (f"{os.path.join('poems', 'a')} and 2 more: empty.",)


@pytest.mark.parametrize("data", [b"", codecs.BOM_UTF8, gzip.compress(b"", mtime=0)])
def test_nothing_is_refused(data: bytes) -> None:
    with pytest.raises(TextError, match="t is empty: 0 characters"):
        read([write("t", data)])
    with pytest.raises(TextError, match="standard input is empty"):
        piped(data)
    with pytest.raises(TextError, match="2 files are empty: 0 characters"):
        read(["t", write("u", data)])


def test_memory_that_ends_is_a_resource_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(TextDecoder, "blocks", full)
    with pytest.raises(ResourceError, match="t does not fit into memory"):
        read([write("t", "text")])


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "no"), OSError(errno.EIO, "I/O")])
def test_errors_of_the_system_keep_their_reason(monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    write("t", "text")
    monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(TextError, match=r"permission denied|t cannot be read: I/O"):
        read(["t"])


@pytest.mark.parametrize("change", ["grow", "touch"])
def test_a_file_that_changes_while_it_is_read(monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    write("t", "text")
    real, calls = os.fstat, []

    def fstat(descriptor: int) -> os.stat_result:
        calls.append(descriptor)
        if len(calls) == 2 and change == "grow":
            with open("t", "ab", buffering=0) as file:
                file.write(b"more")
            os.utime("t", ns=(0, first.st_mtime_ns))
        elif len(calls) == 2:
            os.utime("t", ns=(0, first.st_mtime_ns + 1_000_000_000))
        return real(descriptor)

    first = os.stat("t")
    monkeypatch.setattr(os, "fstat", fstat)
    with pytest.raises(TextError, match="t changed while it was read"):
        read(["t"])


def test_standard_input_that_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(TextError, match="standard input is closed"):
        read(["-"])
    closed = io.BytesIO()
    closed.close()
    with pytest.raises(TextError, match=r"standard input cannot be read: .*closed"):
        read(["-"], stdin=closed)


@given(SURROGATELESS)
def test_utf8_is_read_exactly(text: str) -> None:
    if text:
        assert piped(text.encode(), "utf-8").joined == text
        assert decode(text.encode(), "utf-8") == (text, [])


@pytest.mark.parametrize(
    ("codec", "mark"),
    [
        ("utf-8", codecs.BOM_UTF8),
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-32-le", codecs.BOM_UTF32_LE),
        ("utf-32-be", codecs.BOM_UTF32_BE),
    ],
)
@pytest.mark.parametrize("named", [False, True])
def test_a_byte_order_mark_is_obeyed_dropped_and_noted(codec: str, mark: bytes, named: bool) -> None:
    texts = piped(mark + RUSSIAN.encode(codec), codec if named else None)
    assert texts.joined == RUSSIAN
    assert any("byte-order mark was dropped" in note for note in texts.notes)


def test_only_the_first_mark_is_dropped() -> None:
    assert piped("\ufeff\ufeffa".encode()).joined == "\ufeffa"


def test_a_mark_that_the_option_contradicts_is_noted() -> None:
    texts = piped(codecs.BOM_UTF8 + b"abc", "cp1252")
    assert texts.joined == "ï»¿abc"
    assert "mark of utf-8, but was read as cp1252" in texts.notes[0]


def test_a_named_encoding_is_used() -> None:
    for encoding in ("cp1251", "koi8-r", "UTF-16-LE", "utf_32", "iso8859-5", "utf-16", "utf-7", "utf-8-sig"):
        assert piped(RUSSIAN.encode(encoding), encoding).joined == RUSSIAN
    assert piped(RUSSIAN.encode("utf-16")[2:], "utf-16").joined == RUSSIAN


def zipped(member: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, "text")
    return data.getvalue()


EPUB = zipped("mimetype").replace(b"mimetype", b"mimetypeapplication/epub+zip", 1)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG image"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG image"),
        (b"GIF89a\x0a\x00\x0a\x00\x80", "a GIF image"),
        (b"\x7fELF\x02\x01\x01\0", "a program (ELF)"),
        (b"MZ\x90\0\x03\0\0\0\x04", "a Windows program"),
        (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"),
        (b"SQLite format 3\0\x10\0", "an SQLite database"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0", "an old Office document"),
        (zipped("word/document.xml"), "a Word document (docx)"),
        (zipped("xl/workbook.xml"), "an Excel workbook (xlsx)"),
        (EPUB, "an e-book (epub)"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "an archive"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_formats_are_named(data: bytes, what: str) -> None:
    refused(data, f"t is {what}, not text; ")
    refused(data, f"t is {what}, not text; ", encoding="latin-1")


@pytest.mark.parametrize(
    ("text", "encoding", "guess"),
    [
        (FRENCH * 500, "cp1252", "cp1252"),
        (RUSSIAN, "koi8-r", "koi8_r"),
        (POLISH, "cp1250", "cp1250"),
        (JAPANESE, "shift_jis", "cp932"),
    ],
)
def test_invalid_utf8_names_place_guess_and_option(text: str, encoding: str, guess: str) -> None:
    data = text.encode(encoding)
    refused(data, "not valid UTF-8 at byte offset", f"add --encoding {guess};")
    assert read(["t"], encoding=guess).joined == text


@given(SURROGATELESS, st.sampled_from([b"\xff", b"\xc0", b"\x80", b"\xed\xa0\x80"]))
def test_the_offset_and_line_are_where_the_first_bad_byte_stands(text: str, bad: bytes) -> None:
    before = ("text: " + text).encode()
    line = len(("x" + text).replace("\r\n", "\n").replace("\r", "\n").split("\n"))
    with pytest.raises(TextError, match=f"offset {len(before)}, line {line} "):
        piped(before + bad + b"\nmore\n")


def test_the_hex_window_marks_the_bad_bytes() -> None:
    refused(b"one\ncaf\xe9 au lait", "offset 7, line 2", "6f 6e 65 0a 63 61 66 [e9] 20 61 75 20")
    refused(b"\xff", "offset 0, line 1 (in hex: [ff])")


def test_damage_within_utf8_is_not_taken_for_another_encoding() -> None:
    refused(FRENCH.encode() + b"\xc3(\n", "valid UTF-8, so it is damaged there", "iconv")
    refused(JAPANESE.encode()[:-2], "damaged there")


def test_noise_gets_no_guess() -> None:
    noise = random.Random(1).randbytes(5000)
    refused(b"x\xff" + noise, "probably not text")
    refused(b"x\xff" + noise.replace(b"\0", b"\1"), "give a text file instead")


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_wide_text_without_a_mark_names_its_option(codec: str) -> None:
    for text in (FRENCH, RUSSIAN, RUSSIAN * 200, "hi"):
        refused(text.encode(codec), f"--encoding {codec},", "without a byte-order mark")
        assert read(["t"], encoding=codec).joined == text


def test_nul_characters_can_be_insisted_on() -> None:
    data = b"a\0b\0c\0d\0"
    refused(data, "--encoding utf-8 if its NUL characters are intended")
    assert piped(data, "utf-8").joined == "a\0b\0c\0d\0"
    assert piped(b"a\0\0b\0c").joined == "a\0\0b\0c"
    assert piped(bytes(8)).joined == "\0" * 8


def test_a_named_encoding_is_strict() -> None:
    refused(b"ab\x81", "not valid CP1252 at byte offset 2, line 1", encoding="cp1252")
    refused(FRENCH.encode(), "it is valid UTF-8: leave --encoding out", encoding="ascii")
    refused("abc".encode("utf-16"), "leave --encoding out", encoding="UTF8")
    refused(codecs.BOM_UTF16_LE + b"a\0b", "offset 4", "cut short or damaged")
    refused("\ud800".encode("utf-16-le", "surrogatepass"), "offset 0", encoding="utf-16-le")


@pytest.mark.parametrize(
    ("data", "encoding", "offset"), [(b"ab+2AA-", "utf-7", 2), (rb"x\ud800", "unicode_escape", 1)]
)
def test_lone_surrogates_are_refused(data: bytes, encoding: str, offset: int) -> None:
    refused(data, "surrogate U+D800", f"character offset {offset},", encoding=encoding)


@pytest.mark.parametrize(
    "name", ["uft-8", "rot13", "base64", "hex", "zlib", "undefined", "", "a\0b", "\ud800", "x" * 999]
)
def test_what_is_no_text_encoding_is_a_usage_error(name: str) -> None:
    refused(b"text", "is not a text encoding", encoding=name, kind=UsageError)


def test_a_mistyped_encoding_gets_a_suggestion() -> None:
    refused(b"text", "did you mean utf-8?", encoding="utf8-8", kind=UsageError)


zstd = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1}),
}


@pytest.mark.parametrize("kind", COMPRESS)
def test_compressed_text_is_read_and_noted(kind: str) -> None:
    read = piped(COMPRESS[kind](FRENCH.encode()))
    assert read.joined == FRENCH
    assert read.notes == (f"standard input: decompressed from {kind}.",)


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
