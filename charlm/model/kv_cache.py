"""KV caches and recurrent states: what the layers keep of the text so far, so that each character is computed once.

Shapes: B batch, H heads of keys and values, S positions, D head size.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class KVCache:
    """Keys and values of one attention layer, (B, H, S, D), of which the first `length` positions are filled."""

    def __init__(self, shape: tuple[int, int, int, int], like: Tensor) -> None:
        self.keys = torch.empty(shape, dtype=like.dtype, device=like.device)
        self.values = torch.empty_like(self.keys)
        self.length = 0

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append (B, H, T, D) of each, and return all keys and values so far, (B, H, length, D)."""
        end = self.length + keys.shape[2]
        assert end <= self.keys.shape[2], "the cache holds one block"
        self.keys[:, :, self.length : end] = keys
        self.values[:, :, self.length : end] = values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def detach(self) -> None:
        """Stop gradients from flowing back through the cache."""
        self.keys, self.values = self.keys.detach(), self.values.detach()


@dataclass
class LayerState:
    """The fixed-size state of a recurrent or convolutional layer."""

    value: Tensor

    def detach(self) -> None:
        """Stop gradients from flowing back through the state."""
        self.value = self.value.detach()


@dataclass
class ModelCache:
    """The caches of all layers, and how many characters they have read."""

    layers: list[Any]
    length: int = 0
    last_ids: Tensor | None = None  # (B, N - 1), -1 for none: for n-gram embeddings up to length N

    def detach(self) -> None:
        """Stop gradients from flowing back through any layer's cache."""
        for layer in self.layers:
            layer.detach()
