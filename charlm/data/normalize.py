"""Text changed before anything else sees it, only where that is asked for: the same for prompts and scored text."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise

import numpy as np

from charlm.config import TextConfig
from charlm.data.stream import Block

LONGEST = 1 << 22
"""Characters that are held until a place to cut is found; longer ones without any are cut where they are."""
_SPACES = re.compile(r"[ \t\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+")
# Where what stands before cannot change what comes of what stands after, nor the other way round: after
# a line feed, before the first of some spaces, between two plain letters or two Chinese characters.
_CUTS = re.compile(
    r"(?<=\n)(?=.)|(?<=[^\s])(?= )|(?<=[a-zA-Z])(?=[a-zA-Z])|(?<=[\u4e00-\u9fff])(?=[\u4e00-\u9fff])", re.S
)
LOOKED_AT = 256
LONG_ROW = 64
"""Marks in a row from which they are put in order here."""


def changes(config: TextConfig) -> bool:
    """Do these settings change a text at all?"""
    return (
        config.normalize is not None or config.newlines == "lf" or config.lowercase or config.collapse_spaces
    )


def normal(text: str, config: TextConfig) -> str:
    """A text as these settings want it: newlines, then capitals, the normal form, spaces.

    Capitals go after the normal form has been made and it is made again, since each can undo the other.
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
    """As `unicodedata.normalize`, in a time that grows with the text only.

    That function puts marks in a row in order by insertion, whose time grows with the square of their number.
    So long rows are decomposed and put in order before, which changes nothing of what it gives.
    """
    if len(text) >= LONG_ROW and not text.isascii():
        decomposed = form.replace("C", "D")
        text = _rows(decomposed).sub(lambda match: _in_order(match.group(), decomposed), text)
    return unicodedata.normalize(form, text)  # type: ignore[arg-type]


def _in_order(marks: str, form: str) -> str:
    decomposed = {char: unicodedata.normalize(form, char) for char in set(marks)}  # type: ignore[arg-type]
    return "".join(sorted("".join(map(decomposed.__getitem__, marks)), key=unicodedata.combining))


@cache
def _rows(form: str) -> re.Pattern[str]:
    """Many characters in a row that are marks, or decompose into marks."""
    marks = []
    for char in map(chr, range(0x300, 0x110000)):
        first = unicodedata.normalize(form, char)[0] if unicodedata.decomposition(char) else char  # type: ignore[arg-type]
        if unicodedata.combining(first):
            marks.append(char)
    return re.compile(f"[{re.escape(''.join(marks))}]{{{LONG_ROW},}}")


def normalised(blocks: Iterable[Block], config: TextConfig) -> Iterable[Block]:
    """The blocks of a file as these settings want them; cut anew where that changes nothing."""
    return _normalised(blocks, config) if changes(config) else blocks


def _normalised(blocks: Iterable[Block], config: TextConfig) -> Iterator[Block]:
    held = ""
    for block in blocks:
        if block.ends is not None and len(block.ends):  # of records: each is changed by itself
            bounds = [0, *block.ends.tolist()]
            pieces = [normal(block.text[a:b], config) for a, b in pairwise(bounds)]
            assert not held and bounds[-1] == len(block.text), "records come whole"
            text = "".join(pieces)
            yield Block(text.encode(), text, ends=np.cumsum([len(piece) for piece in pieces], dtype=np.int64))
            continue
        held += block.text
        cut = _cut(held)
        text, held = normal(held[:cut], config), held[cut:]
        if text:
            yield Block(text.encode(), text)
    text = normal(held, config)
    if text:
        yield Block(text.encode(), text)


def _cut(text: str) -> int:
    """The last place where a text can be cut in two; 0 where there is none, and it is not too long."""
    looked_at = LOOKED_AT
    while True:
        start = max(0, len(text) - looked_at)
        places = [match.start() for match in _CUTS.finditer(text, start)]
        if places and places[-1] > start:
            return places[-1]
        if start == 0:
            return 0 if len(text) <= LONGEST else len(text)
        looked_at *= 16
