"""What the commands say: results to standard output, everything else to standard error."""

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from charlm.checkpoint.strict_json import finite
from charlm.terminal import colour, fit, is_quiet, one_line, visible


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


def note_files(notes: Iterable[str]) -> None:
    """What was noticed in reading a text."""
    for note in notes:
        warn(one_line(note))


def warn_of_slow_parts() -> None:
    """Say once for each part that it runs in NumPy, though a compiler is there."""
    compiled = sys.modules.get("charlm.compiled")
    for purpose, why in compiled.take_failures() if compiled else ():
        warn(
            f"the C code for {purpose} could not be compiled ({one_line(why)}); NumPy is used, which is slower. "
            "charlm doctor shows which parts are compiled"
        )


def foreign(text: str) -> str:
    """Text of a file or a model, made harmless if standard output is a terminal."""
    return visible(text, dim=colour(sys.stdout)) if sys.stdout.isatty() else text


def print_json(row: Mapping[str, Any]) -> None:
    """A result as a line of JSON; what a terminal would obey stays escaped there."""
    print(json.dumps(finite(row), ensure_ascii=sys.stdout.isatty(), allow_nan=False), flush=True)


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


def text_of(run: Mapping[str, Any]) -> str:
    """The text of a run, as a figure on it must name it: with the beginning of its hash."""
    corpus = run["corpus"]
    return one_line(f"{corpus['label']}, SHA-256 {corpus['sha256'][:16]}")


def checkpoints_root(option: str | None) -> Path:
    """Where runs live."""
    return Path(os.path.expanduser(option or "checkpoints"))


def _styled(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if colour(sys.stderr) else text
