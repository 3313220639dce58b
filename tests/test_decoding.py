"""Bytes become exactly their characters, or a sentence says where and why not."""

import codecs
import gzip
import io
import random
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.errors import TextError, UsageError
from tests.reading import decode, piped, read, refused

FRENCH = "Le café était naïve, où l'été dernier nous avons mangé des crêpes.\n"
RUSSIAN = "Привет, мир! Это небольшой текст на русском языке.\n"
POLISH = "Zażółć gęślą jaźń, proszę państwa. Łódź jest piękna.\n"
JAPANESE = "これは日本語のテキストです。文字コードを推測します。\n"
SURROGATELESS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\ufeff"))


pytestmark = pytest.mark.usefixtures("elsewhere")


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


def test_codecs_that_take_their_own_mark_say_nothing_wrong() -> None:
    assert piped(RUSSIAN.encode("utf-16"), "utf-16").joined == RUSSIAN
    assert piped(RUSSIAN.encode("utf-16")[2:], "utf-16").joined == RUSSIAN


@pytest.mark.parametrize("encoding", ["cp1251", "koi8-r", "UTF-16-LE", "utf_32", "iso8859-5"])
def test_a_named_encoding_is_used(encoding: str) -> None:
    assert piped(RUSSIAN.encode(encoding), encoding).joined == RUSSIAN


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
        (zipped("a.txt"), "a ZIP archive"),
        (zipped("word/document.xml"), "a Word document (docx)"),
        (zipped("xl/workbook.xml"), "an Excel workbook (xlsx)"),
        (EPUB, "an e-book (epub)"),
        (gzip.compress(b"a.txt".ljust(257, b"\0") + b"ustar\x0000", mtime=0), "an archive"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_formats_are_named(data: bytes, what: str) -> None:
    refused(data, f"t is {what}, not text. ")
    refused(data, f"t is {what}, not text. ", encoding="latin-1")


@pytest.mark.parametrize(
    ("text", "encoding", "guess"),
    [
        (FRENCH, "latin-1", "cp1252"),
        (FRENCH * 500, "cp1252", "cp1252"),
        (
            "He said \u201chello\u201d \u2013 it\u2019s fine, all else is plain.\n",
            "cp1252",
            "cp1252",
        ),
        (RUSSIAN, "cp1251", "cp1251"),
        (RUSSIAN, "koi8-r", "koi8_r"),
        (POLISH, "cp1250", "cp1250"),
        (POLISH * 20, "cp1250", "cp1250"),
        (FRENCH, "mac_roman", "mac_roman"),
        ("café", "latin-1", "cp1252"),
        (JAPANESE, "shift_jis", "cp932"),
    ],
)
def test_invalid_utf8_names_place_guess_and_option(text: str, encoding: str, guess: str) -> None:
    data = text.encode(encoding)
    refused(data, "not valid UTF-8 at byte offset", f"add --encoding {guess}.")
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


@pytest.mark.parametrize("text", [FRENCH, RUSSIAN, RUSSIAN * 200, "hi"])
@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_wide_text_without_a_mark_names_its_option(text: str, codec: str) -> None:
    refused(text.encode(codec), f"--encoding {codec},", "without a byte-order mark")
    assert read(["t"], encoding=codec).joined == text


def test_nul_characters_can_be_insisted_on() -> None:
    data = b"a\0b\0c\0d\0"
    refused(data, "--encoding utf-8 if its NUL characters are meant")
    assert piped(data, "utf-8").joined == "a\0b\0c\0d\0"
    assert piped(b"a\0\0b\0c").joined == "a\0\0b\0c"
    assert piped(bytes(8)).joined == "\0" * 8


def test_a_named_encoding_is_strict() -> None:
    refused(b"ab\x81", "not valid CP1252 at byte offset 2, line 1", encoding="cp1252")
    refused(FRENCH.encode(), "It is valid UTF-8: leave --encoding out.", encoding="ascii")
    refused("abc".encode("utf-16"), "leave --encoding out", encoding="UTF8")
    refused(codecs.BOM_UTF16_LE + b"a\0b", "offset 4", "cut short or damaged")
    refused("\ud800".encode("utf-16-le", "surrogatepass"), "offset 0", encoding="utf-16-le")


@pytest.mark.parametrize(
    ("data", "encoding", "offset"),
    [(b"ab+2AA-", "utf-7", 2), (rb"x\ud800", "unicode_escape", 1)],
)
def test_lone_surrogates_are_refused(data: bytes, encoding: str, offset: int) -> None:
    refused(data, "surrogate U+D800", f"character offset {offset},", encoding=encoding)


@pytest.mark.parametrize(
    "name",
    ["uft-8", "rot13", "base64", "hex", "zlib", "undefined", "", "a\0b", "\ud800", "x" * 999],
)
def test_what_is_no_text_encoding_is_a_usage_error(name: str) -> None:
    refused(b"text", "is not a text encoding", encoding=name, kind=UsageError)


def test_a_mistyped_encoding_gets_a_suggestion() -> None:
    refused(b"text", "Did you mean utf-8?", encoding="utf8-8", kind=UsageError)
