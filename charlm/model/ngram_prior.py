"""The n-gram prior: log-probabilities of a Kneser-Ney model, added to the transformer's logits.

Shapes: B batch, T positions, C width, V symbols.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NgramPrior(nn.Module):
    """An n-gram prior: the transformer learns what n-grams do not predict already.

    logits = E h + g log p, where p are the n-gram model's probabilities and g = 1 + w h, with
    the output head E, a learned w, and h from the last layer. w and h start at zero (h by the
    gain of the final norm), so that the untrained model predicts exactly p. Where the model has
    reason to doubt p it lowers g, which flattens p, or outvotes it by E h. To have such reason,
    the first layer reads p too: R sqrt(p) is added to the embedding, with a learned R that
    starts at zero (the square root keeps the second most likely symbol visible). In training,
    the n-gram model leaves out the part of the text that it predicts, which it would otherwise
    know by heart. Li et al. 2022, arXiv 2210.14431.
    """

    def __init__(self, n_embd: int, n_symbols: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.empty(1, n_embd))  # w
        self.read = nn.Parameter(torch.empty(n_embd, n_symbols))  # R

    def embed(self, log_prior: Tensor) -> Tensor:
        """R sqrt(p), (B, T, C), from log p (B, T, V). Where a row is all zeros (prior dropout) it is zero."""
        # A probability of 1 leaves no room for a second symbol, so two entries tell whether a row is a prior.
        known = log_prior[..., :2].sum(dim=-1, keepdim=True) < 0
        roots = (log_prior / 2).exp_().mul_(known)
        return F.linear(roots.to(self.read.dtype), self.read)

    def forward(self, logits: Tensor, hidden: Tensor, log_prior: Tensor) -> Tensor:
        """E h + (1 + w h) log p: (B, T, V) from E h (B, T, V), h (B, T, C) and log p (B, T, V)."""
        gate = 1 + F.linear(hidden, self.gate).to(log_prior.dtype)  # (B, T, 1)
        return torch.addcmul(logits, gate, log_prior)
