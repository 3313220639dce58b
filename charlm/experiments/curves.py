"""How a model uses context: its loss by position in the context, and by context length."""

from math import log

import numpy as np
from numpy.typing import NDArray

from charlm.data.tokenizer import Ids
from charlm.evaluation.bootstrap import standard_error
from charlm.evaluation.score import spread
from charlm.inference.context import ContextRule
from charlm.inference.predictor import Predictor

BEYOND = 4  # blocks that are read in one go: so far past what it was trained on
ROWS = 300  # stretches of text that are read so
CHARS = 1_500  # characters predicted from 1, 2, 4, ... of those before them

FEWEST_CHARS = 30
"""A point of fewer is left out: it would be chance."""

Curve = list[tuple[float, float, float | None]]
"""Points: a number of symbols, the bits per symbol, and their standard error; None where that is unknown."""


def by_symbols_before(predictor: Predictor, ids: Ids, longest: int) -> Curve:
    """Bits of a symbol by how many stand before it, up to `longest`, all read in one go.

    Each point is the mean over the symbols with x/2 to x others before them. The n-gram prior sees no further back.
    """
    rule = ContextRule(longest, longest, prior_bound=True)
    windows = spread(rule, len(ids), ROWS * longest, len(ids)).windows
    rows = [row for row in predictor.score_windows(ids, windows, rule) if len(row) == longest]
    if not rows:
        return []
    bits = -np.stack(rows) / log(2)  # (rows, longest): column p has p + 1 symbols before it
    powers = _powers(longest)
    bounds = [
        (low, high)
        for low, high in zip([0, *powers], powers, strict=False)
        if len(rows) * (high - low) >= FEWEST_CHARS
    ]
    return [_point(high, bits[:, low:high].mean(axis=1)) for low, high in bounds]


def by_symbols_seen(predictor: Predictor, ids: Ids, block_size: int) -> Curve:
    """Bits of the same symbols, each predicted from the last 1, 2, 4, ... up to a block before it."""
    chosen = (
        np.unique(np.linspace(block_size, len(ids) - 1, CHARS).astype(int)) if len(ids) > block_size else ()
    )
    curve: Curve = []
    for seen in _powers(block_size) if len(chosen) >= FEWEST_CHARS else ():
        # Its window k reads ids[k : k + seen] and scores the one after; the prior sees no more.
        rule = ContextRule(seen, 1, prior_bound=True)
        windows = [int(t) - seen for t in chosen]
        scores = [row[-1] for row in predictor.score_windows(ids, windows, rule)]
        curve.append(_point(seen, -np.array(scores) / log(2)))
    return curve


def _point(x: int, bits: NDArray[np.float64]) -> tuple[float, float, float | None]:
    """A point from values in the order of the text, (N,)."""
    return float(x), float(bits.mean()), standard_error(bits)


def _powers(most: int) -> list[int]:
    """1, 2, 4, ... and `most`."""
    return [*(1 << i for i in range(most.bit_length()) if 1 << i < most), most]
