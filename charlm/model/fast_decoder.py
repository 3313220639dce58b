"""Fast decoding: the transformer a few characters at a time, with its weights rearranged for NumPy or for C.

At one character per call the products are so small that torch's own overhead would take most of the time.
charlm/native/decoder.py does the same in C.

Shapes: B texts, S positions so far, T of them new, R = B T rows, H query heads, K key heads, G = H / K,
D head size, C width, F hidden width of the MLP, V symbols, W block size.
"""

from collections.abc import Iterator
from math import sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.model.attention import Attention
from charlm.model.layers import NORM_EPS
from charlm.model.ngram_layers import MULTIPLIERS
from charlm.model.positions import Rotary
from charlm.model.transformer import Block, LanguageModel
from charlm.native.decoder import CDecoder, CModel, Floats
from charlm.native.library import library

LONGEST_BLOCK = 1024
"""The score bias of a block grows with its square."""
SAFE_SCORE = 60.0
"""The C decoder's softmax does not subtract the maximum: fp32 can sum the exponentials of scores below this."""
MOST_ROWS = 1 << 24  # the hash of an n-gram has 24 bits
ROWS_AT_ONCE = 1024
"""This bounds the memory for scores."""


class DecoderWeights:
    """A model's weights rearranged for decoding; the gain of each norm is folded into the matrix after it."""

    def __init__(self, model: LanguageModel) -> None:
        weight = model.embedding.weight
        self.block_size, self.width = model.block_size, weight.shape[1]
        gate = [] if model.prior is None else [model.prior.gate]  # one more column: the prior's gate
        self.head = _fold(torch.cat((weight, *gate)), model.norm.weight)  # (C, V or V + 1)
        self.dtype = self.head.dtype
        self.prior_read = None if model.prior is None else _array(model.prior.read.T)  # (V, C)
        self.embedding = _with_zeros(weight)  # the last row is for unknown ids
        self.ngrams = model.ngrams
        self.ngram_table = np.empty(0) if model.ngrams is None else _with_zeros(model.ngrams.table[:-1])
        pos = torch.arange(model.block_size)
        zeros = torch.zeros(1, model.block_size, self.width, dtype=weight.dtype)
        with torch.no_grad():
            added = model.position.embed(zeros, pos)[0].numpy()
            bias = model.position_info(pos, None, zeros).bias
            rotary = model.position if isinstance(model.position, Rotary) else None
            self.turns = None if rotary is None else _as_complex(*rotary.angles(pos, zeros))  # (W, 1, D / 2)
        self.added = added if added.any() else None  # (W, C)
        self.layers = [LayerWeights(block, rotary is not None) for block in model.blocks]  # type: ignore[arg-type]
        n_head, K = self.layers[0].n_head, self.layers[0].n_kv_head
        self.bias = (
            bias.expand(n_head, -1, -1).reshape(K, n_head // K, *bias.shape[-2:]).numpy()
        )  # (K, G, W, W)
        self.for_c = (  # in fp32, with no bias but the causal mask
            self.dtype == np.float32
            and bool((bias.tril() == 0).all())
            and max(layer.highest_score for layer in self.layers) < SAFE_SCORE
        )

    @staticmethod
    def supports(model: LanguageModel) -> bool:
        """Whether the fast path can replace this model: attention only, on the CPU, in fp32 or fp64."""
        weight = model.embedding.weight
        return (
            weight.dtype in (torch.float32, torch.float64)
            and weight.device.type == "cpu"
            and (model.ngrams is None or model.ngrams.rows <= MOST_ROWS)
            and model.block_size <= LONGEST_BLOCK
            and set(model.config.mixers) == {"attention"}
        )

    def embed_prior(self, log_prior: Floats) -> Floats:
        """`NgramPrior.embed`: (B, T, C) from log-probabilities (B, T, V)."""
        assert self.prior_read is not None
        roots = log_prior.reshape(-1, log_prior.shape[-1]) * self.dtype.type(0.5)
        np.exp(roots, out=roots)
        # In two dimensions: NumPy would multiply a batch of matrices one by one.
        embedded: Floats = np.dot(roots.astype(self.dtype, copy=False), self.prior_read)
        return embedded.reshape(*log_prior.shape[:-1], -1)

    def embed(self, ids: NDArray[np.int64], at: int) -> Floats:
        """The embeddings of ids (B, S) from position `at` on, n-gram embeddings and positions included: (B, T, C)."""
        x: Floats = self.embedding[np.minimum(ids[:, at:], len(self.embedding) - 1)]
        if self.added is not None:
            x += self.added[at : ids.shape[1]]
        for index in self._ngram_rows(ids, at):
            x += self.ngram_table[index]
        return x

    def _ngram_rows(self, ids: NDArray[np.int64], at: int) -> Iterator[NDArray[np.int64]]:
        """For each length the rows (B, T) of the n-grams that end from position `at` on, as `NgramEmbeddings.index`."""
        if self.ngrams is None:
            return
        reach, rows, shown = (
            len(self.ngrams.orders),
            self.ngrams.rows,
            ids[:, max(0, at - len(self.ngrams.orders)) :],
        )
        read = np.full((len(ids), reach + ids.shape[1] - at), -1)  # (B, reach + T)
        read[:, read.shape[1] - shown.shape[1] :] = shown
        known = (read >= 0) & (read < self.ngrams.n_symbols)
        key, whole = read[:, reach:], known[:, reach:]
        for i in range(reach):
            part = slice(reach - i - 1, -i - 1)
            key = key * MULTIPLIERS[0] + read[:, part] + 1
            row = ((key * MULTIPLIERS[1]) >> 40) & (rows - 1)
            whole = whole & known[:, part]
            yield np.where(whole, row + i * rows, self.ngrams.nothing)


class LayerWeights:
    """The matrices of one block, transposed for products from the left, with the gains of the norms before them."""

    def __init__(self, block: Block, rotated: bool) -> None:
        mixer = block.mixer
        assert isinstance(mixer, Attention)
        D = self.head_size = mixer.head_size
        self.n_kv_head, self.n_head = mixer.n_kv_head, mixer.qkv.sizes[0] // D
        n_qk = self.n_head + self.n_kv_head
        # The two values of a rotated pair become neighbours, so that a rotation is a complex product.
        order = np.arange(D).reshape(2, -1).T.ravel() if rotated else np.arange(D)
        columns = np.arange(mixer.qkv.weight.shape[0])
        columns[: n_qk * D] = (np.arange(n_qk)[:, None] * D + order).ravel()
        self.qkv = np.ascontiguousarray(_fold(mixer.qkv.weight, block.mixer_norm.weight)[:, columns])
        q_gain, k_gain = (_array(norm.weight)[order] for norm in (mixer.q_norm, mixer.k_norm))
        self.highest_score = sqrt(D) * float(abs(q_gain).max() * abs(k_gain).max())
        gains = [q_gain / q_gain.dtype.type(sqrt(D))] * self.n_head + [k_gain] * self.n_kv_head
        self.gains = np.stack(gains)  # (H + K, D)
        self.out = _array(mixer.out.weight.T)
        # silu(a) b = -((-a) b / (1 + exp(-a))): the gate is stored negated, and so is the matrix after it.
        self.hidden = block.mlp.gate_up.sizes[0]
        self.gate_up = _fold(block.mlp.gate_up.weight, block.mlp_norm.weight)  # (C, 2 F)
        self.gate_up[:, : self.hidden] *= -1
        self.down = -_array(block.mlp.down.weight.T)

    def project(self, x: Floats, turns: Floats | None) -> tuple[Floats, Floats, Floats]:
        """Queries (B, K, G, T, D), keys and values (B, K, T, D) from x (B, T, C) and the rotations (T, 1, D / 2)."""
        B, T, C = x.shape
        H, K, D = self.n_head, self.n_kv_head, self.head_size
        heads = np.dot(_normalise(x.reshape(-1, C)), self.qkv).reshape(B, T, H + 2 * K, D)
        qk = _normalise(heads[:, :, : H + K]) * self.gains
        if turns is not None:
            qk = (qk.view(turns.dtype) * turns).view(qk.dtype)
        q = qk[:, :, :H].reshape(B, T, K, H // K, D).transpose(0, 2, 3, 1, 4)
        return q, qk[:, :, H:].swapaxes(1, 2), heads[:, :, H + K :].swapaxes(1, 2)

    def attend(self, q: Floats, keys: Floats, values: Floats, bias: Floats) -> Floats:
        """The attention output (B, T, C) of queries (B, K, G, T, D) over keys and values (B, K, S, D)."""
        B, K, G, T, D = q.shape
        scores = (q.reshape(B, K, G * T, D) @ keys.swapaxes(2, 3)).reshape(B, K, G, T, -1)
        scores += bias
        scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(axis=-1, keepdims=True)
        found = (scores.reshape(B, K, G * T, -1) @ values).reshape(B, K, G, T, D)
        added: Floats = np.dot(found.transpose(0, 3, 1, 2, 4).reshape(B * T, -1), self.out)
        return added.reshape(B, T, -1)

    def feed_forward(self, x: Floats) -> Floats:
        """The output of SwiGLU: (B, T, C) from x (B, T, C)."""
        both = np.dot(_normalise(x.reshape(-1, x.shape[-1])), self.gate_up)
        gate, up = both[:, : self.hidden], both[:, self.hidden :]  # the gate is negated
        added: Floats = np.dot(up * gate / (1 + np.exp(gate)), self.down)
        return added.reshape(x.shape)


class NumpyDecoder:
    """The keys and values of a batch of texts, for decoding in NumPy."""

    def __init__(self, weights: DecoderWeights, batch_size: int) -> None:
        layer, n_layer = weights.layers[0], len(weights.layers)
        shape = (2, n_layer, batch_size, layer.n_kv_head, weights.block_size, layer.head_size)
        self.keys, self.values = np.empty(shape, weights.dtype)
        self._weights = weights

    def next_logits(self, ids: NDArray[np.int64], at: int, added: Floats | None = None) -> Floats:
        """Logits (B, V) after the last of ids (B, S), of which the first `at` are in the cache already.

        `added` (B, T, C) is added to the embeddings of the new ones.
        """
        size = max(1, ROWS_AT_ONCE // (ids.shape[1] - at))
        with np.errstate(over="ignore"):  # in exp of a gate that is far below zero, and so shut
            return np.concatenate(
                [self._next_logits(slice(i, i + size), ids, at, added) for i in range(0, len(ids), size)]
            )

    def _next_logits(self, part: slice, ids: NDArray[np.int64], at: int, added: Floats | None) -> Floats:
        weights, S = self._weights, ids.shape[1]
        turns = None if weights.turns is None else weights.turns[at:S]
        x = weights.embed(ids[part], at)
        if added is not None:
            x += added[part]
        for layer, keys, values in zip(weights.layers, self.keys[:, part], self.values[:, part], strict=True):
            q, keys[:, :, at:S], values[:, :, at:S] = layer.project(x, turns)
            if layer is weights.layers[-1]:  # only its last position is needed
                x, q, at = x[:, -1:], q[:, :, :, -1:], S - 1
            x = x + layer.attend(q, keys[:, :, :S], values[:, :, :S], weights.bias[:, :, at:S, :S])
            x = x + layer.feed_forward(x)
        logits: Floats = np.dot(_normalise(x[:, -1]), weights.head)
        return logits


def make_decoder(weights: DecoderWeights, batch_size: int, *, native: bool) -> NumpyDecoder | CDecoder:
    """The C decoder where it is there, wanted, and supports the model (fp32, no score bias), otherwise NumPy's."""
    if not (native and weights.for_c and library()):
        return NumpyDecoder(weights, batch_size)
    layer, ngrams = weights.layers[0], weights.ngrams
    sizes = {
        "n_layer": len(weights.layers),
        "C": weights.width,
        "H": layer.n_head,
        "K": layer.n_kv_head,
        "D": layer.head_size,
        "W": weights.block_size,
        "F": layer.hidden,
        "V": weights.head.shape[1],
        "symbols": len(weights.embedding) - 1,
        "orders": len(ngrams.orders) if ngrams else 0,
        "rows": ngrams.rows if ngrams else 0,
    }
    shared = {
        "embedding": weights.embedding,
        "added": weights.added,
        "ngrams": weights.ngram_table if ngrams else None,
        "turns": weights.turns,
        "head": weights.head,
    }
    return CDecoder(CModel(sizes, shared, [vars(layer) for layer in weights.layers], NORM_EPS), batch_size)


def _normalise(x: Floats) -> Floats:
    """RMSNorm of vectors (..., C) without its gain, which is folded into what follows."""
    root = np.einsum("...c,...c->...", x, x)[..., None]
    root /= x.shape[-1]
    root += NORM_EPS
    normalised: Floats = x / np.sqrt(root, out=root)
    return normalised


def _as_complex(cos: Tensor, sin: Tensor) -> NDArray[Any]:
    """Rotations of pairs as complex numbers (W, 1, D / 2), from cosines and sines (W, D)."""
    half = cos.shape[1] // 2
    return torch.complex(cos[:, :half], sin[:, :half]).numpy()[:, None]


def _fold(weight: Tensor, gain: Tensor) -> Floats:
    """A matrix (R, C) with the gain (C,) of the norm before it, transposed to (C, R)."""
    return _array((weight * gain).T)


def _with_zeros(rows: Tensor) -> Floats:
    """Rows (R, C) and one more, of zeros."""
    return np.pad(_array(rows), ((0, 1), (0, 0)))


def _array(weight: Tensor) -> Floats:
    return np.ascontiguousarray(weight.detach().numpy())
