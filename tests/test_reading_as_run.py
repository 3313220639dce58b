"""What shaped a run's text shapes every text that the run reads, in all commands, or is refused in words."""

import csv
import gzip
import io
import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.kept import thinned
from tests.conftest import Result

Run = Callable[..., Result]
WORDS = ["the Café", "of  Été", "and\ta", "to Noël", "in ﬁne", "he SAID", "was: she", "by, now", "for; him"]
POSTS = [f"{WORDS[i % 9]} {WORDS[i * i % 7]} {WORDS[i % 4]} {i % 5}" for i in range(200)]
NEW = [f"{WORDS[i * 5 % 9]} {WORDS[i % 5]} {i % 3}" for i in range(40)]


def plain(posts: list[str]) -> bytes:
    return "".join(f"{post}\n" for post in posts).encode()


def jsonl(posts: list[str]) -> bytes:
    return "".join(
        json.dumps({"id": i, "text": post, "by": "me"}) + "\n" for i, post in enumerate(posts)
    ).encode()


def table(posts: list[str], delimiter: str = ",", quoting: int = csv.QUOTE_MINIMAL) -> bytes:
    file = io.StringIO()
    rows = csv.writer(file, delimiter=delimiter, quoting=quoting)
    rows.writerows([["id", "text", "by"], *([str(i), post, "me"] for i, post in enumerate(posts))])
    return file.getvalue().encode()


def tsv(posts: list[str]) -> bytes:
    lines = ["id\ttext\tby", *(f"{i}\t{post.replace(chr(9), ' ')}\tme" for i, post in enumerate(posts))]
    return "".join(f"{line}\n" for line in lines).encode()


@dataclass
class Case:
    """A run's settings, the files that they read, and what is left of a plain text under them."""

    words: tuple[str, ...]
    name: str = "a.txt"
    write: Callable[[list[str]], bytes] = plain
    changed: Callable[[str], str] = str
    kept: tuple[str, ...] = ()  # settings that the same text as plain text needs too


def recoded(codec: str) -> Callable[[list[str]], bytes]:
    return lambda posts: plain(posts).decode().replace("ﬁ", "fi").encode(codec)


def windows(posts: list[str]) -> bytes:
    return plain(posts).replace(b"\n", b"\r\n")


def spaceless(text: str) -> str:
    return text.replace("\t", " ").replace("  ", " ")


CASES = {
    "field of packed JSON lines": Case(("--field", "text"), "a.jsonl.gz", lambda posts: gzip.compress(jsonl(posts))),
    "field between semicolons": Case(("--field", "text"), "a.csv", lambda posts: table(posts, ";")),
    "field, a document each": Case(
        ("--field", "text", "--documents", "line"), "a.jsonl", jsonl, kept=("--documents", "line")
    ),
    "files": Case(("--documents", "file", "--val-file", "val.txt"), kept=("--documents", "file", "--val-file", "val.txt")),
    "nfc": Case(
        ("--normalize", "nfc"),
        write=lambda posts: unicodedata.normalize("NFD", plain(posts).decode()).encode(),
        changed=lambda text: unicodedata.normalize("NFC", text),
    ),
    "newlines": Case(("--newlines", "lf"), write=windows),
    "bytes": Case(("--units", "bytes"), kept=("--units", "bytes")),
    "utf-16 with a mark": Case((), write=recoded("utf-16"), changed=lambda t: t.replace("ﬁ", "fi")),
    "many": Case(
        ("--field", "text", "--lowercase", "--collapse-spaces", "--documents", "line", "--encoding", "cp1252"),
        "a.csv",
        lambda posts: table(posts, ";").decode().replace("ﬁ", "fi").encode("cp1252"),
        lambda text: spaceless(text.lower()).replace("ﬁ", "fi"),
        ("--documents", "line"),
    ),
}  # fmt: skip


def figure(result: Result) -> dict[str, object]:
    assert result.code == 0, result.err
    row = json.loads(result.out)
    return {name: row[name] for name in ("chars", "bits_per_char", "document_ends")}


