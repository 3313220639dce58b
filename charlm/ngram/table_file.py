"""Save and load the orders of an n-gram model as a safetensors file.

The contexts of an order are stored as keys where the keys of its grams fit integers, else as entries of the order below.

Shapes: X contexts, E entries.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from charlm.errors import CheckpointError
from charlm.ngram.keys import Packing
from charlm.ngram.table import EMPTY_CONTEXT, MOST_ORDERS, Kept, Level, places, pruned

ARRAYS = ("contexts", "starts", "symbols", "counts", "discounts")


def gram_keys(contexts: NDArray[np.uint64], level: Level, packing: Packing) -> NDArray[np.uint64]:
    """Return the keys of the entries (E,) of a level, given those of its contexts (X,)."""
    keys: NDArray[np.uint64] = np.repeat(contexts << np.uint64(packing.bits), np.diff(level.starts))
    return keys | level.symbols


def save_levels(levels: Sequence[Level], packing: Packing) -> bytes:
    """Return the levels as a safetensors file."""
    arrays, below = {}, EMPTY_CONTEXT
    for k, level in enumerate(levels):
        saved = level
        if packing.fits(k + 1):
            saved = replace(level, contexts=below[level.contexts])
            below = gram_keys(saved.contexts, level, packing)
        arrays.update({f"{k}.{name}": np.ascontiguousarray(getattr(saved, name)) for name in ARRAYS})
    return safetensors.numpy.save(arrays)


def load_levels(data: bytes, packing: Packing, name: str) -> list[Level]:
    """Load the levels from the contents of a file of that name. Raises CheckpointError if it is damaged."""
    try:
        arrays = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{name} is damaged: {error}") from None
    orders = len(arrays) // len(ARRAYS)
    names = {f"{k}.{array}" for k in range(min(orders, MOST_ORDERS)) for array in ARRAYS}
    if set(arrays) != names or orders < 1:
        raise CheckpointError(f"{name} is damaged: it does not hold the orders from 0 up")
    made, kept = list[Level](), list[Kept]()
    below = EMPTY_CONTEXT  # the keys of the entries of the order below
    for k in range(orders):
        level = Level(**{array: arrays[f"{k}.{array}"] for array in ARRAYS})
        problem = _problem(level, packing, k, len(made[-1].symbols) if made else 1)
        if problem:
            raise CheckpointError(f"{name} is damaged: wrong {problem} in order {k}")
        kept.append(np.ones(len(level.contexts), bool))
        if packing.fits(k + 1):
            keys: NDArray[np.uint64] = level.contexts
            contexts, kept[k] = places(keys, below)
            level, below = replace(level, contexts=contexts), gram_keys(keys, level, packing)
        made.append(level)
    return pruned(made, [], kept)[0]


def _problem(level: Level, packing: Packing, order: int, n_below: int) -> str | None:
    """Return what is wrong with the arrays, if anything; lookups rely on their types, sizes, order and limits.

    `n_below`: how many entries the order below has.
    """
    as_keys = packing.fits(order + 1)
    dtypes = {
        "contexts": (np.uint64,) if as_keys else (np.uint32,),
        "starts": (np.uint32,),
        "symbols": (np.min_scalar_type(packing.n_symbols - 1),),
        "counts": (np.uint8, np.uint16, np.uint32),
        "discounts": (np.float64,),
    }
    for part, allowed in dtypes.items():
        array: NDArray[Any] = getattr(level, part)
        if array.ndim != 1 or array.dtype not in allowed:
            return f"type of the {part}"
    n, starts = len(level.contexts), level.starts.astype(np.int64)
    if len(starts) != n + 1 or len(level.symbols) != starts[-1] or len(level.counts) != starts[-1]:
        return "sizes"
    if starts[0] != 0 or (np.diff(starts) < 1).any():
        return "starts"
    if (level.symbols >= packing.n_symbols).any() or (level.counts < 1).any():
        return "symbols or counts"
    if as_keys:
        keys: NDArray[np.uint64] = level.contexts
        digits = [(keys >> np.uint64(packing.bits * i)) & packing.mask(1) for i in range(order)]
        wrong = (keys & ~packing.mask(order)).any() or any((d >= packing.n_symbols).any() for d in digits)
    else:
        wrong = (level.contexts >= n_below).any()
    if wrong:
        return "contexts"
    if (level.contexts[1:] <= level.contexts[:-1]).any():
        return "order of the contexts"
    ascends = level.symbols[1:] > level.symbols[:-1]
    ascends[starts[1:-1] - 1] = True
    if not ascends.all():
        return "order of the entries"
    d = level.discounts
    if len(d) != 4 or d[0] != 0 or not ((d[1:] > 0) & (d[1:] <= (1, 2, 3))).all():
        return "discounts"
    return None
