"""From log-probabilities to a choice: pure functions of what is given. Axes: B texts, V symbols."""

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
