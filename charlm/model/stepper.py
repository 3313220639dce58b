"""The same model in NumPy, for one more character at a time: there a call costs less than in torch.

Axes: B texts, T positions read, S positions seen, R = B T rows, H heads, K heads of keys, G = H / K
queries that share a key, D values per head, C width, V symbols.
"""

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from charlm.model.folded import Folded, FoldedLayer, Numbers
from charlm.model.norm import NORM_EPS

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
