"""A folder of texts, as people have them: numbered, without last newlines, beside pictures and notes."""

import json
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.config import TextConfig
from charlm.data.load import load
from charlm.data.sources import find_files, natural_key
from charlm.errors import TextError
from tests.conftest import Result
from tests.reading import write

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
TOY = (
    "--n-layer",
    "1",
    "--n-embd",
    "16",
    "--n-head",
    "2",
    "--block-size",
    "16",
    "--steps",
    "1",
    "--val",
    "0",
)


def text_of(names: list[str], **settings: object) -> str:
    """The text that a model would learn from, all of it."""
    corpus = load(names, TextConfig(val=0.0, **settings)).corpus  # type: ignore[arg-type]
    return corpus.training_text()


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
        return load(names, TextConfig.from_json(run["text"])).corpus.training_text(), done.err + charlm(
            "info", name
        ).out

    return train


def test_lines_of_files_stay_apart_and_numbers_sort_as_numbers(
    trained_on: Callable[..., tuple[str, str]],
) -> None:
    poems()
    text, said = trained_on("poems")
    assert text == "\n".join(f"Poem number {i} starts, word{i}" for i in (1, 2, 10))
    assert "poems/poem1.txt and 1 more: does not end with a newline; one is added" in said


@pytest.mark.usefixtures("elsewhere")
class TestJoining:
    def test_a_newline_is_added_only_between_files_and_only_where_none_stands(self) -> None:
        for name, data in {
            "a": "one\n",
            "b": "two\r",
            "c": "",
            "d": "three",
            "e": "\nfour",
            "f": "five  ",
        }.items():
            write(f"d/{name}", data)
        assert text_of(["d"]) == "one\ntwo\rthree\r\nfour\nfive  "
        assert text_of(["d/d", "d/e"]) == text_of(["d/[de]"]) == "three\n\nfour"

    def test_it_is_of_the_kind_that_the_lines_before_end_with(self) -> None:
        write("a", "one\r\ntwo")
        write("b", "three")
        write("c", "four")
        assert text_of(["a", "b", "c"]) == "one\r\ntwo\r\nthree\r\nfour"
        assert text_of(["a", "b", "c"], newlines="lf") == "one\ntwo\nthree\nfour"

    def test_standard_input_is_joined_in_the_same_way(self, monkeypatch: pytest.MonkeyPatch) -> None:
        write("a", "one")
        write("in", "piped")
        with open("in") as stream:
            monkeypatch.setattr("sys.stdin", stream)
            assert text_of(["a", "-"]) == "one\npiped"

    def test_documents_are_kept_apart_by_their_ends_and_records_end_already(self) -> None:
        poems((1, 2))
        apart = load(["poems"], TextConfig(val=0.0, documents="file")).corpus
        assert sum(apart.ends) == 2 and apart.chars == 2 * len("Poem number 1 starts, word1")
        for i in (1, 2):
            write(f"j/{i}.jsonl", json.dumps({"text": f"record {i}"}))
        assert text_of(["j"], field="text") == "record 1\nrecord 2\n"

    def test_a_corpus_that_was_joined_otherwise_is_not_taken_from_the_cache(self) -> None:
        write("a", "one one one")
        write("b", "two two two")
        write("c", "one one onetwo two two")
        glued = load(["c"], TextConfig(val=0.0)).corpus
        joined = load(["a", "b"], TextConfig(val=0.0)).corpus
        assert glued.key != joined.key
        assert load(["a", "b"], TextConfig(val=0.0)).corpus.key == joined.key

    def test_where_a_file_is_wrong_is_counted_without_the_added_newline(self) -> None:
        write("d/a", "one")
        write("d/b", b"x\n" * (5 << 20) + b"y\nz\xff")
        with pytest.raises(Exception, match=f"(?s)line {(5 << 20) + 2} .*\nTo leave it out, add --exclude b"):
            load(["d"], TextConfig())


