"""A convolution: each position reads a fixed way back, with weights that depend on the distance only.

Axes: B batch, T positions, C width, N taps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charlm.config import CONVOLUTION_WINDOW, ModelConfig
from charlm.model.cache import State
from charlm.model.example import Example, table
from charlm.model.mixers.mixer import Mixer, Places


class Convolution(Mixer):
    """A convolutional layer: each position reads the last N characters, its own counted.

    y_t = W (sum over 0 <= i < N of w_i * x_(t-i)): along time in each of the C channels by itself
    (depthwise), then across the channels (pointwise), all positions at once. A distance has the same
    weight whatever is written there. Through L layers, L (N - 1) + 1 characters act on a position.
    Kaiser et al. 2017, arXiv 1706.03059; in place of attention: Wu et al. 2019, arXiv 1901.10430.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.n_embd
        n = config.window or CONVOLUTION_WINDOW
        self.after = 0 if config.causal else n - 1  # a layer that reads ahead has a window each way
        self.taps = nn.Parameter(torch.empty(config.n_embd, n + self.after))
        self.out = nn.Linear(config.n_embd, config.n_embd, bias=False)

    def forward(self, x: Tensor, places: Places, cache: State | None = None) -> Tensor:
        """(B, T, C) to (B, T, C); with a cache, after what that holds."""
        T, n = x.shape[1], self.taps.shape[1]
        edges = (n - 1 - self.after, self.after)
        if cache is None:
            inputs = F.pad(x, (0, 0, *edges))
        else:
            inputs = torch.cat((cache.value, x), dim=1)
            cache.value = inputs[:, T:]
        tapped = [inputs[:, i : i + T] * self.taps[:, i] for i in range(n)]
        if places.docs is not None:
            docs = F.pad(places.docs, edges, value=-1)
            same = [(docs[:, i : i + T] == places.docs)[..., None].to(x.device) for i in range(n)]
            tapped = [part * own for part, own in zip(tapped, same, strict=True)]
        return self.out(sum(tapped))  # type: ignore[no-any-return]

    def cache(self, batch_size: int, block_size: int, like: Tensor) -> State:
        """The last N - 1 inputs, zeros before the first."""
        return State(like.new_zeros((batch_size, self.taps.shape[1] - 1, self.taps.shape[0])))

    @staticmethod
    def example() -> Example:
        """What a single 1 among zeros becomes."""
        layer = Convolution(ModelConfig(n_embd=2, window=3))
        x = torch.zeros(1, 6, 2)
        x[0, 1] = 1
        with torch.no_grad():
            layer.taps.copy_(torch.tensor([[0.25, 0.5, 1.0], [-1.0, 0.0, 1.0]]))
            nn.init.eye_(layer.out.weight)
            y = layer(x, Places(x.new_zeros(()), lambda q: q))[0]
        return table("A 1 at position 1, window 3, two channels: it acts on 1, 2 and 3.", y, "t", "channel")
