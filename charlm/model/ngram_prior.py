"""Counts as where a model begins: it reads what they expect, and their logarithms are added to its logits.

Axes: B batch, T positions, C width, V symbols.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charlm.model.example import Example, Row


class Prior(nn.Module):
    """Counts as a prior: the transformer learns only what n-gram counts do not know.

    logits = E h + g log p, where p is what the counts say and g = 1 + w h, with the head E, a learned
    w, and h from the last layer. w starts at zero, and so does h (by the gain of the norm before it):
    the untrained model says exactly what the counts say. Where it finds reason to doubt them it lowers
    g, which flattens p, or outvotes them by E h. So that it can find reason, what goes into the first
    layer is told p too: R sqrt(p) is added, with a learned R that starts at zero (a square root, so
    that what is likely in the second place is still seen). In training the counts of a position leave
    out its own part of the text, which they would know by heart. Li et al. 2022, arXiv 2210.14431.
    """

    def __init__(self, n_embd: int, n_symbols: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.empty(1, n_embd))
        self.read = nn.Parameter(torch.empty(n_embd, n_symbols))

    def told(self, log_prior: Tensor) -> Tensor:
        """What the first layer is told of it: (B, T, C) from (B, T, V). Rows of zeros are no prior, and say nothing."""
        # Of two symbols at least one is no certainty, so two tell whether it is a prior.
        known = log_prior[..., :2].sum(dim=-1, keepdim=True) < 0
        roots = (log_prior / 2).exp_().mul_(known)
        return F.linear(roots.to(self.read.dtype), self.read)

    def forward(self, logits: Tensor, hidden: Tensor, log_prior: Tensor) -> Tensor:
        """The model's logits (B, T, V) and the prior's together; `hidden` (B, T, C) is what the head reads."""
        return weighed(logits, F.linear(hidden, self.gate), log_prior)

    @staticmethod
    def example() -> Example:
        """What becomes of the counts' probabilities of three characters."""
        log_prior = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64).log()
        rows: list[Row] = []
        for name, logits, gate in (
            ("untrained", (0.0, 0.0, 0.0), 0.0),
            ("the counts doubted, g = 0.5", (0.0, 0.0, 0.0), -0.5),
            ("the counts ignored, g = 0", (0.0, 0.0, 0.0), -1.0),
            ("E h = 2 for 'c'", (0.0, 0.0, 2.0), 0.0),
        ):
            said = weighed(torch.tensor(logits), torch.tensor([gate]), log_prior).softmax(dim=-1)
            rows.append((name, *(f"{p:.2f}" for p in said.tolist())))
        says = "The counts say 0.70, 0.20, 0.10 of three characters; the model says:"
        return Example(says, ("transformer", "a", "b", "c"), tuple(rows))


def weighed(logits: Tensor, gate: Tensor, log_prior: Tensor) -> Tensor:
    """E h + (1 + w h) log p, from E h (..., V), w h (..., 1) and log p (..., V)."""
    return torch.addcmul(logits, 1 + gate.to(log_prior.dtype), log_prior)
