"""The decoder-only transformer: embeddings, blocks, output head and initialisation.

Shapes: B batch, T positions, C width (n_embd), V symbols of the vocabulary, L layers.

    ids (B, T) -> embedding (B, T, C) -> L blocks -> RMSNorm -> tied output head -> logits (B, T, V)
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import sqrt
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from charlm.config import ModelConfig
from charlm.model import fused
from charlm.model.attention import Mixer, PositionInfo, masks_by_flag
from charlm.model.kv_cache import ModelCache
from charlm.model.layers import RMSNorm, SwiGLU, embedding
from charlm.model.masks import Locality, allowed_by, as_bias, masks_of, positions_on
from charlm.model.mixers import MIXERS
from charlm.model.ngram_layers import NgramEmbeddings, NgramPrior
from charlm.model.positions import POSITIONS, Position

INITIAL_SELF_LOGIT = 0.5
"""The logit that the untrained model gives to repeating the last character. The head is tied to the embedding, so
it would be sqrt(C) or more without this limit, and the first loss would not be ln V."""


class Block(nn.Module):
    """A transformer block: mix the positions, then transform each one, with residuals.

    x += mixer(norm(x)); x += SwiGLU(norm(x)), where SwiGLU(x) = W3 (silu(W1 x) * W2 x) with
    silu(a) = a / (1 + exp(-a)), and norm(x) = x / sqrt(mean(x^2)) times a learned gain
    (RMSNorm). The last matrix of each half starts at zero, so that an untrained block is the
    identity and depth does no harm at the start. (Simple attention has no matrix, so its half
    does add something.) Vaswani et al. 2017, arXiv 1706.03762; norms before instead of after:
    Xiong et al. 2020, arXiv 2002.04745; SwiGLU: Shazeer 2020, arXiv 2002.05202; RMSNorm: Zhang
    and Sennrich 2019, arXiv 1910.07467.
    """

    def __init__(self, config: ModelConfig, mixer: str) -> None:
        super().__init__()
        assert config.n_embd
        self.mixer_norm = RMSNorm(config.n_embd)
        self.mixer = MIXERS[mixer](config)
        self.mlp_norm = RMSNorm(config.n_embd)
        self.mlp = SwiGLU(config.n_embd)
        self.drop = nn.Dropout(config.dropout or 0.0)

    def forward(self, x: Tensor, info: PositionInfo, cache: Any | None) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        x = x + self.drop(self.mixer(self.mixer_norm(x), info, cache))
        return x + self.drop(self.mlp(self.mlp_norm(x)))  # type: ignore[no-any-return]


class LanguageModel(nn.Module):
    """A decoder-only transformer that predicts the next symbol.

    With the defaults of ModelConfig (no n-gram prior, no n-gram embeddings) it computes what Qwen3 computes, with a
    tied embedding. An id without a row (an untrained byte) has an embedding of zeros.
    """

    def __init__(self, config: ModelConfig, n_symbols: int) -> None:
        super().__init__()
        config = config.completed()
        assert config.n_embd and config.n_layer and config.block_size and config.position
        self.config = config
        self.block_size = config.block_size
        self.n_symbols = n_symbols
        self.embedding = embedding(n_symbols, config.n_embd)
        self.ngrams = NgramEmbeddings(config, n_symbols) if (config.ngram_embeddings or 1) > 1 else None
        self.position = POSITIONS[config.position](config)
        self.locality = Locality(config) if config.locality else None
        mixers = config.mixers  # several take turns over the layers
        self.blocks = nn.ModuleList(Block(config, mixers[i % len(mixers)]) for i in range(config.n_layer))
        self.norm = RMSNorm(config.n_embd)
        self.prior = NgramPrior(config.n_embd, n_symbols) if config.prior else None
        self.has_kernels = config.has_kernels
        self.parts = (*self.blocks.modules(), self.norm)  # the modules that may get hooks
        self.compiled: Callable[..., Tensor] | None = None  # torch.compile of `run_blocks`, used in training
        self.compiled_loss: Callable[..., Tensor] | None = None  # of `torch_loss`, used in training on a GPU

    def forward(
        self,
        ids: Tensor,
        cache: ModelCache | None = None,
        docs: Tensor | None = None,
        log_prior: Tensor | None = None,
    ) -> Tensor:
        """Return logits (B, T, V) of the symbol after each of `ids` (B, T).

        With a `cache`, the ids continue the text that it holds. With `docs` (B, T), the document number of
        each id, no position sees another document. `log_prior` (B, T, V): log-probabilities of the n-gram
        model, for a model with a prior. Raises ValueError beyond learned positions.
        """
        return self.logits(self.hidden(ids, cache, docs, log_prior), log_prior)

    def hidden(
        self,
        ids: Tensor,
        cache: ModelCache | None = None,
        docs: Tensor | None = None,
        log_prior: Tensor | None = None,
    ) -> Tensor:
        """Return the normalised output of the last block, (B, T, C); the arguments are those of `forward`.

        A `cache` is extended by the ids.
        """
        assert cache is None or (docs is None and self.config.causal), "a cache holds one text, in order"
        start, T = 0 if cache is None else cache.length, ids.shape[1]
        if start + T > self.position.most:
            raise ValueError(
                f"the text has {start + T} characters; learned positions end at {self.position.most}"
            )
        q_pos = torch.arange(start, start + T, device=positions_on(ids.device))
        before = None if cache is None else cache.last_ids
        x = self._with_positions(self.embed(ids, before, docs), q_pos, log_prior)
        compiled = self.compiled if self.training else None
        kernels = None if compiled or cache is not None else fused.kernels_for(self)
        if kernels is not None:
            x = fused.run_blocks(self, kernels, x, docs)
        else:
            x = (compiled or self.run_blocks)(x, self.position_info(q_pos, docs, x, start + T), cache)
        if cache is not None:
            cache.length += T
            if cache.last_ids is not None:
                cache.last_ids = torch.cat((cache.last_ids, ids), dim=1)[:, T:]
        return x

    def _with_positions(self, embedded: Tensor, q_pos: Tensor, log_prior: Tensor | None) -> Tensor:
        """Return the input of the first block (B, T, C): embeddings with positions and, if given, the embedded prior."""
        x = self.position.embed(embedded, q_pos)
        if log_prior is not None:
            assert self.prior is not None, "this model has no n-gram prior"
            x = x + self.prior.embed(log_prior)
        return x

    def logits(self, hidden: Tensor, log_prior: Tensor | None = None) -> Tensor:
        """Apply the tied output head, and add the prior if there is one: (B, T, V) from (B, T, C)."""
        logits = F.linear(hidden, self.embedding.weight)
        if log_prior is None:
            return logits
        assert self.prior is not None, "this model has no n-gram prior"
        return self.prior(logits, hidden, log_prior)  # type: ignore[no-any-return]

    def loss(
        self, ids: Tensor, targets: Tensor, docs: Tensor | None = None, log_prior: Tensor | None = None
    ) -> Tensor:
        """Return the mean cross-entropy in nats of targets; the other arguments are those of `forward`.

        The targets are ids (B, T), or distributions (B, T, V), for which torch is as fast as the kernels would be.
        The softmax is computed in fp32, or in fp64, whatever the precision of the products.
        """
        if self.compiled_loss is not None and self.training:
            ngrams = None if self.ngrams is None else self.ngrams(ids, self.ngrams.no_ids(len(ids)), docs)
            return self.compiled_loss(ids, targets, docs, log_prior, ngrams)
        hidden = self.hidden(ids, None, docs, log_prior)
        only_torch = self.compiled is not None or targets.is_floating_point()
        kernels = None if only_torch else fused.kernels_for(self)
        if kernels is not None:
            return fused.cross_entropy(self, kernels, hidden, log_prior, targets)
        return self._cross_entropy(hidden, targets, log_prior)

    def torch_loss(
        self,
        ids: Tensor,
        targets: Tensor,
        docs: Tensor | None,
        log_prior: Tensor | None,
        ngrams: Tensor | None,
    ) -> Tensor:
        """Compute `loss` in torch alone, without kernels on the host, so that it compiles as one graph.

        `ngrams` (B, T, C): the sum of the vectors of all n-grams at each position, whose gradients train them.
        """
        T = ids.shape[1]
        q_pos = torch.arange(T, device=positions_on(ids.device))
        embedded = self._embed_ids(ids) if ngrams is None else self._embed_ids(ids) + ngrams
        x = self._with_positions(embedded, q_pos, log_prior)
        hidden = self.run_blocks(x, self.position_info(q_pos, docs, x, T))
        return self._cross_entropy(hidden, targets, log_prior)

    def _cross_entropy(self, hidden: Tensor, targets: Tensor, log_prior: Tensor | None) -> Tensor:
        """Return the mean cross-entropy in nats from the last layer's output (B, T, C)."""
        logits = self.logits(hidden, log_prior).flatten(0, 1)  # (B T, V)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return F.cross_entropy(logits, targets.flatten(0, 1))

    def regularise(self, config: ModelConfig) -> None:
        """Set the dropout rates to those of another configuration of the same shape."""
        self.config = replace(
            self.config, dropout=config.dropout, ngram_embedding_dropout=config.ngram_embedding_dropout
        )
        for block in self.blocks:
            cast("Block", block).drop.p = config.dropout or 0.0
        if self.ngrams is not None:
            self.ngrams.dropout = config.ngram_embedding_dropout or 0.0

    def run_blocks(self, x: Tensor, info: PositionInfo, cache: ModelCache | None = None) -> Tensor:
        """Apply all blocks and the final norm: (B, T, C) to (B, T, C)."""
        for layer, block in enumerate(self.blocks):
            x = block(x, info, None if cache is None else cache.layers[layer])
        return self.norm(x)  # type: ignore[no-any-return]

    def position_info(
        self, q_pos: Tensor, docs: Tensor | None, x: Tensor, n_keys: int | None = None
    ) -> PositionInfo:
        """Return score bias and rotation for queries at `q_pos` (T,); the keys are at the first `n_keys` positions."""
        n_keys = int(q_pos[-1]) + 1 if n_keys is None else n_keys
        by_flag = (
            self._is_plainly_causal and docs is None and n_keys == len(q_pos) and masks_by_flag(x.device)
        )
        if by_flag or not self.config.attends:
            return PositionInfo(x.new_zeros(()), self.position.rotation(q_pos, x), docs, causal=by_flag)
        k_pos = torch.arange(n_keys, device=q_pos.device)
        allowed = allowed_by(masks_of(self.config, documents=docs is not None), q_pos, k_pos, docs)
        bias = as_bias(allowed, x) + self.position.bias(q_pos, k_pos, x)
        if self.locality is not None:
            bias = bias + self.locality.bias(q_pos, k_pos)
        return PositionInfo(bias, self.position.rotation(q_pos, x), docs)

    @property
    def _is_plainly_causal(self) -> bool:
        """Whether nothing but the causal mask acts on the scores."""
        config, plain = self.config, type(self.position).bias is Position.bias
        return config.attends and config.causal and config.window is None and not config.locality and plain

    def embed(self, ids: Tensor, before: Tensor | None = None, docs: Tensor | None = None) -> Tensor:
        """Return the embedding (B, T, C) of `ids` (B, T), and of n-grams if the model has them (`charlm explain embedding`).

        `before` (B, N - 1): the ids before these, for n-grams up to N; None at the start of a text. `docs` (B, T)
        as in `forward`.
        """
        if self.ngrams is None:
            return self._embed_ids(ids)
        before = self.ngrams.no_ids(len(ids)) if before is None else before
        return self._embed_ids(ids) + self.ngrams(ids, before, docs)  # type: ignore[no-any-return]

    def _embed_ids(self, ids: Tensor) -> Tensor:
        """Return the embedding (B, T, C) of ids without n-grams."""
        known = ids < self.n_symbols
        return self.embedding(ids.clamp(max=self.n_symbols - 1)) * known[..., None]  # type: ignore[no-any-return]

    def new_cache(self, batch_size: int, like: Tensor | None = None) -> ModelCache:
        """Return an empty cache for `batch_size` texts, with the dtype and device of `like` (default: of the weights)."""
        like = self.embedding.weight if like is None else like
        mixers = [cast("Mixer", block.mixer) for block in self.blocks]
        layers = [mixer.new_cache(batch_size, self.block_size, like) for mixer in mixers]
        return ModelCache(layers, last_ids=None if self.ngrams is None else self.ngrams.no_ids(batch_size))


