"""What the commands print, write and load: results to standard output, messages and live lines to standard error."""

import json
import os
import re
import stat
import sys
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from threading import Event, Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from charlm.errors import ResourceError, UsageError
from charlm.strict_json import replace_nonfinite
from charlm.terminal import colour, command_line, fit, is_quiet, one_line, visible
from charlm.training.request import Messages

STDOUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
DESCRIPTOR = re.compile(r"/dev/stderr|(?:/dev|/proc/self)/fd/[0-9]+")
"""What a shell has opened already, such as `3> out`: it is written to as it is, whatever it leads to."""
LONGEST_NAME = 255
DELAY = 1.0
EVERY_SECONDS = 0.25
PLAIN_EVERY_SECONDS = 10.0

if TYPE_CHECKING:
    from charlm.run import Run

T = TypeVar("T")


class Output:
    """The place that an option names, checked before the work begins. Raises UsageError."""

    def __init__(
        self,
        option: str,
        name: str,
        *,
        inputs: Sequence[str] = (),
        overwrite: bool = True,
        binary: bool = False,
    ) -> None:
        """`inputs` are the files that are read (`-` is standard input), which are never overwritten; others with `overwrite`.

        What is `binary` goes to a terminal only with `overwrite`, which is `--force` there.
        """
        self._named = f"{option} {one_line(name)}"
        self.is_stdout = name in STDOUT
        self._path = None if self.is_stdout else Path(os.path.expanduser(name))
        self._special = False  # a device or a pipe, or what a shell has opened: written as it is
        if self._path is not None:
            self._check(self._path, inputs, overwrite)
        elif binary and not overwrite and sys.stdout.isatty():
            raise UsageError(
                f"{self._named} is a terminal, but this output is binary; redirect it, name a file, or give --force"
            )

    def _check(self, path: Path, inputs: Sequence[str], overwrite: bool) -> None:
        try:
            mode = os.stat(path).st_mode
        except (OSError, ValueError):
            self._check_new(os.path.realpath(path))
            return
        self._special = not stat.S_ISREG(mode) or DESCRIPTOR.fullmatch(str(path)) is not None
        if not (stat.S_ISREG(mode) or stat.S_ISCHR(mode) or stat.S_ISFIFO(mode)):
            raise UsageError(f"{self._named} is not a regular file; name a regular file or a new one")
        self.refuse_inputs(inputs)
        if not self._special and not overwrite:
            raise UsageError(f"{self._named} exists already; give another name, or --force to overwrite it")

    def refuse_inputs(self, inputs: Sequence[str]) -> None:
        """UsageError where it is one of the files that are read, or in a folder that is."""
        if self._path is None or not self._path.is_file():
            return
        for name in inputs:
            if _is_same(name, self._path):
                raise UsageError(f"{self._named} is the input file; give another name")
            if name != "-" and Path(os.path.realpath(name)) in Path(os.path.realpath(self._path)).parents:
                raise UsageError(
                    f"{self._named} exists in the input folder {one_line(name)}; give another name"
                )

    def _check_new(self, path: str) -> None:
        """UsageError where no file of that name can be made."""
        folder, name = os.path.split(path)
        if not os.path.isdir(folder):
            raise UsageError(f"{self._named} is in a folder that does not exist; create it, or name another")
        if not os.access(folder, os.W_OK):
            raise UsageError(f"{self._named} is in a folder that cannot be written; name another")
        if len(os.fsencode(name)) > LONGEST_NAME:
            raise UsageError(f"{self._named}: the name is too long; the limit is {LONGEST_NAME} bytes")

    def write(self, pieces: Iterable[bytes]) -> None:
        """Write all of it; a regular file appears whole or not at all. Raises ResourceError."""
        from charlm import files

        try:
            if self._path is None:
                _to_stdout(pieces)
                return
            # A link to a file is followed, not replaced.
            target = self._path if self._special else Path(os.path.realpath(self._path))
            with files.writing(target, synced=False) if self._special else files.replacing(target) as file:
                for piece in pieces:
                    file.write(piece)
        except BrokenPipeError:
            if self.is_stdout:
                raise
            raise ResourceError(
                f"{self._named} cannot be written: the program that reads it has closed it"
            ) from None
        except OSError as error:
            raise ResourceError(f"{self._named} cannot be written: {error.strerror or error}") from None
        say(f"written: {one_line(str(self._path))}")


