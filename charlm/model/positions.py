"""How the model knows where a character stands."""

import torch
from torch import Tensor, nn

Angles = tuple[Tensor, Tensor]
"""Cosines and sines, each (T, D): one row a position, the halves of a row alike."""


class Rotary(nn.Module):
    """Rotary positions: queries and keys are turned by angles that grow with their position.

    The product of a query and a key turned so depends on their distance only. The first half of a
    head is paired with the second, as in LLaMA and Qwen3. Su et al. 2021, arXiv 2104.09864.
    """

    def __init__(self, head_size: int, base: float = 10_000.0) -> None:
        super().__init__()
        self.head_size = head_size
        self.base = base

    def angles(self, positions: Tensor, like: Tensor) -> Angles:
        """Cosines and sines (T, D) for `positions` (T,), in the type and place of `like`.

        Computed in float64 on the CPU, so that they are exact far into a long block.
        """
        pair = torch.arange(0, self.head_size, 2, dtype=torch.float64)
        turn = positions[:, None] * self.base ** (-pair / self.head_size)  # (T, D/2)
        turn = torch.cat((turn, turn), dim=-1)  # (T, D)
        return turn.cos().to(like), turn.sin().to(like)


def rotate(x: Tensor, angles: Angles) -> Tensor:
    """Turn queries or keys (B, H, T, D) by the angles of their positions."""
    cos, sin = angles
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