def initialise(model: LanguageModel, generator: torch.Generator) -> None:
    """Fill the weights in place; the same generator state gives the same model.

    Output projections start at zero, so that every block with weights starts as the identity. The gain before
    the head makes the first loss ln V at any width; with a prior it is zero, which makes the first loss the
    prior's. Additive parameters ("bias" in their names) start at zero too.
    """
    for name, weight in model.named_parameters():
        initialise_weight(model, name, weight, generator)


def initialise_weight(model: LanguageModel, name: str, weight: Tensor, generator: torch.Generator) -> None:
    """Fill the weight of that name in place; filling all weights in order is what `initialise` does."""
    zeros = ("out.weight", "down.weight", "ngrams.table", "prior.gate", "prior.read")
    if name == "norm.weight":
        gain = INITIAL_SELF_LOGIT / sqrt(model.embedding.embedding_dim) if model.prior is None else 0.0
        nn.init.constant_(weight, gain)
    elif name.endswith(zeros) or "bias" in name:
        nn.init.zeros_(weight)
    elif weight.ndim == 2:
        nn.init.normal_(weight, std=1 / sqrt(weight.shape[1]), generator=generator)
    else:
        nn.init.ones_(weight)


def grow_vocabulary(weights: Mapping[str, Tensor], n_symbols: int) -> dict[str, Tensor]:
    """Extend a model's weights to `n_symbols` symbols; the new ones come last.

    A new symbol starts as the mean of the old embedding rows (V, C), which are also the output head. Its logit is
    then the mean of the old logits, so N new symbols together get at most N / (V + N) of the probability (a
    geometric mean is at most the arithmetic mean), and far less where the model is sure. The prior's input weights
    of a new symbol start at zero, as before training. N-gram embeddings are indexed by hashed ids and stay.
    """
    rows, grown = weights["embedding.weight"], dict(weights)
    new = n_symbols - len(rows)
    assert new >= 0, "symbols are never removed"
    grown["embedding.weight"] = torch.cat((rows, rows.mean(dim=0, keepdim=True).expand(new, -1)))
    if "prior.read" in weights:
        read = weights["prior.read"]  # (C, V)
        grown["prior.read"] = torch.cat((read, read.new_zeros(read.shape[0], new)), dim=1)
    return grown
