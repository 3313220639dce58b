"""The command as its user has it: words in; exit code, output and files out.

Nothing here or in the tests beside it imports charlm but its entry point, so they hold however its modules
are arranged.
"""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

TEXT = "".join(
    f"{i} little ducks went swimming one day, {'over the hills' * (i % 3)} and far away.\n" for i in range(60)
)
ROOT = Path(__file__).parents[3]
SHAPE = {
    "n_layer": 1,
    "n_embd": 16,
    "n_head": 2,
    "block_size": 16,
    "batch_size": 4,
    "threads": 1,
    "precision": "fp32",
    "compile": "off",
    "eval_every": 5,
}


def tiny(**changes: object) -> list[str]:
    """Options of the smallest model, with one thread and no numbers that only some processors have, but for `changes`.

    True and False are given as `--name` and `--no-name`; None leaves the option out.
    """
    words: list[str] = []
    for name, value in {**SHAPE, **changes}.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif value is not None:
            words.append(f"--{option}={value}")
    return words


@dataclass
class Result:
    """What a command gave."""

    code: int
    out: str
    err: str
    raw: bytes
    """Standard output before it was decoded."""

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Standard output as JSON, an object a line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @cached_property
    def json(self) -> Any:
        """Standard output as one JSON value; where it is several lines of JSON, the last of them."""
        try:
            return json.loads(self.out)
        except ValueError:
            return self.rows[-1]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The rows of this type."""
        return [row for row in self.rows if row["type"] == kind]


class _Watched(io.FileIO):
    """A file that shows each JSON line to `watch` before it goes on."""

    def __init__(self, path: Path, watch: Callable[[dict[str, Any]], object] | None) -> None:
        super().__init__(path, "w")
        self._watch, self._part = watch, b""

    def write(self, data: Any) -> int:
        written = super().write(data)
        if self._watch is not None:
            *lines, self._part = (self._part + bytes(data)).split(b"\n")
            for line in lines:
                self._watch(json.loads(line))
        return written


class Charlm:
    """The command in a folder, beside a text of 4070 characters, `ducks.txt`."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.folder, self.cache = folder, cache
        self._streams = folder.parent / f"{folder.name}.streams"  # beside the folder, which tests may list
        self._streams.mkdir()
        (folder / "ducks.txt").write_bytes(TEXT.encode())

    def __call__(
        self,
        *words: str | os.PathLike[str],
        stdin: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
        watch: Callable[[dict[str, Any]], object] | None = None,
    ) -> Result:
        """Run it in this process. `watch` is called with each row of `--json` as soon as it is written."""
        from charlm.__main__ import main

        before, folder, argv = dict(os.environ), os.getcwd(), sys.argv
        streams, numbers = (sys.stdin, sys.stdout, sys.stderr), os.dup(0)
        given = self._given(stdin)
        for number in (signal.SIGINT, signal.SIGTERM):  # nohup and a shell's & let them be ignored
            if signal.getsignal(number) == signal.SIG_IGN:
                signal.signal(
                    number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
                )
        try:
            os.chdir(self.folder)
            os.environ.clear()
            os.environ.update(self.environment(env))
            sys.argv = ["charlm", *map(os.fspath, words)]
            with open(given, "rb") as file:
                os.dup2(file.fileno(), 0)
                sys.stdin = io.TextIOWrapper(file, "utf-8")
                sys.stdout = self._stream("out", watch)
                sys.stderr = self._stream("err", None)
                code = _code_of(main)
                sys.stdout.close()
                sys.stderr.close()
        finally:
            sys.stdin, sys.stdout, sys.stderr = streams
            os.dup2(numbers, 0)
            os.close(numbers)
            sys.argv = argv
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(before)
        out, err = ((self._streams / name).read_bytes() for name in ("out", "err"))
        return Result(code, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"), out)

    def process(
        self,
        *words: str | os.PathLike[str],
        stdin: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Result:
        """Run it in a process of its own: seconds slower, for what depends on when a process began."""
        with open(self._given(stdin), "rb") as file:
            done = subprocess.run(
                [sys.executable, "-m", "charlm", *words],
                cwd=self.folder,
                env=self.environment(env) | {"PYTHONPATH": str(ROOT)},
                stdin=file,
                capture_output=True,
                timeout=300,
            )
        out, err = (
            stream.replace(b"\r\n", b"\n").decode("utf-8", "replace") for stream in (done.stdout, done.stderr)
        )
        return Result(done.returncode, out, err, done.stdout)

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """This process's variables without what would steer the command, and with a cache of the tests' own."""
        steering = ("CHARLM_", "NO_COLOR", "FORCE_COLOR", "PYTHONIOENCODING")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(steering)}
        return kept | {"CHARLM_CACHE": str(self.cache), "COLUMNS": "100"} | dict(more or {})

    def _given(self, stdin: str | bytes | None) -> Path:
        path = self._streams / "in"
        path.write_bytes(stdin.encode() if isinstance(stdin, str) else stdin or b"")
        return path

    def _stream(self, name: str, watch: Callable[[dict[str, Any]], object] | None) -> io.TextIOWrapper:
        raw = _Watched(self._streams / name, watch)
        return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace", newline="\n")


def _code_of(main: Callable[[], object]) -> int:
    try:
        main()
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    return 0


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all commands of this process have for their cache."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def charlm(tmp_path_factory: pytest.TempPathFactory, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Charlm:
    """The command in a new folder, which is the test's working folder, too."""
    command = Charlm(tmp_path_factory.mktemp("work"), cache)
    monkeypatch.chdir(command.folder)
    return command


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[tuple[Charlm, Result]]:
    """A run `ducks` of 12 steps, and what `train --json` printed; shared, so it must be left as it is."""
    command = Charlm(tmp_path_factory.mktemp("trained"), cache)
    result = command("train", "ducks.txt", "--steps", "12", "--json", "--run", "ducks", *tiny())
    assert result.code == 0, result.err
    yield command, result
