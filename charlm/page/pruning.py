"""Prune an n-gram table to a size: its longest and rarest contexts are dropped first.

Shapes: X contexts and E entries of a level.
"""

from collections.abc import Sequence

import numpy as np

from charlm.errors import UsageError
from charlm.ngram.table import Level, pruned
from charlm.page.container import Array, bits_of, compressed_size

MEGABYTE = 1_000_000
BASE64 = 4 / 3
GROWTH = 1.5
"""Factor from one threshold on counts to the next, starting at 2."""


def level_arrays(levels: Sequence[Level]) -> dict[str, Array]:
    """Convert the levels to arrays by name, storing the links between them in as few bytes as possible.

    Contexts are stored as the lengths of their rows of entries and, if not every entry of the order below is a
    context, as one bit for each of these entries: whether it is.
    """
    arrays: dict[str, Array] = {}
    n_below = 1
    for k, level in enumerate(levels):
        lengths = np.diff(level.starts)
        if len(level.contexts) < n_below:
            is_context = np.zeros(n_below, bool)
            is_context[level.contexts] = True
            arrays[f"ngram.{k}.contexts"] = bits_of(is_context)
        arrays[f"ngram.{k}.lengths"] = lengths.astype(np.min_scalar_type(lengths.max(initial=0)))
        arrays[f"ngram.{k}.symbols"] = level.symbols
        arrays[f"ngram.{k}.counts"] = level.counts.astype(np.min_scalar_type(level.counts.max(initial=0)))
        n_below = len(level.symbols)
    return arrays


def page_bytes(levels: Sequence[Level]) -> int:
    """Estimate how many bytes the levels take in a page: compressed, in base64."""
    return round(BASE64 * compressed_size(*level_arrays(levels).values()))


def pruned_to(levels: Sequence[Level], megabytes: float) -> list[Level]:
    """Prune the levels to as many contexts as fit into so many megabytes of a page.

    Contexts whose counts sum to less than a threshold are dropped, at the highest order first; then the threshold is
    raised. The discounts stay. Raises UsageError where the order 0 alone does not fit.
    """
    levels, limit = list(levels), megabytes * MEGABYTE
    size = page_bytes(levels)
    per_entry = size / max(1, sum(len(level.symbols) for level in levels))
    threshold = 2.0
    while size > limit:
        dropped = False
        for k in range(len(levels) - 1, 0, -1):
            if size <= limit or k >= len(levels):
                continue
            kept = [np.ones(len(level.contexts), bool) for level in levels]
            kept[k] = levels[k].totals()[0] >= threshold
            if kept[k].all():
                continue
            before, dropped = sum(len(level.symbols) for level in levels), True
            levels = pruned(levels, [], kept)[0]
            while len(levels) > 1 and not len(levels[-1].contexts):
                levels.pop()
            left = sum(len(level.symbols) for level in levels)
            size -= round((before - left) * per_entry)
            if size <= limit:  # it fits by the estimate, so measure
                size = page_bytes(levels)
                per_entry = size / left
        if len(levels) == 1 and not dropped:
            raise UsageError(
                f"the n-grams without any context take {size / MEGABYTE:.4g} megabytes of the page, more than the "
                f"{megabytes:g} allowed; allow more"
            )
        threshold *= GROWTH
    return levels
