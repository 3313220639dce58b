"""How a position reads those before it: each mixer maps (B, T, C) to (B, T, C).

Axes: B batch, T positions asked about, S positions read, C width, H heads, D values per head.
"""

from math import sqrt

import torch
from torch import Tensor, nn

from charlm.model.cache import LayerCache
from charlm.model.positions import Angles, rotate


class Attention(nn.Module):
    """Self-attention: each position asks (query), each answers (key, value), the match weighs.

    softmax(q k' / sqrt(D) + bias) v for each head, with queries and keys brought to unit mean
    square first (Qwen3), so that scores cannot run away. Vaswani et al. 2017, arXiv 1706.03762.
    """

    def __init__(self, n_embd: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.qkv = nn.Linear(n_embd, 3 * n_embd, bias=False)
        self.q_norm = nn.RMSNorm(n_embd // n_head, eps=1e-6)
        self.k_norm = nn.RMSNorm(n_embd // n_head, eps=1e-6)
        self.out = nn.Linear(n_embd, n_embd, bias=False)

    def forward(self, x: Tensor, angles: Angles, bias: Tensor, cache: LayerCache | None) -> Tensor:
        """(B, T, C) to (B, T, C); with a cache, after what it holds."""
        B, T, C = x.shape
        qkv = self.qkv(x).view(B, T, 3, self.n_head, C // self.n_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, H, T, D)
        q, k = rotate(self.q_norm(q), angles), rotate(self.k_norm(k), angles)
        if cache is not None:
            k, v = cache.extend(k, v)  # (B, H, S, D)
        y = attend(q, k, v, bias)
        return self.out(y.transpose(1, 2).reshape(B, T, C))  # type: ignore[no-any-return]


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k' / sqrt(D) + bias) v: (B, H, T, D) from k and v (B, H, S, D), bias (T, S).

    Plain products, since on a CPU the fused kernel's backward pass is slower for short blocks.
    """
    scores = (q * (1 / sqrt(q.shape[-1]))) @ k.transpose(-2, -1)  # (B, H, T, S)
    return torch.softmax(scores + bias, dim=-1) @ v
