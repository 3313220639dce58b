"""Characters that a vocabulary lacks, and what it has that looks alike: quotes, dashes, spaces, dots."""

from collections.abc import Mapping

from charlm.data.tokenizer import Vocabulary

ALIKE = (
    "'\u2019\u2018\u02bc\u2032\u00b4`\uff07",
    '"\u201d\u201c\u201e\u201f\u2033\u00ab\u00bb\uff02',
    "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212\uff0d",
    " \u00a0\u202f\u2009\u2007\u3000",
)
"""Each may stand for the others of its row, the first that there is."""
DOTS = "\u2026"


def lookalikes(text: str, vocabulary: Vocabulary) -> dict[str, str]:
    """What may be read instead of each character of a text that is lacking, where there is something."""
    known = set(vocabulary.chars)
    found = {}
    for char in sorted(set(text) - known):
        rows = [row for row in ALIKE if char in row]
        instead = next((other for other in "".join(rows) if other in known), None)
        if char == DOTS and "." in known:
            instead = "..."
        if instead is not None:
            found[char] = instead
    return found


def mapped(text: str, found: Mapping[str, str]) -> str:
    """The text with those characters instead."""
    return text.translate(str.maketrans(dict[str, str | int | None](found)))
