"""Whatever is named as a text is read once and exactly, or refused with a sentence that helps."""

import codecs
import errno
import gzip
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.config import TextConfig
from charlm.data import sources
from charlm.data.decoding import TextDecoder
from charlm.data.load import load
from charlm.data.sources import find_files
from charlm.errors import ResourceError, TextError
from tests.reading import piped, read, write

FRENCH = "Le café était naïve, où l'été dernier nous avons mangé des crêpes.\n"


pytestmark = pytest.mark.usefixtures("elsewhere")


@given(st.text(st.sampled_from("\r\n ax\u2028\x85\x0b\x0c"), min_size=1))
def test_every_kind_of_newline_is_kept(text: str) -> None:
    assert piped(text.encode()).joined == text


@pytest.mark.parametrize(
    "text",
    ["a", " \n\t", "aaaa", "👩‍👩‍👧 e\u0301", "שלום عالم", "\n" * 1_000_000, "字" * 5000],
    ids=["one", "white", "same", "joined", "rtl", "lines", "wide"],
)
def test_odd_texts_are_read(text: str) -> None:
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


def test_the_name_is_kept_as_the_user_gave_it() -> None:
    write("-", "dash")
    assert read(["./-"]).files[0][0] == "./-"
    assert find_files(["./-", "-"])[0] == ["./-", "-"]


def test_an_empty_file_among_others_is_noted_once_for_all() -> None:
    for name in "abcd":
        write(f"poems/{name}", "" if name < "d" else "text")
    assert read(["poems"]).notes == (f"{os.path.join('poems', 'a')} and 2 more: empty.",)


@pytest.mark.parametrize("data", [b"", codecs.BOM_UTF8, gzip.compress(b"", mtime=0)])
def test_nothing_is_refused(data: bytes) -> None:
    with pytest.raises(TextError, match="t is empty: 0 characters"):
        read([write("t", data)])
    with pytest.raises(TextError, match="Standard input is empty"):
        piped(data)


def test_several_empty_files_are_refused_together() -> None:
    with pytest.raises(TextError, match="2 files are empty: 0 characters"):
        read([write("a", ""), write("b", "")])


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
    with pytest.raises(TextError, match="Standard input is closed"):
        read(["-"])
    closed = io.BytesIO()
    closed.close()
    with pytest.raises(TextError, match=r"Standard input cannot be read: .*closed"):
        read(["-"], stdin=closed)


def test_a_megabyte_takes_milliseconds_and_one_long_line_is_no_trouble() -> None:
    write("t", FRENCH * 16_000)
    took = []
    for _ in range(5):
        start = time.perf_counter()
        read(["t"])
        took.append(time.perf_counter() - start)
    assert min(took) < 0.05
    assert len(piped(b"x" * 100_000_000).joined) == 100_000_000


def test_importing_it_loads_nothing_heavy() -> None:
    code = "import sys, charlm.data.sources; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(sources.__file__).parents[2])},
    )
    assert not {"numpy", "torch", "lzma"} & set(run.stdout.split())
