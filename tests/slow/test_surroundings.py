"""Hostile surroundings: whatever the terminal, the streams and the folders are, no traceback, and a code that fits."""

import os
from itertools import product
from pathlib import Path

import pytest

if os.name == "nt":
    pytest.skip("forks", allow_module_level=True)

from tests.commands import Command
from tests.slow.test_torture import TOY

pytestmark = pytest.mark.slow

TEXT = "naïve 日本語 🦆 text, ёлка \x1b[31m\n" * 60
CONSOLES: dict[str, tuple[str, dict[str, str | None]]] = {
    "usual": ("utf-8", {}),
    "C": ("ascii", {"LANG": "C", "LC_ALL": "C"}),
    "cp1252": ("cp1252", {}),
    "dumb": ("utf-8", {"TERM": "dumb"}),
    "NO_COLOR": ("utf-8", {"NO_COLOR": "1", "TERM": None}),
    "20 columns": ("utf-8", {"COLUMNS": "20", "LINES": "2"}),
    "no HOME": ("utf-8", {"HOME": None, "XDG_CACHE_HOME": None, "CHARLM_CACHE": None}),
    "a HOME that is not": (
        "cp1252",
        {"HOME": "/nonexistent", "CHARLM_CACHE": "/proc/nowhere", "COLUMNS": "1"},
    ),
}
PLACES = ("files", "terminal", "stdin closed", "stdout closed", "stderr closed", "read-only folder")
COMBINATIONS = list(product(CONSOLES, PLACES))
READ_ONLY = Path("/sys")
"""A folder that may not be written to, not even by root."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    (folder / "world.txt").write_text(TEXT, "utf-8")
    done = Command(("train", "world.txt", "--steps", "3", *TOY, "--no-prior", "--run", "world"), folder).run()
    assert done.code == 0, done.err
    return folder


@pytest.mark.parametrize(("console", "place"), COMBINATIONS, ids=str)
def test_training_and_sampling_end_with_a_code_that_fits(folder: Path, console: str, place: str) -> None:
    encoding, environment = CONSOLES[console]
    number = COMBINATIONS.index((console, place))
    train = ("train", str(folder / "world.txt"), "--steps", "3", *TOY, "--no-prior", "--eval-every", "1")
    sample = ("sample", "--run", "world", "--length", "40", "--prompt", "日本", "--temperature", "1")
    closed = {"stdin closed": 0, "stdout closed": 1, "stderr closed": 2}
    here = frozenset({closed[place]} if place in closed else ())
    both = ((*train, "--run", f"r{number}"), sample)
    for args in both if place in ("terminal", "read-only folder") else (both[number // 3 % 2],):
        expected = 0
        before = None
        if place == "read-only folder":
            if not READ_ONLY.is_dir():
                pytest.skip("no such folder here")
            before = lambda: os.chdir(READ_ONLY)  # noqa: E731
            expected = 6 if args[0] == "train" else 0
            args = args if args[0] == "train" else (*args, "--checkpoints", str(folder / "checkpoints"))
        command = Command(args, folder, environment, closed=here, encoding=encoding)
        if before is not None:
            command.before = before
        done = command.run_on_terminal() if place == "terminal" else command.run()
        said = done.err + done.out.decode("utf-8", "replace")
        assert "Traceback" not in said and "a bug in charlm" not in said, said
        assert done.code == expected, said
