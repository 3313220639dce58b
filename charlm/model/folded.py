"""An attention model's weights as NumPy arrays, folded so that reading a character takes few calls.

Axes: H heads, K heads of keys, G = H / K, D values per head, C width, F hidden width, V symbols, W places.
"""

from math import sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.model.language_model import Block, LanguageModel
from charlm.model.mixers.attention import Attention
from charlm.model.ngrams import MULTIPLIERS, NGrams
from charlm.model.positions.relative import Rotary

Numbers = NDArray[np.floating[Any]]
LONGEST = 1024
SMALL = 60.0
"""Scores within this have exponentials that fp32 can sum without taking the largest away first."""
WORD = (1 << 64) - 1
MOST_ROWS = 1 << 24  # of a hash of 24 bits


class Folded:
    """What all places of a block need, laid out once; gains of norms are in the matrices after them."""

    def __init__(self, model: LanguageModel) -> None:
        weight = model.embedding.weight
        self.block_size, self.width = model.block_size, weight.shape[1]
        gate = [] if model.prior is None else [model.prior.gate]  # a column more: the prior's weight
        self.head = _folded(torch.cat((weight, *gate)), model.norm.weight)  # (C, V or V + 1)
        self.dtype = self.head.dtype
        self.reads = None if model.prior is None else _array(model.prior.read.T)  # (V, C)
        # One row of zeros more: unknown ids read as nothing.
        self.embedding = np.pad(_array(weight), ((0, 1), (0, 0)))
        self.ngrams = FoldedNGrams(model.ngrams) if model.ngrams is not None else None
        places = torch.arange(model.block_size)
        zeros = torch.zeros(1, model.block_size, self.width, dtype=weight.dtype)
        with torch.no_grad():
            added = model.position.embed(zeros, places)[0].numpy()
            bias = model.places(places, None, zeros).bias
            rotary = model.position if isinstance(model.position, Rotary) else None
            angles = rotary.angles(places, zeros) if rotary else None
        self.added = added if added.any() else None  # (W, C)
        self.turns = _turns(*angles) if angles else None  # (W, 1, D / 2), complex
        self.layers = [FoldedLayer(block, rotary is not None) for block in model.blocks]  # type: ignore[arg-type]
        self.bias = self._bias(bias, model.config.n_head or 1)
        highest = max(layer.highest for layer in self.layers)
        limits = (0.0, 0.0) if self.bias is None else _limits(self.bias)
        self.small = highest + max(limits) < SMALL

    @staticmethod
    def fits(model: LanguageModel) -> bool:
        """Can it stand for this model?"""
        weight = model.embedding.weight
        plain = weight.dtype in (torch.float32, torch.float64) and weight.device.type == "cpu"
        short = model.block_size <= LONGEST  # what is laid out for a block grows with its square
        short &= model.ngrams is None or model.ngrams.rows <= MOST_ROWS
        return plain and short and set(model.config.mixers) == {"attention"}

    def told(self, log_prior: Numbers) -> Numbers:
        """What the first layer is told of a prior (B, T, V): (B, T, C), as `Prior.told` has it."""
        assert self.reads is not None
        roots = log_prior.reshape(-1, log_prior.shape[-1]) * self.dtype.type(0.5)
        np.exp(roots, out=roots)
        # Of two axes: NumPy multiplies three one by one.
        told: Numbers = np.dot(roots.astype(self.dtype, copy=False), self.reads)
        return told.reshape(*log_prior.shape[:-1], -1)

    def _bias(self, bias: Tensor, n_head: int) -> Numbers | None:
        """What is added to scores, (K, G, W, W), where it does more than hide what comes after."""
        if bool((bias.tril() == 0).all()):
            return None
        K = self.layers[0].n_kv_head
        W = self.block_size
        return bias.expand(n_head, -1, -1).reshape(K, n_head // K, W, W).numpy()


class FoldedLayer:
    """One block: its matrices with the gains before them, transposed for products from the left."""

    def __init__(self, block: Block, turned: bool) -> None:
        mixer = block.mixer
        assert isinstance(mixer, Attention)
        D = self.head_size = mixer.head_size
        self.n_kv_head, self.n_head = mixer.n_kv_head, mixer.qkv.sizes[0] // D
        asked = self.n_head + self.n_kv_head
        # Turned pairs stand beside each other, so that a turn is a product of complex numbers.
        order = np.arange(D).reshape(2, -1).T.ravel() if turned else np.arange(D)
        columns = np.arange(mixer.qkv.weight.shape[0])
        columns[: asked * D] = (np.arange(asked)[:, None] * D + order).ravel()
        self.qkv = np.ascontiguousarray(_folded(mixer.qkv.weight, block.mixer_norm.weight)[:, columns])
        q_gain, k_gain = (_array(norm.weight)[order] for norm in (mixer.q_norm, mixer.k_norm))
        self.highest = sqrt(D) * float(abs(q_gain).max() * abs(k_gain).max())  # that a score can be
        gains = [q_gain / q_gain.dtype.type(sqrt(D))] * self.n_head + [k_gain] * self.n_kv_head
        self.gains = np.stack(gains)  # (H + K, D)
        self.out = _array(mixer.out.weight.T)
        # silu(a) b = (-a) b / (1 + exp(-a)) times -1: the gate is kept negated, and so is what follows.
        both = _folded(block.mlp.gate_up.weight, block.mlp_norm.weight)
        self.hidden = block.mlp.gate_up.sizes[0]
        both[:, : self.hidden] *= -1
        self.gate_up = both
        self.down = -_array(block.mlp.down.weight.T)


class FoldedNGrams:
    """The vectors of n-grams, and which of them end at a place."""

    def __init__(self, ngrams: NGrams) -> None:
        self.table = _array(ngrams.table)
        self.n_symbols, self.rows, self.nothing = ngrams.n_symbols, ngrams.rows, ngrams.nothing
        if self.table[self.nothing].any():  # which training never does
            self.table = self.table.copy()
            self.table[self.nothing] = 0
        self.reach = len(ngrams.orders)

    def add(self, x: Numbers, ids: NDArray[np.int64], at: int) -> None:
        """Add to x (B, T, C) the vectors of what ends at places `at` on of ids (B, at + T)."""
        if x.shape[0] == x.shape[1] == 1:
            for row in self.rows_of_one(ids[0, max(0, at - self.reach) :].tolist()):
                x += self.table[row]
            return
        for index in self.index(ids, at):
            x += self.table[index]

    def index(self, ids: NDArray[np.int64], at: int) -> list[NDArray[np.int64]]:
        """For each order the rows (B, T) of the n-grams, as `NGrams.index` has them."""
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

    def rows_of_one(self, ids: list[int]) -> list[int]:
        """The same for the n-grams at the end of a few ids, in Python: there it is faster."""
        key = ids[-1]
        found: list[int] = []
        if key >= self.n_symbols:
            return found
        for i in range(len(ids) - 1):
            before = ids[-i - 2]
            if before >= self.n_symbols:
                break
            key = key * MULTIPLIERS[0] + before + 1
            found.append(((key * MULTIPLIERS[1] & WORD) >> 40 & (self.rows - 1)) + i * self.rows)
        return found


def _turns(cos: Tensor, sin: Tensor) -> NDArray[np.complexfloating[Any, Any]]:
    """The turns (W, 1, D / 2) of pairs as complex numbers, from cosines and sines (W, D)."""
    half = cos.shape[1] // 2
    return torch.complex(cos[:, :half], sin[:, :half]).numpy()[:, None]


def _limits(bias: Numbers) -> tuple[float, float]:
    """How far above nothing a bias lifts a score, and how far below it puts a place's own."""
    own = np.diagonal(bias, axis1=2, axis2=3)
    return float(bias.max()), -float(own.min())


def _folded(weight: Tensor, gain: Tensor) -> Numbers:
    """A matrix (R, C) with the gain (C,) before it, as (C, R)."""
    return _array((weight * gain).T)


def _array(weight: Tensor) -> Numbers:
    return np.ascontiguousarray(weight.detach().numpy())
