"""What a text says more than once: its longest repeated passage, and how much of it stood there before."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.data.overlap import MOST_READ, PASSAGE, Overlap, hashes_of, sampled_hashes, spread_pieces
from charlm.data.tokenizer import END_POINT, Ids, Points

Numbers = NDArray[np.signedinteger[Any]]
Names = NDArray[np.int64]
"""Of the passages of one length that begin at each place: equal ones have equal names, -1 for those to leave out."""


@dataclass(frozen=True)
class Repeat:
    """A passage that stands in a text twice or more, without overlap."""

    length: int
    first: int  # where it begins
    again: int  # and where again, the last time
    times: int


def longest_repeat(codes: Points) -> Repeat | None:
    """The longest passage that occurs twice without overlapping itself; None where no character does.

    None reaches across END_POINT. Exact: passages are named by doubling (Karp, Miller and Rosenberg
    1972, "Rapid identification of repeated patterns"), and those that occur once are dropped at each step.
    """
    _, names = np.unique(codes, return_inverse=True)
    names = _repeated(np.where(codes == END_POINT, -1, names), 1)
    if not (names >= 0).any():
        return None
    levels = [names.astype(np.int32)]  # of lengths 1, 2, 4, ...
    while True:
        length = 1 << (len(levels) - 1)
        doubled = _joined(levels[-1], levels[-1], length, length)
        if not (doubled >= 0).any():
            break
        levels.append(doubled.astype(np.int32))
    best: Numbers = levels[-1]
    length = 1 << (len(levels) - 1)
    for j in range(len(levels) - 2, -1, -1):
        longer = _joined(best, levels[j], length, 1 << j)
        if (longer >= 0).any():
            best, length = longer, length + (1 << j)
    places = np.flatnonzero(best >= 0)
    first = int(places[0])
    same = np.flatnonzero(best == best[first])
    return Repeat(length, first, int(same[-1]), _apart(same, length))


def _joined(left: Numbers, right: Numbers, length: int, more: int) -> Names:
    """The names of passages of `length` and what follows them, of length `more`, together."""
    names = np.full(len(left), -1, dtype=np.int64)
    here = np.flatnonzero(left[: max(0, len(left) - length)] >= 0)
    here = here[right[here + length] >= 0]
    if len(here):
        names[here] = left[here].astype(np.int64) * (int(right.max()) + 1) + right[here + length]
    return _repeated(names, length + more)


def _repeated(names: Names, length: int) -> Names:
    """New names, 0 and on, for what occurs twice with `length` places between; -1 for all else."""
    places = np.flatnonzero(names >= 0)
    order = np.argsort(names[places], kind="stable")  # so that of equal names the places ascend
    places, keys = places[order], names[places[order]]
    out = np.full(len(names), -1, dtype=np.int64)
    if not len(keys):
        return out
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    ends = np.append(starts[1:], len(keys))
    apart = places[ends - 1] - places[starts] >= length
    of_place = np.repeat(np.where(apart, np.cumsum(apart) - 1, -1), ends - starts)
    out[places] = of_place
    return out


def _apart(places: NDArray[np.intp], length: int) -> int:
    """How many of the passages at these places can be taken without overlap."""
    times, free = 0, 0
    for place in places.tolist():
        if place >= free:
            times, free = times + 1, place + length
    return times


def repeated_share(codes: Points) -> Overlap:
    """How much of a text stands in passages of PASSAGE characters or more that stood there before."""
    chars = int((codes != END_POINT).sum())
    hashes = hashes_of(codes)
    if not len(hashes):
        return Overlap(0, chars)
    across = np.concatenate(([0], np.cumsum(codes == END_POINT)))
    starts = np.flatnonzero(across[PASSAGE:] == across[:-PASSAGE])
    order = starts[np.argsort(hashes[starts], kind="stable")]
    again = order[1:][hashes[order[1:]] == hashes[order[:-1]]]
    edges = np.zeros(len(codes) + 1, dtype=np.int64)
    np.add.at(edges, again, 1)
    np.add.at(edges, again + PASSAGE, -1)
    return Overlap(int((np.cumsum(edges[:-1]) > 0).sum()), chars)


def repeated_share_of_samples(ids: Ids) -> Overlap:
    """The same of a long text: of the passages that begin with an anchor, how many occurred before.

    Equal passages are sampled together (see `overlap_of_samples`), so pieces tell of each other.
    """
    read, hashes = 0, []
    for piece in spread_pieces(ids, MOST_READ):
        read += len(piece)
        hashes.append(sampled_hashes(piece))
    there = np.concatenate(hashes) if hashes else np.empty(0, np.uint64)
    share_read = min(1.0, read / max(1, len(ids)))
    return Overlap(len(there) - len(np.unique(there)), len(there), share_read, sampled=True)
