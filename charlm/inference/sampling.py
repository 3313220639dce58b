"""Sample the next symbol from scores (log-probabilities or logits), and cut texts at stop texts.

Shapes: B texts side by side, V symbols.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from charlm.inference.sampling_config import SamplingConfig
from charlm.native.decoder import Floats


def sampling_weights(scores: Floats, config: SamplingConfig) -> Floats:
    """Return weights (B, V) in proportion to which next symbols are drawn, from scores (B, V); they need not sum to 1.

    `config` has the temperature, top-k, top-p and min-p (`charlm explain softmax`).
    """
    if config.temperature == 0:
        best: Floats = (np.arange(scores.shape[1]) == scores.argmax(axis=-1)[:, None]).astype(np.float64)
        return best
    p: Floats = np.subtract(scores, scores.max(axis=-1, keepdims=True), dtype=np.float64)  # (B, V)
    p /= config.temperature
    np.exp(p, out=p)
    if config.top_k is None and config.top_p is None and config.min_p is None:
        return p  # not normalised: `sample_weighted` divides by the sum
    p /= p.sum(axis=-1, keepdims=True)
    order = np.argsort(-p, axis=-1, kind="stable")
    ranked = np.take_along_axis(p, order, axis=-1)
    keep = np.ones_like(ranked, dtype=bool)
    if config.top_k is not None:
        keep[:, config.top_k :] = False
    if config.top_p is not None:
        keep &= ranked.cumsum(axis=-1) - ranked < config.top_p  # likelier ones sum to less than top_p
    if config.min_p is not None:
        keep &= ranked >= config.min_p * ranked[:, :1]
    keep[:, 0] = True
    kept = np.zeros_like(p)
    np.put_along_axis(kept, order, ranked * keep, axis=-1)
    return kept


def sample_weighted(weights: Floats, uniform: Floats) -> NDArray[np.int64]:
    """Draw symbols (B,) in proportion to weights (B, V), given uniform numbers in [0, 1), (B,)."""
    cumulative = weights.cumsum(axis=-1)
    total = cumulative[:, -1]
    at = uniform * total
    if len(at) == 1:
        chosen = cumulative[0].searchsorted(at, side="right")
    else:
        chosen = (cumulative <= at[:, None]).sum(axis=-1)
    if (at >= total).any():  # rounding must not choose a symbol of weight 0
        chosen = np.minimum(chosen, (cumulative < total[:, None]).sum(axis=-1))
    return chosen  # type: ignore[no-any-return]


def sample_next(scores: Floats, uniform: Floats, config: SamplingConfig) -> NDArray[np.int64]:
    """Draw the next symbols (B,) from scores (B, V), log-probabilities or logits, given uniform numbers in [0, 1), (B,)."""
    return sample_weighted(sampling_weights(scores, config), uniform)


class StopFilter:
    """Passes text on up to the first complete stop text, and holds back what may be the start of one.

    If several stop texts end at the same character, the longest is removed. Text is matched code point by code point,
    so the result does not depend on how it is cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        assert all(stops), "an empty stop text would match everywhere"
        self._stops = stops
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """Take more text, and return what can no longer be part of a stop text; nothing once one was found."""
        if self.found:
            return ""
        text, self._held = self._held + text, ""
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.found = True
            return text[: min(found)[1]]
        starts = (
            n for stop in self._stops for n in range(min(len(stop), len(text) + 1)) if text.endswith(stop[:n])
        )
        certain = len(text) - max(starts, default=0)
        self._held = text[certain:]
        return text[:certain]

    def flush(self) -> str:
        """Return what was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held