def _is_same(name: str, path: Path) -> bool:
    """Is the input of that name the file at `path`?"""
    try:
        return os.path.samestat(os.fstat(0) if name == "-" else os.stat(name), os.stat(path))
    except (OSError, ValueError):
        return False


def _to_stdout(pieces: Iterable[bytes]) -> None:
    stream = getattr(sys.stdout, "buffer", None)
    if stream is None:
        raise ResourceError("standard output is closed; connect it, or name a file")
    for piece in pieces:
        stream.write(piece)
        stream.flush()  # whoever reads need not wait for the next one


def given_command() -> str:
    """The command as it was typed, without what may be secret in the addresses of texts."""
    from charlm.data.addresses import without_secrets  # here: not needed for help

    return command_line(["charlm", *(without_secrets(word, is_word=True) for word in sys.argv[1:])])


def say(text: str, command: str = "") -> None:
    """A line for whoever watches, unless --quiet; a command at its end is never broken, so that it can be pasted."""
    if not is_quiet():
        _tell("", "", visible(text), command)


def warn(text: str) -> None:
    """A line that should not be missed."""
    _tell("note: ", "33", visible(text))


def fail(text: str) -> None:
    """Why the command ends."""
    _tell("error: ", "1;31", visible(text))


def _tell(head: str, code: str, text: str, command: str = "") -> None:
    """Write to standard error, above the live line where there is one; on a terminal broken between words."""
    shown = fit(head + text, sys.stderr, visible(command))
    with _no_live_line():
        print(_styled(head, code) + shown[len(head) :] if head else shown, file=sys.stderr, flush=True)


def _no_live_line() -> AbstractContextManager[Any]:
    """Take the live line away meanwhile."""
    if "tqdm" not in sys.modules:  # which is slow to import, and without it there is no such line
        return nullcontext()
    from tqdm import tqdm

    return tqdm.external_write_mode(file=sys.stderr)


def confirm(question: str) -> bool:
    """Ask on the terminal; only `y` and `yes` agree."""
    print(visible(f"{question} [y/N] "), end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):  # the end of the input: the line is still open
        print(file=sys.stderr)
    return answer.strip().lower() in ("y", "yes")


def can_ask() -> bool:
    """Is there somebody to ask: are standard input and standard error a terminal?"""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def foreign(text: str) -> str:
    """Text of a file or a model, made harmless if standard output is a terminal."""
    return visible(text, dim=colour(sys.stdout)) if sys.stdout.isatty() else text


def print_json(row: Mapping[str, Any]) -> None:
    """A result as a line of JSON; what a terminal would obey stays escaped there."""
    print(json.dumps(replace_nonfinite(row), ensure_ascii=sys.stdout.isatty(), allow_nan=False), flush=True)


def table(
    rows: Sequence[tuple[str, ...]],
    *,
    header: tuple[str, ...] | None = None,
    numbers: Sequence[int] = (),
    longest: int = 200,
) -> None:
    """A still table on standard output; columns in `numbers` are aligned to the right.

    Cells of more than `longest` characters are shortened in the middle.
    """
    from rich.console import Console  # here and below: slow to import, and not needed for help
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, padding=(0, 2, 0, 0), show_header=header is not None, header_style="bold")
    for i, title in enumerate(header or rows[0]):
        grid.add_column(title if header else "", justify="right" if i in numbers else "left", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(one_line(cell, longest)) for cell in row))
    coloured = colour(sys.stdout)  # told to rich, which would obey FORCE_COLOR and the like on a pipe too
    console = Console(
        force_terminal=coloured, no_color=not coloured, highlight=False, soft_wrap=not sys.stdout.isatty()
    )
    if sys.stdout.isatty():
        console.print(grid)
        return
    console.width = 200
    with console.capture() as shown:
        console.print(grid)
    print("\n".join(line.rstrip() for line in shown.get().splitlines()))


