"""Examine the characters of a text: counts, invisible ones, normal forms, look-alikes and misread encodings."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from charlm.data.encode import Counts
from charlm.data.normalize import LOOKALIKES, normal_form
from charlm.data.tokenizer import END_POINT

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
"""The usual names of control characters, which have none in Unicode."""
NEEDED = "\t\n\r\u200c\u200d"
"""Invisible characters that text needs: line ends, tabs, and the joiners of scripts and emoji."""
VISIBLE_FORMATS = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD}
"""Format characters that show a sign above or around a number."""


@dataclass(frozen=True)
class Character:
    """A character and how often it occurs."""

    char: str
    code_point: str  # U+00E9
    name: str  # in Unicode, or its usual name
    count: int

    @classmethod
    def of(cls, char: str, count: int) -> "Character":
        """Create one with its name."""
        name = unicodedata.name(char, "") or CONTROLS.get(ord(char)) or _kind(char)
        return cls(char, f"U+{ord(char):04X}", name, count)


def is_invisible(char: str) -> bool:
    """Whether a character is invisible, yet controls or hides text."""
    if char in NEEDED or ord(char) in VISIBLE_FORMATS:
        return False
    return unicodedata.category(char) in ("Cc", "Cf", "Co", "Zl", "Zp")


def list_characters(counts: Counts) -> list[Character]:
    """List all characters of a text, the most frequent first, from how often each code point occurs: (n,)."""
    present = np.flatnonzero(counts)
    present = present[present != END_POINT]
    present = present[np.lexsort((present, -counts[present]))]
    return [Character.of(chr(point), int(counts[point])) for point in present.tolist()]


def scripts(found: list[Character]) -> dict[str, int]:
    """Count the letters of each script, the most frequent first, by the first word of their names."""
    counts: dict[str, int] = {}
    for character in found:
        if unicodedata.category(character.char).startswith("L"):
            script = script_of(character.char)
            counts[script] = counts.get(script, 0) + character.count
    return dict(sorted(counts.items(), key=lambda item: -item[1]))


def script_of(char: str) -> str:
    """Return the script of a letter, the first word of its name: LATIN, CYRILLIC, CJK, ..."""
    return unicodedata.name(char, "UNNAMED").split()[0].split("-")[0]


def _kind(char: str) -> str:
    if unicodedata.category(char) == "Co":
        return "private use, no name"
    if unicodedata.category(char) == "Cc":
        return "control, no name"
    return f"no name in Unicode {unicodedata.unidata_version}"


ALIKE_LETTERS = (
    ("LATIN", "CYRILLIC", "aаcсeеoоpрxхyуiіjјsѕAАBВCСEЕHНIІKКMМOОPРTТXХ"),
    ("LATIN", "GREEK", "oοvνAΑBΒEΕZΖHΗIΙKΚMΜNΝOΟPΡTΤXΧYΥ"),
)
"""Pairs of letters of two scripts that look the same, the first script's first."""
SHORTEST_WORD = 3
SHOWN_WORDS = 5
SPACES = LOOKALIKES[3].replace("\u3000", "")
"""Characters that look like a space; the ideographic one is as wide as a character, and intended."""
WORDS = re.compile(r"[^\W\d_]+")
BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")
MISREAD = ("cp1252", "latin-1")
FEWEST_MISREAD, MISREAD_SHARE = 3, 0.2


@dataclass(frozen=True)
class NormalForms:
    """How letters with marks are encoded: as one character, or as a letter and marks that could be one."""

    composed: int
    decomposed: int
    unstable: int  # characters that every normal form replaces by another that looks the same
    reordered: bool  # several marks on a letter are not in the order of the normal forms
    mixed: bool  # both composed and decomposed


