"""What many tests of the command begin with: texts, the smallest model, and runs that are made once."""

import builtins
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

TEXT = "".join(
    f"{i} little ducks went swimming one day, {'over the hills' * (i % 3)} and far away.\n" for i in range(60)
)
TOY = (
    *("--n-layer", "1", "--n-embd", "16", "--n-head", "2", "--block-size", "16", "--batch-size", "4"),
    *("--threads", "1", "--device", "cpu"),
)
COMMANDS = (
    *("train", "inspect", "resume", "sample", "play", "eval", "surprisal", "page", "serve", "export"),
    *("compress", "decompress"),
    *("runs", "info", "compare", "cache", "data", "explain", "doctor"),
)
Charlm = Callable[..., Any]
_MADE: dict[object, Path] = {}


def thinned(names: Iterable[str], *slow: str) -> list[Any]:
    """These names to parametrize with, some of them slow."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in slow)) for name in names]


def prose(lines: int = 300, seed: int = 1) -> str:
    """Lines of words, no two alike, without a repeat of 64 characters; the same everywhere."""
    words = ["the", "of", "and", "a", "to", "in", "he", "was", "that", "it", "his", "for", "had", "café"]
    state, made = seed, []
    for line in range(lines):
        chosen = []
        for _ in range(12):
            state = (state * 1103515245 + 12345) % 2**31
            chosen.append(words[(state >> 16) % len(words)])
        made.append(" ".join(chosen) + f" {seed}.{line}\n")
    return "".join(made)


def bring(
    charlm: Charlm, factory: pytest.TempPathFactory, *commands: tuple[str, ...], geese: str = ""
) -> None:
    """Copy here what these commands make, beside `ducks.txt` and `geese.txt`; they are run once in this process.

    Runs are made where they stay, since a run remembers the path of its text: so no command may name a path here.
    """
    if (commands, geese) not in _MADE:
        folder, here = factory.mktemp("made"), Path.cwd()
        os.chdir(folder)
        try:
            Path("ducks.txt").write_text(TEXT)
            Path("geese.txt").write_text(geese)
            for words in commands:
                result = charlm(*words)
                assert result.code == 0, result.err
        finally:
            os.chdir(here)
        _MADE[commands, geese] = folder
    shutil.copytree(_MADE[commands, geese], ".", dirs_exist_ok=True, symlinks=True)


def within(seconds: int = 300) -> dict[str, Any]:
    """What ends a process by SIGALRM after so many seconds, whatever it waits for: for `Popen` and its kind."""
    return {} if os.name == "nt" else {"preexec_fn": partial(signal.alarm, seconds)}


def process(
    *words: str, env: dict[str, str] | None = None, python: tuple[str, ...] = (), **streams: Any
) -> subprocess.Popen[bytes]:
    """The command in a process of its own, where its streams, signals or imports are what is tested."""
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
    command = [sys.executable, *python, "-m", "charlm", *words]
    return subprocess.Popen(command, env={**os.environ, **(env or {})}, **within(), **streams)


def keys(**names: str) -> dict[str, type]:
    """Keys with the types of their values: `keys(str="run path", int="step")`."""
    return {name: getattr(builtins, kind) for kind, words in names.items() for name in words.split()}


def data(result: Any, code: int = 0) -> Any:
    """The one JSON object that a command printed."""
    assert result.code == code, result.err
    return json.loads(result.out)


def rows(result: Any) -> list[Any]:
    """The JSON objects that a command printed, one a line."""
    assert result.code == 0, result.err
    return [json.loads(line) for line in result.out.splitlines()]


def refused(result: Any, code: int, *facts: str) -> None:
    """One error, nothing on standard output, and these facts in it."""
    assert (result.code, result.out) == (code, ""), (result.code, result.err)
    assert result.err.count("error: ") == 1 and "Traceback" not in result.err
    said = result.err[result.err.index("error: ") :]
    assert all(fact in said for fact in facts), said


def files_below(folder: str | Path) -> dict[str, bytes]:
    """Every file below a folder, with what is in it."""
    return {str(path): path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}
