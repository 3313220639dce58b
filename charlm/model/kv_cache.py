"""What layers keep of the characters read, so that each is computed once."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class KeyValues:
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

    def detach(self) -> None:
        """Forget how the keys and values came about: no gradient flows back through them."""
        self.keys, self.values = self.keys.detach(), self.values.detach()


@dataclass
class State:
    """What a layer needs that keeps a fixed number of values, however much was read."""

    value: Tensor

    def detach(self) -> None:
        """Forget how it came about."""
        self.value = self.value.detach()


@dataclass
class Cache:
    """All layers', and how many characters they have read."""

    layers: list[Any]
    length: int = 0
    last: Tensor | None = None  # the ids before the next, (B, N - 1), where n-grams need them

    def detach(self) -> None:
        """Forget how what is kept came about."""
        for layer in self.layers:
            layer.detach()
