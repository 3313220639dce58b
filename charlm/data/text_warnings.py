"""What a reader of a text should know before training on it, in sentences."""

from collections.abc import Sequence
from dataclasses import dataclass

from charlm.data.sources import Note
from charlm.data.stream import STDIN
from charlm.terminal import one_line


@dataclass(frozen=True, kw_only=True)
class Marks:
    """How often what deserves a remark occurs in a text."""

    pairs: int  # of a return and a line feed
    returns: int
    feeds: int
    nul: int
    lost: int  # replacement characters
    white: bool  # only white space
    same: bool  # one character repeated


def remarks(marks: Marks) -> list[str]:
    """One sentence for each thing that is there."""
    said = []
    ends = {"LF": marks.feeds - marks.pairs, "CRLF": marks.pairs, "CR": marks.returns - marks.pairs}
    met = [f"{name} ({count:,})" for name, count in ends.items() if count]
    if marks.returns:
        said.append(f"Lines end in {' and '.join(met)}; kept as they are.")
    if marks.nul:
        said.append(f"NUL characters (U+0000) in the text: {marks.nul:,}; kept.")
    if marks.lost:
        said.append(
            f"Replacement characters (U+FFFD) in the text: {marks.lost:,}; what stood there was lost"
            " before, when another program decoded it."
        )
    if marks.white:
        said.append("The text is only white space.")
    if marks.same:
        said.append("The text is one character repeated; there is nothing to learn.")
    return said


def grouped(notes: Sequence[Note]) -> list[str]:
    """One line a note, however many files it is about."""
    by_remark: dict[str, list[str]] = {}
    for name, remark in notes:
        by_remark.setdefault(remark, []).append("Standard input" if name == STDIN else name)
    return [
        f"{one_line(of[0])}{f' and {len(of) - 1:,} more' if of[1:] else ''}: {remark}."
        for remark, of in by_remark.items()
    ]
