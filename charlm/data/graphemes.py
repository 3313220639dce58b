"""Grapheme clusters in arrays of code points: what a reader takes for one character (UAX 29), by `regex`.

Most characters join with nothing. Only around those that can is a text looked at cluster by cluster.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

LONGEST = 63
"""Code points of the longest cluster taken as one. Of a longer one the first 64 are characters again, and what
follows is looked at anew: this bounds what is held between blocks. Unicode's own bound for streams is 30 marks
in a row (UAX 15, Stream-Safe Text Format)."""
MOST = 1 << 19
"""Code points of all the different clusters that are counted, which are those that occur first; others are read
as their characters."""
FIRST_POINT = 0x110000
"""Behind all code points: known clusters are numbered from here."""
_WINDOW = 256
"""Characters that `regex` is asked of at once: it looks back over all flags in a row for each of them."""
_JOINING = r"[^\p{GCB=Other}\p{GCB=Control}\p{GCB=LV}\p{GCB=LVT}\n]"
# Two characters that are not among these never join: each rule that joins (GB3, GB6 to GB13) needs one of
# them on one of the two sides. Hangul syllables, consonants and pictographs join only through such.
_OTHERS = r"(?V1)[\p{GCB=Other}--[\p{Cn}\p{Co}\p{Cs}\p{Ideographic}]]"
_CONSONANT = "\u0915"  # before which some of those stand like prefixes, whatever their property says
_SURROGATE = 0xD800  # stands for the end of a document, and joins with nothing

Points = NDArray[np.unsignedinteger[Any]]
Places = NDArray[np.int64]


def find(codes: Points) -> tuple[Places, list[str]]:
    """Where clusters of several code points begin in a text that begins and ends whole, and those clusters."""
    joining = _joining().take(codes)
    if not joining.any():
        return np.empty(0, dtype=np.int64), []
    near = joining.copy()
    near[:-1] |= joining[1:]
    near[1:] |= joining[:-1]
    pieces, _ = _pieces(_text(codes[near]))  # at each seam stand two that do not join
    lengths = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
    starts = np.flatnonzero(near)[np.cumsum(lengths) - lengths]
    return starts[lengths > 1], [piece for piece in pieces if len(piece) > 1]


def whole(blocks: Iterable[Points]) -> Iterator[Points]:
    """The blocks of a text cut anew, so that none cuts a cluster. At most LONGEST code points are held."""
    held: Points | None = None
    for block in blocks:
        if not len(block):
            continue
        codes = block if held is None else np.concatenate((held, block))
        cut = _start_of_last(codes)
        if cut:
            yield codes[:cut]
        held = codes[cut:].copy()
        assert len(held) <= LONGEST
    if held is not None and len(held):
        yield held


def merged(codes: Points, numbers: Mapping[str, int]) -> Points:
    """A whole text with each known cluster as one number instead of its code points."""
    starts, clusters = find(codes)
    found = np.fromiter((numbers.get(cluster, 0) for cluster in clusters), dtype=np.uint32, count=len(starts))
    if not found.any():
        return codes
    out = codes.astype(np.uint32)
    out[starts[found > 0]] = found[found > 0]
    return np.delete(out, _rest(starts, clusters, found > 0))


def without(codes: Points, starts: Places, clusters: list[str]) -> Points:
    """The code points that are in none of these clusters."""
    return np.delete(
        codes, np.concatenate((starts, _rest(starts, clusters, np.ones(len(starts), dtype=bool))))
    )


def count(text: str) -> int:
    """How many clusters a text has, those of one character included."""
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    return len(codes) - sum(len(cluster) - 1 for cluster in find(codes)[1])


def version() -> str:
    """That of the package, which decides what a cluster is."""
    import regex

    return str(regex.__version__)


def _rest(starts: Places, clusters: list[str], wanted: NDArray[np.bool_]) -> Places:
    """The places of all but the first code point of the clusters that are wanted."""
    more = np.fromiter((len(cluster) - 1 for cluster in clusters), dtype=np.int64, count=len(clusters))[
        wanted
    ]
    firsts = starts[wanted] + 1
    return np.repeat(firsts - (np.cumsum(more) - more), more) + np.arange(int(more.sum()))


def _pieces(text: str) -> tuple[list[str], bool]:
    """A text in its clusters, characters one by one where those are too long; is that so at its end?"""
    every, pieces, at, cut = _pattern().findall, list[str](), 0, False
    while at < len(text):
        found = every(text[at : at + _WINDOW])
        if at + _WINDOW < len(text) and len(found) > 1:
            found.pop()  # what follows may belong to it
        cut = max(map(len, found)) > LONGEST
        if cut:
            i = next(i for i, piece in enumerate(found) if len(piece) > LONGEST)
            found[i:] = found[i][: LONGEST + 1]
        pieces += found
        at += sum(map(len, found))
    return pieces, cut


def _start_of_last(codes: Points) -> int:
    """Where the last cluster begins, if the next block may go on with it, else the end."""
    start, looked_at = 0, 4 * LONGEST
    while looked_at < len(codes):
        joining = _joining().take(codes[-looked_at:])
        breaks = np.flatnonzero(~joining[1:] & ~joining[:-1])
        if len(breaks):
            start = len(codes) - looked_at + int(breaks[-1]) + 1
            break
        looked_at *= 4
    pieces, cut = _pieces(_text(codes[start:]))
    return len(codes) - (0 if cut else len(pieces[-1]))


def _text(codes: Points) -> str:
    """The characters, NUL where a document ends: both join with nothing."""
    return np.where(codes == _SURROGATE, 0, codes).astype("<u4").tobytes().decode("utf-32-le")


@cache
def _pattern() -> Any:
    import regex  # here and below: what is read in characters does not need it

    return regex.compile(r"\X")


@cache
def _joining() -> NDArray[np.bool_]:
    """Which code points can join with others: (0x110000,)."""
    import regex

    everything = "".join(map(chr, range(FIRST_POINT)))
    others = _CONSONANT.join(regex.findall(_OTHERS, everything))
    found = "".join(piece for piece in _pattern().findall(others) if len(piece) > 1)
    table = np.zeros(FIRST_POINT, dtype=bool)
    table[list(map(ord, regex.findall(_JOINING, everything) + list(set(found) - {_CONSONANT})))] = True
    table[_SURROGATE] = False
    return table
