"""A recurrent layer: one step after another, everything read so far in one state.

Axes: B batch, T positions, C width.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, unpack_sequence

from charlm.config import ModelConfig
from charlm.model.cache import State
from charlm.model.example import Example, table
from charlm.model.mixers.mixer import Mixer, Places


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
