"""`charlm sample -n 8` on a wide terminal: columns, read from the screen of a terminal."""

import codecs
import json
import os
import random
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

if os.name == "nt":
    pytest.skip("needs a terminal of POSIX", allow_module_level=True)

import pty
import termios

import pyte

from charlm.cli.sample_columns import TAB, Columns
from charlm.cli.sample_prompts import Prompt
from charlm.inference.generate import Ended, Piece
from charlm.terminal import visible
from tests.cli.models import Charlm, Models

HEIGHT = 24


@pytest.fixture
def models(charlm: Charlm, tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(charlm, tmp_path_factory)


class Terminal:
    """A terminal whose screen and scrolled lines can be read; standard output while it is entered."""

    def __init__(self, width: int, height: int = HEIGHT) -> None:
        self.screen = pyte.HistoryScreen(width, height, history=100_000, ratio=1e-9)
        self.screen.set_mode(pyte.modes.LNM)
        self.written = ""
        self._ours, self._theirs = pty.openpty()
        self._seen = threading.Event()
        self._resize(width, height)

    def _resize(self, width: int, height: int) -> None:
        termios.tcsetwinsize(self._theirs, (height, width))

    def resize(self, width: int, height: int = HEIGHT) -> None:
        """Another size, once all that was written is on the screen; rows are cut, as terminals without reflow do it."""
        self._show_all()
        self._resize(width, height)
        self.screen.resize(height, width)

    def _show_all(self) -> None:
        self._seen.clear()
        sys.stdout.flush()
        os.write(self._theirs, b"\x05")
        assert self._seen.wait(60)

    @contextmanager
    def entered(self, patch: pytest.MonkeyPatch) -> Iterator["Terminal"]:
        reader = threading.Thread(target=self._read, daemon=True)
        reader.start()
        with open(self._theirs, "w", encoding="utf-8", newline="\n") as stream, patch.context() as patched:
            patched.setattr(sys, "stdout", stream)
            yield self
            self._show_all()
        reader.join(60)
        os.close(self._ours)

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")()
        stream = pyte.Stream(self.screen)
        while True:
            try:
                data = os.read(self._ours, 1 << 16)
            except OSError:
                return
            if not data:
                return
            text = decoder.decode(data)
            self.written += text.replace("\x05", "")
            for char in text.replace(
                "\x05", ""
            ):  # pyte drops what follows one without width in the same piece
                stream.feed(char)
            if "\x05" in text:
                self._seen.set()

    @property
    def lines(self) -> list[str]:
        """All lines, those that scrolled away first."""
        width = self.screen.columns

        def text(row: Any) -> str:
            return "".join(row[x].data for x in range(width))

        away = [text(row) for row in self.screen.history.top]
        shown = [text(self.screen.buffer[y]) for y in range(self.screen.lines)]
        return [line.rstrip() for line in (*away, *shown)]


def columns_of(lines: list[str]) -> list[str]:
    """What stands in each column, without white space, from the first heading on: by the number of the sample."""
    found: list[str] = []
    here: list[int] = []
    for line in lines:
        cells = re.split(r"(?:^| )│ ?", line) if "│" in line else [line]
        going_on = re.fullmatch(r"--- (\d+), continued ---", line)
        if going_on:
            here = [int(going_on[1]) - 1]
            continue
        names = [re.fullmatch(r"--- (\d+) ---", cell.strip()) for cell in cells]
        if all(names):
            here = list(range(len(found), len(found) + len(names)))
            found += [""] * len(names)
            continue
        for at, cell in zip(here, cells, strict=False):
            found[at] += squeezed(cell)
    return found


def squeezed(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize(("width", "rows"), [(60, 0), (66, 4), (100, 3), (200, 2), (300, 1)])
def test_columns_hold_what_a_pipe_gets(
    models: Models, monkeypatch: pytest.MonkeyPatch, width: int, rows: int
) -> None:
    words = ("--seed", "3", "-n", "8", "--length", "300", "--prompt", "One day ")
    result = models("prior", "sample", "--json", *words)
    texts = {row["sample"]: row["prompt"] + row["text"] for row in map(json.loads, result.out.splitlines())}
    terminal = Terminal(width)
    with terminal.entered(monkeypatch):
        assert models("prior", "sample", *words).code == 0
    headings = [line for line in terminal.lines if line.startswith("--- ")]
    if not rows:
        assert len(headings) == 8 and "│" not in terminal.written
        assert "\x1b[" not in terminal.written
        return
    assert len(headings) == rows
    assert columns_of(terminal.lines) == [squeezed(texts[i]) for i in range(8)]
    assert all(len(line) < width for line in terminal.lines)
    narrowest = min(len(part) for line in headings for part in line.split("│")[:-1] or [line])
    assert narrowest >= 30 or rows == 8


@pytest.mark.parametrize("words", [("--json",), ("--raw",), ("-n", "1")])
def test_no_columns_where_none_are_wanted(
    models: Models, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    terminal = Terminal(200)
    with terminal.entered(monkeypatch):
        assert models("prior", "sample", "--seed", "3", "-n", "3", "--length", "30", *words).code == 0
    assert "│" not in terminal.written and "\x1b[" not in terminal.written


WORDS = (
    "duck",
    "漢字漢字漢字",
    "e\u0301te\u0301",
    "\x1b[2J",
    "\u202eabc",
    "a\tb",
    "\n",
    "\n\n",
    " ",
    "x" * 70,
    "한국어",
    "\x07",
    "the",
)


def texts_of(seed: int, samples: int, words: int = 120) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randrange(1, words))) for _ in range(samples)]


