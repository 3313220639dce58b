"""What every way to tell positions may do, and the one that does nothing."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from charlm.config import ModelConfig
from charlm.model.example import Example, table

Rotation = Callable[[Tensor], Tensor]
"""What is done to queries and keys (B, H, T, D) before they are compared."""


def _as_it_is(x: Tensor) -> Tensor:
    return x


class Position(nn.Module):
    """It may act on embeddings, on queries and keys, and on scores; by default on none of them."""

    def embed(self, x: Tensor, places: Tensor) -> Tensor:
        """The embeddings (B, T, C) of characters at `places` (T,)."""
        return x

    def rotation(self, places: Tensor, like: Tensor) -> Rotation:
        """What to do to the queries and keys of `places` (T,), in the type and on the device of `like`."""
        return _as_it_is

    def bias(self, q_pos: Tensor, k_pos: Tensor, like: Tensor) -> Tensor:
        """What to add to the scores: (H, T, S), or a zero."""
        return like.new_zeros(())


class NoPosition(Position):
    """No positions: attention sees a bag of characters, a causal one a growing bag.

    Unmasked, it could not tell "on" from "no" (`charlm explain equivariance`). With the causal mask it
    can: position t averages over t + 1 characters, so that even equal weights say how many came
    before, and the layers above can make an order of that. A recurrent layer and a convolution read
    in order anyway. Such models came close to those with positions in Haviv et al. 2022, arXiv
    2203.16634.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

    @staticmethod
    def example() -> Example:
        """What a causal layer without positions still knows of the place: how many came before."""
        places = torch.arange(6)
        marked = (places == 0).double()  # 1 for the first character of the text, 0 for the others
        weights = torch.ones(6, 6, dtype=torch.float64).tril()
        weights = weights / weights.sum(dim=1, keepdim=True)
        return table(
            "Equal weights over a value that is 1 at the first character only: each place differs.",
            (weights @ marked)[None],
            "",
            "t =",
            names=("average",),
        )
