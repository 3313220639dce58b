"""Compute a text's conditional entropies, its longest repeat and its repeated share, from its own counts."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.data.overlap import MOST_READ, PASSAGE, Overlap, hashes_of, sampled_hashes, spread_pieces
from charlm.data.shards import TextIds
from charlm.data.tokenizer import END_POINT, Points

MOST_ORDER = 5

Numbers = NDArray[np.signedinteger[Any]]
Names = NDArray[np.int64]
"""An id for each position, equal where the passages there (of some length) are; -1 if it occurs only once."""


@dataclass(frozen=True)
class Entropy:
    """The conditional entropy of a character, in bits, given `order` characters before it."""

    order: int
    bits_per_char: float | None  # None: no character has so many before it
    seen_once: float  # share of characters whose context occurs once, and so seems to determine them


def entropies(codes: Points, most_order: int = MOST_ORDER) -> list[Entropy]:
    """Compute conditional empirical entropies H = -1/N sum log2 c(context, character) / c(context), by order from 0.

    Contexts end at END_POINT. This is no estimate for other text: a context that occurs once looks certain,
    so high orders on short texts are far too low.
    """
    different, symbols = np.unique(codes, return_inverse=True)
    inside = codes != END_POINT
    starts = np.flatnonzero(inside)  # of windows: a context and the character after it
    names = np.zeros(len(starts), dtype=np.int64)  # of the contexts
    found = []
    for order in range(most_order + 1):
        last = starts + order
        there = last < len(codes)
        there[there] = inside[last[there]]
        starts, names = starts[there], names[there]
        if not len(starts):
            found.append(Entropy(order, None, 0.0))
            continue
        keys = names * len(different) + symbols[starts + order]
        _, windows, counts = np.unique(keys, return_inverse=True, return_counts=True)
        contexts = np.bincount(names)
        total = _n_log_n(contexts) - _n_log_n(counts)
        once = float((contexts == 1).sum()) / len(starts)
        found.append(Entropy(order, max(0.0, total / len(starts)), once))
        names = windows
    return found


def _n_log_n(counts: NDArray[np.int64]) -> float:
    counts = counts[counts > 1]
    return float((counts * np.log2(counts)).sum())


@dataclass(frozen=True)
class Repeat:
    """A passage that occurs in a text twice or more without overlap."""

    length: int
    first: int  # where it begins first
    last: int  # and last
    times: int


def longest_repeat(codes: Points) -> Repeat | None:
    """Find the longest passage that occurs twice without overlapping itself; None if no character does.

    Passages do not cross END_POINT. Exact, by prefix doubling (Karp, Miller and Rosenberg
    1972, "Rapid identification of repeated patterns").
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
    """Name the passages of `length` joined with those of length `more` that follow them."""
    names = np.full(len(left), -1, dtype=np.int64)
    here = np.flatnonzero(left[: max(0, len(left) - length)] >= 0)
    here = here[right[here + length] >= 0]
    if len(here):
        names[here] = left[here].astype(np.int64) * (int(right.max()) + 1) + right[here + length]
    return _repeated(names, length + more)


def _repeated(names: Names, length: int) -> Names:
    """Renumber from 0 the names that occur twice at least `length` apart; all others become -1."""
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
    """Count how many of the passages at these positions fit without overlap."""
    times, free = 0, 0
    for place in places.tolist():
        if place >= free:
            times, free = times + 1, place + length
    return times


def repeated_share(codes: Points) -> Overlap:
    """Measure how much of a text is in passages of PASSAGE characters or more that occurred earlier in it."""
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


def sampled_repeated_share(ids: TextIds) -> Overlap:
    """Estimate the same for a long text: of the passages that begin with an anchor, how many occurred earlier.

    Equal passages are sampled together (see `overlap_of_samples`).
    """
    read, hashes = 0, []
    for piece in spread_pieces(ids, MOST_READ):
        read += len(piece)
        hashes.append(sampled_hashes(piece))
    there = np.concatenate(hashes) if hashes else np.empty(0, np.uint64)
    share_read = min(1.0, read / max(1, len(ids)))
    return Overlap(len(there) - len(np.unique(there)), len(there), share_read, sampled=True)
