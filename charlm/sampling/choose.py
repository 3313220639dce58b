"""From log-probabilities to a choice: pure functions of what is given. Axes: B texts, V symbols."""

import numpy as np
from numpy.typing import NDArray

from charlm.config import SamplingConfig

Numbers = NDArray[np.float64]


def probabilities(logp: Numbers, config: SamplingConfig) -> Numbers:
    """What is chosen from: (B, V), each row summing to one, after temperature and the limits.

    Temperature acts first; top-k, top-p and min-p each leave out the unlikely, of what the
    temperature made of it. Top-p: Holtzman et al. 2020, arXiv 1904.09751; min-p: arXiv 2407.01082.
    """
    assert config.temperature > 0
    p: Numbers = np.exp((logp - logp.max(axis=-1, keepdims=True)) / config.temperature)
    p /= p.sum(axis=-1, keepdims=True)
    if config.top_k is None and config.top_p is None and config.min_p is None:
        return p
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
    kept /= kept.sum(axis=-1, keepdims=True)
    return kept


def pick(p: Numbers, uniform: Numbers) -> NDArray[np.int64]:
    """The symbols (B,) where numbers in [0, 1) fall when each takes up its probability (B, V)."""
    cumulative = p.cumsum(axis=-1)
    at = uniform[:, None] * cumulative[:, -1:]
    chosen = (cumulative <= at).sum(axis=-1)
    last = p.shape[-1] - 1 - (p[:, ::-1] > 0).argmax(axis=-1)  # rounding must not choose the impossible
    found: NDArray[np.int64] = np.minimum(chosen, last)
    return found


def choose(logp: Numbers, uniform: Numbers, config: SamplingConfig) -> NDArray[np.int64]:
    """The next symbols (B,), given log-probabilities (B, V) and numbers in [0, 1), (B,)."""
    if config.temperature == 0:
        likeliest: NDArray[np.int64] = logp.argmax(axis=-1)
        return likeliest
    return pick(probabilities(logp.astype(np.float64), config), uniform)
