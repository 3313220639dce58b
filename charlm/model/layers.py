"""The layers other than attention: RMSNorm, fused linear maps, SwiGLU. Shapes: B batch, T positions, C width."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6


def embedding(n: int, n_embd: int) -> nn.Embedding:
    """Return an uninitialised embedding table of n vectors, (n, C).

    nn.Embedding() would draw random numbers, and on the meta device import torch's compiler for that, which takes seconds.
    """
    table = torch.empty(n, n_embd)
    found: nn.Embedding = nn.Embedding.from_pretrained(table, freeze=False)  # type: ignore[no-untyped-call]
    return found


class RMSNorm(nn.RMSNorm):
    """x / sqrt(mean(x^2)) times a learned gain. Zhang and Sennrich 2019, arXiv 1910.07467.

    Unlike torch's class, it casts the gain to the input's precision, which keeps torch on its fast path.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) to (..., size)."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class FusedLinear(nn.Linear):
    """Several linear maps of one input, C to each of `sizes`, computed as one product."""

    def __init__(self, n_embd: int, sizes: Sequence[int]) -> None:
        super().__init__(n_embd, sum(sizes), bias=False)
        self.sizes = tuple(sizes)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the output of each map, (..., size), from x (..., C)."""
        return self(x).split(self.sizes, dim=-1)  # type: ignore[no-any-return]


def swiglu_hidden(n_embd: int) -> int:
    """Return SwiGLU's hidden size in a model of this width: 8/3 of it, rounded up to a multiple of 16."""
    return -(-8 * n_embd // 3 // 16) * 16


class SwiGLU(nn.Module):
    """Gated feed-forward layer: W3 (silu(W1 x) * W2 x). Shazeer 2020, arXiv 2002.05202."""

    def __init__(self, n_embd: int) -> None:
        super().__init__()
        hidden = swiglu_hidden(n_embd)
        self.gate_up = FusedLinear(n_embd, (hidden, hidden))
        self.down = nn.Linear(hidden, n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map each position separately: (B, T, C) to (B, T, C)."""
        gate, up = self.gate_up.split(x)  # (B, T, hidden) each
        return self.down(F.silu(gate) * up)  # type: ignore[no-any-return]


def row_parts(model: nn.Module, name: str) -> tuple[int, ...]:
    """Return the number of rows of each matrix that is fused into the weight of that name."""
    module, _, weight = name.rpartition(".")
    owner = model.get_submodule(module)
    rows = owner.get_parameter(weight).shape[0]
    if isinstance(owner, FusedLinear):
        return owner.sizes
    if isinstance(owner, nn.GRU):
        return (rows // 3,) * 3  # reset gate, update gate, candidate
    return (rows,)


def is_matrix(name: str, weight: Tensor) -> bool:
    """Whether a parameter is a linear map inside a block, which Muon trains and weight decay acts on."""
    return weight.ndim == 2 and name.startswith("blocks.") and "weight" in name.rpartition(".")[2]
