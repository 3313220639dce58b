"""The same model in NumPy, for one more character at a time: there a call costs less than in torch.

Axes: B texts, H heads, G queries that share a key, S positions read, D values per head, C width.
"""

from math import sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.model.cache import Cache, KeyValues
from charlm.model.language_model import Block, LanguageModel
from charlm.model.mixers.attention import Attention
from charlm.model.ngrams import MULTIPLIERS, NGrams
from charlm.model.norm import NORM_EPS
from charlm.model.positions.relative import Rotary

Numbers = NDArray[np.float32]
LONGEST = 1024


class Stepper:
    """Reads one character of each text, through the cache that the model itself fills.

    Gains of norms are folded into the matrices that follow them; what a place adds, turns or forbids
    is laid out once for all places of a block.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.head = _folded(model.embedding.weight, model.norm.weight)  # (C, V)
        # One row of zeros more: unknown ids read as nothing.
        self.embedding = np.pad(_array(model.embedding.weight), ((0, 1), (0, 0)))
        self.table = _array(model.ngrams.table) if model.ngrams is not None else None
        self.layers = [_Layer(block) for block in model.blocks if isinstance(block, Block)]
        assert len(self.layers) == model.config.n_layer
        places = torch.arange(model.block_size)
        zeros = torch.zeros(1, model.block_size, model.embedding.embedding_dim)
        with torch.no_grad():
            self.added = model.position.embed(zeros, places)[0].numpy()  # (W, C)
            bias = model.places(places, None, zeros).bias
            rotary = model.position if isinstance(model.position, Rotary) else None
            self.turns = [part.numpy() for part in rotary.angles(places, zeros)] if rotary else None
        self.bias = (
            None if bool((bias.tril() == 0).all()) else bias.expand(model.config.n_head or 1, -1, -1).numpy()
        )

    @staticmethod
    def fits(model: LanguageModel) -> bool:
        """Can it stand for this model?"""
        weight = model.embedding.weight
        plain = weight.dtype == torch.float32 and weight.device.type == "cpu"
        short = model.block_size <= LONGEST  # what is laid out for a block grows with its square
        return plain and short and set(model.config.mixers) == {"attention"}

    def logits(self, ids: Tensor, cache: Cache) -> Numbers:
        """Logits (B, V) of what follows ids (B, 1), which go on from what the cache holds."""
        at = cache.length
        x = self._embed(ids[:, 0].numpy(), cache) + self.added[at]  # (B, C)
        turn = None if self.turns is None else (self.turns[0][at], self.turns[1][at])
        bias = None if self.bias is None else self.bias[:, at, : at + 1]
        for layer, kept in zip(self.layers, cache.layers, strict=True):
            x = x + layer.read(_normed(x), kept, turn, bias)
            x = x + layer.think(_normed(x))
        cache.length += 1
        return _normed(x) @ self.head

    def _embed(self, ids: NDArray[np.int64], cache: Cache) -> Numbers:
        """The rows of ids (B,), and the sums of the n-grams' that end there: (B, C)."""
        found: Numbers = self.embedding[np.minimum(ids, len(self.embedding) - 1)]
        ngrams = self.model.ngrams
        if ngrams is None:
            return found
        assert self.table is not None
        reach = len(ngrams.orders)
        none = np.full((len(ids), reach), -1)
        longer = np.concatenate((none if cache.last is None else cache.last.numpy(), ids[:, None]), axis=1)
        cache.last = torch.from_numpy(longer[:, 1:])
        added: Numbers = self.table[row_index(longer, ngrams)].sum(axis=1)
        return found + added


def row_index(longer: NDArray[np.int64], ngrams: NGrams) -> NDArray[np.int64]:
    """The rows (B, O) of the n-grams that end at the last of (B, N) ids, as `NGrams.index` has them."""
    backwards = longer[:, ::-1]
    whole = np.logical_and.accumulate((backwards >= 0) & (backwards < ngrams.n_symbols), axis=1)
    key, rows = backwards[:, 0], []
    with np.errstate(over="ignore"):
        for i in range(len(ngrams.orders)):
            key = key * MULTIPLIERS[0] + backwards[:, i + 1] + 1
            row = ((key * MULTIPLIERS[1]) >> 40) & (ngrams.rows - 1)
            rows.append(np.where(whole[:, i + 1], row + i * ngrams.rows, ngrams.nothing))
    return np.stack(rows, axis=1)


class _Layer:
    """One block: its matrices with the gains before them, transposed for products from the left."""

    def __init__(self, block: Block) -> None:
        mixer = block.mixer
        assert isinstance(mixer, Attention)
        self.qkv = _folded(mixer.qkv.weight, block.mixer_norm.weight)
        self.out = _array(mixer.out.weight.T)
        self.gate_up = _folded(block.mlp.gate_up.weight, block.mlp_norm.weight)
        self.down = _array(block.mlp.down.weight.T)
        self.n_kv_head, self.head_size = mixer.n_kv_head, mixer.head_size
        self.n_head = mixer.qkv.sizes[0] // mixer.head_size
        self.hidden = block.mlp.gate_up.sizes[0]
        gains = [mixer.q_norm.weight / sqrt(mixer.head_size)] * self.n_head
        self.gains = _array(torch.stack([*gains, *[mixer.k_norm.weight] * self.n_kv_head]))  # (H + kv, D)

    def read(
        self, x: Numbers, kept: KeyValues, turn: tuple[Numbers, Numbers] | None, bias: Numbers | None
    ) -> Numbers:
        """What attention adds: (B, C) from (B, C)."""
        B, D, H, K = len(x), self.head_size, self.n_head, self.n_kv_head
        qkv = (x @ self.qkv).reshape(B, H + 2 * K, D)
        qk = _normed(qkv[:, : H + K]) * self.gains
        if turn is not None:
            half = D // 2
            swapped = np.concatenate((-qk[..., half:], qk[..., :half]), axis=-1)
            qk = qk * turn[0] + swapped * turn[1]
        at = kept.length
        keys, values = kept.keys.numpy(), kept.values.numpy()  # the same memory
        keys[:, :, at], values[:, :, at] = qk[:, H:], qkv[:, H + K :]
        kept.length = at + 1
        q = qk[:, :H].reshape(B, K, H // K, D)
        scores = q @ keys[:, :, : at + 1].swapaxes(2, 3)  # (B, K, G, S)
        if bias is not None:
            scores = scores + bias.reshape(K, H // K, at + 1)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        found = (weights @ values[:, :, : at + 1]) / weights.sum(axis=-1, keepdims=True)
        return found.reshape(B, H * D) @ self.out  # type: ignore[no-any-return]

    def think(self, x: Numbers) -> Numbers:
        """What SwiGLU adds: (B, C) from (B, C)."""
        both = x @ self.gate_up
        gate, up = both[:, : self.hidden], both[:, self.hidden :]
        with np.errstate(over="ignore"):  # of a gate so far below zero that it is shut
            return (gate / (1 + np.exp(-gate)) * up) @ self.down  # type: ignore[no-any-return]


def _normed(x: Numbers) -> Numbers:
    """Brought to unit mean square along the last axis; the gain is in what follows."""
    square = np.einsum("...c,...c->...", x, x)[..., None]
    return x / np.sqrt(square / x.shape[-1] + np.float32(NORM_EPS))  # type: ignore[no-any-return]


def _folded(weight: Tensor, gain: Tensor) -> Numbers:
    """A matrix (R, C) with the gain (C,) before it, as (C, R)."""
    return _array((weight * gain).T)


def _array(weight: Tensor) -> Numbers:
    return np.ascontiguousarray(weight.detach().numpy())
