"""Counts as where a model begins: their logarithms are added to its logits, with a learned weight.

Axes: B batch, T positions, C width, V symbols.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Prior(nn.Module):
    """logits = E h + g log p, where p is what n-gram counts say, and g = 1 + w h, from the last layer's h.

    The transformer learns the residual: what the counts do not know. w starts at zero, and so does h
    (the gain of the norm before it), so that the untrained model says exactly what the counts say.
    Li et al. 2022, arXiv 2210.14431, learn the residual of an n-gram model so.
    """

    def __init__(self, n_embd: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.empty(1, n_embd))

    def forward(self, logits: Tensor, hidden: Tensor, log_prior: Tensor) -> Tensor:
        """The model's logits (B, T, V) and the prior's together; `hidden` (B, T, C) is what the head reads."""
        return weighed(logits, F.linear(hidden, self.gate), log_prior)


def weighed(logits: Tensor, gate: Tensor, log_prior: Tensor) -> Tensor:
    """E h + (1 + w h) log p, from E h (..., V), w h (..., 1) and log p (..., V)."""
    return logits + (1 + gate.to(log_prior.dtype)) * log_prior
