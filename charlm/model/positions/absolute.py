"""Positions added to the embeddings: a learned table, and a rule.

Axes: T positions, C width.
"""

from math import sqrt

import torch
from torch import Tensor, nn

from charlm.config import ModelConfig
from charlm.model.example import Example, some, table
from charlm.model.positions.position import Position


class Learned(Position):
    """A position embedding: each place has a vector, learned like a character's.

    x_t = E[id_t] + P[t], with a row of P for each place of the block. It knows nothing of places that
    it has not been trained on, and that two neighbours are near each other it must learn. Gehring et
    al. 2017, arXiv 1705.03122.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.block_size and config.n_embd
        self.table = nn.Embedding(config.block_size, config.n_embd)

    def embed(self, x: Tensor, places: Tensor) -> Tensor:
        """The embeddings (B, T, C) with their places' added; ValueError beyond the table."""
        wanted, there = int(places[-1]) + 1, self.table.num_embeddings
        if wanted > there:
            raise ValueError(f"{wanted} characters are too many: learned positions end at {there}")
        return x + self.table(places.to(x.device))  # type: ignore[no-any-return]

    @staticmethod
    def example() -> Example:
        """The same character at three places."""
        learned = Learned(ModelConfig(n_embd=6, block_size=3))
        with torch.no_grad():
            learned.table.weight.copy_(0.1 * some(3, 6))
            rows = learned.embed(torch.ones(1, 3, 6), torch.arange(3))[0]
        return table("The same character, all ones, at three places (untrained table):", rows, "t", "x")


class Sinusoidal(Position):
    """A position encoding: a rule instead of a table, so that every place has one.

    PE[t, 2i] = sin(t / 10000^(2i / C)), PE[t, 2i + 1] = cos of the same: the hands of many clocks,
    some fast, some slow. The paper adds it to sqrt(C) times the embedding; here PE / sqrt(C) is added
    to the embedding, which is the same proportion. Vaswani et al. 2017, arXiv 1706.03762.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.n_embd
        self.n_embd = config.n_embd

    def encoding(self, places: Tensor) -> Tensor:
        """The published formula: (T, C), in float64."""
        even = torch.arange(0, self.n_embd, 2, dtype=torch.float64)
        angle = places[:, None] * 10_000.0 ** (-even / self.n_embd)  # (T, C / 2)
        return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)[:, : self.n_embd]

    def embed(self, x: Tensor, places: Tensor) -> Tensor:
        """The embeddings (B, T, C) with their places' encoding added."""
        return x + (self.encoding(places) / sqrt(self.n_embd)).to(x)

    @staticmethod
    def example() -> Example:
        """The formula, for five places."""
        rows = Sinusoidal(ModelConfig(n_embd=6)).encoding(torch.arange(5))
        return table("PE of five places, width 6: the first pair turns fastest.", rows, "t", "value")
