"""Recent n-grams: correct a prediction by what followed the last few symbols where they occurred recently in the text.

Shapes: N positions, V symbols.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charlm.data.shards import TextIds
from charlm.native.library import library
from charlm.native.recent_ngrams import Floats32, Integers, add_recent

LENGTHS = (1, 2, 3, 4, 5, 6, 8, 12, 16)
MOST_SHORTEST = 3
PLACES = 3
"""How many of the most recent occurrences of an n-gram are used: the nearest are the most informative."""
DISCOUNT = 0.8
MOST_CHARS, MOST_STRENGTH = 1 << 16, 1e6


@dataclass(frozen=True, kw_only=True)
class RecentNgrams:
    """A cache of the last `chars` symbols, which corrects a distribution by what followed there.

    Names, turns of phrase and identifiers come in bursts, and a model with a block of 128 characters has forgotten
    them. Let c(x) be how often x followed the last n symbols at their PLACES most recent occurrences, c the sum over
    x, and k the number of different x. From the shortest n to the longest of LENGTHS, starting with the model's p:

        p_n(x) = max(c(x) - D, 0) / (c + S) + (S + D k) / (c + S) p_(n-1)(x)

    The discount D is fixed; S, the strength of the model against the cache, and the shortest n are fitted on text that no
    model trained on. Finally a temperature flattens or sharpens the distribution.
    Of the predicted text, only the last `chars` symbols before the predicted one are read.
    Caches: Kuhn and De Mori 1990, IEEE TPAMI 12(6):570. The formula: Teh 2006, A hierarchical Bayesian language model
    based on Pitman-Yor processes.
    """

    chars: int
    strength: float  # S
    shortest: int = 3  # n
    temperature: float = 1.0  # of the corrected distribution

    def __post_init__(self) -> None:
        fitting = 0 < self.chars <= MOST_CHARS and 0 < self.strength <= MOST_STRENGTH
        if not fitting or not 1 <= self.shortest <= MOST_SHORTEST or not 0.05 <= self.temperature <= 20:
            raise ValueError(
                f"recent n-grams from {self.shortest} on of {self.chars} symbols with strength {self.strength} and "
                f"temperature {self.temperature}; allowed: from 1 to {MOST_SHORTEST} on, 1 to {MOST_CHARS:,} symbols, a "
                f"strength above 0 and at most {MOST_STRENGTH:,.0f}, a temperature from 0.05 to 20"
            )

    def log_probs(
        self,
        logp: NDArray[np.floating],
        ids: NDArray[np.integer],
        ats: Integers,
        lows: Integers,
        n_symbols: int,
        *,
        native: bool = True,
    ) -> Floats32:
        """Correct a model's log-probabilities (N, V) of the ids at positions `ats` (N,).

        Each position reads back to `lows` (N,) at most. Ids from `n_symbols` on (bytes that training never saw) do not
        count as followers. `native`: use the compiled kernel if there is one.
        """
        found = np.array(logp, np.float32, order="C")  # a copy
        whole = np.ascontiguousarray(ids, np.int64).reshape(-1)
        lows = np.maximum(lows, ats - self.chars)
        kernels = library() if native else None
        if kernels is not None:
            numbers = {"n_symbols": n_symbols, "shortest": self.shortest}
            add_recent(kernels, found, whole, lows, ats, **numbers, strength=self.strength)
        else:
            for row, low, at in zip(found, lows.tolist(), ats.tolist(), strict=True):
                self._correct(row, whole[low:at], n_symbols)
        if self.temperature != 1:
            _temper(found[:, :n_symbols], self.temperature)
        return found

    def correct(
        self,
        logp: NDArray[np.floating],
        ids: TextIds,
        ats: Integers,
        n_symbols: int,
        end: int | None,
        *,
        begin: int = 0,
        native: bool = True,
    ) -> Floats32:
        """Correct log-probabilities (N, V) at ascending positions of one text, reading nothing before `begin`.

        Nor is another document read: `end` is the symbol between documents.
        """
        if not len(ats):
            return np.array(logp, np.float32)
        first = max(begin, int(ats[0]) - self.chars)
        read, ats = ids[first : ats[-1]], ats - first
        return self.log_probs(logp, read, ats, document_starts(read, ats, end), n_symbols, native=native)

    def _correct(self, row: Floats32, window: Integers, n_symbols: int) -> None:
        """Correct the log-probabilities (V,) of the symbol after a window, in place."""
        kept, added = 1.0, dict[int, float]()
        for follow in _followers(window, n_symbols, self.shortest):
            counts, total = Counter(follow), len(follow) + self.strength
            share = (self.strength + DISCOUNT * len(counts)) / total
            kept *= share
            added = {x: p * share for x, p in added.items()}
            for x, count in counts.items():
                added[x] = added.get(x, 0.0) + (count - DISCOUNT) / total
        if added:
            which = np.array(list(added))
            raised = np.log(kept * np.exp(row[which].astype(np.float64)) + np.array(list(added.values())))
            row += np.float32(np.log(kept))
            row[which] = raised


def _followers(window: Integers, n_symbols: int, shortest: int) -> list[list[int]]:
    """Return what followed earlier occurrences of a window's last n symbols, for each of LENGTHS with any; latest first."""
    n = len(window)
    found: list[list[int]] = [[] for _ in LENGTHS]
    if n > shortest:
        end = window[n - shortest :]
        like = np.lib.stride_tricks.sliding_window_view(window[:-1], shortest) == end
        for p in (np.flatnonzero(like.all(axis=1)) + shortest)[::-1].tolist():
            if window[p] >= n_symbols:
                continue
            same = shortest
            while same < min(LENGTHS[-1], p) and window[p - 1 - same] == window[n - 1 - same]:
                same += 1
            for follow, length in zip(found, LENGTHS, strict=True):
                if shortest <= length <= same and len(follow) < PLACES:
                    follow.append(int(window[p]))
    return [follow for follow in found if follow]


def _temper(logp: Floats32, temperature: float) -> None:
    """Divide log-probabilities (N, symbols) by a temperature, in place; each row keeps its total probability."""
    total = _log_sum(logp)
    logp /= np.float32(temperature)
    logp += total - _log_sum(logp)


def _log_sum(logp: Floats32) -> Floats32:
    """Return the logarithm of the sum of probabilities: (N, 1) from (N, symbols)."""
    highest = logp.max(axis=-1, keepdims=True)
    summed: Floats32 = highest + np.log(np.exp(logp - highest).sum(axis=-1, keepdims=True))
    return summed


def document_starts(ids: NDArray[np.integer], ats: Integers, end: int | None) -> Integers:
    """Return where the document of each position `ats` (N,) begins: at the last end symbol before it, or at 0."""
    if end is None:
        return np.zeros_like(ats)
    ends = np.flatnonzero(ids == end)
    before = np.searchsorted(ends, ats) - 1
    starts: Integers = (
        np.where(before >= 0, ends[np.maximum(before, 0)], 0) if len(ends) else np.zeros_like(ats)
    )
    return starts
