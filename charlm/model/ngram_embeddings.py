"""Learned vectors for the last few characters together, added to the embedding of the last.

Axes: B batch, T positions, C width, O orders.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charlm.config import ModelConfig

MULTIPLIERS = (1_000_003, -7046029254386353131)  # odd; the second is 2^64 / golden ratio, as a signed number


class NGrams(nn.Module):
    """N-gram embeddings: each pair, triple, ... of characters has a vector of its own, in a hashed table.

    x_t = E[c_t] + sum over 2 <= n <= N of G[hash(c_(t-n+1) ... c_t)]. What is said of "th" and "the"
    need not be found out by a layer that reads back. N-grams that share a row share its vector. The
    vectors start at zero and are learned by a rule of their own, since a step touches few of them.
    Huang et al. 2025, arXiv 2501.16975.
    """

    def __init__(self, config: ModelConfig, n_symbols: int) -> None:
        super().__init__()
        assert config.n_embd and config.ngram_embeddings and config.ngram_embedding_rows
        self.orders = range(2, config.ngram_embeddings + 1)
        self.n_symbols = n_symbols
        self.rows = config.ngram_embedding_rows
        self.dropout = config.ngram_embedding_dropout or 0.0
        self.nothing = self.rows * len(self.orders)  # the row of what is no n-gram of the vocabulary
        self.table = nn.Parameter(torch.empty(self.nothing + 1, config.n_embd), requires_grad=False)
        self.pending: list[tuple[Tensor, Tensor]] = []

    def index(self, ids: Tensor, before: Tensor, docs: Tensor | None = None) -> Tensor:
        """The rows (B, T, O) of ids (B, T), of which `before` (B, N - 1) stand in front, -1 for none.

        With `docs` (B, T) an n-gram across two documents is none.
        """
        longer = torch.cat((before, ids), dim=1)
        known = (longer >= 0) & (longer < self.n_symbols)
        T, reach = ids.shape[1], before.shape[1]
        key, whole, found = ids, known[:, reach:], []
        for i, n in enumerate(self.orders):
            part = slice(reach - n + 1, reach - n + 1 + T)
            key = key * MULTIPLIERS[0] + longer[:, part] + 1
            whole = whole & known[:, part]
            if docs is not None:
                whole = whole & (F.pad(docs, (n - 1, 0), value=-1)[:, :T] == docs).to(ids.device)
            row = ((key * MULTIPLIERS[1]) >> 40) & (self.rows - 1)
            found.append(torch.where(whole, row + i * self.rows, self.nothing))
        return torch.stack(found, dim=-1)

    def forward(self, ids: Tensor, before: Tensor, docs: Tensor | None = None) -> Tensor:
        """The sum of the vectors of all n-grams that end at each position: (B, T, C)."""
        index = self.index(ids, before, docs)
        if self.training and self.dropout:
            index = index.where(torch.rand(index.shape, device=index.device) >= self.dropout, self.nothing)
        B, T, n_orders = index.shape
        flat = index.view(B * T, n_orders)
        summed = F.embedding_bag(flat, self.table, mode="sum", padding_idx=self.nothing).view(B, T, -1)
        if self.training and torch.is_grad_enabled():
            summed.requires_grad_()
            self.pending.append((flat, summed))
        return summed
