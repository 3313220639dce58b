"""The text of `charlm train`: where it is read from, how it is cleaned and divided, and its vocabulary."""

import bz2
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.training.conftest import TEXT, Charlm, Result, tiny

HALF = len(TEXT) // 2


def read(charlm: Charlm, *words: str, code: int = 0, stdin: str | bytes | None = None) -> Result:
    """Train one step on it."""
    result = charlm("train", *words, "--run", "r", "--steps", "1", "--json", *tiny(), stdin=stdin)
    assert result.code == code, result.err
    return result


def corpus(result: Result) -> dict[str, Any]:
    """What the first row says of the text."""
    facts = result.of("begun")[0]["corpus"]
    assert isinstance(facts, dict)
    return facts


def symbols() -> dict[str, int]:
    """The characters of the run's vocabulary, each with its count."""
    vocabulary = json.loads(Path("checkpoints/r/vocabulary.json").read_text("utf-8"))
    return dict(zip(vocabulary["chars"], vocabulary["counts"], strict=False))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> dict[str, Any]:
    """The text read as it is."""
    return corpus(read(Charlm(tmp_path_factory.mktemp("plain"), cache), "ducks.txt"))


def _zipped(data: bytes) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as file:
        file.writestr("ducks.txt", data)
    return whole.getvalue()


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("ducks.txt.gz", gzip.compress),
        ("ducks.txt.bz2", bz2.compress),
        ("ducks.txt.xz", lzma.compress),
        ("utf16.txt", lambda data: data.decode().encode("utf-16")),
        ("mark.txt", lambda data: b"\xef\xbb\xbf" + data),
    ],
)
def test_a_packed_or_marked_file_is_read_as_the_text_in_it(
    charlm: Charlm, plain: dict[str, Any], name: str, pack: Callable[[bytes], bytes]
) -> None:
    Path(name).write_bytes(pack(TEXT.encode()))
    assert corpus(read(charlm, name))["sha256"] == plain["sha256"]


def test_standard_input_is_read(charlm: Charlm, plain: dict[str, Any]) -> None:
    facts = corpus(read(charlm, "-", stdin=TEXT))
    assert (facts["sha256"], facts["sources"]) == (plain["sha256"], ["-"])
    assert charlm("resume", "r", "--steps", "1").code == 0, "its text is in the cache"


def test_folders_globs_and_several_files_are_joined(charlm: Charlm) -> None:
    for name in ("books/a.txt", "books/deep/b.txt", "books/c.md", "books/deep/draft.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(TEXT.encode())
    lengths = {
        "folder": ["books"],
        "include": ["books", "--include", "*.txt"],
        "exclude": ["books", "--exclude", "*.md", "--exclude", "draft*"],
        "glob": ["books/*.txt"],
        "files": ["books/a.txt", "ducks.txt"],
    }
    found = {}
    for name, words in lengths.items():
        result = charlm("train", *words, "--run", name, "--steps", "1", "--json", *tiny())
        assert result.code == 0, result.err
        found[name] = round(corpus(result)["chars"] / len(TEXT), 1)
    assert found == {"folder": 4, "include": 3, "exclude": 2, "glob": 1, "files": 2}


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (
            "r.jsonl",
            "".join(json.dumps({"n": i, "body": line}) + "\n" for i, line in enumerate(TEXT.splitlines())),
        ),
        ("r.json", json.dumps([{"n": i, "body": line} for i, line in enumerate(TEXT.splitlines())])),
        ("r.csv", "n,body\n" + "".join(f'{i},"{line}"\n' for i, line in enumerate(TEXT.splitlines()))),
        ("r.tsv", "n\tbody\n" + "".join(f"{i}\t{line}\n" for i, line in enumerate(TEXT.splitlines()))),
    ],
    ids=lambda value: value if value.startswith("r.") else "",
)
def test_a_field_of_records_is_read(charlm: Charlm, name: str, data: str) -> None:
    Path(name).write_bytes(data.encode())
    assert abs(corpus(read(charlm, name, "--field", "body"))["chars"] - len(TEXT)) <= 60
    assert '"' not in symbols() and "{" not in symbols()
    wrong = charlm("train", name, "--field", "boddy", "--steps", "1", *tiny())
    assert wrong.code == 3 and "boddy" in wrong.err and name in wrong.err


