"""Guesses at what will be drawn next, from what was drawn after the same few ids before.

Speculative sampling: several ids are guessed, the model reads all of them at once, and they are kept
as far as they are what it draws itself. Here both draw with the same noise, so that the text is the
one of plain sampling whatever is guessed, and a guess from similar odds is likely the same id.
Leviathan et al. 2023, arXiv 2211.17192; guesses from the text itself: Saxena 2023,
github.com/apoorvumang/prompt-lookup-decoding.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.sampling.choose import fall

LONGEST, SHORTEST = 4, 1
MOST_ROWS = 100_000

Row = NDArray[np.float64]


class Drafts:
    """The odds that last followed each few ids, and what the noise would draw from them."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, ...], Row] = {}

    def learn(self, before: Sequence[int], cumulative: Row) -> None:
        """Note which odds (V,), summed up, followed these ids, of which the last few count."""
        if len(self._seen) > MOST_ROWS:
            self._seen.clear()
        for n in range(SHORTEST, LONGEST + 1):
            self._seen[tuple(before[-n:])] = cumulative

    def guess(self, before: Sequence[int], noise: NDArray[np.float64]) -> list[int]:
        """What would be drawn after these ids, an id for each number of the noise (T,), as far as is known."""
        ids, guessed = list(before[-LONGEST:]), []
        for uniform in noise:
            cumulative = self._find(ids)
            if cumulative is None:
                break
            guessed.append(int(cumulative.searchsorted(uniform * cumulative[-1], side="right")))
            ids = [*ids[-LONGEST + 1 :], guessed[-1]]
        return guessed

    def _find(self, ids: list[int]) -> Row | None:
        for n in range(LONGEST, SHORTEST - 1, -1):
            found = self._seen.get(tuple(ids[-n:]))
            if found is not None:
                return found
        return None
