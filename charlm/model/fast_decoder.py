"""Fast decoding: the transformer one character at a time, as few NumPy products over rearranged weights.

charlm/native/decoder.py does the same in C. At one character per call the products are so small that torch's own
overhead would take most of the time.

Shapes: B texts, S positions so far, T of them new, R = B T rows, H query heads, K key heads, G = H / K,
D head size, C width, F hidden width of the MLP, V symbols, W block size.
"""

import ctypes
from math import sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.model.attention import Attention
from charlm.model.layers import NORM_EPS
from charlm.model.ngram_embeddings import MULTIPLIERS, NgramEmbeddings
from charlm.model.positions import Rotary
from charlm.model.transformer import Block, LanguageModel
from charlm.native.decoder import CDecoder

Floats = NDArray[np.floating[Any]]
LONGEST_BLOCK = 1024
"""The score bias of a block grows with its square."""
SAFE_SCORE = 60.0
"""Softmax may skip subtracting the maximum if all scores are below this: fp32 can sum their exponentials."""
MASK_64 = (1 << 64) - 1
MOST_ROWS = 1 << 24  # the hash of an n-gram has 24 bits
ROWS_AT_ONCE = 1024
TEXTS_AT_ONCE = 64
"""More would not stay in the processor's cache."""


class DecoderWeights:
    """A model's weights rearranged for decoding; the gain of each norm is folded into the matrix after it."""

    def __init__(self, model: LanguageModel) -> None:
        weight = model.embedding.weight
        self.block_size, self.width = model.block_size, weight.shape[1]
        gate = [] if model.prior is None else [model.prior.gate]  # one more column: the prior's gate
        self.head = _fold(torch.cat((weight, *gate)), model.norm.weight)  # (C, V or V + 1)
        self.dtype = self.head.dtype
        self.prior_read = None if model.prior is None else _array(model.prior.read.T)  # (V, C)
        self.embedding = np.pad(_array(weight), ((0, 1), (0, 0)))  # the last row, of zeros, for unknown ids
        self.ngrams = NgramRows(model.ngrams) if model.ngrams is not None else None
        pos = torch.arange(model.block_size)
        zeros = torch.zeros(1, model.block_size, self.width, dtype=weight.dtype)
        with torch.no_grad():
            added = model.position.embed(zeros, pos)[0].numpy()
            bias = model.position_info(pos, None, zeros).bias
            rotary = model.position if isinstance(model.position, Rotary) else None
            angles = rotary.angles(pos, zeros) if rotary else None
        self.added = added if added.any() else None  # (W, C)
        self.turns = _as_complex(*angles) if angles else None  # (W, 1, D / 2)
        self.layers = [LayerWeights(block, rotary is not None) for block in model.blocks]  # type: ignore[arg-type]
        self.bias = self._bias(bias, model.config.n_head or 1)  # (K, G, W, W)
        highest = max(layer.highest_score for layer in self.layers)
        if self.bias is not None:
            own = np.diagonal(self.bias, axis1=2, axis2=3)
            highest += max(float(self.bias.max()), -float(own.min()))
        self.safe = highest < SAFE_SCORE

    @staticmethod
    def supports(model: LanguageModel) -> bool:
        """Whether the fast path can replace this model: attention only, on the CPU, in fp32 or fp64."""
        weight = model.embedding.weight
        plain = weight.dtype in (torch.float32, torch.float64) and weight.device.type == "cpu"
        small = model.ngrams is None or model.ngrams.rows <= MOST_ROWS
        return (
            plain
            and small
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

    def _bias(self, bias: Tensor, n_head: int) -> Floats | None:
        """The bias on scores, or None if it is only the causal mask."""
        if bool((bias.tril() == 0).all()):
            return None
        K, W = self.layers[0].n_kv_head, self.block_size
        return bias.expand(n_head, -1, -1).reshape(K, n_head // K, W, W).numpy()


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
        gate_up = _fold(block.mlp.gate_up.weight, block.mlp_norm.weight)
        self.hidden = block.mlp.gate_up.sizes[0]
        gate_up[:, : self.hidden] *= -1
        self.gate_up = gate_up  # (C, 2 F)
        self.down = -_array(block.mlp.down.weight.T)


class NgramRows:
    """The table of n-gram embeddings, and which of its rows end at a position."""

    def __init__(self, ngrams: NgramEmbeddings) -> None:
        self.table = _array(ngrams.table)
        self.n_symbols, self.rows, self.nothing = ngrams.n_symbols, ngrams.rows, ngrams.nothing
        if self.table[self.nothing].any():  # training never does this
            self.table = self.table.copy()
            self.table[self.nothing] = 0
        self.reach = len(ngrams.orders)  # characters before the last one that an n-gram reads

    def add(self, x: Floats, ids: NDArray[np.int64], at: int) -> None:
        """Add to x (B, T, C) the vectors of the n-grams that end at positions `at` on of ids (B, at + T)."""
        if x.shape[0] == x.shape[1] == 1:
            for row in self._index_one(ids[0, max(0, at - self.reach) :].tolist()):
                x += self.table[row]
            return
        for index in self.index(ids, at):
            x += self.table[index]

    def index(self, ids: NDArray[np.int64], at: int) -> list[NDArray[np.int64]]:
        """For each length the rows (B, T) of the n-grams, as in `NgramEmbeddings.index`."""
        shown = ids[:, max(0, at - self.reach) :]
        longer = np.full((len(ids), self.reach + ids.shape[1] - at), -1)
        longer[:, longer.shape[1] - shown.shape[1] :] = np.where(shown < self.n_symbols, shown, -1)
        key = longer[:, self.reach :]
        whole, found = key >= 0, []
        with np.errstate(over="ignore"):
            for i in range(self.reach):
                part = longer[:, self.reach - i - 1 : -i - 1]
                key = key * MULTIPLIERS[0] + part + 1
                whole = whole & (part >= 0)
                row = ((key * MULTIPLIERS[1]) >> 40) & (self.rows - 1)
                found.append(np.where(whole, row + i * self.rows, self.nothing))
        return found

    def _index_one(self, ids: list[int]) -> list[int]:
        """The rows of the n-grams that end with the last of a few ids; plain Python is faster for one text."""
        key = ids[-1]
        found: list[int] = []
        if key >= self.n_symbols:
            return found
        for i in range(len(ids) - 1):
            before = ids[-i - 2]
            if before >= self.n_symbols:
                break
            key = key * MULTIPLIERS[0] + before + 1
            found.append(((key * MULTIPLIERS[1] & MASK_64) >> 40 & (self.rows - 1)) + i * self.rows)
        return found


class NumpyDecoder:
    """The keys and values of a batch of texts, and the buffers to compute in."""

    def __init__(self, weights: DecoderWeights, batch_size: int) -> None:
        self.weights = weights
        layer, W = weights.layers[0], weights.block_size
        shape = (len(weights.layers), batch_size, layer.n_kv_head, W)
        self.keys = np.empty((*shape, layer.head_size), weights.dtype)
        # Each value ends with a one: the product with the attention weights then ends with their sum.
        self.values = np.ones((*shape, layer.head_size + 1), weights.dtype)
        self._buffers: dict[tuple[int, int], _Buffers] = {}

    def next_logits(self, ids: NDArray[np.int64], at: int, added: Floats | None = None) -> Floats:
        """Logits (B, V) after the last of ids (B, S), of which the first `at` are in the cache already.

        `added` (B, T, C) is added to the embeddings of the new ones.
        """
        B, T = len(ids), ids.shape[1] - at
        size = max(1, min(TEXTS_AT_ONCE, ROWS_AT_ONCE // T))
        with np.errstate(over="ignore"):  # in exp of a gate that is far below zero, and so shut
            if size >= B:
                return self._next_logits(slice(None), ids, at, added)
            parts = [slice(i, i + size) for i in range(0, B, size)]
            return np.concatenate(
                [self._next_logits(p, ids[p], at, None if added is None else added[p]) for p in parts]
            )

    def _next_logits(self, part: slice, ids: NDArray[np.int64], at: int, added: Floats | None) -> Floats:
        B, S = ids.shape
        buffers = self._buffers_for(B, S - at)
        self._embed(buffers, ids, at)
        if added is not None:
            buffers.x += added.reshape(buffers.x.shape)
        keys, values = self.keys[:, part, :, :S], self.values[:, part, :, :S]
        layers = self.weights.layers
        for layer, k, v in zip(layers, keys, values, strict=True):
            buffers.project(layer, k[:, :, at:], v[:, :, at:], at)
            if layer is layers[-1] and S - at > 1:  # only the last position of the last layer is needed
                last = self._buffers_for(B, 1)
                last.x[:] = buffers.x.reshape(B, S - at, -1)[:, -1]
                last.q[:] = buffers.q[:, :, :, -1:]
                buffers, at = last, S - 1
            buffers.attend(layer, k, v, at)
            buffers.feed_forward(layer)
        logits: Floats = np.dot(_normalise(buffers.x, buffers), self.weights.head)
        return logits

    def _buffers_for(self, B: int, T: int) -> "_Buffers":
        if (B, T) not in self._buffers:
            self._buffers[B, T] = _Buffers(self.weights, B, T)
        return self._buffers[B, T]

    def _embed(self, buffers: "_Buffers", ids: NDArray[np.int64], at: int) -> None:
        """Put the embeddings of the new ids, n-gram embeddings and positions included, into x."""
        weights = self.weights
        B, T = len(ids), ids.shape[1] - at
        x = buffers.x.reshape(B, T, -1)  # the same memory
        unknown = len(weights.embedding) - 1
        if B == T == 1:
            x[:] = weights.embedding[min(int(ids[0, at]), unknown)]
        else:
            np.take(weights.embedding, np.minimum(ids[:, at:], unknown), axis=0, out=x, mode="clip")
        if weights.added is not None:
            x += weights.added[at : at + T]
        if weights.ngrams is not None:
            weights.ngrams.add(x, ids, at)


class _Buffers:
    """Arrays for all intermediate results of B T rows, so that nothing is allocated per character.

    x (R, C) is the residual stream, q (B, K, G, T, D) the queries. The other attributes are views of a few arrays, in
    the shapes that each product wants.
    """

    def __init__(self, weights: DecoderWeights, B: int, T: int) -> None:
        layer, C, dtype = weights.layers[0], weights.width, weights.dtype
        D, K, H = layer.head_size, layer.n_kv_head, layer.n_head
        R, G, n_qk = B * T, H // K, H + K
        self.weights, self.shape = weights, (B, K, G, T)

        def empty(*shape: int) -> Floats:
            return np.empty(shape, dtype)

        self.x, self.normed, self.added, self.root = empty(R, C), empty(R, C), empty(R, C), empty(R, 1)
        self.squares, self.mean = _mean_square_operands(empty(R, C + 1))
        self.qkv = empty(R, (n_qk + K) * D)
        self.qk_raw = self.qkv[:, : n_qk * D].reshape(R, n_qk, D)
        self.v = self.qkv[:, n_qk * D :].reshape(B, T, K, D).swapaxes(1, 2)
        self.head_squares, self.head_mean = _mean_square_operands(empty(R * n_qk, D + 1))
        self.head_squares_of = self.head_squares.reshape(R, n_qk, D + 1)[..., :-1]
        self.head_root = empty(R * n_qk, 1)
        self.qk = empty(R, n_qk, D)
        self.pairs = self.qk.view(np.result_type(dtype, np.complex64)) if weights.turns is not None else None
        by_position = self.qk.reshape(B, T, n_qk, D)
        roots = self.head_root.reshape(B, T, n_qk, 1)
        in_groups = (B, T, K, G)
        self.q_from = by_position[:, :, :H].reshape(*in_groups, D).transpose(0, 2, 3, 1, 4)
        self.q_root = roots[:, :, :H].reshape(*in_groups, 1).transpose(0, 2, 3, 1, 4)
        self.k_from, self.k_root = by_position[:, :, H:].swapaxes(1, 2), roots[:, :, H:].swapaxes(1, 2)
        self.q = empty(B, K, G, T, D)
        self.scores = empty(B * H * T * weights.block_size)
        self.found = empty(B, K, G * T, D + 1)
        self.sums = self.found[..., D:].reshape(B, K, G, T, 1).transpose(0, 3, 1, 2, 4)
        self.averages = self.found[..., :D].reshape(B, K, G, T, D).transpose(0, 3, 1, 2, 4)
        self.merged = empty(B, T, K, G, D)
        self.causal = np.triu(np.full((T, T), -np.inf, dtype), 1)
        self.gate_up, self.shut = empty(R, 2 * layer.hidden), empty(R, layer.hidden)

    def project(self, layer: LayerWeights, keys: Floats, values: Floats, at: int) -> None:
        """Compute the queries into q, and the new keys and values (B, K, T, D or D + 1) into the cache."""
        B, _, _, T = self.shape
        np.dot(_normalise(self.x, self), layer.qkv, out=self.qkv)
        np.multiply(self.qk_raw, self.qk_raw, out=self.head_squares_of)
        np.dot(self.head_squares, self.head_mean, out=self.head_root)
        np.sqrt(self.head_root, out=self.head_root)
        np.multiply(self.qk_raw, layer.gains, out=self.qk)
        if self.pairs is not None:
            assert self.weights.turns is not None
            pairs = self.pairs.reshape(B, T, *self.pairs.shape[1:])
            pairs *= self.weights.turns[at : at + T]
        np.divide(self.q_from, self.q_root, out=self.q)
        np.divide(self.k_from, self.k_root, out=keys)
        values[..., :-1] = self.v

    def attend(self, layer: LayerWeights, keys: Floats, values: Floats, at: int) -> None:
        """Add the attention output over keys and values (B, K, S, D or D + 1) to x."""
        B, K, G, T = self.shape
        S = keys.shape[2]
        scores = self.scores[: B * K * G * T * S].reshape(B, K, G * T, S)
        np.matmul(self.q.reshape(B, K, G * T, -1), keys.swapaxes(2, 3), out=scores)
        by_query = scores.reshape(B, K, G, T, S)
        if self.weights.bias is not None:
            by_query += self.weights.bias[:, :, at:S, :S]
        elif T > 1:
            by_query[..., at:] += self.causal
        if not self.weights.safe:
            scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        np.matmul(scores, values, out=self.found)
        np.divide(self.averages, self.sums, out=self.merged)
        self.x += np.dot(self.merged.reshape(B * T, -1), layer.out, out=self.added)

    def feed_forward(self, layer: LayerWeights) -> None:
        """Add the output of SwiGLU to x."""
        np.dot(_normalise(self.x, self), layer.gate_up, out=self.gate_up)
        gate, up = self.gate_up[:, : layer.hidden], self.gate_up[:, layer.hidden :]  # the gate is negated
        np.exp(gate, out=self.shut)
        self.shut += 1
        up *= gate
        up /= self.shut
        self.x += np.dot(up, layer.down, out=self.added)


def make_decoder(
    weights: DecoderWeights, batch_size: int, library: ctypes.CDLL | None
) -> NumpyDecoder | CDecoder:
    """The C decoder where it was compiled and supports the model (fp32, no score bias), otherwise NumPy's."""
    in_c = weights.dtype == np.float32 and weights.bias is None and weights.safe
    if library is None or not hasattr(library, "next_logits") or not in_c:
        return NumpyDecoder(weights, batch_size)
    layer, ngrams, unknown = weights.layers[0], weights.ngrams, len(weights.embedding) - 1
    sizes = {
        "n_layer": len(weights.layers),
        "C": weights.width,
        "H": layer.n_head,
        "K": layer.n_kv_head,
        "D": layer.head_size,
        "W": weights.block_size,
        "F": layer.hidden,
        "V": weights.head.shape[1],
        "symbols": unknown,
        "orders": ngrams.reach if ngrams else 0,
        "rows": ngrams.rows if ngrams else 0,
    }
    shared = {
        "embedding": weights.embedding,
        "added": weights.added,
        "ngrams": ngrams.table if ngrams else None,
        "turns": weights.turns,
        "head": weights.head,
    }
    return CDecoder(library, sizes, shared, [vars(layer) for layer in weights.layers], NORM_EPS, batch_size)


def _mean_square_operands(squares: Floats) -> tuple[Floats, Floats]:
    """`squares` (..., C + 1) ending with a one, and the vector whose product with it is their mean plus epsilon."""
    width = squares.shape[-1] - 1
    squares[..., -1] = 1
    mean = np.full((width + 1, 1), 1 / width, squares.dtype)
    mean[-1] = NORM_EPS
    return squares, mean


def _normalise(x: Floats, buffers: _Buffers) -> Floats:
    """RMSNorm of rows (R, C) without its gain, which is folded into the next matrix."""
    if len(x) == 1:
        row = x[0]
        buffers.root[0, 0] = sqrt(float(np.dot(row, row)) / len(row) + NORM_EPS)
    else:
        np.multiply(x, x, out=buffers.squares[:, :-1])
        np.dot(buffers.squares, buffers.mean, out=buffers.root)
        np.sqrt(buffers.root, out=buffers.root)
    return np.divide(x, buffers.root, out=buffers.normed)


def _as_complex(cos: Tensor, sin: Tensor) -> NDArray[np.complexfloating[Any, Any]]:
    """Rotations of pairs as complex numbers (W, 1, D / 2), from cosines and sines (W, D)."""
    half = cos.shape[1] // 2
    return torch.complex(cos[:, :half], sin[:, :half]).numpy()[:, None]


def _fold(weight: Tensor, gain: Tensor) -> Floats:
    """A matrix (R, C) with the gain (C,) of the norm before it, transposed to (C, R)."""
    return _array((weight * gain).T)


def _array(weight: Tensor) -> Floats:
    return np.ascontiguousarray(weight.detach().numpy())
