"""Names become files in a fixed order, or a sentence says what is wrong."""

import errno
import io
import json
import os
import random
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.data.load import load
from charlm.data.sources import describe, find_files, natural_key
from charlm.data.text_config import TextConfig
from charlm.errors import CharlmError, TextError, UsageError
from charlm.terminal import visible
from tests.conftest import Result
from tests.reading import read, write

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
TOY = ("--model", "ngram", "--val", "0")
needs_posix = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX files")


@pytest.fixture(autouse=True)
def _elsewhere(elsewhere: Path) -> None: ...


def missing(names: list[str], fragment: str, kind: type[CharlmError] = TextError) -> str:
    with pytest.raises(kind, match=fragment) as caught:
        read(names)
    assert describe(names)
    return str(caught.value)


def found(*names: str, below: str = ".", **patterns: list[str]) -> list[str]:
    return [Path(path).relative_to(below).as_posix() for path in find_files(names, **patterns)[0]]  # type: ignore[arg-type]


def learned(names: list[str], **settings: object) -> str:
    """The text that a model would learn from, all of it."""
    return load(names, TextConfig(val=0.0, **settings)).corpus.training_text()  # type: ignore[arg-type]


def poems(numbers: tuple[object, ...] = (10, 2, 1)) -> None:
    for number in numbers:
        write(f"poems/poem{number}.txt", f"Poem number {number} starts, word{number}")


@pytest.fixture
def trained_on(charlm: Callable[..., Result]) -> Callable[..., tuple[str, str]]:
    """Trains on names with options; the text that was learned from, and what was said."""

    def train(*words: str) -> tuple[str, str]:
        done = charlm("train", *words, *TOY)
        assert done.code == 0, done.err
        name = done.err.split("\nrun ")[1].split(",")[0]
        run = json.loads(Path("checkpoints", name, "run.json").read_text())
        names = [str(source) for source in run["corpus"]["sources"]]
        return load(names, TextConfig.from_json(run["text"])).corpus.training_text(), done.err

    return train


def test_names_that_lead_nowhere() -> None:
    Path("hollow/deep").mkdir(parents=True)
    write("hollow/.hidden", "x")
    missing([], "no text was named", UsageError)
    missing([""], "a file name is empty")
    missing(["lost.txt"], "lost.txt does not exist")
    missing(["*.lost"], r"\*.lost matches no file")
    missing(["none/**/*.txt"], "matches no file")
    missing(["hollow"], "hollow contains no files")
    missing(["a\0b"], r"a\\x00b cannot be read: embedded null byte")
    missing(["x" * 5000], "….* cannot be read")


def test_a_folder_gives_its_files_sorted_without_hidden_ones() -> None:
    for name in ("b/a", "b-", "b/.hid/x", ".git/x", "a/z", "B", ".x"):
        write(f"poems/{name}", name)
    assert found("poems", below="poems") == ["B", "a/z", "b/a", "b-"]
    assert found("poems/.git") == ["poems/.git/x"]


def test_globs() -> None:
    for name in ("a.txt", "b.txt", "c.md", ".d.txt", "sub/e.txt", "sub/deep/f.txt", "a[1].txt"):
        write(f"p/{name}", name)
    for pattern, names in {
        "p/?.txt": ["a.txt", "b.txt"],
        "p/[bc].*": ["b.txt", "c.md"],
        "p/**/*.txt": ["a.txt", "a[1].txt", "b.txt", "sub/deep/f.txt", "sub/e.txt"],
        "p/**": ["a.txt", "a[1].txt", "b.txt", "c.md", "sub/deep/f.txt", "sub/e.txt"],
        "p/**/deep/*": ["sub/deep/f.txt"],
        "p/*/e.txt": ["sub/e.txt"],
        "p/s*": ["sub/deep/f.txt", "sub/e.txt"],
        "p/.d*": [".d.txt"],
        "p/a[1].txt": ["a[1].txt"],  # a file of that very name
        "**/*.md": ["c.md"],
    }.items():
        assert found(pattern, below="p") == names, pattern
    assert find_files([str(Path("p").resolve() / "**/*.md")])[0] == [str(Path("p/c.md").resolve())]


