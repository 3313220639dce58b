"""What every mixer is: from (B, T, C) to (B, T, C), the same weights for any length.

Axes: B batch, T positions, C width, H heads, D values per head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from charlm.model.example import Example, some


@dataclass(frozen=True)
class Places:
    """What all layers of one forward pass are told of places."""

    bias: Tensor  # to be added to scores, (T, S) or wider: minus infinity where nothing may be read
    rotate: Callable[[Tensor], Tensor]  # what is done to queries and keys (B, H, T, D)
    docs: Tensor | None = None  # the document of each position, (B, T), in runs; None: all one


class Mixer(nn.Module):
    """A sequence-to-sequence layer: a sequence of vectors in, one just as long out.

    y = f(x), from (T, C) to (T, C) for every T: the weights do not depend on the length, it is the
    same function for 3 characters and for 3,000. What varies from mixer to mixer is how a position
    reads the others. If it reads only those up to it, then the output on the beginning of a sequence
    is the beginning of the output, and each new character costs one more step instead of all again
    (`charlm explain causal`). Which such functions a transformer can be: Yun et al. 2020, arXiv
    1912.10077.
    """

    def forward(self, x: Tensor, places: Places, cache: Any | None = None) -> Tensor:
        """(B, T, C) to (B, T, C); with a cache, after what that holds."""
        raise NotImplementedError

    def cache(self, batch_size: int, block_size: int, like: Tensor) -> Any:
        """What the layer keeps of `batch_size` texts, before the first character."""
        raise NotImplementedError

    @staticmethod
    def example() -> Example:
        """One recurrent layer on the first 2, 4 and 6 of the same vectors."""
        layer, x = nn.GRU(3, 3, batch_first=True).double(), some(1, 6, 3)
        for weight in layer.parameters():
            nn.init.constant_(weight, 0.3)
        lengths = (2, 4, 6)
        with torch.no_grad():
            outputs = [layer(x[:, :n])[0][0, :, 0].tolist() for n in lengths]
        rows = tuple(
            (str(n), *(f"{y:.3f}" for y in output), *[""] * (6 - n))
            for n, output in zip(lengths, outputs, strict=True)
        )
        says = "One layer, the same weights, on the first 2, 4 and 6 of the same vectors (one channel of y):"
        return Example(says, ("length", *(f"t = {t}" for t in range(6))), rows)
