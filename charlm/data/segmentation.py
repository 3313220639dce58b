"""Segment a text into characters, words or lines, also while only its beginning is known, as in streaming.

Words are what stands between white space, or what Unicode's word boundaries delimit (Unicode Standard Annex 29).
"""

import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import NamedTuple

LONGEST_WORD = 1 << 16
"""Longest word or run of white space, in characters; a longer one is cut, which bounds the memory."""
LONGEST_LINE = 1 << 20
"""Characters of a line that may be held in memory."""
_UNDECIDED = 2
"""Tokens whose ends may still move with the text that follows: Unicode's rules look two characters ahead."""
_BETWEEN_SPACES = re.compile(rf"\S{{1,{LONGEST_WORD}}}|\s{{1,{LONGEST_WORD}}}")


class Span(NamedTuple):
    """A unit of a text by positions in it: text[begin:end], in which text[first:after] is without the space around."""

    begin: int
    first: int
    after: int
    end: int


Segmenter = Callable[[str, bool], list[Span]]
"""Finds the units in a text; unless it is said to be all of the rest, leaves out units that more text may change."""


def segmenter(by: str, words: str, space: str) -> Segmenter:
    """Return the segmenter into units `by` char, line or word. `words`: unicode or whitespace.

    `space`: whether a word includes the white space `before` it, or that after it.
    """
    if by == "char":
        return characters
    if by == "line":
        return lines
    tokens = unicode_tokens if words == "unicode" else whitespace_tokens
    join = _with_space_before if space == "before" else _with_space_after

    def word_spans(text: str, is_all: bool) -> list[Span]:
        found = join(text, tokens(text, is_all))
        return found if is_all else found[:-1]

    return word_spans


def characters(text: str, is_all: bool) -> list[Span]:
    """Every character."""
    return [Span(i, i, i + 1, i + 1) for i in range(len(text))]


def lines(text: str, is_all: bool) -> list[Span]:
    """Lines, which end after a line feed; it and a carriage return before it are the space after a line."""
    found, begin = [], 0
    while (feed := text.find("\n", begin)) >= 0:
        after = feed - (feed > begin and text[feed - 1] == "\r")
        found.append(Span(begin, begin, after, feed + 1))
        begin = feed + 1
    if is_all and begin < len(text):
        found.append(Span(begin, begin, len(text), len(text)))
    return found


def whitespace_tokens(text: str, is_all: bool) -> list[int]:
    """Return where runs of white space and of other characters end."""
    ends = [match.end() for match in _BETWEEN_SPACES.finditer(text)]
    return ends if is_all else ends[:-1]


def unicode_tokens(text: str, is_all: bool) -> list[int]:
    """Return where words, punctuation and white space end by Unicode's word boundaries."""
    ends, begin = [], 0
    while begin < len(text):  # again only after a cut, which is a beginning of text
        last = begin
        for end in _unicode_boundaries(text, begin):
            if end - last > LONGEST_WORD:
                break
            ends.append(end)
            last = end
        if last == len(text) or (not is_all and len(text) - last <= LONGEST_WORD):
            break
        begin = last + LONGEST_WORD
        ends.append(begin)
    return ends if is_all else ends[: -1 - _UNDECIDED]


@cache
def _unicode_token() -> "re.Pattern[str]":
    import regex  # here: slow to import, and needed for these words alone

    found: re.Pattern[str] = regex.compile(r"(?ws).+?\b")
    return found


def _unicode_boundaries(text: str, begin: int) -> Iterator[int]:
    """Yield where Unicode's tokens end in the text from `begin` on, as if nothing stood before."""
    rest = text[begin:] if begin else text
    return (begin + match.end() for match in _unicode_token().finditer(rest))


def _with_space_after(text: str, ends: list[int]) -> list[Span]:
    """Each word with the white space after it; white space without a word before it stands alone."""
    found: list[Span] = []
    begin = 0
    for end in ends:
        if text[begin:end].isspace():
            last = found[-1] if found else None
            if last is not None and end - last.after <= LONGEST_WORD:
                found[-1] = last._replace(end=end)
            else:
                found.append(Span(begin, begin, begin, end))
        else:
            found.append(Span(begin, begin, end, end))
        begin = end
    return found


def _with_space_before(text: str, ends: list[int]) -> list[Span]:
    """Each word with the white space before it; white space without a word after it stands alone."""
    found: list[Span] = []
    begin = 0
    for end in ends:
        last = found[-1] if found else None
        space = last is not None and last.first == last.after  # the last one is white space
        is_space = text[begin:end].isspace()
        if last is None or not space or (is_space and end - last.begin > LONGEST_WORD):
            found.append(Span(begin, begin, begin if is_space else end, end))
        elif is_space:
            found[-1] = Span(last.begin, last.begin, last.begin, end)
        else:
            found[-1] = Span(last.begin, begin, end, end)
        begin = end
    return found