def normal_forms(found: Sequence[Character], text: str) -> NormalForms:
    """Count normal forms in all characters of a text, and in a sample of it."""
    composed = unstable = 0
    for character in found:
        if unicodedata.normalize("NFC", character.char) != character.char:
            unstable += character.count
        elif unicodedata.normalize("NFD", character.char) != character.char:
            composed += character.count
    is_nfc = text.isascii() or unicodedata.is_normalized("NFC", text)
    decomposed = 0
    if not is_nfc:  # characters saved by normalizing, corrected for those whose own NFC is longer
        alone = sum((len(unicodedata.normalize("NFC", char)) - 1) * n for char, n in Counter(text).items())
        decomposed = max(0, len(text) + alone - len(normal_form(text, "NFC")))
    reordered = not (decomposed or unstable or is_nfc)
    return NormalForms(composed, decomposed, unstable, reordered, bool(composed and decomposed))


def compatible(found: Sequence[Character]) -> list[Character]:
    """Return letters and digits that are compatibility forms of plain ones: other widths or fonts, or ligatures."""
    kept = []
    for character in found:
        plain = unicodedata.normalize("NFKC", character.char)
        category = unicodedata.category(character.char)
        if character.char > "\x7f" and category in ("Ll", "Lu", "Nd") and plain.isascii() and plain.isalnum():
            kept.append(character)
    return kept


@dataclass(frozen=True)
class LookAlikes:
    """Characters that look the same. `marks`: the rows of quotes, dashes or spaces of which the text has more than one.

    `words`: how many words have letters of another script that look like the script's own.
    """

    marks: tuple[tuple[Character, ...], ...]
    words: int
    examples: tuple[str, ...]
    letters: tuple[Character, ...]  # the odd ones, the most frequent first


def find_lookalikes(found: Sequence[Character], text: str) -> LookAlikes:
    """Find look-alikes in all characters of a text, and in a sample of it."""
    by_char = {character.char: character for character in found}
    rows = [[by_char[char] for char in row if char in by_char] for row in (*LOOKALIKES[:3], SPACES)]
    marks = tuple(tuple(sorted(row, key=lambda c: -c.count)) for row in rows if len(row) > 1)
    there = {script_of(c.char) for c in found if c.char.isalpha()}
    words: Counter[str] = Counter()
    letters: Counter[str] = Counter()
    for first, second, pairs in ALIKE_LETTERS:
        alike = {first: set(pairs[::2]), second: set(pairs[1::2])}
        if not set(alike) <= there:
            continue
        for word, n in Counter(WORDS.findall(text)).items():
            odd = _odd_letters(word, alike) if len(word) >= SHORTEST_WORD and not word.isascii() else ""
            if odd:
                words[word] += n
                letters.update({char: odd.count(char) * n for char in odd})
    examples = tuple(word for word, _ in words.most_common(SHOWN_WORDS))
    odd_ones = tuple(Character.of(char, n) for char, n in letters.most_common())
    return LookAlikes(marks, words.total(), examples, odd_ones)


def _odd_letters(word: str, alike: dict[str, set[str]]) -> str:
    """Return the letters of a word in the rarer script, if all of them look like the other's."""
    of = {script: [c for c in word if script_of(c) == script] for script in alike}
    fewer, more = sorted(of, key=lambda script: len(of[script]))
    if not of[fewer] or len(of[fewer]) == len(of[more]):
        return ""
    return "".join(dict.fromkeys(of[fewer])) if set(of[fewer]) <= alike[fewer] else ""


def misread(text: str) -> tuple[int, str] | None:
    """Count runs of characters that are UTF-8 decoded as another encoding, and name it; None if there are few."""
    runs = Counter(BEYOND_ASCII.findall(text))
    for codec in MISREAD:
        count = sum(n for run, n in runs.items() if _is_utf8(run, codec))
        if count >= FEWEST_MISREAD and count >= MISREAD_SHARE * runs.total():
            return count, codec
    return None


def _is_utf8(run: str, codec: str) -> bool:
    try:
        return len(run) > len(run.encode(codec).decode("utf-8"))
    except UnicodeError:
        return False
