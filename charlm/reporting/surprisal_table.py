"""Write units with their surprisal as tab-separated values, CSV or JSON Lines."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING

from charlm.evaluation.surprisal_config import SurprisalConfig

if TYPE_CHECKING:  # it needs NumPy
    from charlm.evaluation.surprisal import Unit

Cell = str | int | float

UNIT_NAMES = {"2": "bits", "e": "nats", "10": "hartleys"}
"""The unit of surprisal, by the base of the logarithm."""
LOG_BASE = {"2": log(2), "e": 1.0, "10": log(10)}
SPACE_NAMES = {"after": "_space_after", "before": "_space_before", "none": "_no_space"}
DECIMALS = 6


@dataclass(frozen=True)
class Scale:
    """The unit of measurement, and what it is called."""

    base: str

    @property
    def name(self) -> str:
        """`bits`, `nats` or `hartleys`."""
        return UNIT_NAMES[self.base]

    def of(self, nats: float) -> float:
        """Convert nats to this unit."""
        return nats / LOG_BASE[self.base]


def columns(config: SurprisalConfig, scale: Scale) -> list[str]:
    """Return the names of the columns; that of the surprisal says which white space counts with a word."""
    figure = scale.name + (SPACE_NAMES[config.space_counted] if config.space_counted else "")
    names = ["file", "line", "unit", "text", "offset", "byte_offset", figure, "entropy", "length"]
    return [*names, "group", "rank"] if config.ranks else names


def cells(unit: "Unit", scale: Scale, *, grouped: bool) -> list[Cell]:
    """Return the values of the columns."""
    nats, entropy = round(scale.of(unit.nats), DECIMALS), round(scale.of(unit.entropy), DECIMALS)
    place: list[Cell] = [unit.file, unit.line, unit.unit, unit.text, unit.offset, unit.byte_offset]
    found = [*place, nats, entropy, unit.length]
    return [*found, unit.group, unit.rank] if grouped else found


def delimited(
    rows: Iterable["Unit"],
    names: list[str],
    scale: Scale,
    delimiter: str,
    shown: Callable[[str], str],
) -> Iterator[str]:
    """Yield lines of CSV or tab-separated values, a header first; fields are quoted if they need it.

    `shown` escapes text that goes to a terminal.
    """
    held = io.StringIO()
    writer = csv.writer(held, delimiter=delimiter, lineterminator="\n")
    writer.writerow(names)
    for unit in rows:
        found = cells(unit, scale, grouped="rank" in names)
        writer.writerow([shown(cell) if isinstance(cell, str) else cell for cell in found])
        yield held.getvalue()
        held.seek(0)
        held.truncate()


def json_lines(rows: Iterable["Unit"], names: list[str], scale: Scale) -> Iterator[str]:
    """Yield JSON Lines in ASCII, safe for terminals and for readers that split lines at U+0085 or U+2028."""
    for unit in rows:
        found = dict(zip(names, cells(unit, scale, grouped="rank" in names), strict=True))
        yield json.dumps(found, allow_nan=False) + "\n"
