"""Files in zip and tar archives are read as those of the unpacked folder; hostile archives are one sentence."""

import bz2
import gzip
import io
import lzma
import os
import random
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from charlm.data.load import load
from charlm.data.reader import read_texts
from charlm.data.text_config import TextConfig
from charlm.errors import CharlmError, TextError
from tests.conftest import Result
from tests.reading import write

FILES = {
    "poem10.txt": b"ten little ducks\n" * 20,
    "poem2.txt": b"two little ducks, no newline",
    "sub/three.txt.gz": gzip.compress(b"three little ducks\n" * 20, mtime=0),
    "notes.md": b"# notes\n",
    ".hidden.txt": b"hidden\n",
    "__MACOSX/poem2.txt": b"clutter\n",
    "cover.png": b"\x89PNG\r\n\x1a\n\0\0",
    "inner.zip": b"PK\x03\x04 an archive",
}
PACKED = {"tar": bytes, "tar.gz": gzip.compress, "tar.xz": lzma.compress, "tar.bz2": bz2.compress}


@pytest.fixture(autouse=True)
def _elsewhere(elsewhere: Path) -> None: ...


def zipped(contents: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return file.getvalue()


def tarred(contents: dict[str, bytes], *others: tarfile.TarInfo) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for other in others:
            archive.addfile(other)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["zip", *PACKED])
@pytest.mark.parametrize(
    "settings",
    [{}, {"documents": "file"}, {"include": ("*.txt", "*.gz")}, {"exclude": ("sub", "*.md")}],
    ids=str,
)
def test_an_archive_is_read_as_its_unpacked_folder(kind: str, settings: dict[str, object]) -> None:
    contents = dict(reversed(FILES.items()))  # their order in the archive does not matter
    write(f"a.{kind}", zipped(contents) if kind == "zip" else PACKED[kind](tarred(contents)))
    for name, data in FILES.items():
        write(f"a/{name}", data)
    config = TextConfig(**settings)  # type: ignore[arg-type]
    packed, folder = load([f"a.{kind}"], config), load(["a"], config)
    assert packed.corpus.sha256 == folder.corpus.sha256
    assert packed.corpus.ends == folder.corpus.ends
    assert load([f"a.{kind}"], config).corpus.key == packed.corpus.key  # now from the cache
    if "include" not in settings:
        said = " ".join(packed.notes)
        assert "cover.png: a PNG image, not text; left out" in said
        assert "inner.zip: a ZIP archive, not text; left out" in said


def test_the_commands_read_archives(charlm: Callable[..., Result]) -> None:
    write("a.zip", zipped({"1.jsonl": b'{"text": "one duck"}\n' * 50, "2.txt": b"two ducks\n" * 50}))
    assert charlm("train", "a.zip", "--model", "ngram", "--include", "*.jsonl", "--field", "text").code == 0
    done = charlm("eval", "a.zip", "--json")
    assert done.code == 0 and "a.zip/1.jsonl" in done.out.replace("\\\\", "/") and "2.txt" not in done.out
    write("folder/a.zip", zipped({"1.txt": b"one duck\n" * 50}))
    write("folder/b.txt", b"two ducks\n" * 50)
    done = charlm("train", "folder", "--dry-run")
    assert done.code == 0 and "a ZIP archive, not text; left out" in done.err
    for words in (["folder/*"], ["folder", "--include", "*.zip"], ["folder/a.zip"]):
        done = charlm("train", *words, "--dry-run")
        assert done.code == 0 and "a.zip: a ZIP" not in done.err, words
    done = charlm("train", "a.zip", "--include", "*.md", "--dry-run")
    assert done.code == 3 and "a.zip contains no file that matches --include *.md" in done.err