def show(texts: list[str], seed: int, between: Any = lambda i: None, until: int | None = None) -> None:
    """Pieces of all texts in turns, as samples come."""
    rng = random.Random(seed)
    display = Columns([Prompt("", {}, given=False)], len(texts), None)
    left, i = list(texts), 0
    while any(left):
        for sample, text in enumerate(left):
            if text:
                n = rng.randrange(1, 9)
                display.piece(Piece(sample, text[:n]))
                left[sample] = text[n:]
                if not left[sample]:
                    display.end(Ended(sample, "length", len(texts[sample])))
        between(i)
        i += 1
        if i == until:
            display.stop()
            return


def as_shown(text: str) -> str:
    return squeezed(visible(text).replace("\t", TAB))


@pytest.fixture(autouse=True)
def every_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw at each piece, whatever the clock says."""
    monkeypatch.setattr("charlm.cli.sample_columns.SECONDS_BETWEEN", 0.0)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=SLOW) for seed in (1, 2, 3))])
def test_wide_combining_and_control_characters_are_aligned_and_harmless(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    texts = texts_of(seed, 5)
    terminal = Terminal(120)
    with terminal.entered(monkeypatch):
        show(texts, seed)
    rest = re.sub(r"\x1b\[(\d+A|J)|\r", "", terminal.written)
    assert rest.replace("\n", "") == visible(rest).replace("\n", "")
    bars = {x for line in terminal.lines for x in at_bars(terminal, line)}
    assert len(bars) == 2 + 1, "three columns, then two"
    found = columns_of(terminal.lines)
    assert list(map(normal, found)) == [normal(as_shown(text)) for text in texts]


def normal(text: str) -> str:
    import unicodedata

    return unicodedata.normalize("NFC", text)


def at_bars(terminal: Terminal, line: str) -> list[int]:
    from rich.cells import cell_len

    return [cell_len(line[: found.start()]) for found in re.finditer("│", line)]


@pytest.mark.parametrize(
    "sizes",
    [
        ((64, 24),),
        ((20, 5), (150, 40)),
        pytest.param(((200, 24),), marks=SLOW),
        pytest.param(((120, 3), (120, 24)), marks=SLOW),
        pytest.param(((70, 10), (66, 8)), marks=SLOW),
    ],
)
def test_a_resize_while_it_runs_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, sizes: tuple[tuple[int, int], ...]
) -> None:
    texts = [" ".join(f"w{sample}.{i}" for i in range(150)) for sample in range(4)]
    terminal = Terminal(130)

    def between(i: int) -> None:
        if i and i % 40 == 0 and i // 40 <= len(sizes):
            terminal.resize(*sizes[i // 40 - 1])

    with terminal.entered(monkeypatch):
        show(texts, 1, between)
    assert columns_of(rows_left(terminal.written)) == [squeezed(text) for text in texts]


def rows_left(written: str) -> list[str]:
    """The rows that were not drawn over."""
    rows: list[str] = []
    for again, text in re.findall(r"(?:\r\x1b\[(\d+)A\x1b\[J)?([^\r]*)", written.replace("\r\n", "\n")):
        rows = rows[: len(rows) - int(again or 0)] + text.split("\n")[:-1]
    return rows


def test_ctrl_c_keeps_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [" ".join(f"w{sample}.{i}" for i in range(400)) for sample in range(3)]
    terminal = Terminal(110, 8)
    with terminal.entered(monkeypatch):
        show(texts, 1, until=150)
    found = columns_of(terminal.lines)
    assert len(found) == 3
    for text, there in zip(texts, found, strict=True):
        assert there and squeezed(text).startswith(there) and len(there) > 300
