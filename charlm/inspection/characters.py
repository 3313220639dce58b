"""The characters of a text: how often each occurs, what nobody sees, and what is written in two ways."""

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


ALIKE_LETTERS = (
    ("LATIN", "CYRILLIC", "aаcсeеoоpрxхyуiіjјsѕAАBВCСEЕHНIІKКMМOОPРTТXХ"),
    ("LATIN", "GREEK", "oοvνAΑBΒEΕZΖHΗIΙKΚMΜNΝOΟPΡTΤXΧYΥ"),
)
"""Pairs of letters that look the same, of two scripts, the first one's first."""
SHORTEST_WORD = 3
SHOWN_WORDS = 5
SPACES = LOOKALIKES[3].replace("\u3000", "")
"""What looks like a space; the ideographic one is as wide as a character, and meant."""
INNER_SPACES = re.compile(r"(?<=\S)[ \t\u00a0\u2007\u2009\u202f]{2,}(?=\S)")
WORDS = re.compile(r"[^\W\d_]+")
BEYOND_ASCII = re.compile(r"[^\x00-\x7f]+")
MISREAD = ("cp1252", "latin-1")
FEWEST_MISREAD, MISREAD_SHARE = 3, 0.2


@dataclass(frozen=True)
class NormalForms:
    """How letters with marks are written: as one character, or as a letter and marks that could be one."""

    composed: int
    decomposed: int
    unstable: int  # characters that every normal form replaces by another that looks the same
    reordered: bool  # do several marks on a letter stand in another order than normal forms have them in?

    @property
    def mixed(self) -> bool:
        """Both ways in one text?"""
        return bool(self.composed and self.decomposed)

    @property
    def is_nfc(self) -> bool:
        """Is the text in its composed form?"""
        return not (self.decomposed or self.unstable or self.reordered)


@dataclass(frozen=True)
class MixedWords:
    """Words with letters of another script that look like the script's own."""

    count: int
    letters: tuple[Character, ...]  # the odd ones, the most frequent first
    words: tuple[str, ...]  # some of them


def normal_forms(found: Sequence[Character], text: str) -> NormalForms:
    """From all characters of a text, and as much of its text as there is."""
    composed = unstable = 0
    for character in found:
        char = character.char
        if unicodedata.normalize("NFC", char) != char:
            unstable += character.count
        elif unicodedata.normalize("NFD", char) != char:
            composed += character.count
    joinable = _joinable(text)
    is_nfc = unicodedata.is_normalized("NFC", text)
    return NormalForms(composed, joinable, unstable, not (joinable or unstable or is_nfc))


def _joinable(text: str) -> int:
    """How many characters are marks that the composed form has within the letter before."""
    if text.isascii() or unicodedata.is_normalized("NFC", text):
        return 0
    singles = Counter(text)
    alone = sum((len(unicodedata.normalize("NFC", char)) - 1) * n for char, n in singles.items())
    return max(0, len(text) + alone - len(normal_form(text, "NFC")))


def compatible(found: Sequence[Character]) -> list[Character]:
    """Letters and digits that are a plain one in another width or font, or several in one (ligatures)."""
    kept = []
    for character in found:
        plain = unicodedata.normalize("NFKC", character.char)
        category = unicodedata.category(character.char)
        if character.char > "\x7f" and category in ("Ll", "Lu", "Nd") and plain.isascii() and plain.isalnum():
            kept.append(character)
    return kept


def mixed_words(found: Sequence[Character], text: str) -> MixedWords:
    """Words of which some letters are of another script than the rest, and could be of the same by their looks."""
    there = {script_of(c.char) for c in found if c.char.isalpha()}
    words: Counter[str] = Counter()
    letters: Counter[str] = Counter()
    for first, second, pairs in ALIKE_LETTERS:
        ones = {first: set(pairs[::2]), second: set(pairs[1::2])}
        if not set(ones) <= there:
            continue
        for word, n in Counter(WORDS.findall(text)).items():
            odd = _odd(word, ones) if len(word) >= SHORTEST_WORD and not word.isascii() else ""
            if odd:
                words[word] += n
                letters.update({char: odd.count(char) * n for char in odd})
    shown = tuple(word for word, _ in words.most_common(SHOWN_WORDS))
    return MixedWords(words.total(), tuple(Character(c, n) for c, n in letters.most_common()), shown)


def _odd(word: str, ones: dict[str, set[str]]) -> str:
    """The letters of a word that are of the wrong script: those of the fewer, if all of them look alike."""
    of = {script: [c for c in word if script_of(c) == script] for script in ones}
    fewer, more = sorted(of, key=lambda script: len(of[script]))
    if not of[fewer] or len(of[fewer]) == len(of[more]):
        return ""
    return "".join(dict.fromkeys(of[fewer])) if set(of[fewer]) <= ones[fewer] else ""


def alike(found: Sequence[Character]) -> list[list[Character]]:
    """Quotes, dashes and spaces of which a text has more than one that look the same."""
    counts = {character.char: character for character in found}
    rows = [[counts[char] for char in row if char in counts] for row in (*LOOKALIKES[:3], SPACES)]
    return [sorted(row, key=lambda c: -c.count) for row in rows if len(row) > 1]


def mixed_quotes(row: Sequence[Character]) -> bool:
    """Has such a row the quote of the typewriter, and one of print too?"""
    chars = {character.char for character in row}
    return any(mark in chars and len(chars - {mark, "`", "´"}) for mark in "'\"")


def inner_spaces(text: str) -> int:
    """Characters of runs of spaces within lines, all but the first of each: what collapsing them saves."""
    return sum(len(match.group()) - 1 for match in INNER_SPACES.finditer(text))


def misread(text: str) -> tuple[int, str] | None:
    """How many runs of characters are UTF-8 read as another encoding, and which; None where few are."""
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
