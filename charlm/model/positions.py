"""Position schemes: learned, sinusoidal, relative, rotary, ALiBi, none; one contract and one dict.

Axes: T positions, C width.

Axes: B batch, H heads, T positions asked about, S positions read, D values per head.
"""

from collections.abc import Callable
from functools import partial
from math import log, sqrt

import torch
from torch import Tensor, nn

from charlm.config import ModelConfig
from charlm.model.example import Example, some, table
from charlm.model.masks import alibi_slopes

Rotation = Callable[[Tensor], Tensor]
"""What is done to queries and keys (B, H, T, D) before they are compared."""


def _as_it_is(x: Tensor) -> Tensor:
    return x


class Position(nn.Module):
    """It may act on embeddings, on queries and keys, and on scores; by default on none of them."""

    def embed(self, x: Tensor, places: Tensor) -> Tensor:
        """The embeddings (B, T, C) of characters at `places` (T,)."""
        return x

    def rotation(self, places: Tensor, like: Tensor) -> Rotation:
        """What to do to the queries and keys of `places` (T,), in the type and on the device of `like`."""
        return _as_it_is

    def bias(self, q_pos: Tensor, k_pos: Tensor, like: Tensor) -> Tensor:
        """What to add to the scores: (H, T, S), or a zero."""
        return like.new_zeros(())


class NoPosition(Position):
    """No positions: attention sees a bag of characters, a causal one a growing bag.

    Unmasked, it could not tell "on" from "no" (`charlm explain equivariance`). With the causal mask it
    can: position t averages over t + 1 characters, so that even equal weights say how many came
    before, and the layers above can make an order of that. A recurrent layer and a convolution read
    in order anyway. Such models came close to those with positions in Haviv et al. 2022, arXiv
    2203.16634.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()

    @staticmethod
    def example() -> Example:
        """What a causal layer without positions still knows of the place: how many came before."""
        places = torch.arange(6)
        marked = (places == 0).double()  # 1 for the first character of the text, 0 for the others
        weights = torch.ones(6, 6, dtype=torch.float64).tril()
        weights = weights / weights.sum(dim=1, keepdim=True)
        return table(
            "Equal weights over a value that is 1 at the first character only: each place differs.",
            (weights @ marked)[None],
            "",
            "t =",
            names=("average",),
        )


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


POSITIONS: dict[str, Callable[[ModelConfig], Position]] = {
    "none": NoPosition,
    "learned": Learned,
    "sinusoidal": Sinusoidal,
    "relative": Relative,
    "rotary": Rotary,
    "alibi": Alibi,
}