def test_the_same_file_is_read_once_and_said() -> None:
    write("p/a", "text")
    os.link("p/a", "p/b")
    texts = read(["p/a", "./p/a", "p", "-", "-"], stdin=io.BytesIO(b"!"))
    assert texts.joined == "text\n!"
    assert texts.notes[0].startswith("./p/a and ")
    assert "given more than once, read once" in texts.notes[0]
    write("-", "dash")
    assert find_files(["./-", "-"])[0] == ["./-", "-"]


@needs_posix
def test_links_to_folders_are_not_followed_but_noted() -> None:
    write("p/a", "text")
    write("other/b", "b")
    os.symlink("..", "p/up")
    os.symlink(".", "p/loop")
    os.symlink("../other/b", "p/linked")
    os.symlink("self", "p/self")
    texts = read(["p"])
    assert [name for name, _ in texts.files] == ["p/a", "p/linked"]
    assert any("1 more: a link to a folder, not followed" in note for note in texts.notes)
    assert "p/self: a broken link, left out." in texts.notes
    assert found("p/**/[al]") == ["p/a"]


@needs_posix
def test_pipes_devices_and_sockets_are_refused_without_opening() -> None:
    os.mkfifo("p")
    missing(["p"], "p is a named pipe, not a regular file; give a file, or - to read a pipe")
    missing(["/dev/zero"], "/dev/zero is a device, not a regular file")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        missing(["s"], "s is a socket")
    for name in ("p", "/dev/zero"):  # nor by what knows files again, before they are read
        with pytest.raises(TextError, match="not a regular file"):
            load([name], TextConfig())
    write("folder/a", "text")
    os.mkfifo("folder/p")
    assert read(["folder"]).notes == ("folder/p: a named pipe, left out.",)


@needs_posix
def test_no_permission() -> None:
    from tests.forks import permissions_bind  # here: on Windows nothing can be forked

    write("secret", "x")
    write("p/closed/x", "x")
    os.chmod("secret", 0)
    os.chmod("p/closed", 0)
    with permissions_bind():
        missing(["secret"], "secret cannot be read: permission denied")
        missing(["p"], "p/closed cannot be read")
    os.chmod("p/closed", 0o700)


@needs_posix
@pytest.mark.parametrize("name", ["a\nb", "a\x1b[2Jb", "a\udcffb", "a\u202eb"])
def test_foreign_names_are_shown_on_one_visible_line(name: str) -> None:
    Path(name).write_bytes(b"\xff\xfe\xfd")
    for shown in (
        missing([name], "not valid"),
        missing([name + "lost"], "does not exist|no file"),
        describe([name]),
    ):
        assert visible(shown) == shown and "\n" not in shown and shown.startswith("a\\")


def test_a_folder_that_cannot_be_listed_is_said_and_an_excluded_one_is_not_even_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write("p/a", "text")
    write("p/closed/b", "text")
    real = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    missing(["p"], "closed cannot be read: permission denied.*add --exclude closed")
    assert find_files(["p"], exclude=["closed"]) == (["p/a"], [])


def test_lines_of_files_stay_apart_and_numbers_sort_as_numbers(
    trained_on: Callable[..., tuple[str, str]],
) -> None:
    poems()
    text, said = trained_on("poems")
    assert text == "\n".join(f"Poem number {i} starts, word{i}" for i in (1, 2, 10))
    assert "poems/poem1.txt and 1 more: does not end with a newline; charlm adds one" in said


def test_a_newline_is_added_only_between_files_and_of_the_kind_that_the_lines_before_end_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, data in {
        "a": "one\n",
        "b": "two\r",
        "c": "",
        "d": "three",
        "e": "\nfour",
        "f": "five  ",
    }.items():
        write(f"d/{name}", data)
    assert learned(["d"]) == "one\ntwo\rthree\r\nfour\nfive  "
    assert learned(["d/d", "d/e"]) == learned(["d/[de]"]) == read(["d/d", "d/e"]).joined == "three\n\nfour"
    write("a", "one\r\ntwo")
    write("b", "three")
    assert learned(["a", "b", "d/f"]) == "one\r\ntwo\r\nthree\r\nfive  "
    assert learned(["a", "b"], newlines="lf") == "one\ntwo\nthree"
    with open("b") as stream:
        monkeypatch.setattr("sys.stdin", stream)
        assert learned(["d/d", "-"]) == "three\nthree"