@pytest.mark.usefixtures("elsewhere")
class TestOrder:
    @pytest.mark.parametrize(
        "names",
        [
            ["poem.txt", "poem1.txt", "poem02.txt", "poem2.txt", "poem10.txt", "poems.txt"],
            ["1/2", "1/10", "2/1", "10/1"],
            ["v1.2.9", "v1.2.10", "v1.10.1"],
            ["A1", "A2", "a1", "a2"],
            ["b-", "b1", "bb"],
            ["\u0661", "2", "\u0663", "10"],
            ["9" * 60, "1" + "0" * 60],
        ],
    )
    def test_numbers_in_names_and_folders_sort_as_numbers(self, names: list[str]) -> None:
        for name in random.Random(1).sample(names, len(names)):
            write(f"d/{name}", "text")
        for form in ("d", "d/**") if len(names[0]) > 1 else ("d",):
            assert [Path(path).relative_to("d").as_posix() for path in find_files([form])[0]] == names

    @given(st.lists(st.text("0123456789ab.\u0660\u0669 ", min_size=1, max_size=8), min_size=2))
    def test_the_order_is_one_and_without_digits_the_plain_one(self, names: list[str]) -> None:
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


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    "data",
    [
        "a\0b".encode("utf-16"),
        b"tabs\tand\ffeeds \x1b[1mbold\x1b[0m b\bb\n",
        ("a text with one NUL in it " * 20 + "\0").encode(),
        "Grüße".encode() * 10,
    ],
)
def test_text_with_odd_characters_is_text(data: bytes) -> None:
    write("d/a", data)
    assert load(["d"], TextConfig(val=0.0)).corpus.chars > 2


def test_what_is_named_is_refused_with_what_leaves_it_out(charlm: Callable[..., Result]) -> None:
    poems()
    write("poems/cover.png", PNG)
    write("poems/latin.txt", "Gr\xfc\xdfe".encode("latin-1"))
    done = charlm("train", "poems/poem1.txt", "poems/cover.png", "--dry-run")
    assert done.code == 3 and "is a PNG image, not text" in done.err and "--exclude cover.png" in done.err
    done = charlm("train", "poems", "--dry-run")
    assert done.code == 3 and "latin.txt is not valid UTF-8" in done.err and "--exclude latin.txt" in done.err
    assert charlm("train", "poems", "--exclude", "latin.txt", "--dry-run").code == 0
    names = [f"poems/{name}" for name in sorted(os.listdir("poems"))]  # as a shell gives poems/*
    done = charlm("train", *names, "--exclude", "*.png", "--exclude", "latin*", "--dry-run")
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["--include", "*.txt"], "acde"),
        (["--include", "*.txt", "--include", "*.md"], "abcde"),
        (["--exclude", "*.md"], "acdef"),
        (["--exclude", "*.md", "--exclude", "sub"], "aef"),
        (["--exclude", "sub/"], "abef"),
        (["--exclude", "sub/deep"], "abcef"),
        (["--exclude", "sub/*.txt"], "abef"),
        (["--include", "sub/deep/*"], "d"),
        (["--include", "sub"], "cd"),
        (["--include", "*.txt", "--exclude", "e.txt"], "acd"),
    ],
)
def test_patterns_match_names_and_paths(
    trained_on: Callable[..., tuple[str, str]], words: list[str], kept: str
) -> None:
    for name in ("a.txt", "b.md", "sub/c.txt", "sub/deep/d.txt", "e.txt", "f"):
        write(f"d/{name}", Path(name).name[0] * 3 + "\n")
    wanted = "".join(char * 3 + "\n" for char in kept)
    assert sorted(trained_on("d", *words)[0].split()) == sorted(wanted.split())


def test_patterns_come_from_the_environment_and_a_file_too(
    trained_on: Callable[..., tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    poems((1, 2))
    for name in ("a.md", "b.rst"):
        write(f"poems/{name}", name[0] * 5)
    write("c.toml", 'include = ["*.md", "*.rst"]\nexclude = "b.*"\n')
    text, said = trained_on("poems", "--config", "c.toml")
    assert text == "aaaaa"
    assert "--include '*.md' --include '*.rst' --exclude 'b.*'" in said, "the same run again"
    monkeypatch.setenv("CHARLM_EXCLUDE", "*.txt *.md")
    assert trained_on("poems")[0] == "bbbbb"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["d", "--include", "*.txt", "--include", "*.nope"], 3, "no file that matches --include *.nope"),
        (["d", "--exclude", "*"], 3, "Nothing is left to read with --exclude *"),
        (["d/a.txt", "--include", "*.txt"], 2, "--include *.txt has an effect on folders"),
        (["-", "--exclude", "*.txt"], 2, "--exclude *.txt has an effect on files"),
        (["p"], 3, "p contains no text: p/a.png is not text"),
        (["d", "--exclude", "*.rst", "--dry-run"], 0, "--exclude *.rst: matches no file"),
    ],
)
def test_patterns_that_cannot_act_are_named(
    charlm: Callable[..., Result], words: list[str], code: int, said: str
) -> None:
    write("d/a.txt", "text " * 30)
    write("p/a.png", PNG)
    done = charlm("train", *words)
    assert (done.code, said in done.err) == (code, True), done.err