def count(n: int) -> str:
    """A number with its thousands apart."""
    return f"{n:,}"


def _styled(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour(sys.stderr) else text


class Bar:
    """A live line for work that takes more than a second; without a terminal a plain line every ten seconds.

    A thread of its own draws it, so that it goes on where the work reports nothing for long.
    """

    def __init__(self, unit: str = "B") -> None:
        self._unit = unit
        self._line: Any = None
        self._what, self._began, self._spoken = "", monotonic(), monotonic()
        self._closed, self._changing = Event(), Lock()
        self._drawing = Thread(target=self._draw, daemon=True)

    def __call__(self, what: str, done: int, of: int | None) -> None:
        """So much of so much is done."""
        if what != self._what or (self._line is not None and self._line.total != of):
            self._begin(what, of)
        self._line.n = done

    def close(self) -> None:
        """Take the line away."""
        self._closed.set()
        with self._changing:
            if self._line is not None:
                self._line.close()
                self._line = None
        if self._drawing.is_alive():
            self._drawing.join()

    def _begin(self, what: str, of: int | None) -> None:
        from charlm.reporting.progress import LiveLine  # here: tqdm is not needed for help

        with self._changing:
            if self._line is not None:
                self._line.close()
            self._what, self._began = what, monotonic()
            self._line = LiveLine(of, what=what, delay=DELAY, miniters=0)
            self._line.pieces = self._speed
        if not self._drawing.is_alive() and not self._closed.is_set():
            self._drawing.start()

    def _speed(self) -> list[str]:
        """How much of the unit is done a second."""
        from tqdm import tqdm

        seconds = monotonic() - self._began
        done = self._line.n if self._line is not None else 0
        return [f"{tqdm.format_sizeof(done / seconds)}{self._unit}/s"] if done and seconds > 0 else []

    def _draw(self) -> None:
        """Until it is closed: draw the line anew, or say a plain one when it is time."""
        while not self._closed.wait(EVERY_SECONDS):
            now = monotonic()
            with self._changing:
                line = self._line
                if line is None or line.update(0) or not line.disable:
                    continue
            if now - self._spoken >= PLAIN_EVERY_SECONDS:
                self._spoken = now
                share = f" {100 * line.n / line.total:.0f} %" if line.total else f" {now - self._began:.0f} s"
                say(", ".join([f"{self._what}{share}", *self._speed()]))


@contextmanager
def working(what: str, unit: str = " symbols") -> Iterator[Bar]:
    """Show that something is being done, until it is done; nothing before it is named, where `what` is empty."""
    bar = Bar(unit)
    if what:
        bar(what, 0, None)
    try:
        yield bar
    finally:
        bar.close()


MESSAGES = Messages(say, warn, working)
"""To standard error."""


def load_run(root: Path, name: str | None, checkpoint: str | None = None, device: str = "cpu") -> "Run":
    """Load a run, by default the newest, at a checkpoint: by default the latest, or the best after early stopping.

    Says which it is, and whether it computes on a GPU. Raises CheckpointError and UsageError.
    """
    from charlm.run import load  # here: torch is slow to import
    from charlm.training.device import gpu_note

    run = load(name, checkpoint=checkpoint, checkpoints=root, device=device, messages=MESSAGES)
    newest = "" if name else ", the newest run"
    say(f"using {run.which} of {one_line(run.name)}{newest}: step {run.step}")
    if not run.snapshot.model_config.is_ngram and (note := gpu_note(device)) is not None:
        say(note)
    return run


def finish(work: Generator[Any, None, T], what: str) -> T:
    """Do all of the work, which yields what is done and the total; show a live line and return the result."""
    with working(what) as watch:
        while True:
            try:
                progress = next(work)
            except StopIteration as end:
                result: T = end.value
                return result
            watch(what, *progress)
