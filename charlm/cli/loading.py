"""What the commands share: the live line of long work, and which run and text they mean."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any

from charlm.cli.console import say, warn
from charlm.terminal import one_line
from charlm.training.request import Messages

if TYPE_CHECKING:
    from charlm.checkpoint.snapshot import Snapshot
    from charlm.data.corpus import Corpus
    from charlm.training.run_corpus import Moved

DELAY = 1.0
EVERY_SECONDS = 0.25
PLAIN_EVERY_SECONDS = 10.0


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


def chosen(root: Path, name: str | None, checkpoint: str | None) -> "tuple[Snapshot, str, str]":
    """The checkpoint asked for, the run's name, and `latest`, `best` or the step.

    Without a run the newest; without a checkpoint `latest`, or `best` after early stopping.
    """
    from charlm.run import load  # here: torch is slow to import

    run = load(name, checkpoint=checkpoint, checkpoints=root, messages=MESSAGES)
    newest = "" if name else ", the newest run"
    say(f"using {run.which} of {one_line(run.name)}{newest}: step {run.step}")
    return run.snapshot, run.name, run.which


def corpus_of_run(snapshot: "Snapshot", *, needed: bool, moved: "Moved | None" = None) -> "Corpus | None":
    """The text that the run was trained on; None if it is gone and not `needed`. Raises CheckpointError."""
    from charlm.run import text_of_run

    return text_of_run(snapshot, MESSAGES, needed=needed, moved=moved)
