"""Keys and values kept between characters, so that each is computed once."""

import torch
from torch import Tensor


class LayerCache:
    """Keys and values of one layer: (B, H, S, D), of which the first `length` are filled."""

    def __init__(self, shape: tuple[int, int, int, int], like: Tensor) -> None:
        self.keys = torch.empty(shape, dtype=like.dtype, device=like.device)
        self.values = torch.empty_like(self.keys)
        self.length = 0

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add (B, H, T, D) of each at the end; all that is there now, (B, H, length, D)."""
        end = self.length + keys.shape[2]
        assert end <= self.keys.shape[2], "the cache holds one block"
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]
