"""The transformer for one character at a time: weights folded into few products, in NumPy or in C.

Axes: H heads, K heads of keys, G = H / K, D values per head, C width, F hidden width, V symbols, W places.

Axes: B texts, T positions read, S positions seen, R = B T rows, H heads, K heads of keys, G = H / K
queries that share a key, D values per head, C width, V symbols.

Axes: B texts, S places, T of them read now, V symbols.
"""

import ctypes
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from math import sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.model.attention import Attention
from charlm.model.layers import NORM_EPS
from charlm.model.ngram_embeddings import MULTIPLIERS, NGrams
from charlm.model.positions import Rotary
from charlm.model.transformer import Block, LanguageModel
from charlm.threads import threads

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


ROWS_AT_ONCE = 1024
TEXTS_AT_ONCE = 64
"""What is worked on at once stays in a processor's cache."""


class Stepper:
    """Keys and values of texts side by side, and the room to work in."""

    def __init__(self, folded: Folded, batch_size: int) -> None:
        self.folded = folded
        layer, W = folded.layers[0], folded.block_size
        shape = (len(folded.layers), batch_size, layer.n_kv_head, W)
        self.keys = np.empty((*shape, layer.head_size), folded.dtype)
        # A one beside each value: the weights times these are their sum.
        self.values = np.ones((*shape, layer.head_size + 1), folded.dtype)
        self._rooms: dict[tuple[int, int], _Room] = {}

    def read(self, ids: NDArray[np.int64], at: int, told: Numbers | None = None) -> Numbers:
        """Logits (B, V) of what follows the last of ids (B, S), of which the first `at` were read.

        `told` (B, T, C) is added to the rows of those that were not.
        """
        B, T = len(ids), ids.shape[1] - at
        size = max(1, min(TEXTS_AT_ONCE, ROWS_AT_ONCE // T))
        with np.errstate(over="ignore"):  # of a gate so far below zero that it is shut
            if size >= B:
                return self._read(slice(None), ids, at, told)
            parts = [slice(i, i + size) for i in range(0, B, size)]
            heard = [None if told is None else told[part] for part in parts]
            return np.concatenate(
                [self._read(part, ids[part], at, to) for part, to in zip(parts, heard, strict=True)]
            )

    def _read(self, part: slice, ids: NDArray[np.int64], at: int, told: Numbers | None) -> Numbers:
        B, S = ids.shape
        room = self._room(B, S - at)
        self._embed(room, ids, at)
        if told is not None:
            room.x += told.reshape(room.x.shape)
        keys, values = self.keys[:, part, :, :S], self.values[:, part, :, :S]
        layers = self.folded.layers
        for layer, k, v in zip(layers, keys, values, strict=True):
            room.ask(layer, k[:, :, at:], v[:, :, at:], at)
            if layer is layers[-1] and S - at > 1:  # of the last layer, only the last position is asked for
                last = self._room(B, 1)
                last.x[:] = room.x.reshape(B, S - at, -1)[:, -1]
                last.q[:] = room.q[:, :, :, -1:]
                room, at = last, S - 1
            room.find(layer, k, v, at)
            room.think(layer)
        logits: Numbers = np.dot(_normed(room.x, room), self.folded.head)
        return logits

    def _room(self, B: int, T: int) -> "_Room":
        room = self._rooms.get((B, T))
        if room is None:
            room = self._rooms[B, T] = _Room(self.folded, B, T)
        return room

    def _embed(self, room: "_Room", ids: NDArray[np.int64], at: int) -> None:
        """The rows of the ids read now, and the vectors of the n-grams that end there."""
        folded = self.folded
        B, T = len(ids), ids.shape[1] - at
        x = room.x.reshape(B, T, -1)  # the same memory
        unknown = len(folded.embedding) - 1
        if B == T == 1:
            x[:] = folded.embedding[min(int(ids[0, at]), unknown)]
        else:
            np.take(folded.embedding, np.minimum(ids[:, at:], unknown), axis=0, out=x, mode="clip")
        if folded.added is not None:
            x += folded.added[at : at + T]
        if folded.ngrams is not None:
            folded.ngrams.add(x, ids, at)


class _Room:
    """Room for all that is computed of B T rows, so that nothing is allocated; x is what goes up."""

    def __init__(self, folded: Folded, B: int, T: int) -> None:
        layer, C, dtype = folded.layers[0], folded.width, folded.dtype
        D, K, H = layer.head_size, layer.n_kv_head, layer.n_head
        R, G, asked = B * T, H // K, H + K
        self.folded, self.shape = folded, (B, K, G, T)

        def empty(*shape: int) -> Numbers:
            return np.empty(shape, dtype)

        self.x, self.normed, self.added, self.root = empty(R, C), empty(R, C), empty(R, C), empty(R, 1)
        self.squares, self.mean = _for_mean_square(empty(R, C + 1))
        self.qkv = empty(R, (asked + K) * D)
        self.asked = self.qkv[:, : asked * D].reshape(R, asked, D)
        self.v = self.qkv[:, asked * D :].reshape(B, T, K, D).swapaxes(1, 2)
        self.head_squares, self.head_mean = _for_mean_square(empty(R * asked, D + 1))
        self.head_squares_of = self.head_squares.reshape(R, asked, D + 1)[..., :-1]
        self.head_root = empty(R * asked, 1)
        self.qk = empty(R, asked, D)
        self.pairs = self.qk.view(np.result_type(dtype, np.complex64)) if folded.turns is not None else None
        by_place = self.qk.reshape(B, T, asked, D)
        roots = self.head_root.reshape(B, T, asked, 1)
        in_groups = (B, T, K, G)
        self.q_from = by_place[:, :, :H].reshape(*in_groups, D).transpose(0, 2, 3, 1, 4)
        self.q_root = roots[:, :, :H].reshape(*in_groups, 1).transpose(0, 2, 3, 1, 4)
        self.k_from, self.k_root = by_place[:, :, H:].swapaxes(1, 2), roots[:, :, H:].swapaxes(1, 2)
        self.q = empty(B, K, G, T, D)
        self.scores = empty(B * H * T * folded.block_size)
        self.found = empty(B, K, G * T, D + 1)
        self.sums = self.found[..., D:].reshape(B, K, G, T, 1).transpose(0, 3, 1, 2, 4)
        self.sought = self.found[..., :D].reshape(B, K, G, T, D).transpose(0, 3, 1, 2, 4)
        self.joined = empty(B, T, K, G, D)
        self.later = np.triu(np.full((T, T), -np.inf, dtype), 1)
        self.both, self.shut = empty(R, 2 * layer.hidden), empty(R, layer.hidden)

    def ask(self, layer: FoldedLayer, keys: Numbers, values: Numbers, at: int) -> None:
        """Queries into q; keys and values (B, K, T, D and one more) where they are kept."""
        B, _, _, T = self.shape
        np.dot(_normed(self.x, self), layer.qkv, out=self.qkv)
        np.multiply(self.asked, self.asked, out=self.head_squares_of)
        np.dot(self.head_squares, self.head_mean, out=self.head_root)
        np.sqrt(self.head_root, out=self.head_root)
        np.multiply(self.asked, layer.gains, out=self.qk)
        if self.pairs is not None:
            assert self.folded.turns is not None
            pairs = self.pairs.reshape(B, T, *self.pairs.shape[1:])
            pairs *= self.folded.turns[at : at + T]
        np.divide(self.q_from, self.q_root, out=self.q)
        np.divide(self.k_from, self.k_root, out=keys)
        values[..., :-1] = self.v

    def find(self, layer: FoldedLayer, keys: Numbers, values: Numbers, at: int) -> None:
        """Add to x what the queries find in keys and values (B, K, S, D and one more)."""
        B, K, G, T = self.shape
        S = keys.shape[2]
        scores = self.scores[: B * K * G * T * S].reshape(B, K, G * T, S)
        np.matmul(self.q.reshape(B, K, G * T, -1), keys.swapaxes(2, 3), out=scores)
        apart = scores.reshape(B, K, G, T, S)
        if self.folded.bias is not None:
            apart += self.folded.bias[:, :, at:S, :S]
        elif T > 1:
            apart[..., at:] += self.later
        if not self.folded.small:
            scores -= scores.max(axis=-1, keepdims=True)
        np.exp(scores, out=scores)
        np.matmul(scores, values, out=self.found)
        np.divide(self.sought, self.sums, out=self.joined)
        self.x += np.dot(self.joined.reshape(B * T, -1), layer.out, out=self.added)

    def think(self, layer: FoldedLayer) -> None:
        """Add to x what SwiGLU makes of it."""
        np.dot(_normed(self.x, self), layer.gate_up, out=self.both)
        gate, up = self.both[:, : layer.hidden], self.both[:, layer.hidden :]  # the gate negated
        np.exp(gate, out=self.shut)
        self.shut += 1
        up *= gate
        up /= self.shut
        self.x += np.dot(up, layer.down, out=self.added)


def _for_mean_square(squares: Numbers) -> tuple[Numbers, Numbers]:
    """Room (..., C + 1) for squares, and the vector (C + 1, 1) whose product with it is the norm's mean."""
    width = squares.shape[-1] - 1
    squares[..., -1] = 1
    mean = np.full((width + 1, 1), 1 / width, squares.dtype)
    mean[-1] = NORM_EPS
    return squares, mean


def _normed(x: Numbers, room: _Room) -> Numbers:
    """Rows (R, C) brought to unit mean square; the gain is in what follows."""
    if len(x) == 1:
        row = x[0]
        room.root[0, 0] = sqrt(float(np.dot(row, row)) / len(row) + NORM_EPS)
    else:
        np.multiply(x, x, out=room.squares[:, :-1])
        np.dot(room.squares, room.mean, out=room.root)
        np.sqrt(room.root, out=room.root)
    return np.divide(x, room.root, out=room.normed)


TILE = 32  # as in step.c
PARTS_FROM = 16
"""Fewer texts are not worth a second thread."""

Pointer = ctypes.c_void_p
Size = ctypes.c_int64
SIZES = ("n_layer", "C", "H", "K", "D", "W", "F", "V", "symbols", "orders", "rows")
SHARED = ("embedding", "added", "ngrams", "turns", "head")
OF_LAYER = ("qkv", "gains", "out", "gate_up", "down")


class _Layer(ctypes.Structure):
    _fields_ = [(name, Pointer) for name in (*OF_LAYER, "keys", "values")]


class _Model(ctypes.Structure):
    _fields_ = [
        *((name, Size) for name in SIZES),
        *((name, Pointer) for name in SHARED),
        ("eps", ctypes.c_float),
    ]


class CStepper:
    """Keys and values of texts side by side, in parts that threads work on."""

    def __init__(self, folded: Folded, batch_size: int, library: ctypes.CDLL) -> None:
        n_parts = min(threads(), batch_size // PARTS_FROM) or 1
        bounds = [batch_size * i // n_parts for i in range(n_parts + 1)]
        self._texts = [slice(start, end) for start, end in pairwise(bounds)]
        self._parts = [_Part(folded, part.stop - part.start, library) for part in self._texts]
        self._threads = ThreadPoolExecutor(n_parts - 1) if n_parts > 1 else None

    @staticmethod
    def fits(folded: Folded, library: ctypes.CDLL) -> bool:
        """Was the step compiled, and can it stand for this model?"""
        return (
            hasattr(library, "read_ids")
            and folded.dtype == np.float32
            and folded.bias is None
            and folded.small
        )

    def read(self, ids: NDArray[np.int64], at: int, told: Numbers | None = None) -> Numbers:
        """Logits (B, V) of what follows the last of ids (B, S), of which the first `at` were read.

        `told` (B, T, C) is added to the rows of those that were not.
        """
        first = self._parts[0]
        if self._threads is None:
            return first.read(ids, at, told)
        heard = [None if told is None else told[texts] for texts in self._texts]
        others = list(zip(self._parts, self._texts, heard, strict=True))[1:]
        waited = [self._threads.submit(part.read, ids[texts], at, to) for part, texts, to in others]
        mine = first.read(ids[self._texts[0]], at, heard[0])
        return np.concatenate([mine, *(future.result() for future in waited)])


class _Part:
    """Some of the texts, by one thread; what is pointed to is kept."""

    def __init__(self, folded: Folded, batch_size: int, library: ctypes.CDLL) -> None:
        layer, C, W = folded.layers[0], folded.width, folded.block_size
        D, K, H, F = layer.head_size, layer.n_kv_head, layer.n_head, layer.hidden
        L, ngrams = len(folded.layers), folded.ngrams
        self._B, self._C = batch_size, C
        self._keys, self._values = np.empty((2, L, batch_size, K, W, D), np.float32)
        sizes = (L, C, H, K, D, W, F, folded.head.shape[1], len(folded.embedding) - 1)
        of_ngrams = (ngrams.reach, ngrams.rows) if ngrams else (0, 0)
        table = ngrams.table if ngrams else None
        shared = (folded.embedding, folded.added, table, folded.turns, folded.head)
        self._model = _Model(*sizes, *of_ngrams, *(_pointer(array) for array in shared), NORM_EPS)
        self._layers = (_Layer * L)(
            *(
                _Layer(
                    *(_pointer(getattr(layer, name)) for name in OF_LAYER), _pointer(keys), _pointer(values)
                )
                for layer, keys, values in zip(folded.layers, self._keys, self._values, strict=True)
            )
        )
        self._room = np.empty(TILE * (3 * C + (H + 2 * K) * D + 3 * F) + W, np.float32)
        self._x = np.empty((batch_size, C), np.float32)
        self._logits = np.empty((batch_size, folded.head.shape[1]), np.float32)
        self._call = library.read_ids
        self._call.argtypes = [*[Pointer] * 3, *[Size] * 4, *[Pointer] * 4]
        self._call.restype = None
        self._kept = folded
        self._first = (ctypes.addressof(self._model), ctypes.addressof(self._layers))
        self._last = (_pointer(self._room), _pointer(self._logits))

    def read(self, ids: NDArray[np.int64], at: int, told: Numbers | None) -> Numbers:
        """Logits (B, V) of what follows; they are overwritten by the next."""
        T = ids.shape[1] - at
        if len(self._x) < self._B * T:
            self._x = np.empty((self._B * T, self._C), np.float32)
        stride = ids.strides[0] // ids.itemsize
        assert ids.strides[1] == ids.itemsize and ids.dtype == np.int64
        assert told is None or told.dtype == np.float32
        read = (ids.ctypes.data, stride, self._B, T, at, _pointer(told))
        self._call(*self._first, *read, self._x.ctypes.data, *self._last)
        return self._logits


def _pointer(array: NDArray[Any] | None) -> int | None:
    assert array is None or array.flags.c_contiguous
    return None if array is None else array.ctypes.data
