"""N-grams inside the transformer: n-gram embeddings, and the n-gram prior that its predictions start from.

Shapes: B batch, T positions, C width, O orders (n-gram lengths, 2 to N), V symbols.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charlm.config import ModelConfig
from charlm.native.ngram_embeddings import sum_ngrams
from charlm.native.tensors import library_for

MULTIPLIERS = (1_000_003, -7046029254386353131)  # odd; the second is 2^64 / golden ratio as a signed number


class NgramEmbeddings(nn.Module):
    """N-gram embeddings: each pair and triple of characters has a vector of its own.

    x_t = E[c_t] + sum over 2 <= n <= N of G[hash(c_(t-n+1) ... c_t)], with a hashed table G. What
    there is to know about "th" or "the" is then looked up, and no layer has to assemble it by
    reading back. N-grams whose hashes collide share a vector. The vectors start at zero and have a
    learning rule of their own (Adagrad, one rate per row), since each step touches few of them.
    Huang et al. 2025, arXiv 2501.16975.
    """

    def __init__(self, config: ModelConfig, n_symbols: int) -> None:
        super().__init__()
        assert config.n_embd and config.ngram_embeddings and config.ngram_embedding_rows
        self.orders = range(2, config.ngram_embeddings + 1)
        self.n_symbols = n_symbols
        self.rows = config.ngram_embedding_rows
        self.dropout = config.ngram_embedding_dropout or 0.0
        self.nothing = self.rows * len(self.orders)  # the row, always zero, for "no such n-gram"
        self.table = nn.Parameter(torch.empty(self.nothing + 1, config.n_embd), requires_grad=False)
        # Rows that were read, and their sums, whose gradients train the table:
        self.pending: list[tuple[Tensor, Tensor]] = []

    def index(self, ids: Tensor, before: Tensor, docs: Tensor | None = None) -> Tensor:
        """Return the table rows (B, T, O) of the n-grams that end at each of ids (B, T).

        `before` (B, N - 1) holds the ids before them, -1 for none. With `docs` (B, T), an n-gram that crosses a
        document boundary has no row.
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

    def no_ids(self, batch_size: int) -> Tensor:
        """Return the ids before the start of a text: (B, N - 1), all -1."""
        shape = (batch_size, len(self.orders))
        return torch.full(shape, -1, dtype=torch.int64, device=self.table.device)

    def forward(self, ids: Tensor, before: Tensor, docs: Tensor | None = None) -> Tensor:
        """Return the sum of the vectors of all n-grams that end at each position: (B, T, C)."""
        n_orders, draws = len(self.orders), None
        if self.training and self.dropout:
            draws = torch.rand(*ids.shape, n_orders, device=self.table.device)
        native = library_for([self.table])
        if native is not None:
            index, summed = sum_ngrams(
                native, self.table, ids, before, docs, draws, n_symbols=self.n_symbols, dropout=self.dropout
            )
        else:
            index = self.index(ids, before, docs)
            if draws is not None:
                index = index.where(draws >= self.dropout, self.nothing)
            index = index.view(-1, n_orders)  # (B T, O)
            summed = F.embedding_bag(index, self.table, mode="sum", padding_idx=self.nothing)
            summed = summed.view(*ids.shape, -1)
        if self.training and torch.is_grad_enabled():
            summed.requires_grad_()
            self.pending.append((index, summed))
        return summed

    def take_pending(self) -> tuple[Tensor, Tensor]:
        """Return the rows (M, O) read since the last call and the gradients (M, C) of their sums, and forget them."""
        read = [
            (index, summed.grad.flatten(0, 1)) for index, summed in self.pending if summed.grad is not None
        ]
        self.pending.clear()
        if len(read) == 1:
            return read[0]  # without a copy
        index, gradients = (torch.cat(tensors) for tensors in zip(*read, strict=True))
        return index, gradients


class NgramPrior(nn.Module):
    """An n-gram prior: the transformer learns what n-grams do not predict already.

    logits = E h + g log p, where p are the n-gram model's probabilities and g = 1 + w h, with
    the output head E, a learned w, and h from the last layer. w and h start at zero (h by the
    gain of the final norm), so that the untrained model predicts exactly p. Where the model has
    reason to doubt p it lowers g, which flattens p, or outvotes it by E h. To have such reason,
    the first layer reads p too: R sqrt(p) is added to the embedding, with a learned R that
    starts at zero (the square root keeps the second most likely symbol visible). In training,
    the n-gram model leaves out the part of the text that it predicts, which it would otherwise
    know by heart. Li et al. 2022, arXiv 2210.14431.
    """

    def __init__(self, n_embd: int, n_symbols: int) -> None:
        super().__init__()
        self.gate = nn.Parameter(torch.empty(1, n_embd))  # w
        self.read = nn.Parameter(torch.empty(n_embd, n_symbols))  # R

    def embed(self, log_prior: Tensor) -> Tensor:
        """Return R sqrt(p), (B, T, C), from log p (B, T, V); zero where a row is all zeros (prior dropout)."""
        # At most one symbol has probability 1 (logarithm 0), so two entries tell whether a row is a prior.
        known = log_prior[..., :2].sum(dim=-1, keepdim=True) < 0
        roots = (log_prior / 2).exp_().mul_(known)
        return F.linear(roots.to(self.read.dtype), self.read)

    def forward(self, logits: Tensor, hidden: Tensor, log_prior: Tensor) -> Tensor:
        """Return E h + (1 + w h) log p: (B, T, V) from E h (B, T, V), h (B, T, C) and log p (B, T, V)."""
        gate = 1 + F.linear(hidden, self.gate).to(log_prior.dtype)  # (B, T, 1)
        return torch.addcmul(logits, gate, log_prior)