def test_where_a_file_is_wrong_is_counted_without_the_added_newline() -> None:
    write("d/a", "one")
    write("d/b", b"x\n" * (5 << 20) + b"y\nz\xff")
    with pytest.raises(Exception, match=f"(?s)line {(5 << 20) + 2} .*\nto leave it out, add --exclude b"):
        load(["d"], TextConfig())


@pytest.mark.parametrize(
    "names",
    [
        ["poem.txt", "poem1.txt", "poem02.txt", "poem2.txt", "poem10.txt", "poems.txt"],
        ["1/2", "1/10", "2/1", "10/1"],
        ["v1.2.9", "v1.2.10", "v1.10.1"],
        ["A1", "A2", "a1", "a2"],
        ["\u0661", "2", "\u0663", "10"],
        ["9" * 60, "1" + "0" * 60],
    ],
)
def test_numbers_in_names_and_folders_sort_as_numbers(names: list[str]) -> None:
    for name in random.Random(1).sample(names, len(names)):
        write(f"d/{name}", "text")
    assert found("d", below="d") == found("d/**", below="d") == names


@given(st.lists(st.text("0123456789ab.\u0660\u0669 ", min_size=1, max_size=8), min_size=2))
def test_the_order_is_one_and_without_digits_the_plain_one(names: list[str]) -> None:
    ordered = sorted(names, key=lambda name: (natural_key(name), name))
    names.reverse()
    assert ordered == sorted(names, key=lambda name: (natural_key(name), name))
    plain = [name for name in ordered if name.isascii() and not any(map(str.isdigit, name))]
    assert plain == sorted(plain)


