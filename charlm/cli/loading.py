"""Loading a text with a live line for what takes longer than a second."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any

from charlm.cli.console import say, warn
from charlm.cli.summaries import about_text
from charlm.config import VAL, TextConfig
from charlm.errors import UsageError
from charlm.terminal import one_line

DELAY = 1.0
LEAST_SHARE = 0.01
EVERY_SECONDS = 0.25
PLAIN_EVERY_SECONDS = 10.0


def check_named(names: Sequence[str], settings: Mapping[str, Any]) -> None:
    """UsageError for a setting that acts on files, where none was named."""
    for name in ("encoding", "field", "include", "exclude", "strip"):
        if settings[name] is not None and not names:
            raise UsageError(f"--{name} cannot act on Python's manual; name a file to read")


def take_customary_split(names: Sequence[str], settings: dict[str, Any]) -> None:
    """Take the split that is customary for a published text, where none was chosen, and say so."""
    from charlm.data.datasets import customary

    names_of = ("val", "test", "val_file", "split")
    chosen = tuple(settings[name] for name in names_of) != (VAL, 0.0, None, "tail")
    if len(names) != 1 or chosen or not os.path.isfile(names[0]):
        return
    text = customary(os.path.basename(names[0]), os.path.getsize(names[0]))
    if text is None or not text.test:
        return
    settings["val"], settings["test"] = text.val, text.test
    say(f"split as is customary for {text.name}: {text.split}; --val and --test choose another")


def warn_unless_kept(names: Sequence[str]) -> None:
    """Before standard input is read, warn where it cannot be kept: it cannot be read a second time."""
    if "-" not in names:
        return
    from charlm.data.cache import cache_folder, unwritable  # here: numpy is slow to import

    reason = unwritable()
    if reason is not None:
        warn(
            f"the cache {one_line(str(cache_folder()))} cannot be written ({reason}), so the text from standard input "
            "cannot be kept: `charlm resume`, and `charlm eval` on its held-out part, will need it as a file, by "
            "--text FILE. To keep it, set CHARLM_CACHE to a folder that can be written, or save the text and train "
            "on the file"
        )


def load_text(
    names: Sequence[str], config: TextConfig, *, verify: bool = False, earlier: Any = None, scan: Any = None
) -> Any:
    """As `charlm.data.load.load`, shown while it goes on."""
    from charlm.data.load import load  # here: numpy is slow to import

    bar = Bar()
    try:
        return load(names, config, bar, verify=verify, earlier=earlier, scan=scan)
    finally:
        bar.close()


def say_text(loaded: Any, *, free: bool = True) -> None:
    """How much text there is, and what makes its held-out figure flatter; `free`: as `leak`."""
    say(about_text(loaded))
    found = leak(loaded.corpus, free=free)
    if found:
        warn(found)


def leak(
    corpus: Any, train: Any = None, where: str = "the training part", *, free: bool = True
) -> str | None:
    """What is said where much of the held-out text stands in the training part too, or in another's `train`.

    `free`: may it be chosen how the text is divided?
    """
    from charlm.data.overlap import PASSAGE, overlap

    found = overlap(corpus.train if train is None else train, corpus.held_out)
    if found.share < LEAST_SHARE:
        return None
    return (
        f"{found.word}{100 * found.share:.0f} % of the held-out text stands in {where} too, in passages of {PASSAGE} {corpus.vocabulary.word}s "
        "or more, so its figure will flatter; hold out another text with --val-file"
        + (", or draw whole documents with --split documents" if free else "")
    )


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
    """Show that something is being done, until it is done."""
    bar = Bar(unit)
    bar(what, 0, None)
    try:
        yield bar
    finally:
        bar.close()
