"""Position encodings: none, learned, sinusoidal, relative, rotary and ALiBi, under one contract.

Shapes: B batch, H heads, T query positions, S key positions, C width, D head size, W block size.
"""

from collections.abc import Callable
from functools import partial
from math import inf, log, sqrt

import torch
from torch import Tensor, nn

from charlm.config import ModelConfig
from charlm.model.layers import embedding
from charlm.model.masks import alibi_slopes

Rotation = Callable[[Tensor], Tensor]
"""A map of queries or keys (B, H, T, D), applied before they are compared."""
Angles = tuple[Tensor, Tensor]
"""Cosines and sines, (T, D) each; the two halves of a row are equal."""


def _identity(x: Tensor) -> Tensor:
    return x


class Position(nn.Module):
    """A position encoding, which may act on embeddings, on queries and keys, and on scores; by default on none."""

    most: float = inf
    """The number of positions that it supports."""

    def embed(self, x: Tensor, pos: Tensor) -> Tensor:
        """Return the embeddings (B, T, C) of characters at positions `pos` (T,), with the encoding added."""
        return x

    def rotation(self, pos: Tensor, like: Tensor) -> Rotation:
        """Return the map of queries and keys at `pos` (T,), with the dtype and device of `like`."""
        return _identity

    def bias(self, q_pos: Tensor, k_pos: Tensor, like: Tensor) -> Tensor:
        """Return the bias on scores: (H, T, S), or a scalar zero."""
        return like.new_zeros(())


class NoPosition(Position):
    """No positions: attention sees a bag of characters, causal attention a growing bag.

    Without a mask it could not tell "on" from "no" (`charlm explain equivariance`). With the causal
    mask it can: position t averages over t + 1 characters, so even equal weights reveal how many
    came before, and the layers above can derive an order from that. Recurrent and convolutional
    layers read in order anyway. Such models came close to those with positions in Haviv et al.
    2022, arXiv 2203.16634.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()


class Learned(Position):
    """A learned position embedding: each position has a vector.

    x_t = E[id_t] + P[t], with one row of P for each position. It knows nothing about positions beyond
    those it was trained on, and has to learn that neighbouring positions are near each other. Gehring
    et al. 2017, arXiv 1705.03122.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.block_size and config.n_embd
        self.table = embedding(config.block_size, config.n_embd)  # (W, C)
        self.most = config.block_size

    def embed(self, x: Tensor, pos: Tensor) -> Tensor:
        """The embeddings (B, T, C) plus their positions' vectors."""
        return x + self.table(pos.to(x.device))  # type: ignore[no-any-return]


class Sinusoidal(Position):
    """A sinusoidal position encoding: a formula that needs no training.

    PE[t, 2i] = sin(t / 10000^(2i / C)), PE[t, 2i + 1] = cos of the same: like the hands of many clocks,
    some fast, some slow. The paper adds it to sqrt(C) times the embedding. Here PE / sqrt(C) is added
    to the embedding, which is the same proportion. Vaswani et al. 2017, arXiv 1706.03762.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.n_embd
        self.n_embd = config.n_embd

    def encoding(self, pos: Tensor) -> Tensor:
        """Return the encoding by the published formula: (T, C), in float64."""
        even = torch.arange(0, self.n_embd, 2, dtype=torch.float64, device=pos.device)
        angle = pos[:, None] * 10_000.0 ** (-even / self.n_embd)  # (T, C / 2)
        return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)[:, : self.n_embd]

    def embed(self, x: Tensor, pos: Tensor) -> Tensor:
        """The embeddings (B, T, C) plus the scaled encoding of their positions."""
        return x + (self.encoding(pos) / sqrt(self.n_embd)).to(x)


BUCKETS, FARTHEST = 32, 128  # as published with T5


class Relative(Position):
    """Relative positions: each head learns a score bias for each distance.

    score(t, s) += b[head, bucket(t - s)], shared by all layers. The first 16 buckets are the
    distances 0 to 15. The other 16 widen logarithmically, and the last one holds all distances from
    113 on. Shaw et al. 2018, arXiv 1803.02155; in buckets, as in T5: Raffel et al. 2020, arXiv
    1910.10683.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.n_head
        self.causal = config.causal
        self.bias_of_bucket = nn.Parameter(torch.empty(config.n_head, BUCKETS))

    def bias(self, q_pos: Tensor, k_pos: Tensor, like: Tensor) -> Tensor:
        """The learned bias of each distance: (H, T, S)."""
        bucket = self.bucket(q_pos[:, None] - k_pos[None, :])  # (T, S)
        return self.bias_of_bucket[:, bucket.to(like.device)]

    def bucket(self, back: Tensor) -> Tensor:
        """Return the bucket of each distance back; a non-causal model has half of the buckets for each direction."""
        n = BUCKETS if self.causal else BUCKETS // 2
        side = torch.zeros_like(back) if self.causal else n * (back < 0)
        distance = back.clamp(min=0) if self.causal else back.abs()
        exact = n // 2
        grown = (distance.clamp(min=1).double() / exact).log() / log(FARTHEST / exact) * (n - exact)
        far = (exact + grown.long()).clamp(max=n - 1)
        return side + torch.where(distance < exact, distance, far)


