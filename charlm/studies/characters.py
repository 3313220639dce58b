"""The characters of a text: how often each occurs, its code point, its name, and whether anyone sees it."""

import unicodedata
from dataclasses import dataclass

import numpy as np

from charlm.text.codes import Counts
from charlm.text.vocabulary import END_POINT

CONTROLS = {
    0: "NULL",
    7: "BELL",
    8: "BACKSPACE",
    9: "TABULATION",
    10: "LINE FEED",
    11: "VERTICAL TABULATION",
    12: "FORM FEED",
    13: "CARRIAGE RETURN",
    26: "SUBSTITUTE",
    27: "ESCAPE",
    127: "DELETE",
    133: "NEXT LINE",
}
"""Of those without a name in Unicode, the names by which they are known."""
NEEDED = "\t\n\r\u200c\u200d"
"""Controls that text is made of: ends of lines, tabs, and the joiners of scripts and emoji."""
UNSEEN = {
    0xAD,
    0x61C,
    0x180E,
    *range(0x200B, 0x2010),
    *range(0x2028, 0x202F),
    *range(0x2060, 0x2070),
    0xFEFF,
    *range(0xFFF9, 0xFFFC),
    *range(0xE0000, 0xE0080),
}
"""Format characters, and separators, that steer or hide and show nothing."""


@dataclass(frozen=True)
class Character:
    """A character and how often it occurs."""

    char: str
    count: int

    @property
    def code_point(self) -> str:
        """As Unicode writes it."""
        return f"U+{ord(self.char):04X}"

    @property
    def name(self) -> str:
        """Its name in Unicode, or what it is known as."""
        return unicodedata.name(self.char, "") or CONTROLS.get(ord(self.char)) or _kind(self.char)

    @property
    def unseen(self) -> bool:
        """Does it show nothing, and yet do something?"""
        if self.char in NEEDED:
            return False
        return ord(self.char) in UNSEEN or unicodedata.category(self.char) in ("Cc", "Co")


def characters(counts: Counts) -> list[Character]:
    """All that occur, the most frequent first; `counts` of each code point."""
    present = np.flatnonzero(counts)
    present = present[present != END_POINT]
    present = present[np.lexsort((present, -counts[present]))]
    return [Character(chr(point), int(counts[point])) for point in present.tolist()]


def scripts(found: list[Character]) -> dict[str, int]:
    """How often letters of each script occur, the most frequent first, by the first word of their names."""
    counts: dict[str, int] = {}
    for character in found:
        if unicodedata.category(character.char).startswith("L"):
            script = script_of(character.char)
            counts[script] = counts.get(script, 0) + character.count
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def script_of(char: str) -> str:
    """LATIN, CYRILLIC, CJK, ...: the first word of a letter's name."""
    return unicodedata.name(char, "UNNAMED").split()[0].split("-")[0]


def _kind(char: str) -> str:
    if unicodedata.category(char) == "Co":
        return "private use, no name"
    if unicodedata.category(char) == "Cc":
        return "control, no name"
    return f"no name in Unicode {unicodedata.unidata_version}"
