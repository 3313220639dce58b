"""From log-probabilities to the next symbol, and where a text should stop."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from charlm.config import SamplingConfig

Numbers = NDArray[np.float64]


def odds(logp: Numbers, config: SamplingConfig) -> Numbers:
    """What is chosen from: (B, V), in proportion to probabilities, after temperature and the limits.

    Temperature acts first, and at nought leaves the likeliest only; top-k, top-p and min-p each leave
    out the unlikely, of what the temperature made of it. Top-p: Holtzman et al. 2020, arXiv
    1904.09751; min-p: arXiv 2407.01082. A constant added to a row of log-probabilities changes
    nothing, so logits will do.
    """
    if config.temperature == 0:
        only: Numbers = (np.arange(logp.shape[1]) == logp.argmax(axis=-1)[:, None]).astype(np.float64)
        return only
    p: Numbers = np.subtract(logp, logp.max(axis=-1, keepdims=True), dtype=np.float64)
    p /= config.temperature
    np.exp(p, out=p)
    if config.top_k is None and config.top_p is None and config.min_p is None:
        return p
    p /= p.sum(axis=-1, keepdims=True)
    order = np.argsort(-p, axis=-1, kind="stable")
    ranked = np.take_along_axis(p, order, axis=-1)
    keep = np.ones_like(ranked, dtype=bool)
    if config.top_k is not None:
        keep[:, config.top_k :] = False
    if config.top_p is not None:
        keep &= ranked.cumsum(axis=-1) - ranked < config.top_p  # those before do not reach it yet
    if config.min_p is not None:
        keep &= ranked >= config.min_p * ranked[:, :1]
    keep[:, 0] = True
    kept = np.zeros_like(p)
    np.put_along_axis(kept, order, ranked * keep, axis=-1)
    return kept


def probabilities(logp: Numbers, config: SamplingConfig) -> Numbers:
    """The same with each row summing to one."""
    p = odds(logp, config)
    p /= p.sum(axis=-1, keepdims=True)
    return p


def fall(cumulative: Numbers, uniform: Numbers) -> NDArray[np.int64]:
    """The symbols (B,) where numbers in [0, 1) fall when each takes up its share; odds (B, V) summed up."""
    total = cumulative[:, -1]
    at = uniform * total
    if len(at) == 1:
        chosen = cumulative[0].searchsorted(at, side="right")
    else:
        chosen = (cumulative <= at[:, None]).sum(axis=-1)
    if (at >= total).any():  # rounding must not choose what is impossible
        chosen = np.minimum(chosen, (cumulative < total[:, None]).sum(axis=-1))
    return chosen  # type: ignore[no-any-return]


def pick(p: Numbers, uniform: Numbers) -> NDArray[np.int64]:
    """The symbols (B,) where numbers in [0, 1) fall when each takes up its probability (B, V)."""
    return fall(p.cumsum(axis=-1), uniform)


def choose(logp: Numbers, uniform: Numbers, config: SamplingConfig) -> NDArray[np.int64]:
    """The next symbols (B,), given log-probabilities (B, V) and numbers in [0, 1), (B,)."""
    return pick(odds(logp, config), uniform)


class StopFilter:
    """Lets text through up to the stop text that is complete first, and holds back what may begin one.

    Where several are complete at the same character, the longest is removed. The text is matched
    character by character (code point by code point), so the result does not depend on how it is
    cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        assert all(stops), "an empty text would stop everything"
        self._stops = [_Match(stop) for stop in stops]
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """More text: what of it and of what was held is certain now; nothing once a stop was found."""
        if self.found:
            return ""
        if not self._stops:
            return text
        for i, char in enumerate(text):
            completed = [len(stop.text) for stop in self._stops if stop.complete_with(char)]
            if completed:
                text = self._held + text[: i + 1]
                self._held, self.found = "", True
                return text[: len(text) - max(completed)]
        text = self._held + text
        certain = len(text) - max(stop.matched for stop in self._stops)
        self._held = text[certain:]
        return text[:certain]

    def flush(self) -> str:
        """The end: what was held after all."""
        held, self._held = self._held, ""
        return held


class _Match:
    """How much of one stop text the last characters match, by Knuth, Morris and Pratt."""

    def __init__(self, text: str) -> None:
        self.text, self.matched = text, 0
        self._shorter = [0]  # for each length: the longest proper end of that beginning that is a beginning
        for char in text[1:]:
            self._shorter.append(self._after(self._shorter[-1], char))

    def complete_with(self, char: str) -> bool:
        """Take in a character: does the text end with the whole stop text now?"""
        self.matched = self._after(self.matched, char)
        return self.matched == len(self.text)

    def _after(self, matched: int, char: str) -> int:
        while matched and self.text[matched] != char:
            matched = self._shorter[matched - 1]
        return matched + (self.text[matched] == char)
