"""The score of a held-out part, or of windows spread evenly over it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from charlm.context import ContextRule
from charlm.evaluation.intervals import standard_error
from charlm.predictor import Predictor
from charlm.text.vocabulary import Ids


@dataclass(frozen=True)
class Slice:
    """The windows of a text that are scored, and how its symbols make characters."""

    windows: tuple[int, ...]
    of_windows: int
    symbols_per_window: int
    symbols_per_char: float
    in_order: bool = False  # each window reads on from the one before, from the first

    @property
    def whole(self) -> bool:
        """Is every symbol of the text scored?"""
        return len(self.windows) == self.of_windows


def spread(rule: ContextRule, n: int, symbols: int, chars: int) -> Slice:
    """Windows that score about `symbols` of the `n` ids of a text of `chars` characters.

    They are spread evenly; where the state is carried from one to the next, they are the first.
    """
    there = max(rule.windows(n), min(n, 1))  # a single symbol, which has no context, is a window too
    wanted = min(there, max(1, round(symbols / rule.stride)))
    last = wanted - 1 if rule.carried else there - 1
    windows = np.linspace(0, last, wanted if there else 0).round().astype(int)
    return Slice(tuple(windows.tolist()), there, rule.stride, n / max(1, chars), rule.carried)


@dataclass(frozen=True)
class Estimate:
    """What a slice says of the whole: the sum and the number of scores in each block (window)."""

    sums: NDArray[np.float64]
    symbols: NDArray[np.int64]
    symbols_per_char: float

    @property
    def blocks(self) -> list[float]:
        """Nats a symbol in each block."""
        return list(map(float, self.sums / self.symbols))

    @property
    def nats_per_char(self) -> float:
        """Nats a character over all blocks."""
        return float(self.sums.sum() / self.symbols.sum()) * self.symbols_per_char

    @property
    def standard_error(self) -> float | None:
        """Of `nats_per_char`, from how much the blocks differ; None for a single block: it is unknown."""
        off = self.sums - self.symbols * (self.sums.sum() / self.symbols.sum())
        error = standard_error(off)
        return None if error is None else error * len(off) / float(self.symbols.sum()) * self.symbols_per_char

    def minus(self, other: "Estimate") -> "Estimate":
        """The paired difference from an estimate of the same blocks."""
        return replace(self, sums=self.sums - other.sums)

    def of_windows(self, scored: Sequence[int], wanted: Sequence[int]) -> "Estimate":
        """The estimate from some of the windows that were scored."""
        kept = np.isin(scored, wanted)
        return replace(self, sums=self.sums[kept], symbols=self.symbols[kept])

    @property
    def chars(self) -> int:
        """About how many characters were scored."""
        return round(float(self.symbols.sum()) / self.symbols_per_char)


def score_slice(
    predictor: Predictor,
    ids: Ids,
    part: Slice,
    stopped: Callable[[], bool] = lambda: False,
    rule: ContextRule | None = None,
) -> Estimate | None:
    """Score a slice, of the predictor's own rule unless told; None if `stopped` said so in the middle.

    The text's first symbol, which nothing precedes, belongs to the first window. So the slice of the whole
    text has the same figure as `charlm eval`.
    """
    sums: list[float] = []
    symbols: list[int] = []
    alone = len(ids) == 1
    found = [np.empty(0)] * len(part.windows) if alone else predictor.score_windows(ids, part.windows, rule)
    for window, scores in zip(part.windows, found, strict=True):
        if stopped():
            return None
        if window == 0:
            scores = np.concatenate((predictor.score(ids[:1]), scores))
        sums.append(-float(scores.sum()))
        symbols.append(len(scores))
    return Estimate(np.array(sums), np.array(symbols), part.symbols_per_char)