def test_runs_of_an_earlier_version_read_as_they_did() -> None:
    assert TextConfig.from_json({"include": "*.txt"}).include == ("*.txt",)
    assert TextConfig.from_json(TextConfig(include=("a", "b")).to_json()) == TextConfig(include=("a", "b"))


@pytest.mark.skipif(os.name == "nt", reason="paths of Windows are not so long")
def test_folders_a_thousand_deep_are_walked(elsewhere: Path) -> None:
    os.makedirs("d")
    os.chdir("d")
    for _ in range(1100):
        os.mkdir("x")
        os.chdir("x")
    Path("deep.txt").write_text("deep down")
    os.chdir(elsewhere)
    found, _ = find_files(["d"])
    subprocess.run(
        ["rm", "-rf", "d"], check=True
    )  # what pytest removes folders with goes no deeper than Python
    assert len(found) == 1


def test_runs_and_comparisons_in_a_folder_are_left_out_and_said(
    trained_on: Callable[..., tuple[str, str]], charlm: Callable[..., Result], elsewhere: Path
) -> None:
    write("a.txt", "the cat sat on the mat\n" * 40)
    learned, said = trained_on(".", "--run", "first")
    assert "left out" not in said
    assert trained_on(".", "--run", "second")[0] == learned
    compared = charlm("compare", "a.txt", "--vary", "dropout=0,0.1", *TOY[:-2], "--run", "both", "--no-prior")
    assert compared.code == 0, compared.err
    write("checkpoints/first/notes.txt", "of this run\n")
    for name in (".", "**", "*"):
        learned_again, said = trained_on(name, "--run", f"of-{len(name)}{ord(name[0])}")
        assert learned_again == learned
        assert "runs of charlm, not text; left out" in " ".join(said.split())
    only = charlm("train", "checkpoints", *TOY)
    assert only.code == 3
    assert "checkpoints contains only runs of charlm" in " ".join(only.err.split())
    named = charlm("train", "checkpoints/first/notes.txt", *TOY, "--dry-run")
    assert named.code == 0, named.err  # a file of a run is read where it is named itself


def test_a_folder_of_texts_with_a_file_named_run_json_is_no_run(
    trained_on: Callable[..., tuple[str, str]], elsewhere: Path
) -> None:
    write("d/run.json", '{"a": 1}\n')
    write("d/a.txt", "the cat sat on the mat\n" * 40)
    assert '{"a": 1}' in trained_on("d")[0]


@pytest.mark.parametrize(
    ("options", "read"),
    [
        ({"include": ["./s"]}, "cd"),
        ({"exclude": ["./s/"]}, "ab["),
        ({"include": ["./*.txt"]}, "acd["),
        ({"include": ["s/**/*.txt"]}, "cd"),
        ({"include": ["**/*.txt"]}, "acd["),
        ({"exclude": ["**/c.txt"]}, "abd["),
        ({"include": ["s//deep/*.txt"]}, "d"),
        ({"include": ["{here}/f/s"]}, "cd"),
        ({"exclude": ["{here}/f/s/*"]}, "ab["),
        ({"exclude": ["f/s"]}, "ab["),
        ({"include": ["[1].txt"]}, "["),
    ],
)
@pytest.mark.parametrize("folder", ["f", "./f", "f/", "{here}/f"])
def test_patterns_mean_the_same_however_folder_and_pattern_are_written(
    elsewhere: Path, options: dict[str, list[str]], read: str, folder: str
) -> None:
    for name in ("a.txt", "b.md", "s/c.txt", "s/deep/d.txt", "[1].txt"):
        write(f"f/{name}", "text\n")
    here = str(Path.cwd())
    given = {option: [each.replace("{here}", here) for each in of] for option, of in options.items()}
    paths, _ = find_files([folder.replace("{here}", here)], given.get("include"), given.get("exclude"))
    assert sorted(Path(path).name[0] for path in paths) == sorted(read)


def test_an_excluded_folder_is_not_even_opened(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("g/a.txt", "text\n")
    write("g/private/b.txt", "text\n")
    scan = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("private"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(TextError, match=r"g/private cannot be read.*add --exclude private"):
        find_files(["g"])
    assert find_files(["g"], exclude=["private"]) == (["g/a.txt"], [])