@pytest.mark.parametrize(
    "name", thinned(CASES, "field between semicolons", "field, a document each", "nfc", "newlines")
)
def test_every_command_reads_a_text_as_the_run_read_its_own(charlm: Run, name: str) -> None:
    case = CASES[name]
    new = f"new{case.name[1:]}"
    Path("val.txt").write_bytes(plain(NEW[:20]))
    for file, posts in ((case.name, POSTS), (new, NEW)):
        Path(file).write_bytes(case.write(posts))
    for file, posts in (("plain.txt", POSTS), ("plain-new.txt", NEW)):
        Path(file).write_text(case.changed(plain(posts).decode()), "utf-8", newline="")
    for words in ((case.name, "--run", "shaped", *case.words), ("plain.txt", "--run", "plain", *case.kept)):
        result = charlm("train", *words, "--model", "ngram")
        assert result.code == 0, result.err

    wanted = figure(charlm("eval", "plain-new.txt", "--run", "plain", "--json"))
    assert figure(charlm("eval", new, "--run", "shaped", "--json")) == wanted
    rows = charlm("surprisal", new, "--run", "shaped", "--by", "char", "--format", "jsonl")
    read = "".join(json.loads(line)["text"] for line in rows.out.splitlines())
    assert read == Path("plain-new.txt").read_bytes().decode()

    same = charlm("compare", "shaped", "plain", "--on", new, "--json")
    if Path(new).read_bytes() == Path("plain-new.txt").read_bytes() or name in ("utf-16 with a mark",):
        assert json.loads(same.out)["difference_bits_per_char"] == 0
    else:
        assert same.code in (2, 3) and "error: " in same.err and "a bug" not in same.err

    assert charlm("compress", new, "-o", "packed", "--run", "shaped").code == 0
    assert charlm("decompress", "packed", "-o", "again", "--run", "shaped").code == 0
    assert Path("again").read_bytes() == Path(new).read_bytes()

    sampled = charlm("sample", "--prompt-file", new, "--run", "shaped", "--length", "5", "--json")
    assert json.loads(sampled.out)["prompt"] == read

    settings = [word for word in case.words if word not in ("--val-file", "val.txt")]
    with_val = charlm("train", case.name, "--run", "val", "--val-file", new, *settings, "--model", "ngram")
    assert with_val.code == 0, with_val.err
    assert figure(charlm("eval", "--run", "val", "--json"))["chars"] == wanted["chars"]


def test_a_folder_is_read_by_the_pattern_of_the_run(charlm: Run) -> None:
    for name, text in (("a.txt", POSTS), ("b.md", NEW)):
        Path("old").mkdir(exist_ok=True)
        Path("new").mkdir(exist_ok=True)
        Path("old", name).write_bytes(plain(text))
        Path("new", name).write_bytes(plain(text))
    assert charlm("train", "old", "--include", "*.txt", "--model", "ngram").code == 0
    whole = charlm("eval", "new", "--json")
    assert figure(whole)["chars"] == len(plain(POSTS).decode())
    assert "only files that match *.txt are read, as in the run's text" in whole.err
    assert figure(charlm("eval", "new/b.md", "--json"))["chars"] == len(plain(NEW).decode())


def test_what_is_of_another_kind_than_the_runs_text_is_read_as_what_it_is_and_said(charlm: Run) -> None:
    Path("a.jsonl").write_bytes(jsonl(POSTS))
    Path("new.txt").write_bytes(plain(NEW))
    Path("new.csv").write_bytes(table(NEW).replace(b"id,text", b"id,body"))
    charlm("train", "a.jsonl", "--field", "text", "--model", "ngram", "--run", "a")
    said = charlm("eval", "new.txt", "--json")
    assert figure(said)["chars"] == len(plain(NEW).decode()) and "new.txt: read as plain text" in said.err
    lacking = charlm("eval", "new.csv")
    assert lacking.code == 3 and "has no field text; available fields: id, body, by" in lacking.err
    assert figure(charlm("eval", "new.csv", "--field", "body", "--json")) == figure(said)
    mixed = charlm("train", "a.jsonl", "--field", "text", "--model", "ngram", "--val-file", "new.txt")
    assert mixed.code == 0 and "new.txt: read as plain text" in mixed.err
    assert charlm("eval", "new.txt", "--field", "text").code == 3, "what was asked for is not done without"
    assert charlm("eval", "--field", "text").code == 2


