"""Counts as safetensors and back: plain arrays, each checked for what the lookups count on."""

import json
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from charlm.errors import CheckpointError
from charlm.ngram.grams import Level, Packing
from charlm.ngram.kneser_ney import KneserNey

PARTS = ("contexts", "starts", "symbols", "counts", "discounts")
ORDERS = 64


def dump(model: KneserNey) -> bytes:
    """The counts of all orders; what the folds have of them is not kept."""
    arrays = {
        f"{k}.{part}": np.ascontiguousarray(getattr(level, part))
        for k, level in enumerate(model.levels)
        for part in PARTS
    }
    return safetensors.numpy.save(arrays)


def load(data: bytes, n_symbols: int, name: str, end: int | None = None) -> KneserNey:
    """The counts again, of a file of that name, over so many symbols, of which `end` ends a document.

    Raises CheckpointError where they are not whole or not counts.
    """
    try:
        arrays = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{name} is damaged: {error}") from None
    orders = len(arrays) // len(PARTS)
    packing = Packing(n_symbols, end)
    names = {f"{k}.{part}" for k in range(min(orders, ORDERS)) for part in PARTS}
    if set(arrays) != names or not 1 <= orders <= packing.highest_order + 1:
        raise CheckpointError(f"{name} is damaged: it does not hold the orders from 0 up")
    made = [Level(**{part: arrays[f"{k}.{part}"] for part in PARTS}) for k in range(orders)]
    for k, level in enumerate(made):
        wrong = _wrong(level, packing, k)
        if wrong:
            raise CheckpointError(f"{name} is damaged: {wrong} of order {k}")
    return KneserNey(packing, made)


def _wrong(level: Level, packing: Packing, order: int) -> str | None:
    """What is not as it must be, if anything: kinds, sizes, order and limits of each array."""
    kinds = {
        "contexts": (np.uint64,),
        "starts": (np.uint32,),
        "symbols": (np.min_scalar_type(packing.n_symbols - 1),),
        "counts": (np.uint8, np.uint16, np.uint32),
        "discounts": (np.float64,),
    }
    for part, allowed in kinds.items():
        array: NDArray[Any] = getattr(level, part)
        if array.ndim != 1 or array.dtype not in allowed:
            return f"the kind of the {part}"
    n, starts = len(level.contexts), level.starts.astype(np.int64)
    if len(starts) != n + 1 or len(level.symbols) != starts[-1] or len(level.counts) != starts[-1]:
        return "the sizes"
    if starts[0] != 0 or (np.diff(starts) < 1).any():
        return "the starts"
    if (level.symbols >= packing.n_symbols).any() or (level.counts < 1).any():
        return "the symbols or counts"
    digits = [(level.contexts >> np.uint64(packing.bits * i)) & packing.mask(1) for i in range(order)]
    if (level.contexts & ~packing.mask(order)).any() or any((d >= packing.n_symbols).any() for d in digits):
        return "the contexts"
    if (level.contexts[1:] <= level.contexts[:-1]).any():
        return "the order of the contexts"
    keys = level.gram_keys(packing)
    if (keys[1:] <= keys[:-1]).any():
        return "the order of the entries"
    d = level.discounts
    if len(d) != 4 or d[0] != 0 or not ((d[1:] > 0) & (d[1:] <= (1, 2, 3))).all():
        return "the discounts"
    return None
