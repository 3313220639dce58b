"""Show the samples of `charlm sample -n 8` side by side in columns on a wide terminal, while they are written.

A row that no sample can change any more is printed for good; those below it are redrawn, as many as the screen
holds. A text of any length is therefore complete in the scrollback.
"""

import os
import re
import sys
from collections import deque
from collections.abc import Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from charlm.cli.sample_display import Compare, sample_name, show_comparison
from charlm.terminal import colour, visible

if TYPE_CHECKING:
    from charlm.cli.sample_prompts import Prompt
    from charlm.inference.generate import Ended, Piece

NARROWEST = 30
"""Narrowest column, in cells, unless the terminal became narrower since."""
STILL_READABLE = 12
"""Columns narrower than this many cells, on a terminal that became narrower, are given up."""
BETWEEN = " │ "
TAB = "    "
SECONDS_BETWEEN = 0.04
_WORD = re.compile(r"\S{1,1000}|[^\S\n]+")


def columns_fit(samples: int) -> bool:
    """Whether standard output is a terminal wide enough for at least two of that many samples side by side."""
    size = _size()
    return (
        samples > 1
        and size is not None
        and os.environ.get("TERM") != "dumb"
        and (os.name != "nt" or colour(sys.stdout))  # `colour` also asks the console to interpret escapes
        and "utf" in (sys.stdout.encoding or "").lower()
        and _fitting(size[0]) > 1
    )