def link(name: str, kind: bytes, to: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


def test_names_that_lead_elsewhere_are_only_names() -> None:
    contents = {
        "../../up.txt": b"up\n",
        "/etc/abs.txt": b"abs\n",
        "a\x1b[2J\n.txt": b"odd\n",
        "C:\\x.txt": b"x\n",
    }
    write("a.zip", zipped(contents))
    write(
        "a.tar",
        tarred(
            contents,
            link("l.txt", tarfile.SYMTYPE, "/etc/passwd"),
            link("h.txt", tarfile.LNKTYPE, "/etc/passwd"),
            link("fifo", tarfile.FIFOTYPE, ""),
            link("device", tarfile.CHRTYPE, ""),
        ),
    )
    linked = zipfile.ZipInfo("l.txt")
    linked.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile("a.zip", "a") as archive:
        archive.writestr(linked, "/etc/passwd")
    before = sorted(os.listdir("."))
    for name in ("a.zip", "a.tar"):
        read = read_texts([name], TextConfig())
        assert sorted(text for _, text in read.files) == ["abs\n", "odd\n", "up\n", "x\n"]
        assert "a link or a special file, left out" in " ".join(read.notes)
        assert "\x1b" not in " ".join(read.notes)
    assert sorted(os.listdir(".")) == before


def lying_zip() -> bytes:
    """A member of zeros that says it is small."""
    data = zipped({"a.txt": b"a" * 30_000_000})
    return data.replace((30_000_000).to_bytes(4, "little"), (30_000).to_bytes(4, "little"))


def overlapping_zip() -> bytes:
    """A thousand entries of the same data."""
    data = zipped({"a.txt": b"a" * 900_000})
    at, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entries = b"".join(data[at:end].replace(b"a.txt", f"{i:05}".encode()) for i in range(1000))
    count, size = (1000).to_bytes(2, "little"), len(entries).to_bytes(4, "little")
    return data[:at] + entries + data[end : end + 8] + count * 2 + size + data[end + 16 :]


def sparse_tar() -> bytes:
    """A header that claims a terabyte."""
    info = tarfile.TarInfo("a.txt")
    info.size = 1 << 40
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(10240)


def long_header() -> bytes:
    """A header that claims a name of gigabytes."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 32
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(10240)


def encrypted_zip() -> bytes:
    data = bytearray(zipped({"a.txt": b"a duck\n" * 90}))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.zip", lying_zip, "a.txt cannot be read from its archive"),
        ("a.zip", overlapping_zip, "expands to 900,000,000 bytes, more than 200 times"),
        ("a.tar", sparse_tar, "expands to 1,099,511,627,776 bytes|damaged archive"),
        ("a.tar", long_header, "damaged archive"),
        ("a.tar.gz", lambda: gzip.compress(tarred({"a.txt": bytes(30_000_000)})), "more than 200 times"),
        ("a.tar.gz", lambda: gzip.compress(tarred(FILES))[:-40], "cut short|damaged"),
        ("a.zip", encrypted_zip, "a.txt cannot be read from its archive: it is encrypted"),
        ("a.zip", lambda: zipped(FILES)[:-30], "damaged archive"),
        ("a.zip", lambda: zipped({}), "contains no files"),
        ("a.zip", lambda: zipped({"a.png": FILES["cover.png"]}), "contains no text"),
        ("a.zip", lambda: zipped({"word/document.xml": b"<x/>"}), "a Word document"),
    ],
)
def test_hostile_archives_are_one_sentence(name: str, data: Callable[[], bytes], said: str) -> None:
    write(name, data())
    with pytest.raises(TextError, match=said) as caught:
        load([name], TextConfig())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_a_damaged_archive_is_one_sentence_or_the_text(kind: str) -> None:
    contents = {f"{i}.txt": f"{i} little ducks\n".encode() * 9 for i in range(4)}
    whole = zipped(contents) if kind == "zip" else tarred(contents)
    rng, refused = random.Random(1), 0
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        write("a", bytes(damaged))
        try:
            read_texts(["a"], TextConfig())
        except CharlmError as error:
            refused += 1
            assert "Traceback" not in str(error)
    assert refused > 2


def test_ten_thousand_members_are_read() -> None:
    write("a.zip", zipped({f"{i}.txt": b"a duck\n" for i in range(10_000)}, zipfile.ZIP_STORED))
    assert len(read_texts(["a.zip"], TextConfig()).files) == 10_000