@pytest.mark.parametrize(
    ("words", "text", "kept"),
    [
        (["--lowercase"], "ABab", "ab"),
        (["--newlines=lf"], "a\r\nb\rc", "a\nbc"),
        (["--collapse-spaces"], "a \t  b", "a b"),
        (["--normalize=nfc"], "e\u0301x", "\u00e9x"),
        (["--normalize=nfkc"], "\ufb01", "fi"),
        (["--encoding=latin-1"], b"\xe9t\xe9", "\u00e9t"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_text_is_cleaned_as_told(charlm: Charlm, words: list[str], text: str | bytes, kept: str) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    Path("t.txt").write_bytes(data * 200)
    read(charlm, "t.txt", *words)
    assert set(symbols()) == set(kept)


def test_boilerplate_is_stripped(charlm: Charlm) -> None:
    mark = "*** {} OF THE PROJECT GUTENBERG EBOOK DUCKS ***\n"
    book = (
        "The Project Gutenberg eBook of Ducks\n\nQQQ\n\n"
        + mark.format("START")
        + TEXT
        + mark.format("END")
        + "ZZZ licence\n" * 9
    )
    Path("book.txt").write_bytes(book.encode())
    assert abs(corpus(read(charlm, "book.txt", "--strip", "gutenberg"))["chars"] - len(TEXT)) < 10
    assert not {"Q", "Z", "*"} & set(symbols())


def test_rare_characters_are_spelled_in_bytes(charlm: Charlm) -> None:
    Path("t.txt").write_bytes((TEXT + "\u00e9").encode() + TEXT.encode())
    read(charlm, "t.txt", "--min-count", "2")
    assert "\u00e9" not in symbols() and "d" in symbols()


def test_bytes_can_be_the_symbols(charlm: Charlm) -> None:
    Path("t.txt").write_bytes(("\u00e9\u00e8 " * 500).encode())
    result = read(charlm, "t.txt", "--units", "bytes")
    assert result.json["text_settings"]["units"] == "bytes"
    assert corpus(result)["chars"] == 1500
    assert result.json["nats_per_char"] > 0


@pytest.mark.parametrize(
    ("words", "held_out"),
    [
        (["--val=0.25"], 0.25),
        (["--val=0.2", "--test=0.3"], 0.2),
        (["--split=blocks"], 0.1),
        (["--split=documents", "--documents=line"], 0.1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_so_much_is_held_out(charlm: Charlm, words: list[str], held_out: float) -> None:
    facts = corpus(read(charlm, "ducks.txt", *words))
    assert facts["held_out_chars"] / facts["chars"] == pytest.approx(held_out, abs=0.06)
    left = facts["chars"] - facts["held_out_chars"] - facts["train_chars"]
    assert left >= (0.29 * facts["chars"] if "--test=0.3" in words else 0)


def test_nothing_may_be_held_out(charlm: Charlm) -> None:
    result = read(charlm, "ducks.txt", "--val", "0")
    assert corpus(result)["held_out_chars"] == 0 and result.json["nats_per_char"] is None


def test_a_file_of_its_own_is_held_out(charlm: Charlm) -> None:
    Path("held.txt").write_bytes(TEXT[:500].encode())
    facts = corpus(read(charlm, "ducks.txt", "--val-file", "held.txt"))
    assert (facts["train_chars"], facts["held_out_chars"]) == (len(TEXT), 500)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--documents=line"], TEXT),
        (["--documents=blank-line"], TEXT.replace("\n", "\n\n")),
        (["--documents=separator", "--separator=\\n--\\n"], TEXT.replace("\n", "\n--\n")),
        (["--documents=file"], TEXT),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_is_a_document_is_learned(charlm: Charlm, words: list[str], text: str) -> None:
    Path("d").mkdir()
    for number in range(5):
        Path("d", f"{number}.txt").write_bytes(text.encode())
    result = read(charlm, "d", *words)
    assert result.json["text_settings"]["documents"] == words[0].partition("=")[2]
    assert "-" not in symbols(), "what stands between documents is no part of them"
    plain = charlm("train", "d", "--run", "p", "--steps", "1", "--json", *tiny())
    assert corpus(plain)["key"] != corpus(result)["key"]


@pytest.mark.parametrize(
    ("name", "data", "facts"),
    [
        ("empty.txt", b"", ["empty.txt"]),
        ("one.txt", b"a", ["1"]),
        ("binary.txt", bytes(range(256)) * 20, ["binary.txt"]),
        ("cut.txt.gz", gzip.compress(TEXT.encode())[:-20], ["cut.txt.gz"]),
        ("wrong.txt", b"abc \xff\xfe\xfd def " * 50, ["wrong.txt"]),
        ("folder", None, ["folder"]),
    ],
)
def test_a_text_that_cannot_be_learned_from_is_refused_with_its_name(
    charlm: Charlm, name: str, data: bytes | None, facts: list[str]
) -> None:
    Path(name).mkdir() if data is None else Path(name).write_bytes(data)
    result = charlm("train", name, "--steps", "1", *tiny())
    assert result.code == 3, result.err
    assert all(fact in result.err for fact in facts) and "bug" not in result.err
    assert not Path("checkpoints").exists()


def test_empty_standard_input_is_refused(charlm: Charlm) -> None:
    result = charlm("train", "-", "--steps", "1", *tiny(), stdin="")
    assert result.code == 3 and "standard input" in result.err
