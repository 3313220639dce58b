"""Attention, and the contract of every mixer.

Shapes: B batch, T query positions, S key positions, C width, H heads, K key and value heads
(H is a multiple of K), D head size (C = H D).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charlm.config import ModelConfig
from charlm.model.kv_cache import KVCache
from charlm.model.layers import FusedLinear, RMSNorm


@dataclass(frozen=True)
class PositionInfo:
    """Positions, masks and documents of one forward pass, computed once for all layers."""

    bias: Tensor  # added to the scores, broadcast to (B, H, T, S); minus infinity where a mask forbids
    rotate: Callable[[Tensor], Tensor]  # applied to queries and keys (B, H, T, D)
    docs: Tensor | None = None  # document number of each position, (B, T); None: one document
    causal: bool = False  # only the causal mask acts: `bias` is zero, and the fused kernel masks


class Mixer(nn.Module):
    """A sequence-to-sequence layer: it maps vectors to as many vectors.

    y = f(x), from (T, C) to (T, C) for every T. The weights do not depend on the length: the same
    function serves 3 characters and 3,000. Mixers differ in how a position reads the others. If it
    reads only earlier ones, the output on a prefix is the prefix of the output, and one more character
    costs one more step instead of a new pass (`charlm explain causal`). Which such functions a
    transformer can represent: Yun et al. 2020, arXiv 1912.10077.
    """

    def forward(self, x: Tensor, info: PositionInfo, cache: Any | None = None) -> Tensor:
        """(B, T, C) to (B, T, C); with a cache, x continues the text that it holds."""
        raise NotImplementedError

    def new_cache(self, batch_size: int, block_size: int, like: Tensor) -> Any:
        """Return an empty cache for `batch_size` texts, with the dtype and device of `like`."""
        raise NotImplementedError


class Attention(Mixer):
    """Self-attention: each position averages values, weighted by query times key.

    softmax(q k' / sqrt(D) + bias) v in each head of D numbers, where q, k and v are learned linear maps
    of the input; an output map combines the heads. Queries and keys are first normalised (RMSNorm), so
    that scores stay bounded (QK-norm, as in Qwen3: Yang et al. 2025, arXiv 2505.09388). With fewer
    key and value heads, groups of query heads share them (Ainslie et al. 2023, arXiv 2305.13245).
    Vaswani et al. 2017, arXiv 1706.03762.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.n_embd and config.n_head
        self.head_size, n_embd = config.head_size, config.n_embd
        self.n_kv_head = config.n_kv_head or config.n_head
        kv_size = self.n_kv_head * self.head_size
        self.qkv = FusedLinear(n_embd, (n_embd, kv_size, kv_size))
        self.q_norm = RMSNorm(self.head_size)
        self.k_norm = RMSNorm(self.head_size)
        self.out = nn.Linear(n_embd, n_embd, bias=False)

    def forward(self, x: Tensor, info: PositionInfo, cache: KVCache | None = None) -> Tensor:
        """(B, T, C) to (B, T, C); with a cache, x continues the text that it holds."""
        q, k, v = (split_heads(part, self.head_size) for part in self.qkv.split(x))  # (B, H or K, T, D)
        return self.out(attend(self.q_norm(q), self.k_norm(k), v, info, cache))  # type: ignore[no-any-return]

    def new_cache(self, batch_size: int, block_size: int, like: Tensor) -> KVCache:
        """Return an empty cache for the keys and values of one block."""
        return KVCache((batch_size, self.n_kv_head, block_size, self.head_size), like)


class SimpleAttention(Mixer):
    """Self-attention without parameters: the weights are products of the inputs.

    y = softmax(x x' / sqrt(D) + bias) x in each head of D numbers: attention whose queries, keys and
    values are all the input. Among vectors of equal length each matches itself best, so a position
    weighs itself most and cannot ask for anything but its like. Bloem 2019, Transformers from scratch,
    peterbloem.nl/blog/transformers.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_size = config.head_size
        self.n_head = config.n_head or 1

    def forward(self, x: Tensor, info: PositionInfo, cache: KVCache | None = None) -> Tensor:
        """(B, T, C) to (B, T, C); with a cache, x continues the text that it holds."""
        heads = split_heads(x, self.head_size)  # (B, H, T, D)
        return attend(heads, heads, heads, info, cache)

    def new_cache(self, batch_size: int, block_size: int, like: Tensor) -> KVCache:
        """Return an empty cache for the inputs of one block, as keys (rotated) and as values."""
        return KVCache((batch_size, self.n_head, block_size, self.head_size), like)


def split_heads(x: Tensor, head_size: int) -> Tensor:
    """Reshape (B, T, H D) to (B, H, T, D)."""
    B, T, _ = x.shape
    return x.view(B, T, -1, head_size).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, info: PositionInfo, cache: KVCache | None) -> Tensor:
    """Rotate, extend the cache, attend, and merge the heads: (B, T, C) from q (B, H, T, D), k and v (B, K, T, D)."""
    q, k = info.rotate(q), info.rotate(k)
    if cache is not None:
        k, v = cache.extend(k, v)  # (B, K, S, D)
    group = q.shape[1] // k.shape[1]
    if group > 1:  # grouped queries: repeat each key and value head
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    fused = k.shape[2] > max_plain_length(q.device.type) and not info.bias.requires_grad
    if info.causal:
        out = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True)
    else:
        out = (attend_fused if fused else attend_plain)(q, k, v, info.bias)  # (B, H, T, D)
    return out.transpose(1, 2).flatten(2)


def attend_plain(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Return softmax(q k' / sqrt(D) + bias) v, written out: (B, H, T, D) from k and v (B, H, S, D)."""
    scores = (q * (1 / sqrt(q.shape[-1]))) @ k.transpose(-2, -1)  # (B, H, T, S)
    return torch.softmax(scores + bias, dim=-1) @ v


def attend_fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Return the same as `attend_plain`, from torch's fused kernel, which never stores all scores."""
    q, k = q.to(v.dtype), k.to(v.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(v.dtype))


def masks_by_flag(device: torch.device) -> bool:
    """Whether torch's fused kernel applies the causal mask by a flag, and so skips masked blocks: on CUDA."""
    return device.type == "cuda"


CPU_CAPABILITY = torch.backends.cpu.get_cpu_capability()
"""Queried once, at import, since torch.compile cannot trace the call."""


def max_plain_length(device: str) -> int:
    """Return the longest block for which plain products beat the fused kernel on that device; 0: none.

    With AVX-512 the kernel's backward pass (33 GFLOP/s) is slower on short blocks. With AVX2 the kernel is
    1.3 to 1.5 times as fast as plain products from 64 characters on. On GPUs it is expected to win always,
    more so without a mask tensor (`masks_by_flag`); this has not been measured.
    """
    return 256 if device == "cpu" and CPU_CAPABILITY == "AVX512" else 0
