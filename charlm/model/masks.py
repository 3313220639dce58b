"""Which positions may be read."""

import torch
from torch import Tensor


def causal(q_pos: Tensor, k_pos: Tensor) -> Tensor:
    """True (T, S) where the position of a key is not after that of the query."""
    return k_pos[None, :] <= q_pos[:, None]


def as_bias(mask: Tensor, like: Tensor) -> Tensor:
    """The mask (T, S) as numbers to add to scores: 0 where True, minus infinity elsewhere."""
    return torch.zeros(mask.shape).masked_fill(~mask, -torch.inf).to(like)
