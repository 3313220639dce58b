"""`charlm runs --remove` and `charlm cache --clear`: asked on a terminal, whole, and nothing else."""

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from charlm.checkpoint.run_folder import RunFolder
from tests.conftest import Result

Charlm = Callable[..., Result]
SHAPE = ["--n-layer", "1", "--n-embd", "16", "--n-head", "2", "--block-size", "16", "--batch-size", "4"]
TRAIN = ["train", "ducks.txt", *SHAPE, "--no-prior", "--steps", "1"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """What is typed at a terminal when it asks."""
    monkeypatch.setattr("charlm.cli.console.can_ask", lambda: True)
    for name in ("runs", "cache"):
        monkeypatch.setattr(f"charlm.cli.{name}.can_ask", lambda: True)

    def typed(text: str) -> None:
        monkeypatch.setattr(sys, "stdin", Terminal(text))

    return typed


def there() -> list[str]:
    return sorted(path.name for path in Path("checkpoints").iterdir())


def test_runs_are_removed_with_yes_and_what_it_frees_is_said(charlm: Charlm) -> None:
    for name in ("a", "b", "c"):
        assert charlm(*TRAIN, "--run", name).code == 0
    cached = charlm("cache", "--json").out
    size = sum(path.stat().st_size for path in Path("checkpoints/a").rglob("*") if path.is_file())
    refused = charlm("runs", "--remove", "a", "b")
    assert refused.code == 2 and "--yes" in refused.err and there() == ["a", "b", "c"]
    result = charlm("runs", "--remove", "a", "--yes", "--json")
    assert json.loads(result.out) == {
        "schema": 1,
        "removed": ["a"],
        "freed_bytes": pytest.approx(size, abs=99),
    }
    assert there() == ["b", "c"]
    result = charlm("runs", "b", "c", "b", "--remove", "-y")
    assert result.code == 0 and "MB freed" in result.err and there() == []
    assert charlm("cache", "--json").out == cached


def test_on_a_terminal_it_is_asked(charlm: Charlm, answer: Callable[[str], None]) -> None:
    assert charlm(*TRAIN, "--run", "a").code == 0
    for text in ("\n", "n\n", "", "yess\n"):
        answer(text)
        result = charlm("runs", "--remove", "a")
        assert result.code == 0 and "remove the run a" in result.err and "nothing was removed" in result.err
        assert there() == ["a"]
    answer("y\n")
    assert charlm("runs", "--remove", "a").code == 0 and there() == []


def test_a_comparison_is_removed_whole_or_not_at_all(charlm: Charlm) -> None:
    words = ["compare", "ducks.txt", *SHAPE, "--no-prior", "--steps", "1", "--vary", "position=none,rotary"]
    assert charlm(*words, "--run", "both").code == 0
    (first, *_) = sorted(path.parent.name for path in Path("checkpoints/both").glob("*/run.json"))
    result = charlm("runs", "--checkpoints", "checkpoints/both", "--remove", first, "--yes")
    assert result.code == 2 and "whole" in result.err
    other = RunFolder(Path("checkpoints/both", first))
    other.lock()
    try:
        assert charlm("runs", "--remove", "both", "--yes").code == 4
    finally:
        other.unlock()
    result = charlm("runs", "--remove", "both", "--yes")
    assert result.code == 0 and "comparison of 2 runs" in result.err and there() == []


def test_a_run_in_training_stays_and_so_do_all_that_were_named(charlm: Charlm) -> None:
    for name in ("a", "b"):
        assert charlm(*TRAIN, "--run", name).code == 0
    other = RunFolder(Path("checkpoints/b"))
    other.lock()
    try:
        result = charlm("runs", "--remove", "a", "b", "--yes")
    finally:
        other.unlock()
    assert result.code == 4 and "being trained" in result.err and there() == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("../out", 2),
        ("..", 2),
        (".", 2),
        ("a/step-00000001", 2),
        ("link", 2),
        ("empty", 2),
        ("nope", 4),
        ("", 2),
        ("file", 4),
    ],
)
def test_nothing_but_runs_is_removed(charlm: Charlm, name: str, code: int) -> None:
    assert charlm(*TRAIN, "--run", "a").code == 0
    Path("checkpoints/empty").mkdir()
    Path("checkpoints/file").write_text("")
    Path("out").mkdir()
    Path("out/run.json").write_text("{}")
    os.symlink(Path("out").absolute(), "checkpoints/link")
    before = there()
    result = charlm("runs", "--remove", "a", name, "--yes")
    assert result.code == code and result.err.startswith("error: ") and there() == before
    assert Path("out/run.json").exists()


def test_a_link_within_a_run_is_removed_and_not_followed(charlm: Charlm) -> None:
    assert charlm(*TRAIN, "--run", "a").code == 0
    Path("out").mkdir()
    Path("out/kept").write_text("kept")
    os.symlink(Path("out").absolute(), "checkpoints/a/link")
    assert charlm("runs", "--remove", "a", "--yes").code == 0
    assert Path("out/kept").read_text() == "kept" and there() == []


def test_names_and_yes_do_nothing_without_remove(charlm: Charlm) -> None:
    assert charlm(*TRAIN, "--run", "a").code == 0
    for words in (("a",), ("--yes",)):
        result = charlm("runs", *words)
        assert result.code == 2 and "--remove" in result.err
    assert charlm("runs", "--remove", "--yes").code == 2
    assert charlm("cache", "--yes").code == 2


def cached(charlm: Charlm) -> int:
    return len(json.loads(charlm("cache", "--json").out)["texts"])


def test_clearing_the_cache_is_asked_on_a_terminal(charlm: Charlm, answer: Callable[[str], None]) -> None:
    assert charlm(*TRAIN).code == 0
    assert cached(charlm)
    answer("no\n")
    result = charlm("cache", "--clear")
    assert result.code == 0 and "remove " in result.err and "nothing was removed" in result.err
    assert cached(charlm)
    answer("Y\n")
    assert charlm("cache", "--clear").code == 0 and not cached(charlm)
    assert charlm(*TRAIN).code == 0
    answer("")
    assert charlm("cache", "--clear", "--yes").code == 0 and not cached(charlm)


def test_without_a_terminal_the_cache_is_cleared(charlm: Charlm) -> None:
    assert charlm(*TRAIN).code == 0
    assert charlm("cache", "--clear").code == 0 and not cached(charlm)
