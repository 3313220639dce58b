"""The decoder-only transformer: embedding, blocks, head, and how they start.

Axes: B batch, T positions, C width, V symbols.
"""

from math import sqrt

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charlm.config import ModelConfig
from charlm.model.cache import LayerCache
from charlm.model.masks import as_bias, causal
from charlm.model.mixers import Attention
from charlm.model.positions import Angles, Rotary

NORM_EPS = 1e-6
FIRST_LOGIT = 0.5
"""How much the untrained model favours the character it has just read: little, so that the first
loss is that of a guess, ln V. (The tied head would otherwise favour it by sqrt(C) or more.)"""


class SwiGLU(nn.Module):
    """Two layers with a gate, at each position by itself. Shazeer 2020, arXiv 2002.05202."""

    def __init__(self, n_embd: int) -> None:
        super().__init__()
        hidden = -(-8 * n_embd // 3 // 16) * 16
        self.gate_up = nn.Linear(n_embd, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Each position by itself: (B, T, C) to (B, T, C)."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)  # type: ignore[no-any-return]


class Block(nn.Module):
    """Read (mixer), then think (SwiGLU), each added to what was there."""

    def __init__(self, n_embd: int, n_head: int, dropout: float) -> None:
        super().__init__()
        self.mixer_norm = nn.RMSNorm(n_embd, eps=NORM_EPS)
        self.mixer = Attention(n_embd, n_head)
        self.mlp_norm = nn.RMSNorm(n_embd, eps=NORM_EPS)
        self.mlp = SwiGLU(n_embd)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, angles: Angles, bias: Tensor, cache: LayerCache | None) -> Tensor:
        """(B, T, C) to (B, T, C), reading as far as `bias` lets it."""
        x = x + self.drop(self.mixer(self.mixer_norm(x), angles, bias, cache))
        return x + self.drop(self.mlp(self.mlp_norm(x)))  # type: ignore[no-any-return]


class LanguageModel(nn.Module):
    """From ids to logits: what Qwen3 computes, with one row of the embedding a symbol.

    An id beyond the rows (a byte that training never saw) is read as nothing: a row of zeros.
    """

    def __init__(self, config: ModelConfig, n_symbols: int) -> None:
        super().__init__()
        assert config.n_embd and config.n_head and config.n_layer and config.block_size
        self.block_size = config.block_size
        self.n_symbols = n_symbols
        self.n_head = config.n_head
        n_embd, n_head, dropout = config.n_embd, config.n_head, config.dropout or 0.0
        self.embedding = nn.Embedding(n_symbols, n_embd)
        self.position = Rotary(n_embd // n_head)
        self.blocks = nn.ModuleList(Block(n_embd, n_head, dropout) for _ in range(config.n_layer))
        self.norm = nn.RMSNorm(n_embd, eps=NORM_EPS)

    def forward(self, ids: Tensor, caches: list[LayerCache] | None = None) -> Tensor:
        """Logits (B, T, V) of what follows each of `ids` (B, T), given those up to it.

        With `caches` the ids go on from the positions already there.
        """
        return F.linear(self.hidden(ids, caches), self.embedding.weight)

    def hidden(self, ids: Tensor, caches: list[LayerCache] | None = None) -> Tensor:
        """What the head reads: (B, T, C), normalised."""
        start = caches[0].length if caches else 0
        x = self.embed(ids)
        k_pos = torch.arange(start + ids.shape[1])
        q_pos = k_pos[start:]
        angles = self.position.angles(q_pos, x)
        bias = as_bias(causal(q_pos, k_pos), x)
        for layer, block in enumerate(self.blocks):
            x = block(x, angles, bias, caches[layer] if caches else None)
        return self.norm(x)  # type: ignore[no-any-return]

    def embed(self, ids: Tensor) -> Tensor:
        """The rows (B, T, C) of ids (B, T)."""
        known = ids < self.n_symbols
        x = self.embedding(ids.clamp(max=self.n_symbols - 1))  # (B, T, C)
        return x * known[..., None]  # type: ignore[no-any-return]

    def caches(self, batch_size: int) -> list[LayerCache]:
        """Empty caches, one a layer, for `batch_size` texts of one block."""
        shape = (batch_size, self.n_head, self.block_size, self.embedding.embedding_dim // self.n_head)
        return [LayerCache(shape, self.embedding.weight) for _ in self.blocks]


def initialise(model: LanguageModel, generator: torch.Generator) -> None:
    """Fill the weights: the same generator gives the same model.

    Output projections start at zero, so that every block starts as the identity; the gain before
    the head is such that the first loss is ln V at any width.
    """
    C = model.embedding.embedding_dim
    for name, weight in model.named_parameters():
        if name.endswith(("out.weight", "down.weight")):
            nn.init.zeros_(weight)
        elif weight.ndim == 2:
            nn.init.normal_(weight, std=1 / sqrt(C), generator=generator)
        else:
            nn.init.ones_(weight)
    nn.init.constant_(model.norm.weight, FIRST_LOGIT / sqrt(C))
