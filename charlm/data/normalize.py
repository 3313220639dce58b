"""Normalize text on request, before anything else sees it: newlines, case, Unicode normal form, spaces, look-alikes."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise

import numpy as np

from charlm.data.stream import Block
from charlm.data.text_config import TextConfig
from charlm.data.tokenizer import Vocabulary

LONGEST = 1 << 22
"""Characters that are held until there is a safe place to cut; longer texts without one are cut anywhere."""
LONG_ROW = 64
"""Combining marks in a row above which `normal_form` sorts them itself."""
LOOKALIKES = (
    "'\u2019\u2018\u02bc\u2032\u00b4`\uff07",
    '"\u201d\u201c\u201e\u201f\u2033\u00ab\u00bb\uff02',
    "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212\uff0d",
    " \u00a0\u202f\u2009\u2007\u3000",
)
"""Quotes, dashes and spaces; the first one in a row that a vocabulary has may stand for the others."""
ELLIPSIS = "\u2026"
_SPACES = re.compile(r"[ \t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+")
# Places where the text before and the text after are normalized independently: after a line feed,
# before the first of some spaces, between two plain letters or two Chinese characters.
_CUTS = re.compile(
    r"(?<=\n)(?=.)|(?<=[^\s])(?= )|(?<=[a-zA-Z])(?=[a-zA-Z])|(?<=[\u4e00-\u9fff])(?=[\u4e00-\u9fff])", re.S
)
_SEARCHED = 256


def normalize(text: str, config: TextConfig) -> str:
    """Apply the settings to a text: newlines, then lowercase and the normal form, then spaces.

    Lowercase and normal form can undo each other, so the normal form is made before and after.
    """
    if config.newlines == "lf":
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    form = None if config.normalize is None else config.normalize.upper()
    for _ in range(1 + config.lowercase):
        text = normal_form(text, form) if form else text
        text = text.lower() if config.lowercase else text
    text = normal_form(text, form) if form else text
    return _SPACES.sub(" ", text) if config.collapse_spaces else text


def normal_form(text: str, form: str) -> str:
    """Same as `unicodedata.normalize(form, text)`, in linear time.

    That function sorts combining marks in a row in quadratic time. Here long rows are decomposed and sorted
    first, which does not change the result.
    """
    if len(text) >= LONG_ROW and not text.isascii():
        decomposed = form.replace("C", "D")
        text = _rows_of_marks(decomposed).sub(lambda match: _sorted_marks(match.group(), decomposed), text)
    return unicodedata.normalize(form, text)  # type: ignore[arg-type]


def _sorted_marks(marks: str, form: str) -> str:
    decomposed = {char: unicodedata.normalize(form, char) for char in set(marks)}  # type: ignore[arg-type]
    return "".join(sorted("".join(map(decomposed.__getitem__, marks)), key=unicodedata.combining))


@cache
def _rows_of_marks(form: str) -> re.Pattern[str]:
    """Return a pattern of many characters in a row that are combining marks, or decompose into some."""
    marks = []
    for char in map(chr, range(0x300, 0x110000)):
        first = unicodedata.normalize(form, char)[0] if unicodedata.decomposition(char) else char  # type: ignore[arg-type]
        if unicodedata.combining(first):
            marks.append(char)
    return re.compile(f"[{re.escape(''.join(marks))}]{{{LONG_ROW},}}")


def normalize_blocks(blocks: Iterable[Block], config: TextConfig) -> Iterator[Block]:
    """Apply the settings to the blocks of a file; the joined text is the same as if normalized at once."""
    if not any((config.normalize, config.newlines == "lf", config.lowercase, config.collapse_spaces)):
        yield from blocks
        return
    held = ""
    for block in blocks:
        if block.ends is not None and len(block.ends):  # of records: each is normalized by itself
            bounds = [0, *block.ends.tolist()]
            pieces = [normalize(block.text[a:b], config) for a, b in pairwise(bounds)]
            assert not held and bounds[-1] == len(block.text), "records come whole"
            yield Block.of("".join(pieces), np.cumsum([len(piece) for piece in pieces], dtype=np.int64))
            continue
        held += block.text
        cut = _last_cut(held)
        text, held = normalize(held[:cut], config), held[cut:]
        if text:
            yield Block.of(text)
    text = normalize(held, config)
    if text:
        yield Block.of(text)


def _last_cut(text: str) -> int:
    """Find the last place where a text can be cut; 0 if there is none, or the end of a text that is too long to hold."""
    searched = _SEARCHED
    while True:
        start = max(0, len(text) - searched)
        places = [match.start() for match in _CUTS.finditer(text, start)]
        if places and places[-1] > start:
            return places[-1]
        if start == 0:
            return 0 if len(text) <= LONGEST else len(text)
        searched *= 16


def find_lookalikes(text: str, vocabulary: Vocabulary) -> dict[str, str]:
    """For each character of the text that the vocabulary lacks, a look-alike that it has, if there is one."""
    symbols = set(vocabulary.chars)
    found = {}
    for char in sorted(set(text) - symbols):
        row = next((row for row in LOOKALIKES if char in row), "")
        instead = next((other for other in row if other in symbols), None)
        if char == ELLIPSIS and "." in symbols:
            instead = "..."
        if instead is not None:
            found[char] = instead
    return found
