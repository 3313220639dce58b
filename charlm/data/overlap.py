"""Passages that two texts share: how much of the held-out text leaks from the training text."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.data.shards import TextIds
from charlm.data.tokenizer import Ids
from charlm.rng import mix

PASSAGE = 64
"""Length in symbols of a passage that counts as shared."""
FILTER_BITS = 22
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)

Symbols = NDArray[np.integer[Any]]
Hashes = NDArray[np.uint64]


class Passages:
    """A set of passages to find in texts."""

    def __init__(self, wanted: Iterable[Hashes]) -> None:
        """`wanted`: the hashes of the passages, in any order."""
        self.there = np.unique(np.concatenate([np.empty(0, np.uint64), *wanted]))
        # A table of flags rules out most passages before the search, which is slow.
        self._maybe = np.zeros(1 << FILTER_BITS, dtype=bool)
        self._maybe[_short(self.there)] = True

    def find(self, hashes: Hashes) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return which of the hashes are in the set, (N,) ascending, and the index of each in `there`, (N,)."""
        starts = np.flatnonzero(self._maybe[_short(hashes)])
        at = np.searchsorted(self.there, hashes[starts])
        same = self.there[at.clip(max=len(self.there) - 1)] == hashes[starts]
        return starts[same], at[same]

    def seen(self, texts: Iterable[Hashes]) -> NDArray[np.bool_]:
        """Whether each of `there` occurs in one of the texts: (N,)."""
        seen = np.zeros(len(self.there), dtype=bool)
        for hashes in texts:
            seen[self.find(hashes)[1]] = True
        return seen


def hashes_of(symbols: Symbols, of: int = PASSAGE) -> Hashes:
    """Hash each passage of `of` symbols, rounded up to a power of two."""
    return next(found for length, found in doubled_hashes(symbols) if length >= of)


def doubled_hashes(symbols: Symbols) -> Iterator[tuple[int, Hashes]]:
    """Yield the lengths 1, 2, 4, ... with the hashes of all passages of each, computed from those of half the length."""
    found = (symbols.astype(np.uint64) + np.uint64(1)) * MULTIPLIER
    power, length = MULTIPLIER, 1
    while True:
        yield length, found
        with np.errstate(over="ignore"):
            found = found[:-length] * power + found[length:] if len(found) > length else found[:0]
            found ^= found >> np.uint64(29)
            power, length = power * power, 2 * length


def _short(found: Hashes) -> Hashes:
    return found >> np.uint64(64 - FILTER_BITS)


AT_ONCE = 1 << 20
MOST_COMPARED = 2 << 20
"""Symbols up to which a training part is searched for every passage; a longer one is sampled."""
PIECE, MOST_READ, MOST_WANTED = 1 << 18, 1 << 24, 1 << 22
ANCHOR, ONE_IN = 8, 32


@dataclass(frozen=True)
class Overlap:
    """How much of a text is in passages of PASSAGE symbols or more that the training part contains."""

    symbols: int
    of_symbols: int  # or of the passages that were sampled
    read: float = 1.0  # the share of the training part that was read
    sampled: bool = False

    @property
    def word(self) -> str:
        """A qualifier for the share; empty if it is exact."""
        if self.read < 1:
            return "at least "
        return "about " if self.sampled else ""

    @property
    def share(self) -> float:
        """Between 0 and 1."""
        return self.symbols / max(1, self.of_symbols)


def about_overlap(parts: Sequence[Overlap], unit: str) -> str | None:
    """A sentence on texts that the training part contains in part; None if it contains nothing of them."""
    share = sum(part.symbols for part in parts) / max(1, sum(part.of_symbols for part in parts))
    if share == 0:
        return None
    word = min(parts, key=lambda part: part.read).word
    return (
        f"{word}{100 * share:.{0 if share >= 0.1 else 2}f} % of this text also occurs in the training part, "
        "in "
        f"passages of {PASSAGE} {unit}s or more"
    )


def overlap(train: TextIds, text: TextIds) -> Overlap:
    """Measure how much of `text` occurs in `train`: exactly where that is short, else by samples in bounded time."""
    return (overlap_of_all if len(train) <= MOST_COMPARED else overlap_of_samples)(train, text)


def overlap_of_samples(
    train: TextIds, text: TextIds, ends: tuple[int | None, int | None] = (None, None)
) -> Overlap:
    """Estimate how much of `text` occurs in `train` by its passages that begin with an anchor.

    Whether a passage is sampled depends on its first ANCHOR ids only, by a hash of which one in ONE_IN
    is an anchor: the same passages are sampled on both sides (Manber 1994, USENIX Winter). Both sides are read
    in evenly spread pieces; where these are not all, the result is a lower bound. `ends`: the id of each side
    that ends a document, which is skipped.
    """
    wanted = [sampled_hashes(piece) for piece in spread_pieces(text, MOST_WANTED, ends[1])]
    passages, pieces = Passages(wanted), list(spread_pieces(train, MOST_READ, ends[0]))
    seen = passages.seen(map(sampled_hashes, pieces))
    found = sum(int(seen[np.searchsorted(passages.there, hashes)].sum()) for hashes in wanted)
    read = sum(min(PIECE, len(piece)) for piece in pieces) / max(1, len(train))
    return Overlap(found, sum(map(len, wanted)), min(1.0, read), sampled=True)


def spread_pieces(ids: TextIds, most: int, end: int | None = None) -> Iterator[Ids]:
    """Yield the ids in pieces of PIECE, or evenly spread pieces of `most` ids in all, each extended for its last passage.

    The id `end` is left out, if it is given.
    """
    there = -(-len(ids) // PIECE)
    chosen = np.linspace(0, there - 1, min(there, most // PIECE)).round().astype(int) if there else ()
    for i in chosen:
        piece = ids[i * PIECE : (i + 1) * PIECE + PASSAGE - 1]
        yield piece if end is None else piece[piece != end]


def sampled_hashes(ids: Ids) -> Hashes:
    """The hashes of the passages that begin with an anchor."""
    short = hashes_of(ids, ANCHOR)
    starts = np.flatnonzero(short[: max(0, len(ids) - PASSAGE + 1)] % np.uint64(ONE_IN) == 0)
    mixed = np.zeros(len(starts), dtype=np.uint64)
    for offset in range(0, PASSAGE, ANCHOR):
        mixed = mix(mixed, short[starts + offset])
    return mixed


def overlap_of_all(train: TextIds, text: TextIds) -> Overlap:
    """Find every passage of PASSAGE ids of `text` that occurs anywhere in `train`.

    By 64-bit hashes of all passages; the training part is read in pieces, so memory is bounded by
    the text.
    """
    wanted = hashes_of(text[:])
    if not len(wanted) or len(train) < PASSAGE:
        return Overlap(0, len(text))
    passages, places = Passages([wanted]), range(0, len(train) - PASSAGE + 1, AT_ONCE)
    seen = passages.seen(hashes_of(train[start : start + AT_ONCE + PASSAGE - 1]) for start in places)
    starts = np.flatnonzero(seen[np.searchsorted(passages.there, wanted)])
    return Overlap(int(covered(starts, PASSAGE, len(text)).sum()), len(text))


def covered(starts: NDArray[np.intp], length: int, n: int) -> NDArray[np.bool_]:
    """Return which of n symbols are in one of the passages of `length` symbols that begin at `starts`: (n,)."""
    edges = np.zeros(n + 1, dtype=np.int64)
    np.add.at(edges, starts, 1)
    np.add.at(edges, starts + length, -1)
    inside: NDArray[np.bool_] = np.cumsum(edges[:-1]) > 0
    return inside