class Rotary(Position):
    """Rotary positions (RoPE): queries and keys are rotated by their position.

    Pair i of a head's D values is rotated by t / 10000^(2i / D). The product of a query at t and a
    key at s then depends on the positions only through t - s. Pairs are formed from the first and
    the second half of a head, as in GPT-NeoX and Qwen3; the paper pairs neighbours. Su et al. 2021,
    arXiv 2104.09864.
    """

    def __init__(self, config: ModelConfig, base: float = 10_000.0) -> None:
        super().__init__()
        self.head_size = config.head_size
        self.base = base

    def angles(self, pos: Tensor, like: Tensor) -> Angles:
        """Cosines and sines (T, D) for `pos` (T,), with the dtype and device of `like`.

        Computed in float64, so that they are exact far into a long block.
        """
        turn = rotary_turns(self.head_size, self.base, pos)
        turn = torch.cat((turn, turn), dim=-1)  # (T, D)
        return turn.cos().to(like), turn.sin().to(like)

    def rotation(self, pos: Tensor, like: Tensor) -> Rotation:
        """Return the rotation of each position, computed once for all layers."""
        return partial(rotate, angles=self.angles(pos, like))


def rotary_turns(head_size: int, base: float, pos: Tensor) -> Tensor:
    """Return the rotation angle of each pair of a head at each of `pos` (T,): (T, D/2), in float64."""
    pair = torch.arange(0, head_size, 2, dtype=torch.float64, device=pos.device)
    return pos[:, None] * base ** (-pair / head_size)


def rotate(x: Tensor, angles: Angles) -> Tensor:
    """Rotate queries or keys (B, H, T, D) by the angles of their positions."""
    cos, sin = angles
    first, second = x.chunk(2, dim=-1)  # (B, H, T, D/2) each
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Alibi(Position):
    """ALiBi: scores fall in proportion to the distance; nothing is learned.

    score(t, s) -= m_h |t - s|, with slopes m_h = 2^(-8 h / H) for heads h = 1 to H if H is a power
    of two (otherwise interpolated from its neighbours): steep heads look nearby, flat ones far
    back. A model trained on short texts can therefore read longer ones. Press et al. 2022, arXiv
    2108.12409.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.n_head
        self.n_head = config.n_head

    def bias(self, q_pos: Tensor, k_pos: Tensor, like: Tensor) -> Tensor:
        """Minus each head's slope times the distance: (H, T, S)."""
        distance = (q_pos[:, None] - k_pos[None, :]).abs()
        return (-alibi_slopes(self.n_head, q_pos.device)[:, None, None] * distance).to(like)


POSITIONS: dict[str, Callable[[ModelConfig], Position]] = {
    "none": NoPosition,
    "learned": Learned,
    "sinusoidal": Sinusoidal,
    "relative": Relative,
    "rotary": Rotary,
    "alibi": Alibi,
}
