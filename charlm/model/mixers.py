"""Convolutional and recurrent mixers, and the dict of all mixers by name.

Shapes: B batch, T positions, C width, N taps (characters that one layer reads).
"""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

from charlm.config import CONVOLUTION_WINDOW, ModelConfig
from charlm.model.attention import Attention, Mixer, PositionInfo, SimpleAttention
from charlm.model.kv_cache import LayerState


class Convolution(Mixer):
    """A convolutional layer: each position reads the last N characters, itself included.

    y_t = W (sum over 0 <= i < N of w_i * x_(t-i)): first along time, in each of the C channels
    separately (depthwise), then across the channels (pointwise). A distance has the same weight
    whatever the text says there. L layers reach L (N - 1) + 1 characters.
    Kaiser et al. 2017, arXiv 1706.03059; in place of attention: Wu et al. 2019, arXiv 1901.10430.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.n_embd
        n = config.window or CONVOLUTION_WINDOW
        self.after = 0 if config.causal else n - 1  # a non-causal layer has a window on each side
        self.taps = nn.Parameter(torch.empty(config.n_embd, n + self.after))
        self.out = nn.Linear(config.n_embd, config.n_embd, bias=False)

    def forward(self, x: Tensor, info: PositionInfo, cache: LayerState | None = None) -> Tensor:
        """(B, T, C) to (B, T, C); with a cache, x continues the text that it holds."""
        T, n = x.shape[1], self.taps.shape[1]
        edges = (n - 1 - self.after, self.after)
        if cache is None:
            inputs = F.pad(x, (0, 0, *edges))  # (B, T + n - 1, C)
        else:
            inputs = torch.cat((cache.value, x), dim=1)
            cache.value = inputs[:, T:]
        tapped = [inputs[:, i : i + T] * self.taps[:, i] for i in range(n)]
        if info.docs is not None:
            docs = F.pad(info.docs, edges, value=-1)
            same = [(docs[:, i : i + T] == info.docs)[..., None].to(x.device) for i in range(n)]
            tapped = [part * own for part, own in zip(tapped, same, strict=True)]
        return self.out(sum(tapped))  # type: ignore[no-any-return]

    def new_cache(self, batch_size: int, block_size: int, like: Tensor) -> LayerState:
        """Return a cache of the last N - 1 inputs, all zeros at first."""
        return LayerState(like.new_zeros((batch_size, self.taps.shape[1] - 1, self.taps.shape[0])))


class Recurrent(Mixer):
    """A recurrent layer (GRU): it carries the whole past in a state of C numbers.

    h_t = (1 - z) n + z h_(t-1), elementwise, where the gate z and the candidate n are computed from x_t
    and h_(t-1); the output is a linear map of h_t. Sampling needs only the state, however long the
    text. But training must go through each window step by step, and what is far back must survive
    every step in between. Cho et al. 2014, arXiv 1406.1078.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.n_embd
        both_ways = not config.causal
        self.gru = nn.GRU(config.n_embd, config.n_embd, batch_first=True, bidirectional=both_ways)
        self.out = nn.Linear(config.n_embd * (1 + both_ways), config.n_embd, bias=False)

    def forward(self, x: Tensor, info: PositionInfo, cache: LayerState | None = None) -> Tensor:
        """(B, T, C) to (B, T, C); with a cache, x continues the text that it holds."""
        if cache is not None:
            y, cache.value = self.gru(x, cache.value)
        elif info.docs is not None:
            y = self._by_document(x, info.docs)
        else:
            y, _ = self.gru(x)
        return self.out(y)  # type: ignore[no-any-return]

    def _by_document(self, x: Tensor, docs: Tensor) -> Tensor:
        """Return the GRU's output (B, T, C), with an empty state at the start of each document."""
        begins = torch.ones_like(docs, dtype=torch.bool)
        begins[:, 1:] = docs[:, 1:] != docs[:, :-1]
        starts = [*begins.flatten().nonzero()[:, 0].tolist(), docs.numel()]  # read by the host, on a GPU too
        lengths = [end - start for start, end in pairwise(starts)]
        packed, _ = self.gru(pack_sequence(list(torch.split(x.flatten(0, 1), lengths)), enforce_sorted=False))
        return torch.cat(unpack_sequence(packed)).view(*x.shape[:2], -1)

    def new_cache(self, batch_size: int, block_size: int, like: Tensor) -> LayerState:
        """Return the state before the first character: zeros, (1, B, C)."""
        return LayerState(like.new_zeros((1, batch_size, self.gru.hidden_size)))


MIXERS: dict[str, Callable[[ModelConfig], Mixer]] = {
    "attention": Attention,
    "simple-attention": SimpleAttention,
    "convolution": Convolution,
    "recurrent": Recurrent,
}
