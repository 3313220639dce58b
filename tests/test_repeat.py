"""Commands that are printed to be pasted: whatever the names in them, a shell reads what was meant."""

import html
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from charlm.terminal import shell_word, visible
from tests.cli.kept import TOY
from tests.conftest import TEXT, Result

Charlm = Callable[..., Result]
ODD = [
    "-dash.txt", "--steps", "two words.txt", "it's \"quoted\".txt", "$HOME `x` !1 *.txt", "new\nline.txt", "tab\t.txt",
    "back\\slash.txt", "double  space.txt", "née 日本 🦆.txt", "esc\x1b[31m.txt", "bidi\u202e.txt", "bell\x07\\x07.txt",
    os.fsdecode(b"latin \xe9\xff7.txt"), "#hash;semi&|<>(){}.txt", "~", "%s{0}.txt", "-", " ", "'",
]  # fmt: skip


def read_by_bash(command: str) -> list[str]:
    """The words, after `charlm`, that bash makes of a command."""
    script = "charlm() { printf '%s\\0' \"$@\"; }\n" + command
    done = subprocess.run(["bash", "-c", os.fsencode(script)], capture_output=True, check=True, timeout=300)
    return os.fsdecode(done.stdout).split("\0")[:-1]


def test_any_word_is_typed_so_that_a_shell_reads_it_and_a_terminal_shows_it() -> None:
    typed = [shell_word(word) for word in ODD]
    for word in typed:
        assert visible(word) == word and "\n" not in word and "\t" not in word
    assert read_by_bash(f"charlm {' '.join(typed)}") == ODD


def weights(charlm: Charlm, *run: str) -> str:
    return str(json.loads(charlm("info", *run, "--json").out)["weights_sha256"])


def again_of(shown: str) -> str:
    found = re.search(r"^reproduce this run:  (charlm .*)$", shown, re.M)
    assert found, shown
    return found[1]


@pytest.mark.parametrize("name", [ODD[0], ODD[3], ODD[5], ODD[13]])
def test_a_run_on_a_text_of_any_name_is_repeated_by_the_command_shown(charlm: Charlm, name: str) -> None:
    Path(name).write_text(TEXT)
    made = charlm("train", "--steps", "2", "--run", "first", *TOY, "--", name)
    assert made.code == 0, made.err
    assert "reproduce this run" not in made.err and "charlm info first" in made.err
    shown = charlm("info").out
    words = read_by_bash(again_of(shown))
    split = words.index("--") if "--" in words else len(words)
    assert charlm(*words[:split], "--run", "second", *words[split:]).code == 0
    assert weights(charlm, "second") == weights(charlm, "first")
    page = Path("checkpoints/first/report.html").read_text("utf-8")
    cell = re.search(r"reproduce this run</th><td>(.*?)</td>", page, re.DOTALL)
    assert cell and html.unescape(cell[1]) == again_of(shown)
    typed = re.search(r"^command:  +(charlm .*)$", shown, re.M)
    assert typed and read_by_bash(typed[1]) == ["train", "--steps", "2", "--run", "first", *TOY, "--", name]


def test_folders_patterns_and_options_with_odd_values_are_repeated(charlm: Charlm) -> None:
    Path("my texts/in").mkdir(parents=True)
    Path("my texts/in/a b.txt").write_text(TEXT.replace("\n", "-\n"))
    Path("my texts/c.dat").write_text("no")
    Path("held out's.txt").write_text(TEXT[:400])
    odd = [
        *("--include", "*.txt", "--documents", "separator", "--separator", "-\n", "--val-file"),
        "held out's.txt",
    ]
    assert charlm("train", "my texts", *odd, "--steps", "2", "--run", "first", *TOY).code == 0
    words = read_by_bash(again_of(charlm("info").out))
    assert words[words.index("--separator") + 1] == "-\n" and "held out's.txt" in words
    assert charlm(*words, "--run", "second").code == 0
    assert weights(charlm, "second") == weights(charlm, "first")
    assert charlm("train", "my texts/*/*.txt", "--from", "first", "--steps", "2", "--run", "third").code == 0
    words = read_by_bash(again_of(charlm("info", "third").out))
    assert words[:2] == ["train", "my texts/*/*.txt"] and "--from" in words
    assert charlm(*words, "--run", "fourth").code == 0
    assert weights(charlm, "third") == weights(charlm, "fourth")


def test_the_other_commands_shown_work_for_a_run_of_any_name(charlm: Charlm) -> None:
    root = "my runs\n" + "x" * 100 + "/" + "y" * 150
    made = charlm("train", "ducks.txt", "--steps", "2", *TOY, "--checkpoints", root)
    commands = re.findall(r"^[a-z ]+: +(charlm .*)$", made.err, re.M)
    assert len(commands) == 4
    for command in commands:
        words = read_by_bash(command.replace("--time 2m", "--steps 2"))
        assert charlm(*words).code == 0, command
    Path(root, "ducks").rename(Path(root, "-r it's"))
    made = charlm("resume", "--steps", "1", "--checkpoints", root)
    commands = re.findall(r"^[a-z ]+: +(charlm .*)$", made.err, re.M)
    assert made.code == 0 and len(commands) == 4
    for command in commands:
        words = read_by_bash(command.replace("--time 2m", "--steps 2"))
        assert charlm(*words).code == 0, command


def test_a_run_that_no_command_repeats_says_why(charlm: Charlm) -> None:
    charlm("train", "ducks.txt", "--steps", "2", *TOY)
    charlm("resume", "--steps", "2")
    assert "reproduce this run:  no single command can" in charlm("info").out
    assert json.loads(charlm("info", "--json").out)["repeat_command"] is None
    assert "reproduce this run" not in Path("checkpoints/ducks/report.html").read_text("utf-8")


def test_info_cuts_nothing(charlm: Charlm) -> None:
    name = "a" * 150 + " " + "b" * 90 + ".txt"
    Path(name).write_text(TEXT)
    charlm("train", name, "--run", "long", "--steps", "2", *TOY)
    shown = charlm("info").out
    assert "…" not in shown
    assert [word for word in read_by_bash(again_of(shown)) if word == name]


@pytest.mark.parametrize(
    "options",
    [
        ("--model", "ngram"), ("--steps", "5", "--mixer", "recurrent", "--no-prior", "--lowercase", "--val", "0.2"),
        ("--steps", "5", "--plain", "--documents", "separator", "--separator", " day", "--min-count", "3"),
        ("--steps", "5", "--mixer", "convolution,attention", "--window", "4", "--ngram-embeddings", "1"),
    ],
)  # fmt: skip
def test_a_dry_run_prints_options_as_they_are_typed(charlm: Charlm, options: tuple[str, ...]) -> None:
    Path("two words.txt").write_text(TEXT)
    shown = charlm("train", "two words.txt", *options, "--dry-run").out
    table, _, command = shown.strip().rpartition("\n\n")
    words = read_by_bash(command)
    assert words[:2] == ["train", "two words.txt"]
    assert charlm(*words, "--dry-run").out == shown
    rows = [line.rstrip() for line in table.splitlines() if line.startswith("--")]
    assert not re.search(r"\b(True|False|None)\b", table)
    others = words[2:]
    pasted = read_by_bash("charlm " + " ".join(rows))
    assert charlm("train", "two words.txt", *others, *pasted, "--dry-run").out == shown
