"""The decoder-only transformer: embedding, blocks, head, and initialisation.

Axes: B batch, T positions, C width, V symbols.

Axes: C width, V symbols before, N of them new.
"""

from collections.abc import Callable, Mapping
from math import sqrt
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charlm.config import ModelConfig
from charlm.model.attention import Mixer, Places
from charlm.model.example import Example, some
from charlm.model.kv_cache import Cache
from charlm.model.layers import Joined, Norm
from charlm.model.masks import Causal, Locality, as_bias, masks_of
from charlm.model.mixers import MIXERS
from charlm.model.ngram_embeddings import NGrams
from charlm.model.ngram_prior import Prior
from charlm.model.positions import POSITIONS

FIRST_LOGIT = 0.5
"""How much the untrained model favours the character it has just read: little, so that the first
loss is that of a guess, ln V. (The tied head would otherwise favour it by sqrt(C) or more.)"""


class SwiGLU(nn.Module):
    """Two layers with a gate, at each position by itself. Shazeer 2020, arXiv 2002.05202."""

    def __init__(self, n_embd: int) -> None:
        super().__init__()
        hidden = -(-8 * n_embd // 3 // 16) * 16
        self.gate_up = Joined(n_embd, (hidden, hidden))
        self.down = nn.Linear(hidden, n_embd, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Each position by itself: (B, T, C) to (B, T, C)."""
        gate, up = self.gate_up.apart(x)
        return self.down(F.silu(gate) * up)  # type: ignore[no-any-return]


class Block(nn.Module):
    """A transformer block: read (mixer), think (SwiGLU), each added to what was there.

    x += mixer(norm(x)); x += SwiGLU(norm(x)), where SwiGLU(x) = W3 (silu(W1 x) * W2 x) with silu(a) =
    a / (1 + exp(-a)), and norm(x) = x / sqrt(mean(x^2)) times a learned gain (RMSNorm). The last
    matrix of each half starts at zero, so that what the block adds starts at nothing (simple attention
    has no matrix), and the deepest model starts as the shallowest. Vaswani et al. 2017, arXiv
    1706.03762; norms before instead of after: Xiong et al. 2020, arXiv 2002.04745; Shazeer 2020, arXiv
    2002.05202; Zhang and Sennrich 2019, arXiv 1910.07467.
    """

    def __init__(self, config: ModelConfig, mixer: str) -> None:
        super().__init__()
        assert config.n_embd
        self.mixer_norm = Norm(config.n_embd)
        self.mixer = MIXERS[mixer](config)
        self.mlp_norm = Norm(config.n_embd)
        self.mlp = SwiGLU(config.n_embd)
        self.drop = nn.Dropout(config.dropout or 0.0)

    def forward(self, x: Tensor, places: Places, cache: Any | None) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        x = x + self.drop(self.mixer(self.mixer_norm(x), places, cache))
        return x + self.drop(self.mlp(self.mlp_norm(x)))  # type: ignore[no-any-return]

    @staticmethod
    def example() -> Example:
        """The size of what each half of an untrained and of a random block adds, at three positions."""
        model = LanguageModel(ModelConfig(n_layer=1, n_embd=8, n_head=2, block_size=3), 1).double()
        initialise(model, torch.Generator().manual_seed(3))
        block, x = cast("Block", model.blocks[0]), some(1, 3, 8)
        causal = as_bias(Causal()(torch.arange(3), torch.arange(3), None, None), x)
        rows = []
        for name in ("as it starts", "random"):
            if name == "random":
                for parameter in block.parameters():
                    parameter.data.copy_(some(*parameter.shape) / 3)
            with torch.no_grad():
                read = block.mixer(block.mixer_norm(x), Places(causal, lambda q: q))
                thought = block.mlp(block.mlp_norm(x + read))
            sizes = [part[0].norm(dim=-1) for part in (x, read, thought)]
            rows += [(name, str(t), *(f"{size[t]:.2f}" for size in sizes)) for t in range(3)]
        header = ("block", "t", "was there", "read adds", "thought adds")
        return Example("How long the vectors are that the two halves add:", header, tuple(rows))


class LanguageModel(nn.Module):
    """From ids to logits: by default what Qwen3 computes, with one row of the embedding a symbol.

    An id beyond the rows (a byte that training never saw) is read as nothing: a row of zeros.
    """

    def __init__(self, config: ModelConfig, n_symbols: int) -> None:
        super().__init__()
        config = config.completed()
        assert config.n_embd and config.n_layer and config.block_size and config.position
        self.config = config
        self.block_size = config.block_size
        self.n_symbols = n_symbols
        self.embedding = nn.Embedding(n_symbols, config.n_embd)
        self.ngrams = (
            NGrams(config, n_symbols) if config.ngram_embeddings and config.ngram_embeddings > 1 else None
        )
        self.position = POSITIONS[config.position](config)
        self.locality = Locality(config) if config.locality else None
        mixers = config.mixers
        self.blocks = nn.ModuleList(Block(config, mixers[i % len(mixers)]) for i in range(config.n_layer))
        self.norm = Norm(config.n_embd)
        self.prior = Prior(config.n_embd, n_symbols) if config.prior else None
        self.compiled: Callable[..., Tensor] | None = None  # `through`, for training

    def forward(
        self,
        ids: Tensor,
        cache: Cache | None = None,
        docs: Tensor | None = None,
        log_prior: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, T, V) of what follows each of `ids` (B, T), given those that it may read.

        With a `cache` the ids go on from what it holds. With `docs` (B, T), on the CPU, the document
        of each id, documents are kept apart; they stand in runs. `log_prior` (B, T, V) is what the
        counts say of what follows, for a model that was made to begin there.
        """
        return self.logits(self.hidden(ids, cache, docs, log_prior), log_prior)

    def logits(self, hidden: Tensor, log_prior: Tensor | None = None) -> Tensor:
        """What the head says, from what it reads (B, T, C), and the prior (B, T, V), if any: (B, T, V)."""
        logits = F.linear(hidden, self.embedding.weight)
        if log_prior is None:
            return logits
        assert self.prior is not None, "this model has no weight for a prior"
        return self.prior(logits, hidden, log_prior)  # type: ignore[no-any-return]

    def hidden(
        self,
        ids: Tensor,
        cache: Cache | None = None,
        docs: Tensor | None = None,
        log_prior: Tensor | None = None,
    ) -> Tensor:
        """What the head reads: (B, T, C), normalised."""
        assert cache is None or (docs is None and self.config.causal), "a cache holds one text, in order"
        start, T = cache.length if cache else 0, ids.shape[1]
        q_pos = torch.arange(start, start + T)
        x = self.position.embed(self.embed(ids, cache, docs), q_pos)
        if log_prior is not None:
            assert self.prior is not None, "this model has no weights for a prior"
            x = x + self.prior.told(log_prior)
        places = self.places(q_pos, docs, x)
        through = self.compiled if self.compiled is not None and self.training else self.through
        x = through(x, places, cache)
        if cache:
            cache.length += T
        return x

    def through(self, x: Tensor, places: Places, cache: Cache | None = None) -> Tensor:
        """All blocks, and the norm before the head: (B, T, C) to (B, T, C)."""
        for layer, block in enumerate(self.blocks):
            x = block(x, places, cache.layers[layer] if cache else None)
        return self.norm(x)  # type: ignore[no-any-return]

    def places(self, q_pos: Tensor, docs: Tensor | None, x: Tensor) -> Places:
        """What all layers are told of the places of the queries (T,), the keys being those up to them."""
        if not self.config.attends:
            return Places(x.new_zeros(()), self.position.rotation(q_pos, x), docs)
        k_pos = torch.arange(int(q_pos[-1]) + 1)
        mask = masks_of(self.config, documents=docs is not None)
        bias = as_bias(mask(q_pos, k_pos, docs, docs), x) + self.position.bias(q_pos, k_pos, x)
        if self.locality is not None:
            bias = bias + self.locality.bias(q_pos, k_pos)
        return Places(bias, self.position.rotation(q_pos, x), docs)

    def embed(self, ids: Tensor, cache: Cache | None = None, docs: Tensor | None = None) -> Tensor:
        """The rows (B, T, C) of ids (B, T), and the vectors of the n-grams that end there."""
        known = ids < self.n_symbols
        x = self.embedding(ids.clamp(max=self.n_symbols - 1)) * known[..., None]  # (B, T, C)
        if self.ngrams is None:
            return x  # type: ignore[no-any-return]
        none = ids.new_full((ids.shape[0], len(self.ngrams.orders)), -1)
        before = none if cache is None or cache.last is None else cache.last
        if cache is not None:
            cache.last = torch.cat((before, ids), dim=1)[:, ids.shape[1] :]
        return x + self.ngrams(ids, before, docs)  # type: ignore[no-any-return]

    def cache(self, batch_size: int) -> Cache:
        """What is kept of `batch_size` texts, before the first character."""
        like = self.embedding.weight
        mixers = [cast("Mixer", block.mixer) for block in self.blocks]
        return Cache([mixer.cache(batch_size, self.block_size, like) for mixer in mixers])


def initialise(model: LanguageModel, generator: torch.Generator) -> None:
    """Fill the weights: the same generator gives the same model.

    Output projections start at zero, so that every block with weights starts as the identity; the
    gain before the head is such that the first loss is ln V at any width. What is added ("bias" in
    its name: a gate's, a distance's, a slope's) starts at zero too. Beside a prior that gain is zero,
    so that the first loss is the prior's.
    """
    C = model.embedding.embedding_dim
    for name, weight in model.named_parameters():
        if (
            name.endswith(("out.weight", "down.weight", "ngrams.table", "prior.gate", "prior.read"))
            or "bias" in name
        ):
            nn.init.zeros_(weight)
        elif weight.ndim == 2:
            nn.init.normal_(weight, std=1 / sqrt(weight.shape[1]), generator=generator)
        else:
            nn.init.ones_(weight)
    nn.init.constant_(model.norm.weight, FIRST_LOGIT / sqrt(C) if model.prior is None else 0.0)


EMBEDDING, READ = "embedding.weight", "prior.read"
"""What has a row, or a column, for each symbol; n-grams are found by ids, which stay."""


def grown_weights(weights: Mapping[str, Tensor], n_symbols: int) -> dict[str, Tensor]:
    """The same for `n_symbols` symbols, of which the last are new.

    A new symbol begins with the mean of the old rows (V, C), which are those of the head too: its logit
    is the mean of the old ones, so all N together take at most N / (V + N) of the probability, since a
    geometric mean is never above the arithmetic one; and they take far less where the model is sure of
    anything. The first layer is told nothing of what the counts say of it, as before the first step.
    """
    rows, grown = weights[EMBEDDING], dict(weights)
    new = n_symbols - len(rows)
    assert new >= 0, "symbols are never taken away"
    grown[EMBEDDING] = torch.cat((rows, rows.mean(dim=0, keepdim=True).expand(new, -1)))
    if READ in weights:
        read = weights[READ]
        grown[READ] = torch.cat((read, read.new_zeros(read.shape[0], new)), dim=1)
    return grown