class Columns:
    """Shows samples side by side, as many as fit, and the others below them."""

    def __init__(self, prompts: Sequence["Prompt"], n: int, compare: Compare | None) -> None:
        self._prompts, self._n, self._compare = prompts, n, compare
        self._all = len(prompts) * n
        self._waiting = [[prompts[at // n].text if prompts[at // n].given else ""] for at in range(self._all)]
        self._texts, self._ended = [""] * self._all, [False] * self._all
        self._first, self._band = 0, list[Column]()  # the number of the first sample shown, and the columns
        self._drawn, self._drawn_at = 0, 0.0  # rows below those that stay
        self._size = _size() or (80, 24)
        self._begin()

    def piece(self, piece: "Piece") -> None:
        """Take a piece of a sample."""
        at = piece.prompt * self._n + piece.sample
        if self._compare is not None:
            self._texts[at] += piece.text
        if self._first <= at < self._first + len(self._band):
            self._band[at - self._first].feed(piece.text)
            if perf_counter() - self._drawn_at >= SECONDS_BETWEEN:
                self._draw()
        else:
            self._waiting[at].append(piece.text)

    def end(self, ended: "Ended") -> None:
        """Take the end of a sample; the next row of columns follows once all in this one have ended."""
        self._ended[ended.prompt * self._n + ended.sample] = True
        while self._band and all(self._ended[self._first : self._first + len(self._band)]):
            for column in self._band:
                column.end()
            self._draw()
            self._first += len(self._band)
            self._begin()

    def stop(self) -> None:
        """Show all that there is of the samples in view, since nothing more is written."""
        for column in self._band:
            column.end()
        self._draw()

    def close(self) -> None:
        """Show which parts of the samples occur in the training text, if asked for."""
        if self._compare is not None:
            show_comparison(self._compare, self._texts, len(self._prompts), self._n)

    def _name(self, at: int) -> str:
        return sample_name(at, len(self._prompts), self._n)

    def _begin(self) -> None:
        """Begin the next row of columns, with rows as equal in number as possible."""
        left = self._all - self._first
        self._size = _size() or self._size
        rows = -(-left // max(1, _fitting(self._size[0])))
        number = -(-left // rows) if left else 0
        self._band = [Column(_width(self._size[0], number)) for _ in range(number)]
        self._drawn = 0
        if not number:
            return
        if self._first:
            self._write("\n")
        for i, column in enumerate(self._band):
            column.feed(f"--- {self._name(self._first + i)} ---\n")
            for text in self._waiting[self._first + i]:
                column.feed(text)
            self._waiting[self._first + i] = []
        self._draw()

    def _draw(self) -> None:
        """Print the rows that are final, and redraw those below."""
        self._drawn_at = perf_counter()
        if not self._band:
            return
        before, self._size = self._size, _size() or self._size
        width, height = self._size
        frame = f"\r\x1b[{self._drawn}A\x1b[J" if self._drawn else ""
        too_narrow = width < before[0] and width <= self._taken()
        if too_narrow or self._drawn >= height:
            # What is drawn may be broken up by now: it stays as it is, and the rest follows below it.
            frame = ""
            for column in self._band:
                column.break_anew(max(1, _width(width, len(self._band))) if too_narrow else column.width)
        if self._band[0].width < STILL_READABLE:
            self._write(frame)
            self._drawn = 0
            self._go_on_below()
            return
        stay = self._staying()
        rows = [
            self._row(i)
            for i in range(min(stay + height - 1, max(len(column.rows()) for column in self._band)))
        ]
        for column in self._band:
            column.skip(stay, len(rows))
        self._drawn = len(rows) - stay
        self._write(frame + "".join(f"{row}\n" for row in rows))

    def _staying(self) -> int:
        """Return how many rows are final."""
        going_on = [len(column.final) for column in self._band if not column.ended]
        return min(going_on) if going_on else max(len(column.rows()) for column in self._band)

    def _taken(self) -> int:
        """Return the width of a row in cells."""
        return sum(column.width for column in self._band) + len(BETWEEN) * (len(self._band) - 1)

    def _row(self, i: int) -> str:
        return BETWEEN.join(_padded(column.row(i), column.width) for column in self._band).rstrip()

    def _go_on_below(self) -> None:
        """Show the rest of each sample under its name once all have ended, on a terminal that became too narrow."""
        if not all(column.ended for column in self._band):
            return
        for i, column in enumerate(self._band):
            if column.rows():
                name = self._name(self._first + i)
                self._write(f"--- {name}, continued ---\n{column.rest()}\n")

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


class Column:
    """A sample broken into rows of a given width, between words, or between characters where a word is too long."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.final: deque[str] = deque()  # final rows that are not yet printed
        self.ended = False
        self._open = ""  # what comes after them
        self._drawn = 0  # characters of all these that are on the screen

    def feed(self, text: str) -> None:
        """Take more text."""
        self._take(visible(text).replace("\t", TAB))

    def _take(self, shown: str) -> None:
        self._open += shown
        while True:
            row = first_row(self._open, self.width)
            if len(row) == len(self._open) and not row.endswith("\n"):
                return
            self.final.append(row)
            self._open = self._open[len(row) :]

    def end(self) -> None:
        """Complete the sample."""
        if self._open:
            self.final.append(self._open)
            self._open = ""
        self.ended = True

    def rows(self) -> list[str]:
        """Return all rows that are not yet printed."""
        return [*self.final, self._open] if self._open else list(self.final)

    def row(self, i: int) -> str:
        """Return one of these rows; empty below the last."""
        if i < len(self.final):
            return self.final[i]
        return self._open if i == len(self.final) else ""

    def skip(self, stay: int, drawn: int) -> None:
        """Record that rows up to `drawn` are on the screen, and those up to `stay` for good."""
        rows = self.rows()
        self._drawn = sum(map(len, rows[stay:drawn]))
        for _ in range(min(stay, len(self.final))):
            self.final.popleft()

    def break_anew(self, width: int) -> None:
        """Keep what is on the screen, and break what follows into rows of another width."""
        rest = "".join(self.rows())[self._drawn :]
        self.final.clear()
        self.width, self._open, self._drawn = width, "", 0
        self._take(rest)
        if self.ended:
            self.end()

    def rest(self) -> str:
        """Return what is not yet printed, in one piece."""
        return "".join(self.rows()).removesuffix("\n")


def first_row(text: str, width: int) -> str:
    """Return the part of a text that fits into a first row of `width` cells, with its newline or final spaces."""
    from rich.cells import cell_len, chop_cells  # here: slow to import

    at, cells = 0, 0
    while at < len(text) and text[at] != "\n":
        word = _WORD.match(text, at)
        assert word is not None, "what is not a newline is a word or spaces"
        cells += cell_len(word[0])
        if cells > width and not word[0].isspace():
            if at:
                return text[:at]
            return next(part for part in chop_cells(word[0], width) if part)
        at = word.end()
    return text[: at + 1]


def _padded(row: str, width: int) -> str:
    """Pad a row with spaces to the width; spaces that do not fit are left out."""
    from rich.cells import cell_len, set_cell_size

    shown = row.rstrip("\n")
    return set_cell_size(shown.rstrip() if cell_len(shown) > width else shown, width)


def _size() -> tuple[int, int] | None:
    """Return the columns and lines of the terminal on standard output; None if it is none, or does not tell."""
    try:
        size = os.get_terminal_size(sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        return None
    return (size.columns, size.lines) if sys.stdout.isatty() and size.columns > 0 and size.lines > 1 else None


def _fitting(width: int) -> int:
    """Return how many columns fit into a row of the terminal, whose last cell stays free."""
    return (width - 1 + len(BETWEEN)) // (NARROWEST + len(BETWEEN))


def _width(width: int, columns: int) -> int:
    """Return the width in cells of each of so many columns."""
    return (width - 1 - len(BETWEEN) * (columns - 1)) // columns if columns else 0
