"""Positions that act on scores, by distance only: a learned bias, a rotation, a slope.

Axes: B batch, H heads, T positions asked about, S positions read, D values per head.
"""

from functools import partial
from math import log

import torch
from torch import Tensor, nn

from charlm.config import ModelConfig
from charlm.model.example import Example, some, table
from charlm.model.masks import alibi_slopes
from charlm.model.positions.position import Position, Rotation

BUCKETS, FARTHEST = 32, 128
"""Those published with T5."""


class Relative(Position):
    """Relative positions: each head has learned how much it cares for each distance.

    score(t, s) += b[head, bucket(t - s)], the same in all layers. The first 16 buckets are the
    distances 0 to 15; the other 16 widen with the distance, by its logarithm, and the last has all
    from 113 on. Shaw et al. 2018, arXiv 1803.02155; in buckets as in T5: Raffel et al. 2020, arXiv
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
        """The bucket of distances back; where the model also reads ahead, each side has half of them."""
        n = BUCKETS if self.causal else BUCKETS // 2
        side = torch.zeros_like(back) if self.causal else n * (back < 0)
        distance = back.clamp(min=0) if self.causal else back.abs()
        exact = n // 2
        grown = (distance.clamp(min=1).double() / exact).log() / log(FARTHEST / exact) * (n - exact)
        far = (exact + grown.long()).clamp(max=n - 1)
        return side + torch.where(distance < exact, distance, far)

    @staticmethod
    def example() -> Example:
        """Which distances share a bucket."""
        relative = Relative(ModelConfig(n_embd=2, n_head=1))
        distances = torch.tensor([0, 1, 15, 16, 19, 20, 31, 64, 127, 1000])
        found = zip(distances.tolist(), relative.bucket(distances).tolist(), strict=True)
        rows = tuple((str(distance), str(bucket)) for distance, bucket in found)
        return Example("Near distances have a bucket each, far ones share:", ("distance", "bucket"), rows)


Angles = tuple[Tensor, Tensor]
"""Cosines and sines, each (T, D): one row a position, the halves of a row alike."""


class Rotary(Position):
    """Rotary positions: queries and keys are turned by angles that grow with the place.

    The pair i of a head's D values is turned by t / 10000^(2i / D). Of the places t and s of a query
    and a key, their product then depends on t - s only. The first half of a head is paired with the
    second, as in GPT-NeoX and Qwen3; the paper pairs neighbours. Su et al. 2021, arXiv 2104.09864.
    """

    def __init__(self, config: ModelConfig, base: float = 10_000.0) -> None:
        super().__init__()
        self.head_size = config.head_size
        self.base = base

    def angles(self, places: Tensor, like: Tensor) -> Angles:
        """Cosines and sines (T, D) for `places` (T,), in the type and place of `like`.

        Computed in float64 on the CPU, so that they are exact far into a long block.
        """
        pair = torch.arange(0, self.head_size, 2, dtype=torch.float64)
        turn = places[:, None] * self.base ** (-pair / self.head_size)  # (T, D/2)
        turn = torch.cat((turn, turn), dim=-1)  # (T, D)
        return turn.cos().to(like), turn.sin().to(like)

    def rotation(self, places: Tensor, like: Tensor) -> Rotation:
        """The turn of each place, computed once for all layers."""
        return partial(rotate, angles=self.angles(places, like))

    @staticmethod
    def example() -> Example:
        """The product of one query and one key at several places."""
        q, k = some(2, 1, 1, 1, 8)
        rotary = Rotary(ModelConfig(n_embd=8, n_head=1))
        turned = [rotary.rotation(torch.arange(20), q)(x.expand(1, 1, 20, 8))[0, 0] for x in (q, k)]
        products = turned[0] @ turned[1].T
        pairs = ((5, 5), (5, 3), (15, 13), (5, 0), (19, 14))
        rows = tuple((str(i), str(j), str(i - j), f"{products[i, j]:.4f}") for i, j in pairs)
        says = "One query and one key, at different places: equal distance, equal product."
        return Example(says, ("query at", "key at", "distance", "product"), rows)


def rotate(x: Tensor, angles: Angles) -> Tensor:
    """Turn queries or keys (B, H, T, D) by the angles of their positions."""
    cos, sin = angles
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Alibi(Position):
    """ALiBi: scores fall in proportion to the distance, nothing is learned.

    score(t, s) -= m_h |t - s|, with slopes m_h = 2^(-8 h / H) for heads h = 1 to H, where H is a power
    of two (else taken from its neighbours): steep heads see what is near, flat ones what is far. A
    model trained on short texts can so read longer ones. Press et al. 2022, arXiv 2108.12409.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.n_head
        self.n_head = config.n_head

    def bias(self, q_pos: Tensor, k_pos: Tensor, like: Tensor) -> Tensor:
        """Minus the slope of each head times the distance: (H, T, S)."""
        distance = (q_pos[:, None] - k_pos[None, :]).abs()
        return (-alibi_slopes(self.n_head)[:, None, None] * distance).to(like)

    @staticmethod
    def example() -> Example:
        """The weights of four heads at the last of six positions."""
        places = torch.arange(6)
        bias = Alibi(ModelConfig(n_embd=8, n_head=4)).bias(places, places, torch.zeros(()))
        weights = torch.softmax(bias[:, -1], dim=-1)
        names = [str(h) for h in range(1, 5)]
        says = "How the last of six positions weighs all, scores alike, in each of four heads:"
        return table(says, weights, "head", "reads", names=names)
