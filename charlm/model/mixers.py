"""The other mixers, convolution and recurrence, and the dict to find each by.

Axes: B batch, T positions, C width, N taps.

Axes: B batch, T positions, C width.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

from charlm.config import CONVOLUTION_WINDOW, ModelConfig
from charlm.model.attention import Attention, Mixer, Places, SimpleAttention
from charlm.model.example import Example, table
from charlm.model.kv_cache import State


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


class Recurrent(Mixer):
    """A recurrent layer (GRU): it looks back without limit through C numbers, its state.

    h_t = (1 - z) n + z h_(t-1), number by number, where the gate z and what is new, n, are computed
    from x_t and h_(t-1); the output is a linear map of h_t. Sampling needs the state only, however
    long the text; but training goes one step after another, from the beginning of each window, and
    what is far must have passed through every step between. Cho et al. 2014, arXiv 1406.1078.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.n_embd
        both_ways = not config.causal
        self.gru = nn.GRU(config.n_embd, config.n_embd, batch_first=True, bidirectional=both_ways)
        self.out = nn.Linear(config.n_embd * (1 + both_ways), config.n_embd, bias=False)

    def forward(self, x: Tensor, places: Places, cache: State | None = None) -> Tensor:
        """(B, T, C) to (B, T, C); with a cache, after what that holds."""
        if cache is not None:
            y, cache.value = self.gru(x, cache.value)
        elif places.docs is not None:
            y = self._apart(x, places.docs)
        else:
            y, _ = self.gru(x)
        return self.out(y)  # type: ignore[no-any-return]

    def _apart(self, x: Tensor, docs: Tensor) -> Tensor:
        """Each run of one document by itself, from an empty state: (B, T, C)."""
        begins = torch.ones_like(docs, dtype=torch.bool)
        begins[:, 1:] = docs[:, 1:] != docs[:, :-1]
        starts = [*begins.flatten().nonzero()[:, 0].tolist(), docs.numel()]
        lengths = [end - start for start, end in pairwise(starts)]
        packed, _ = self.gru(pack_sequence(list(torch.split(x.flatten(0, 1), lengths)), enforce_sorted=False))
        return torch.cat(unpack_sequence(packed)).view(*x.shape[:2], -1)

    def cache(self, batch_size: int, block_size: int, like: Tensor) -> State:
        """The state before the first character: zeros, (1, B, C)."""
        return State(like.new_zeros((1, batch_size, self.gru.hidden_size)))

    @staticmethod
    def example() -> Example:
        """How long a number stays in the state, by how far the gate z is open."""
        gru = nn.GRU(1, 3, batch_first=True)
        for weight in gru.parameters():
            nn.init.zeros_(weight)
        with torch.no_grad():
            gates = torch.tensor([0.5, 0.9, 0.99]).logit()
            gru.get_parameter("bias_hh_l0")[3:6] = gates  # z is the second of three
            left, _ = gru(torch.zeros(1, 9, 1), torch.ones(1, 1, 3))
        says = "What is left of h_0 = 1 after t steps that bring nothing new, with the gate z held:"
        return table(says, left[0].T, "z", "t =", names=("0.5", "0.9", "0.99"), first=1)


MIXERS: dict[str, Callable[[ModelConfig], Mixer]] = {
    "attention": Attention,
    "simple-attention": SimpleAttention,
    "convolution": Convolution,
    "recurrent": Recurrent,
}
