"""Colour text by its surprisal, for a terminal or as an HTML page that loads and runs nothing.

The scale goes from light to dark, so that it can be told apart in every kind of colour blindness and in grey.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise
from math import log
from typing import TYPE_CHECKING, NamedTuple

from charlm.evaluation.surprisal_config import PLURALS, SurprisalConfig
from charlm.reporting import pages
from charlm.reporting.surprisal_table import Scale
from charlm.terminal import one_line, visible

if TYPE_CHECKING:  # it needs NumPy
    from charlm.evaluation.surprisal import Unit


class Colour(NamedTuple):
    """A background, and a text colour readable on it."""

    terminal: int  # of the 256 colours
    background: str
    ink: int
    text: str


COLOURS = (
    Colour(230, "#ffffd7", 16, "#000000"),
    Colour(186, "#d7d787", 16, "#000000"),
    Colour(114, "#87d787", 16, "#000000"),
    Colour(74, "#5fafd7", 16, "#000000"),
    Colour(25, "#005faf", 231, "#ffffff"),
    Colour(18, "#000087", 231, "#ffffff"),
)
EDGES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Bits per character at which one colour gives way to the next."""
RESET = "\x1b[0m"
SPACE_SAYS = {
    "after": "the white space after a word counts with it",
    "before": "the white space before a word counts with it",
    "none": "white space does not count",
}


def colour_of(unit: "Unit") -> int:
    """Return the index of a unit's colour, by bits per character, so that units of any length compare."""
    chars = len(unit.before) + len(unit.text) + len(unit.after)
    return bisect_right(EDGES, unit.nats / log(2) / max(1, chars))


def legend(scale: Scale) -> list[str]:
    """Return the meaning of each colour."""
    edges = [f"{scale.of(edge * log(2)):.2g}" for edge in EDGES]
    between = [f"{low} to {high}" for low, high in pairwise(edges)]
    return [f"under {edges[0]}", *between, f"{edges[-1]} or more"]


def described(config: SurprisalConfig, scale: Scale) -> str:
    """Say what is coloured, and by what."""
    space = f"; {SPACE_SAYS[config.space_counted]}" if config.space_counted else ""
    context = "each line by itself" if config.by_line_alone else "in the context of the document"
    return f"{PLURALS[config.by]} coloured by {scale.name} per character, {context}{space}"


def ansi(rows: Iterable["Unit"], config: SurprisalConfig, scale: Scale) -> Iterator[str]:
    """Yield the text in terminal colours, under a legend; control characters are escaped."""
    swatches = " ".join(_painted(f" {text} ", i) for i, text in enumerate(legend(scale)))
    head: str | None = f"{described(config, scale)}:\n{swatches}\n"
    file = None
    for unit in rows:
        title = f"\n{one_line(unit.file)}\n" if unit.file != file else ""
        file = unit.file
        rank = f"{unit.rank}. {one_line(unit.group)}: " if unit.rank else ""
        text = visible(unit.before + unit.text + unit.after)
        number = colour_of(unit)
        # A colour that goes on past the end of a line would fill the rest of it.
        lines = "\n".join(_painted(line, number) for line in text.split("\n"))
        yield (head or "") + title + rank + lines
        head = None


def _painted(text: str, number: int) -> str:
    colour = COLOURS[number]
    return f"\x1b[38;5;{colour.ink};48;5;{colour.terminal}m{text}{RESET}" if text else ""


class _Page(NamedTuple):
    """The heading of the page."""

    title: str
    described: str


class _Piece(NamedTuple):
    """A unit of text on the page."""

    file: str
    text: str
    colour: int
    says: str


def page(rows: Iterable["Unit"], config: SurprisalConfig, scale: Scale, run: str) -> Iterator[str]:
    """Yield an HTML page of the text in parts; each unit shows its figures under the pointer."""
    return pages.stream_page(
        "surprisal.html",
        page=_Page(f"Surprisal of a text under {one_line(run)}", described(config, scale)),
        colours=COLOURS,
        legend=legend(scale),
        pieces=(_piece(unit, scale) for unit in rows),
    )


def _piece(unit: "Unit", scale: Scale) -> _Piece:
    rank = f"rank {unit.rank} of group {unit.group}; " if unit.rank else ""
    says = f"{rank}{scale.of(unit.nats):.3f} {scale.name}, entropy before it {scale.of(unit.entropy):.3f}, line {unit.line}"
    return _Piece(one_line(unit.file), unit.before + unit.text + unit.after, colour_of(unit), one_line(says))