def test_utf8_is_read_as_utf8_by_a_run_of_another_encoding(charlm: Run) -> None:
    Path("a.txt").write_bytes("Noël, été, café\n".encode("cp1252") * 99)
    Path("new.txt").write_text("Été à Noël.\n" * 40, "utf-8")
    charlm("train", "a.txt", "--encoding", "cp1252", "--model", "ngram")
    said = charlm("eval", "new.txt", "--json")
    assert (
        figure(said)["chars"] == 480
        and "new.txt: read as utf-8, its actual encoding, not as cp1252" in said.err
    )
    assert figure(charlm("eval", "new.txt", "--encoding", "cp1252", "--json"))["chars"] == 480 + 160


def test_going_on_from_a_run_reads_the_same_field(charlm: Run) -> None:
    Path("a.jsonl").write_bytes(jsonl(POSTS))
    Path("new.jsonl").write_bytes(jsonl(NEW))
    Path("new.txt").write_bytes(plain(NEW))
    shape = ("--steps", "1", "--n-layer", "1", "--n-embd", "16", "--n-head", "2", "--block-size", "8")
    assert charlm("train", "a.jsonl", "--field", "text", "--run", "a", *shape).code == 0
    chars = len(plain(NEW).decode())
    for file in ("new.jsonl", "new.txt"):
        said = charlm("train", file, "--from", "a", "--steps", "1", "--dry-run")
        assert f"{chars:,} characters" in said.err, said.err
        assert ("reading the field text of each record, as a did" in said.err) == (file == "new.jsonl")


@pytest.mark.parametrize(
    ("name", "data", "fields"),
    [
        ("a.csv", table(POSTS, ";"), "id, text, by"),
        ("a.JSONL.gz", gzip.compress(jsonl(POSTS)), "text, by"),
        ("a.txt", jsonl(POSTS), "text, by"),
    ],
)
def test_records_read_as_they_stand_are_said_with_their_fields(
    charlm: Run, name: str, data: bytes, fields: str
) -> None:
    Path(name).write_bytes(data)
    for words in (("train", name, "--model", "ngram"), ("eval", name)):
        said = charlm(*words)
        assert said.code == 0
        assert f"to read one field only, add --field: {fields}." in said.err, words
    inspected = charlm("inspect", name, "--json")
    assert json.loads(inspected.out)["warnings"]
    assert any(w["code"] == "records" for w in json.loads(inspected.out)["warnings"]) or name == "a.json"


def test_prose_gets_no_word_of_fields(charlm: Run) -> None:
    Path("a.txt").write_text('{a brace, and "quotes", a;b\tc}\n[1] a note, and more\n' * 60)
    assert "--field" not in charlm("train", "a.txt", "--model", "ngram").err


def test_compressing_says_what_it_keeps_that_the_run_does_not_read(charlm: Run) -> None:
    text = "Noël a lu\tl'Été à Orléans.\r\n" * 40
    Path("a.txt").write_bytes(text.encode("cp1252"))
    Path("mark.txt").write_bytes(text.encode("utf-16"))
    words = (
        *("--encoding", "cp1252", "--lowercase", "--newlines", "lf", "--documents", "line"),
        *("--model", "ngram"),
    )
    assert charlm("train", "a.txt", *words).code == 0
    for file, codec in (("a.txt", "cp1252"), ("mark.txt", "utf-16-le")):
        made = charlm("compress", file, "-o", f"{file}.clm", "--json")
        assert (
            made.code == 0 and f"{file} is read as {codec}; decompression restores the same bytes" in made.err
        )
        assert "text that --newlines, --lowercase would change compresses less" in made.err
        assert "not split into documents" in made.err and "is not UTF-8" not in made.err
        assert json.loads(made.out)["chars"] == len(text) + (file == "mark.txt")
        assert charlm("decompress", f"{file}.clm", "-o", f"{file}.again").code == 0
        assert Path(f"{file}.again").read_bytes() == Path(file).read_bytes()
