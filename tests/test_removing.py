"""`charlm runs --remove` and `charlm cache --clear`: asked on a terminal, whole, and nothing else."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.kept import TOY
from tests.conftest import Result

Charlm = Callable[..., Result]
TRAIN = ("train", "ducks.txt", *TOY, "--no-prior", "--steps", "1")


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


def test_on_a_terminal_it_is_asked(charlm: Charlm, answer: Callable[[str], None]) -> None:
    assert charlm(*TRAIN, "--run", "a").code == 0
    for text in ("\n", "n\n", "", "yess\n"):
        answer(text)
        result = charlm("runs", "--remove", "a")
        assert result.code == 0 and "remove the run a" in result.err and "nothing was removed" in result.err
        assert there() == ["a"]
    answer("y\n")
    assert charlm("runs", "--remove", "a").code == 0 and there() == []


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
