"""Output of the commands: results to standard output, messages and progress bars to standard error; also loads runs."""

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
"""A file that the shell has opened, such as `3> out`: written to in place, whatever it leads to."""
LONGEST_NAME = 255
DELAY = 1.0
EVERY_SECONDS = 0.25
PLAIN_EVERY_SECONDS = 10.0

if TYPE_CHECKING:
    from charlm.run import Run

T = TypeVar("T")


class Output:
    """The destination that an option names, checked before the work begins. Raises UsageError."""

    def __init__(
        self,
        option: str,
        name: str,
        *,
        inputs: Sequence[str] = (),
        overwrite: bool = True,
        binary: bool = False,
    ) -> None:
        """`inputs`: files that are read (`-` is standard input), never overwritten. `overwrite`: other files may be.

        `binary` output goes to a terminal only with `overwrite`, which is `--force` there.
        """
        self._named = f"{option} {one_line(name)}"
        self.is_stdout = name in STDOUT
        self._path = None if self.is_stdout else Path(os.path.expanduser(name))
        self._special = False  # a device, a pipe or what a shell has opened: written in place
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
        """Raise UsageError if it is one of the files that are read, or in a folder that is."""
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
        """Raise UsageError if no file of that name can be created."""
        folder, name = os.path.split(path)
        if not os.path.isdir(folder):
            raise UsageError(f"{self._named} is in a folder that does not exist; create it, or name another")
        if not os.access(folder, os.W_OK):
            raise UsageError(f"{self._named} is in a folder that cannot be written; name another")
        if len(os.fsencode(name)) > LONGEST_NAME:
            raise UsageError(f"{self._named}: the name is too long; the limit is {LONGEST_NAME} bytes")

    def write(self, pieces: Iterable[bytes]) -> None:
        """Write all of it; a regular file is written atomically. Raises ResourceError."""
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
    """Whether the input of that name is the file at `path`."""
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
        stream.flush()  # so that a reader need not wait for the next one


def given_command() -> str:
    """Return the command as it was typed, without secrets in the addresses of texts."""
    from charlm.data.addresses import without_secrets  # here: not needed for help

    return command_line(["charlm", *(without_secrets(word, is_word=True) for word in sys.argv[1:])])


def say(text: str, command: str = "") -> None:
    """Print a message to standard error, unless --quiet; a command at its end is never broken, so that it can be pasted."""
    if not is_quiet():
        _tell("", "", visible(text), command)


def warn(text: str) -> None:
    """Print a warning to standard error."""
    _tell("note: ", "33", visible(text))


def fail(text: str) -> None:
    """Print the error that ends the command to standard error."""
    _tell("error: ", "1;31", visible(text))


def _tell(head: str, code: str, text: str, command: str = "") -> None:
    """Write to standard error, above the progress bar if there is one; on a terminal, lines break between words."""
    shown = fit(head + text, sys.stderr, visible(command))
    with _no_live_line():
        print(_styled(head, code) + shown[len(head) :] if head else shown, file=sys.stderr, flush=True)


def _no_live_line() -> AbstractContextManager[Any]:
    """Hide the progress bar within the block."""
    if "tqdm" not in sys.modules:  # slow to import, and without it there is no bar
        return nullcontext()
    from tqdm import tqdm

    return tqdm.external_write_mode(file=sys.stderr)


def confirm(question: str) -> bool:
    """Ask on the terminal; only `y` and `yes` agree."""
    print(visible(f"{question} [y/N] "), end="", file=sys.stderr, flush=True)
    answer = sys.stdin.readline()
    if not answer.endswith("\n"):  # end of input, so the line is still open
        print(file=sys.stderr)
    return answer.strip().lower() in ("y", "yes")


def can_ask() -> bool:
    """Whether a question can be asked: standard input and standard error are terminals."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def foreign(text: str) -> str:
    """Escape control characters in text of a file or a model, if standard output is a terminal."""
    return visible(text, dim=colour(sys.stdout)) if sys.stdout.isatty() else text


def print_json(row: Mapping[str, Any]) -> None:
    """Print a result as a line of JSON; on a terminal all but ASCII is escaped."""
    print(json.dumps(replace_nonfinite(row), ensure_ascii=sys.stdout.isatty(), allow_nan=False), flush=True)


def table(
    rows: Sequence[tuple[str, ...]],
    *,
    header: tuple[str, ...] | None = None,
    numbers: Sequence[int] = (),
    longest: int = 200,
) -> None:
    """Print a table to standard output; columns in `numbers` are aligned to the right.

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
    """Format a number with separators of thousands."""
    return f"{n:,}"


def _styled(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour(sys.stderr) else text


class Bar:
    """A progress bar for work that takes more than a second; without a terminal a plain line every ten seconds.

    A thread of its own draws it, so that it moves even while the work reports nothing.
    """

    def __init__(self, unit: str = "B") -> None:
        self._unit = unit
        self._line: Any = None
        self._what, self._began, self._spoken = "", monotonic(), monotonic()
        self._closed, self._changing = Event(), Lock()
        self._drawing = Thread(target=self._draw, daemon=True)

    def __call__(self, what: str, done: int, of: int | None) -> None:
        """Report that `done` of `of` is done."""
        if what != self._what or (self._line is not None and self._line.total != of):
            self._begin(what, of)
        self._line.n = done

    def close(self) -> None:
        """Remove the bar."""
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
        """Return the speed, in units per second, as text."""
        from tqdm import tqdm

        seconds = monotonic() - self._began
        done = self._line.n if self._line is not None else 0
        return [f"{tqdm.format_sizeof(done / seconds)}{self._unit}/s"] if done and seconds > 0 else []

    def _draw(self) -> None:
        """Redraw the bar until it is closed, or print a plain line when one is due."""
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
    """Show a progress bar while the block runs; if `what` is empty, not before the work names itself."""
    bar = Bar(unit)
    if what:
        bar(what, 0, None)
    try:
        yield bar
    finally:
        bar.close()


MESSAGES = Messages(say, warn, working)
"""Messages to standard error."""


def load_run(root: Path, name: str | None, checkpoint: str | None = None, device: str = "cpu") -> "Run":
    """Load a run, by default the newest, at a checkpoint: by default the latest, or the best after early stopping.

    Prints which it is, and whether it runs on a GPU. Raises CheckpointError and UsageError.
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
    """Run a generator that yields what is done and the total; show a progress bar and return its result."""
    with working(what) as watch:
        while True:
            try:
                progress = next(work)
            except StopIteration as end:
                result: T = end.value
                return result
            watch(what, *progress)
