"""Layers that several parts of the model share: RMSNorm, and linear maps fused into one product."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6


class Norm(nn.RMSNorm):
    """x / sqrt(mean(x^2)) times a gain. Zhang and Sennrich 2019, arXiv 1910.07467.

    torch's, but for inputs of another precision than the gain: the gain follows the input, else
    torch would take a slower way.
    """

    def __init__(self, size: int) -> None:
        super().__init__(size, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) to (..., size)."""
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Joined(nn.Linear):
    """Linear maps (C to each of `sizes`) of one input: their rows stand below each other."""

    def __init__(self, n_embd: int, sizes: Sequence[int]) -> None:
        super().__init__(n_embd, sum(sizes), bias=False)
        self.sizes = tuple(sizes)

    def apart(self, x: Tensor) -> tuple[Tensor, ...]:
        """What each map makes of x (..., C): (..., size) each."""
        return self(x).split(self.sizes, dim=-1)  # type: ignore[no-any-return]


def row_parts(model: nn.Module, name: str) -> tuple[int, ...]:
    """How many rows each of the matrices has that stand below each other in the weight of that name."""
    module, _, weight = name.rpartition(".")
    owner = model.get_submodule(module)
    rows = owner.get_parameter(weight).shape[0]
    if isinstance(owner, Joined):
        return owner.sizes
    if isinstance(owner, nn.GRU):
        return (rows // 3,) * 3  # two gates and what is new
    return (rows,)


def is_matrix(name: str, weight: Tensor) -> bool:
    """Is it one of the blocks' linear maps, by its name in the model?"""
    return weight.ndim == 2 and name.startswith("blocks.") and "weight" in name.rpartition(".")[2]