def test_what_is_no_text_is_left_out_and_named(trained_on: Callable[..., tuple[str, str]]) -> None:
    poems()
    write("poems/cover.png", PNG)
    write("poems/sub/data.dat", bytes(range(256)))
    write("poems/sub/zeros.dat", bytes(64))
    write("poems/Thumbs.db", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
    write("poems/poem1.txt~", "a backup")
    write("poems/__pycache__/x.py", "x = 1")
    for name in (".DS_Store", ".git/config"):
        write(f"poems/{name}", "hidden")
    write("poems/README.md", "# About")
    text, said = trained_on("poems")
    assert text.startswith("# About\nPoem number 1 starts") and text.count("\n") == 3
    assert "poems/cover.png: a PNG image, not text; left out" in said
    assert "poems/sub/data.dat and 1 more: binary data, not text; left out" in said
    assert "poems/Thumbs.db and 2 more: left by an editor or the system" in said
    assert "3 .txt, 1 .md" in said and "--exclude" in said


def test_what_is_named_is_refused_with_what_leaves_it_out(charlm: Callable[..., Result]) -> None:
    poems()
    write("poems/cover.png", PNG)
    write("poems/latin.txt", "Gr\xfc\xdfe".encode("latin-1"))
    done = charlm("train", "poems/poem1.txt", "poems/cover.png", "--dry-run")
    assert done.code == 3 and "is a PNG image, not text" in done.err and "--exclude cover.png" in done.err
    done = charlm("train", "poems", "--dry-run")
    assert done.code == 3 and "latin.txt is not valid UTF-8" in done.err and "--exclude latin.txt" in done.err
    names = [f"poems/{name}" for name in sorted(os.listdir("poems"))]  # as a shell gives poems/*
    done = charlm("train", *names, "--exclude", "*.png", "--exclude", "latin*", "--dry-run")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [
        ({"include": ["*.txt"]}, "acde["),
        ({"include": ["*.txt", "*.md"]}, "abcde["),
        ({"exclude": ["*.md", "sub"]}, "aef["),
        ({"exclude": ["sub/"]}, "abef["),
        ({"exclude": ["sub/deep"]}, "abcef["),
        ({"exclude": ["sub/*.txt"]}, "abef["),
        ({"include": ["sub/deep/*"]}, "d"),
        ({"include": ["sub"]}, "cd"),
        ({"include": ["*.txt"], "exclude": ["e.txt"]}, "acd["),
        ({"include": ["./sub"]}, "cd"),
        ({"include": ["sub/**/*.txt"]}, "cd"),
        ({"include": ["**/*.txt"]}, "acde["),
        ({"include": ["sub//deep/*.txt"]}, "d"),
        ({"include": ["{here}/f/sub"]}, "cd"),
        ({"exclude": ["{here}/f/sub/*"]}, "abef["),
        ({"exclude": ["f/sub"]}, "abef["),
        ({"include": ["[1].txt"]}, "["),
    ],
)
def test_patterns_mean_the_same_however_folder_and_pattern_are_written(
    patterns: dict[str, list[str]], kept: str
) -> None:
    for name in ("a.txt", "b.md", "sub/c.txt", "sub/deep/d.txt", "e.txt", "f", "[1].txt"):
        write(f"f/{name}", "text\n")
    here = str(Path.cwd())
    given = {option: [each.replace("{here}", here) for each in of] for option, of in patterns.items()}
    for folder in ("f", "./f", "f/", f"{here}/f", "f/**"):
        paths, _ = find_files([folder], **given)  # type: ignore[arg-type]
        assert sorted(Path(path).name[0] for path in paths) == sorted(kept), folder


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["d", "--include", "*.txt", "--include", "*.nope"], 3, "no file that matches --include *.nope"),
        (["d", "--exclude", "*"], 3, "--exclude * leaves nothing to read"),
        (["d/a.txt", "--include", "*.txt"], 2, "--include *.txt applies only to folders"),
        (["-", "--exclude", "*.txt"], 2, "--exclude *.txt applies only to files"),
        (["p"], 3, "p contains no text: p/a.png is not text"),
        (["d", "--exclude", "*.rst", "--dry-run"], 0, "--exclude *.rst: matches no file"),
    ],
)
def test_patterns_without_effect_are_named(
    charlm: Callable[..., Result], words: list[str], code: int, said: str
) -> None:
    write("d/a.txt", "text " * 30)
    write("p/a.png", PNG)
    done = charlm("train", *words)
    assert (done.code, said in done.err) == (code, True), done.err


@pytest.mark.skipif(os.name == "nt", reason="paths of Windows are not so long")
def test_folders_a_thousand_deep_are_walked(elsewhere: Path) -> None:
    os.makedirs("d")
    os.chdir("d")
    for _ in range(1100):
        os.mkdir("x")
        os.chdir("x")
    Path("deep.txt").write_text("deep down")
    os.chdir(elsewhere)
    paths, _ = find_files(["d"])
    subprocess.run(["rm", "-rf", "d"], check=True)  # pytest removes folders no deeper than Python can
    assert len(paths) == 1


def test_runs_and_comparisons_in_a_folder_are_left_out_and_said(
    trained_on: Callable[..., tuple[str, str]], charlm: Callable[..., Result]
) -> None:
    write("a.txt", "the cat sat on the mat\n" * 40)
    text, said = trained_on(".", "--run", "first")
    assert "left out" not in said
    write("checkpoints/both/comparison.json", "{}")
    write("checkpoints/first/notes.txt", "of this run\n")
    for name in (".", "**", "*"):
        again, said = trained_on(name, "--run", f"of-{len(name)}{ord(name[0])}")
        assert again == text
        assert "a charlm run, not text; left out" in " ".join(said.split())
    only = charlm("train", "checkpoints", *TOY)
    assert only.code == 3
    assert "checkpoints contains only charlm runs" in " ".join(only.err.split())
    assert found("checkpoints/first/notes.txt")  # a file of a run is read if it is named itself


def test_a_folder_of_texts_with_a_file_named_run_json_is_no_run() -> None:
    write("d/run.json", '{"a": 1}\n')
    write("d/a.txt", "the cat sat on the mat\n" * 40)
    assert '{"a": 1}' in learned(["d"])
