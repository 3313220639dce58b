"""Runs of every kind, for the tests of `sample`, `eval` and `compress`: each is trained once in a process."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

WORDS = (
    *("the", "little", "old", "duck", "fox", "house", "river", "went", "swam", "over", "under", "far"),
    *("away", "one", "day", "and", "then", "rained", "nobody's", "minded", "café", "naïve"),
)
SIZE = ("--n-layer", "1", "--n-embd", "16", "--block-size", "16", "--batch-size", "4")
HEADS = ("--n-head", "2")
STEPS = ("--steps", "30", "--learning-rate", "0.05", "--eval-every", "15")
SPLIT = ("--val", "0.1", "--test", "0.1")
KINDS = {
    "prior": (*SIZE, *HEADS, *STEPS, *SPLIT),
    "plain": ("--plain", *SIZE, *HEADS, *STEPS, *SPLIT),
    "counts": ("--model", "ngram", *SPLIT),
    "lines": ("--documents", "line", *SIZE, *HEADS, *STEPS, *SPLIT),
    "spelled": ("--model", "ngram", "--min-count", "100000", *SPLIT),  # characters spelled in bytes
    "bytes": ("--units", "bytes", *SIZE, *HEADS, *STEPS, *SPLIT),
    "mixture": (
        *("--members", "no-prior,prior,ngram", "--reserved-chars", "1000"),
        *("--n-layer", "1", "--n-embd", "16", "--batch-size", "4", *HEADS, *STEPS, *SPLIT),
    ),
    "recurrent": ("--mixer", "recurrent", *SIZE, *STEPS, *SPLIT),
    "controls": ("--model", "ngram"),  # of a text full of what a terminal would obey
}
SCORED = tuple(kind for kind in KINDS if kind not in ("controls", "spelled"))
ALIKE = {
    "CHARLM_THREADS": "1",  # the order of a sum depends on the threads: one, whatever the machine has
}


def prose(chars: int, seed: int = 1) -> str:
    """Lines of words: so many characters, or a few more up to the end of the line; the same everywhere."""
    state, lines, length = seed, [], 0
    while length < chars:
        words = []
        for _ in range(5 + state % 7):
            state = (state * 1103515245 + 12345) % 2**31
            words.append(WORDS[(state >> 16) % len(WORDS)])
        lines.append(" ".join(words).capitalize() + ".!?"[(state >> 20) % 3] + "\n")
        length += len(lines[-1])
    return "".join(lines)


TEXT = prose(24_000)
UNSEEN = prose(1_500, seed=7)
"""Of the same kind as TEXT, and no part of it."""
RED = "".join(f"\x1b[31m{line}\x1b[0m\x07\n" for line in prose(6_000).splitlines())
TEXTS = {"controls": RED}

Charlm = Callable[..., Any]
_made: dict[str, Path] = {}


class Models:
    """Runs commands on a run of a kind: `models("prior", "sample", "--seed", "3")`."""

    def __init__(self, charlm: Charlm, factory: pytest.TempPathFactory) -> None:
        self._charlm, self._factory = charlm, factory

    def __call__(self, kind: str, command: str, *words: str, **how: Any) -> Any:
        """What the command gives, in the folder of the test."""
        how["env"] = {**ALIKE, **(how.get("env") or {})}
        return self._charlm(command, "--checkpoints", str(self.root(kind)), "--run", kind, *words, **how)

    def root(self, kind: str) -> Path:
        """The folder that has the run of this kind and no other. Do not change anything in it."""
        if kind not in _made:
            folder, here = self._factory.mktemp(kind), Path.cwd()
            os.chdir(folder)  # a run stays where it is made, since it remembers the path of its text
            try:
                Path("text.txt").write_bytes(TEXTS.get(kind, TEXT).encode())
                trained = self._charlm("train", "text.txt", "--run", kind, "-q", *KINDS[kind], env=ALIKE)
                assert trained.code == 0, trained.err
            finally:
                os.chdir(here)
            _made[kind] = folder
        return _made[kind] / "checkpoints"
