"""From log-probabilities to a choice: pure functions of what is given. Axes: B texts, V symbols."""

import torch
from torch import Tensor

from charlm.config import SamplingConfig


def probabilities(logp: Tensor, config: SamplingConfig) -> Tensor:
    """What is chosen from: (B, V), each row summing to one, after temperature and the limits.

    Temperature acts first; top-k, top-p and min-p each leave out the unlikely, of what the
    temperature made of it. Top-p: Holtzman et al. 2020, arXiv 1904.09751; min-p: arXiv 2407.01082.
    """
    assert config.temperature > 0
    p = torch.softmax(logp.double() / config.temperature, dim=-1)
    ranked, order = p.sort(dim=-1, descending=True, stable=True)
    keep = torch.ones_like(ranked, dtype=torch.bool)
    if config.top_k is not None:
        keep[:, config.top_k :] = False
    if config.top_p is not None:
        keep &= ranked.cumsum(dim=-1) - ranked < config.top_p  # those before do not reach it yet
    if config.min_p is not None:
        keep &= ranked >= config.min_p * ranked[:, :1]
    keep[:, 0] = True
    kept = torch.zeros_like(p).scatter(1, order, ranked * keep)
    return kept / kept.sum(dim=-1, keepdim=True)


def pick(p: Tensor, uniform: Tensor) -> Tensor:
    """The symbols (B,) where numbers in [0, 1) fall when each takes up its probability (B, V)."""
    cumulative = p.cumsum(dim=-1)
    at = uniform[:, None] * cumulative[:, -1:]
    last = (p > 0).long().cumsum(dim=-1).argmax(dim=-1)  # rounding must not choose the impossible
    return torch.searchsorted(cumulative, at, right=True)[:, 0].minimum(last)


def choose(logp: Tensor, uniform: Tensor, config: SamplingConfig) -> Tensor:
    """The next symbols (B,), given log-probabilities (B, V) and numbers in [0, 1), (B,)."""
    if config.temperature == 0:
        return logp.argmax(dim=-1)
    return pick(probabilities(logp, config), uniform)
