"""Everything that may be named as a text: taken, or refused with a code, a sentence and nothing left behind."""

import codecs
import gzip
import io
import os
import random
import sys
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import pytest

from charlm.cli.main import run as main
from charlm.terminal import visible
from tests.conftest import TEXT

FRENCH = "Le café était naïve, où l'été dernier nous avons mangé des crêpes.\n" * 9
FAMILY = "👩\u200d👩\u200d👧 e\u0301 and more\n"


@dataclass
class Input:
    """A file of those bytes, or what makes it; what is said of it, and with which code."""

    data: bytes | Callable[[], object]
    says: str = ""
    code: int = 0
    words: tuple[str, ...] = ("text",)
    posix: bool = False


def zipped(*names: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in names:
            archive.writestr(name, "x" * 40)
    return data.getvalue()


def folder() -> None:
    Path("text").mkdir()
    for i in range(3):
        (Path("text") / f"{i}.txt").write_text(TEXT[:600])


def hollow() -> None:
    (Path("text") / "deep").mkdir(parents=True)


def unreadable() -> None:
    Path("text").write_text(TEXT)
    Path("text").chmod(0)


def named(name: str) -> Callable[[], object]:
    return lambda: Path(name).write_text(TEXT[:600])


def lines(n: int) -> bytes:
    return b"\n" * n


EVIL = "a\x1b[2J\nb\u202e"
INPUTS: dict[str, Input] = {
    "nothing": Input(b"", "empty: 0 characters", 3),
    "one character": Input(b"a", "1 character", 3),
    "two characters": Input(b"ab", "1 of them to train on", 3),
    "shorter than a block": Input(b"over the hills", "14 characters"),
    "only white space": Input(b" \n\t" * 99, "only white space"),
    "one character again and again": Input(b"a" * 999, "one character"),
    "NUL characters": Input(b"a poem\0and more of it, long enough\n" * 20, "NUL"),
    "a PNG": Input(b"\x89PNG\r\n\x1a\n" + bytes(90), "a PNG image", 3),
    "a docx": Input(zipped("word/document.xml"), "docx", 3),
    "latin-1": Input(FRENCH.encode("latin-1"), "add --encoding cp1252", 3),
    "latin-1, named": Input(FRENCH.encode("latin-1"), words=("text", "--encoding", "cp1252")),
    "damaged UTF-8": Input(FRENCH.encode() + b"\xc3(\n", "damaged there", 3),
    "noise": Input(b"\xff" + random.Random(1).randbytes(5000), "not valid UTF-8 at byte offset 0", 3),
    "UTF-8 with a mark": Input(codecs.BOM_UTF8 + FRENCH.encode(), "mark"),
    "UTF-16 with a mark": Input(codecs.BOM_UTF16_LE + FRENCH.encode("utf-16-le"), "mark"),
    "UTF-16 without": Input(FRENCH.encode("utf-16-le"), "--encoding utf-16-le", 3),
    "an encoding there is not": Input(FRENCH.encode(), "klingon", 2, ("text", "--encoding", "klingon")),
    "CRLF": Input(b"a line\r\n" * 60, "CRLF (60)"),
    "one long line": Input(b"over the hills and far away " * 300_000, "8,400,000 characters"),
    "emoji and marks": Input((FAMILY * 20).encode(), "characters"),
    "right to left": Input(("שלום עולם, مرحبا بالعالم\n" * 20).encode(), "characters"),
    "a vocabulary of 5,000": Input(
        "".join(chr(0x4E00 + i % 5000) for i in range(12_000)).encode(), "5000 distinct"
    ),
    "characters never trained on": Input((TEXT + "ЖЩЮ" * 90).encode(), "characters"),
    "escapes within": Input(("\x1b[2J\x9b\u202e evil\n" * 40).encode(), "characters"),
    "a folder": Input(folder, "1,802 characters"),
    "a folder of nothing": Input(hollow, "contains no files", 3),
    "a pattern": Input(folder, "1,802 characters", 0, ("text/*.txt",)),
    "the same twice": Input(TEXT.encode(), "given more than once", 0, ("text", "./text")),
    "nothing of that name": Input(TEXT.encode(), "does not exist", 3, ("lost.txt",)),
    "a name as long as a book": Input(TEXT.encode(), "cannot be read", 3, ("x" * 5000,)),
    "a name with a NUL": Input(TEXT.encode(), "null byte", 3, ("a\0b",)),
    "gzip": Input(gzip.compress(TEXT.encode()), "decompressed from gzip"),
    "gzip cut off": Input(gzip.compress(TEXT.encode())[:-9], "gzip", 3),
    "a bomb": Input(gzip.compress(bytes(50 << 20)), "more than 200 times", 3),
    "a loop of links": Input(lambda: os.symlink("text", "text"), "cannot be read", 3, posix=True),
    "a link to the text": Input(
        lambda: (Path("real").write_text(TEXT), os.symlink("real", "text")), "characters", posix=True
    ),
    "a pipe": Input(lambda: os.mkfifo("text"), "a named pipe, not a regular file", 3, posix=True),
    "a device": Input(b"", "a device, not a regular file", 3, ("/dev/zero",), posix=True),
    "no permission": Input(unreadable, "permission denied", 3, posix=True),
    "a name with controls": Input(named(EVIL), "600 characters", 0, (EVIL,), posix=True),
    "a name that is no UTF-8": Input(named("a\udcff"), "600 characters", 0, ("a\udcff",), posix=True),
    "an option that wants a folder": Input(TEXT.encode(), "--include", 2, ("text", "--include", "*.md")),
    "a field of no records": Input(
        TEXT.encode(), "has no records with a field x", 3, ("text", "--field", "x")
    ),
    "a separator without its option": Input(TEXT.encode(), "separator", 2, ("text", "--separator", "x")),
    "documents that never end": Input(
        TEXT.encode(), "no document ends", 3, ("text", "--documents", "separator", "--separator", "Ж")
    ),
    "all of it held out": Input(TEXT.encode(), "--val is 1.0; allowed", 2, ("text", "--val", "1")),
    "a held-out text that is missing": Input(
        TEXT.encode(), "lost.txt", 3, ("text", "--val-file", "lost.txt")
    ),
}


def _bound(bound: bool) -> AbstractContextManager[None]:
    """Permissions bind root too."""
    if not bound:
        return nullcontext()
    from tests.forks import permissions_bind  # here: on Windows nothing can be forked

    return permissions_bind()


@pytest.mark.parametrize("name", INPUTS)
def test_it_is_taken_or_refused_in_words(
    name: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    case = INPUTS[name]
    if case.posix and os.name == "nt":
        pytest.skip("files of POSIX")
    monkeypatch.setenv("CHARLM_CACHE", str(elsewhere.parent / f"cache-{elsewhere.name}"))
    Path("text").write_bytes(case.data) if isinstance(case.data, bytes) else case.data()
    before = sorted(os.listdir())
    monkeypatch.setattr(sys, "argv", ["charlm", "train", *case.words, "--steps", "1", "--dry-run"])
    with _bound(name == "no permission"):
        code = main(perf_counter())
    out, err = capfd.readouterr()
    assert (code, bool(out)) == (case.code, case.code == 0), err
    assert case.says in err, err
    assert "Traceback" not in err and "a bug in charlm" not in err and visible(err) == err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == (case.code != 0)
    assert sorted(os.listdir()) == before, "nothing is left behind"
