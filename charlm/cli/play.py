"""`charlm play`: write together with a model in the terminal.

Built on Textual, whose editor brings wrapping, selection, undo, the mouse and resizes, and whose Pilot tests every key;
prompt_toolkit starts as fast (0.27 s of computing against 0.23 s) and is smaller (1.8 MB against 7.3 MB), but would leave
the editor's drawing and its windows to be written here. Beside torch its size is no reason for an extra.
"""

import itertools
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.console import foreign, load_run
from charlm.cli.options import (
    ROOT,
    Checkpoints,
    RunName,
    RunOption,
    Threads,
    Which,
    one_run,
    with_settings,
)
from charlm.cli.sample import ESCAPES, prepare
from charlm.cli.sample_prompts import PromptSource, read_prompts
from charlm.errors import UsageError
from charlm.inference.desk_config import DeskConfig
from charlm.terminal import unescaped
from charlm.training.request import build
from charlm.training.signals import Signalled, StopSignals

if TYPE_CHECKING:
    from charlm.cli.desk import Desk

Prompt = Annotated[
    str | None, typer.Option(metavar="TEXT", help=f"Beginning of the text. {ESCAPES} [default: empty]")
]
Draft = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Continue the text of a file, read as the run read its text."),
]
RESCUED = "charlm-play-{}.txt"
"""The file in the current folder that gets the text if the terminal is closed."""
EXAMPLES = """Examples:
  charlm play                              write with the newest run; F1 shows the keys
  charlm play tale --temperature 0.6       with another run, more predictable
  charlm play --prompt-file draft.txt      continue a draft
  charlm play > tale.txt                   the text goes to a file when you quit"""


@with_settings({"Continuing": DeskConfig})
def command(
    name: RunName = None,
    run: RunOption = None,
    checkpoint: Which = None,
    prompt: Prompt = None,
    prompt_file: Draft = None,
    threads: Threads = None,
    checkpoints: Checkpoints = ROOT,
    *,
    settings: dict[str, Any],
) -> None:
    """Write together with a model: an editor in the terminal.

    Tab continues the text at the cursor, Esc takes the continuation back, Ctrl+R writes another one, F3 shows what else
    could stand at the cursor, F2 has the settings, Ctrl+S saves, Ctrl+Q quits, F1 shows all keys.
    """
    from charlm.threads import use_threads

    run = one_run(name, run)
    config = build(
        DeskConfig, {**settings, "stop": settings["stop"] and tuple(map(unescaped, settings["stop"]))}
    )
    _check_terminal()
    source = PromptSource(prompt, prompt_file)
    if prompt_file == "-":
        raise UsageError(
            "--prompt-file - reads standard input, from which charlm play reads the keys; name a file"
        )
    use_threads(threads)
    model = load_run(checkpoints, run, checkpoint)
    [beginning] = read_prompts(source, model, map_lookalikes=False)
    prepare(model, config, list(config.stop or ()), alone=threads is None)
    from charlm.cli.desk import Desk  # here: Textual is slow to import

    desk = Desk(model, config, beginning.text if beginning.given else "", redirected=not sys.stdout.isatty())
    _run(desk)


def _check_terminal() -> None:
    """Raise UsageError if keys cannot be read, or a screen cannot be drawn on standard error (on Windows: output)."""
    screen = sys.stdout if sys.platform == "win32" else sys.stderr
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, screen)):
        raise UsageError(
            "charlm play needs a terminal for its keys and its screen; charlm sample writes text without one"
        )
    if os.environ.get("TERM") == "dumb":
        raise UsageError(
            "charlm play needs a terminal with a cursor, but TERM is dumb; charlm sample writes text without one"
        )


def _run(desk: "Desk") -> None:
    """Run the app, and write its text if that is asked for, or if something other than the user ended it.

    Raises the app's error, and Signalled.
    """
    from charlm.cli.desk_screens import save  # here: Textual is slow to import

    with _no_color_as_everywhere(), StopSignals(desk.end_by):
        text = desk.run()
    if desk.signal is None and desk.failure is None:
        _print(text or "")
        return
    try:
        _print(desk.unsaved)
    except OSError:  # the terminal is gone
        free = next(name for i in itertools.count(1) if not os.path.exists(name := RESCUED.format(i)))
        save(desk.unsaved, free, overwrite=False)
    if desk.failure is not None:
        raise desk.failure
    raise Signalled(desk.signal or "")


def _print(text: str) -> None:
    """Print the text as a result; on a terminal it ends with a newline."""
    if text:
        sys.stdout.write(foreign(text if text.endswith("\n") or not sys.stdout.isatty() else text + "\n"))
        sys.stdout.flush()


@contextmanager
def _no_color_as_everywhere() -> Iterator[None]:
    """Unset an empty NO_COLOR within the block, since it counts for Textual, and restore the variable afterwards."""
    before = os.environ.pop("NO_COLOR", None)
    if before:
        os.environ["NO_COLOR"] = before
    try:
        yield
    finally:
        if before is not None:
            os.environ["NO_COLOR"] = before
