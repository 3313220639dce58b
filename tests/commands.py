"""The command in a child of this process: its own streams, folder and signals, without the wait for torch."""

import io
import os
import pty
import select
import signal
import sys
import termios
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from time import perf_counter

from charlm.cli.main import run as main
from tests.forks import end_after, start


@cache
def _import_once() -> None:
    """All that the commands import when they need it: once here, instead of once in each child."""
    for name in (
        "cli.follow",
        "model.fast_decoder",
        "inference.predictor",
        "inference.generate",
        "training.launch",
    ):
        import_module(f"charlm.{name}")


@dataclass
class Done:
    """What a command gave."""

    code: int
    out: bytes
    err: str


@dataclass
class Command:
    """A command to run, and how."""

    args: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str | None] = field(default_factory=dict)  # None: not set
    before: Callable[[], object] = lambda: None
    closed: frozenset[int] = frozenset()
    encoding: str = "utf-8"
    seconds: int = 300
    """After so many it is ended by SIGALRM, whatever it waits for."""
    stdin: int | None = None
    """A descriptor; None: nothing comes from there."""

    def begin(self, out: int, err: int) -> int:
        """Start it with these descriptors; its process id."""
        _import_once()
        return start(lambda: self._be(out, err))

    def run(self) -> Done:
        """Run it to its end, its output into files."""
        with open(self.folder / ".out", "wb") as out, open(self.folder / ".err", "wb") as err:
            child = self.begin(out.fileno(), err.fileno())
            status = os.waitpid(child, 0)[1]
        return Done(
            os.waitstatus_to_exitcode(status),
            (self.folder / ".out").read_bytes(),
            (self.folder / ".err").read_text("utf-8", "replace"),
        )

    def run_on_terminal(self, *, err_too: bool = False) -> Done:
        """Run it to its end, standard output (and error) a terminal of 80 columns, that gets `out`."""
        ours, theirs = pty.openpty()
        termios.tcsetwinsize(theirs, (24, 80))
        with open(self.folder / ".err", "wb") as err:
            child = self.begin(theirs, theirs if err_too else err.fileno())
        os.close(theirs)
        pieces = []
        while True:
            select.select([ours], [], [])
            try:
                piece = os.read(ours, 1 << 16)
            except OSError:  # on Linux the end of a terminal is an error
                break
            if not piece:
                break
            pieces.append(piece)
        os.close(ours)
        status = os.waitpid(child, 0)[1]
        return Done(
            os.waitstatus_to_exitcode(status),
            b"".join(pieces),
            (self.folder / ".err").read_text("utf-8", "replace"),
        )

    def _be(self, out: int, err: int) -> int:
        os.chdir(self.folder)
        for name, value in self.environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        os.dup2(os.open(os.devnull, os.O_RDONLY) if self.stdin is None else self.stdin, 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        for descriptor in self.closed:
            os.close(descriptor)
        sys.stdin, sys.stdout, sys.stderr = (self._stream(number) for number in range(3))  # type: ignore[assignment]
        sys.argv = ["charlm", *self.args]
        if 2 in self.closed:
            signal.alarm(self.seconds)
        else:
            end_after(self.seconds, 2)
        self.before()
        return main(perf_counter())

    def _stream(self, number: int) -> io.TextIOWrapper | None:
        """As Python opens it when it starts, None where it is closed."""
        if number in self.closed:
            return None
        how = "strict" if number < 2 else "backslashreplace"
        raw = io.FileIO(number, "r" if number == 0 else "w", closefd=False)
        buffered = io.BufferedReader(raw) if number == 0 else io.BufferedWriter(raw)
        return io.TextIOWrapper(buffered, self.encoding, how, line_buffering=raw.isatty())  # type: ignore[arg-type]


class Child:
    """A command at work: what it prints can be read meanwhile, and signals sent to it."""

    def __init__(self, command: Command) -> None:
        self._folder = Path(mkdtemp(prefix="child-"))
        out, theirs = os.pipe()
        self.out = open(out, "rb")  # noqa: SIM115  closed at the end
        with open(self._folder / "err", "wb") as err:
            self.pid = replace(command, closed=command.closed | {out}).begin(theirs, err.fileno())
        os.close(theirs)
        self._code: int | None = None

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        """End it, if it has not ended."""
        if self._code is None:
            self.signal(signal.SIGKILL)
        self.end()
        self.out.close()
        rmtree(self._folder)

    @property
    def err(self) -> str:
        """What it has said so far."""
        return (self._folder / "err").read_text("utf-8", "replace")

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def end(self) -> Done:
        """Wait for its end; of its output what was not read before."""
        out = b"" if self.out.closed else self.out.read()
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return Done(self._code, out, self.err)
