"""What the counts make of a whole text, symbol by symbol, without the rest of each distribution.

Axes: N positions, X contexts and E entries of a level.
"""

import numpy as np

from charlm.counts.discounts import Numbers
from charlm.counts.grams import Keys, Packing
from charlm.counts.kneser_ney import KneserNey
from charlm.counts.level import Index, Level
from charlm.text.vocabulary import Ids

AT_ONCE = 1 << 20


def probabilities(model: KneserNey, ids: Ids, start: int = 0) -> Numbers:
    """The probability of each id from `start` on, given what stands before it: (N - start,).

    That of an id that is no symbol is 0.
    """
    found = np.zeros(len(ids) - start)
    packing = model.packing
    for first in range(start, len(ids), AT_ONCE):
        stop = min(first + AT_ONCE, len(ids))
        found[first - start : stop - start] = _of_keys(model, packing.pack(ids, first, stop, model.order + 1))
    found[ids[start:] >= packing.n_symbols] = 0
    return found


def share_of_level(level: Level, packing: Packing, order: int, keys: Keys) -> tuple[Index, Numbers, Numbers]:
    """What one order says of the last symbol of grams (N,): which of them (M,) have a context it knows.

    For those, the probability that it gives by itself, and how much it leaves to the order below: (M,) both.
    """
    at = level.find((keys >> np.uint64(packing.bits)) & packing.mask(order))
    seen = np.flatnonzero(at >= 0)
    if not len(seen):
        return seen, np.empty(0), np.empty(0)
    at = at[seen]
    counts = _counts(level, level.gram_keys(packing), keys[seen] & packing.mask(order + 1))
    totals, taken = level.totals()
    return seen, (counts - level.discounts[np.minimum(counts, 3)]) / totals[at], taken[at] / totals[at]


def probabilities_at(model: KneserNey, ids: Ids, places: Index, most: Index | None = None) -> Numbers:
    """The same at places (N,), N > 0; by at most so many symbols of context each, (N,), if given."""
    runs = np.split(places, np.flatnonzero(np.diff(places) != 1) + 1)
    keys = [model.packing.pack(ids, int(run[0]), int(run[-1]) + 1, model.order + 1) for run in runs]
    found = _of_keys(model, np.concatenate(keys), most)
    found[ids[places] >= model.packing.n_symbols] = 0
    return found


def _of_keys(model: KneserNey, keys: Keys, most: Index | None = None) -> Numbers:
    """The probability of the last symbol of each gram (N,) given those before it, or at most so many of them."""
    packing = model.packing
    order = np.argsort(keys)  # neighbours then are found near one another, which is much faster
    keys = keys[order]
    found = np.full(len(keys), 1 / packing.n_symbols)
    rows = np.arange(len(keys))
    most = None if most is None else most[order]
    for k, level in enumerate(model.levels):
        if most is not None:
            rows = rows[most[rows] >= k]
        seen, added, back = share_of_level(level, packing, k, keys[rows])
        rows = rows[seen]
        if not len(rows):
            break
        found[rows] = added + back * found[rows]
    out = np.empty_like(found)
    out[order] = found
    return out


def _counts(level: Level, entries: Keys, keys: Keys) -> Numbers:
    """How often each gram (N,) was counted, by the keys of the level's entries (E,)."""
    at = np.searchsorted(entries, keys)
    at[at == len(entries)] = 0
    return np.where(entries[at] == keys, level.counts[at], 0)
