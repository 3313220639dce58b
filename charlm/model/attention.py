"""Attention, and the contract of every mixer: from (B, T, C) to (B, T, C).

Axes: B batch, T positions, C width, H heads, D values per head.

Axes: B batch, T positions asked about, S positions read, C width, H heads, D values per head.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charlm.config import ModelConfig
from charlm.model.example import Example, some, table
from charlm.model.kv_cache import KeyValues
from charlm.model.layers import NORM_EPS, Joined, Norm


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


class Attention(Mixer):
    """Self-attention: queries ask, keys and values answer, the match weighs.

    softmax(q k' / sqrt(D) + bias) v in each head of D numbers, where q, k and v are learned linear
    maps of the input; one more puts the heads together. Queries and keys are first brought to unit
    mean square, times a learned gain, so that scores cannot run away (Qwen3: Yang et al. 2025, arXiv
    2505.09388). With fewer heads of keys and values, groups of queries share them (Ainslie et al.
    2023, arXiv 2305.13245). Vaswani et al. 2017, arXiv 1706.03762.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.n_embd and config.n_head
        self.head_size, n_embd = config.head_size, config.n_embd
        self.n_kv_head = config.n_kv_head or config.n_head
        self.qkv = Joined(n_embd, (n_embd, self.n_kv_head * self.head_size, self.n_kv_head * self.head_size))
        self.q_norm = Norm(self.head_size)
        self.k_norm = Norm(self.head_size)
        self.out = nn.Linear(n_embd, n_embd, bias=False)

    def forward(self, x: Tensor, places: Places, cache: KeyValues | None = None) -> Tensor:
        """(B, T, C) to (B, T, C); with a cache, after what that holds."""
        q, k, v = (in_heads(part, self.head_size) for part in self.qkv.apart(x))
        return self.out(read(self.q_norm(q), self.k_norm(k), v, places, cache))  # type: ignore[no-any-return]

    def cache(self, batch_size: int, block_size: int, like: Tensor) -> KeyValues:
        """Room for the keys and values of one block."""
        return KeyValues((batch_size, self.n_kv_head, block_size, self.head_size), like)

    @staticmethod
    def example() -> Example:
        """The weights of one head, of queries and keys by random maps."""
        x, maps = some(5, 4), some(2, 4, 4)
        q, k = (F.rms_norm(x @ to, (4,), eps=NORM_EPS) for to in maps)
        scores = q @ k.T / sqrt(4)
        weights = torch.softmax(scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf), dim=-1)
        return table("Five positions, one causal head, untrained: who weighs whom.", weights, "t", "reads")


class SimpleAttention(Mixer):
    """Self-attention without parameters: the inputs' own products are the weights.

    y = softmax(x x' / sqrt(D) + bias) x in each head of D numbers: what attention does when queries,
    keys and values are all the input. Where all vectors are equally long, none is matched better than
    by itself: a position weighs itself most, and can ask for nothing but its like. Bloem 2019,
    Transformers from scratch, peterbloem.nl/blog/transformers.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_size = config.head_size
        self.n_head = config.n_head or 1

    def forward(self, x: Tensor, places: Places, cache: KeyValues | None = None) -> Tensor:
        """(B, T, C) to (B, T, C); with a cache, after what that holds."""
        q = k = v = in_heads(x, self.head_size)
        return read(q, k, v, places, cache)

    def cache(self, batch_size: int, block_size: int, like: Tensor) -> KeyValues:
        """Room for the inputs of one block, twice: turned by their positions, and as they are."""
        return KeyValues((batch_size, self.n_head, block_size, self.head_size), like)

    @staticmethod
    def example() -> Example:
        """Four vectors, of which two are alike."""
        x = torch.tensor([[1.0, 1, 0], [0, 1, 1], [1.0, 1, 0], [-1, 0, 1]])
        weights = torch.softmax(x @ x.T / sqrt(3), dim=-1)
        return table("Four vectors, unmasked; 0 and 2 are the same, and weigh alike:", weights, "t", "reads")


def in_heads(x: Tensor, head_size: int) -> Tensor:
    """The width divided among heads: (B, T, H D) to (B, H, T, D)."""
    B, T, _ = x.shape
    return x.view(B, T, -1, head_size).transpose(1, 2)


def read(q: Tensor, k: Tensor, v: Tensor, places: Places, cache: KeyValues | None) -> Tensor:
    """What the queries find: (B, T, C), from (B, H, T, D) of each, after what the cache holds."""
    q, k = places.rotate(q), places.rotate(k)
    if cache is not None:
        k, v = cache.extend(k, v)  # (B, H, S, D)
    return attend(q, k, v, places.bias).transpose(1, 2).flatten(2)


PLAIN_UP_TO = {"AVX512": 256}
"""Up to which block plain products beat the fused kernel, by what the processor can do; elsewhere never.

With AVX-512 the kernel's backward pass is the slower one for short blocks (33 GFLOP/s), with AVX2 it
is 1.3 to 1.5 times as fast as plain products from 64 characters on; on GPUs it always is.
"""


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k' / sqrt(D) + bias) v: (B, H, T, D) from k and v (B, H or fewer, S, D), bias (T, S)."""
    group = q.shape[1] // k.shape[1]
    if group > 1:
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    fused = k.shape[2] > plain_up_to(q.device.type) and not bias.requires_grad
    return attend_fused(q, k, v, bias) if fused else attend_plain(q, k, v, bias)


def attend_plain(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """The formula as it stands."""
    scores = (q * (1 / sqrt(q.shape[-1]))) @ k.transpose(-2, -1)  # (B, H, T, S)
    return torch.softmax(scores + bias, dim=-1) @ v


def attend_fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """The same in one kernel, which never holds all scores (Dao et al. 2022, arXiv 2205.14135)."""
    q, k = q.to(v.dtype), k.to(v.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(v.dtype))


@cache
def plain_up_to(device: str) -> int:
    """The longest block for which that device computes attention by plain products."""
    return PLAIN_UP_TO.get(torch.backends.cpu.get_cpu_capability(), 0) if device == "cpu" else 0
