"""The optimizer's arithmetic in C: gradient norm and AdamW (optimizer.c), Muon (muon.c), Adagrad (ngram_embeddings.c).

It needs weights in fp32 on the CPU. Pointers to weights and their state are taken once, so no tensor may be replaced.
"""

import ctypes
from collections.abc import Mapping, Sequence
from math import sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from charlm.native.library import Library, Pointer, Size
from charlm.native.tensors import address

CHUNK = 16384
"""Numbers that a thread processes at once."""
Number = ctypes.c_float


class Moments(NamedTuple):
    """The state of a weight that AdamW trains, and its weight decay."""

    mean: Tensor
    square: Tensor
    decay: float


class MuonPiece(NamedTuple):
    """A matrix (R, C) that is part of a fused weight, with buffers for Newton-Schulz iteration of it or its transpose."""

    weight: int  # index in the list of weights
    first_row: int
    n_rows: int
    momentum: Tensor  # of the whole weight
    x: Tensor  # where the iteration starts
    direction: Tensor  # where its result will be


class _Chunk(ctypes.Structure):
    _fields_ = [("tensor", Size), ("start", Size), ("end", Size)]


class _Adapted(ctypes.Structure):
    _fields_ = [("weight", Pointer), ("mean", Pointer), ("square", Pointer), ("decay", Number)]


class _AdamW(ctypes.Structure):
    _fields_ = [
        (name, Number) for name in ("scale", "rate", "beta1", "beta2", "eps", "correction1", "correction2")
    ]


class _Piece(ctypes.Structure):
    _fields_ = [
        *((name, Pointer) for name in ("weight", "momentum", "x", "direction")),
        *((name, Size) for name in ("tensor", "offset", "R", "C", "transposed")),
        ("shape_rate", Number),
    ]


class NativeOptimizer:
    """Gradient norm, AdamW and Muon updates of a list of weights, from gradients that are read once a step."""

    def __init__(
        self,
        library: Library,
        weights: Sequence[Tensor],
        moments: Mapping[int, Moments],
        pieces: Sequence[MuonPiece],
    ) -> None:
        """`moments`: of the weights that AdamW trains, by their index in `weights`."""
        self._kept = (moments, pieces, [weight.detach() for weight in weights])
        self._weights = weights
        self._gradients: list[Tensor] = []
        self._pointers = (Pointer * len(weights))()
        self._norm_chunks = _chunks(weights, range(len(weights)))
        self._sums = (ctypes.c_double * len(self._norm_chunks))()
        self._adapted = (_Adapted * len(weights))()
        for i, (mean, square, decay) in moments.items():
            self._adapted[i] = _Adapted(address(weights[i]), address(mean), address(square), decay)
        self._adamw_chunks = _chunks(weights, moments)
        self._pieces = (_Piece * len(pieces))(*(_piece(weights[piece.weight], piece) for piece in pieces))
        many = (Pointer, Size)
        self._norm_of = library.function("gradient_norm", "fast", *many, *[Pointer] * 3)
        self._adamw = library.function("adamw", "fast", Pointer, *many, Pointer, Pointer)
        kind = "bf16" if pieces and pieces[0].x.dtype == torch.bfloat16 else "fp32"
        self._momentum = library.function("muon_momentum", kind, *many, Pointer, *[Number] * 3)
        self._apply = library.function("muon_apply", kind, *many, Number, Number)

    def read_gradients(self) -> float:
        """Read the gradients of a step, and return their norm. A missing gradient counts as zeros."""
        self._gradients = [
            torch.zeros_like(weight) if weight.grad is None else weight.grad.contiguous()
            for weight in self._weights
        ]
        for i, gradient in enumerate(self._gradients):
            self._pointers[i] = gradient.data_ptr()
        norm = Number()
        chunks = self._norm_chunks
        self._norm_of(chunks, len(chunks), self._pointers, self._sums, ctypes.byref(norm))
        return norm.value

    def adamw(
        self, scale: float, rate: float, betas: tuple[float, float], eps: float, n_updates: int
    ) -> None:
        """Update by AdamW with `scale` times the gradients; `n_updates` includes this update."""
        corrections = (1 - betas[0] ** n_updates, sqrt(1 - betas[1] ** n_updates))
        by = _AdamW(scale, rate, *betas, eps, *corrections)
        chunks = self._adamw_chunks
        self._adamw(ctypes.byref(by), chunks, len(chunks), self._adapted, self._pointers)

    def muon_momentum(self, scale: float, momentum: float, eps: float) -> None:
        """Update the momenta by `scale` times the gradients, and fill each piece's `x`, normalised to norm 1."""
        self._momentum(self._pieces, len(self._pieces), self._pointers, scale, momentum, eps)

    def muon_apply(self, rate: float, weight_decay: float) -> None:
        """Move the weights against each piece's `direction`."""
        self._apply(self._pieces, len(self._pieces), rate, weight_decay)


class NativeNewtonSchulz:
    """Newton-Schulz iteration of a stack of matrices (N, R, C) of norm 1, in bf16."""

    ROWS, COLUMNS = 8, 32  # as in newton_schulz.c

    def __init__(
        self, library: Library, stack: Tensor, coefficients: tuple[float, ...], iterations: int
    ) -> None:
        assert self.fits(library, stack.shape[1], stack.shape[2], stack.dtype) and iterations % 2
        self.stack, self.result = stack, torch.empty_like(stack)
        self._settings = (*coefficients, iterations)
        self._call = library.function(
            "newton_schulz", "bf16", *[Pointer] * 2, *[Size] * 3, *[Number] * 3, Size, Pointer, Size
        )

    @classmethod
    def fits(cls, library: Library, n_rows: int, n_columns: int, dtype: torch.dtype | None) -> bool:
        """Whether this supports matrices (R, C), R >= C, and is faster than torch."""
        shape_fits = n_rows >= n_columns and n_rows % cls.ROWS == 0 and n_columns % cls.COLUMNS == 0
        return shape_fits and dtype == torch.bfloat16 and library.clone == "v4bf16" and not library.has_amx()

    def run(self) -> None:
        """Fill `result`; overwrites the stack."""
        (N, R, C), n_threads = self.stack.shape, torch.get_num_threads()
        room = torch.empty(n_threads * (R * C + 3 * C * C), dtype=self.stack.dtype)
        self._call(
            address(self.stack), address(self.result), N, R, C, *self._settings, address(room), n_threads
        )


class NgramEmbeddingUpdate:
    """Adagrad update of the rows of a table (U + 1, C) that a step has read; the last row, all zeros, stays."""

    def __init__(self, library: Library, table: Tensor, accumulators: Tensor) -> None:
        self._table, self._accumulators = table.detach(), accumulators
        self._slots = torch.zeros(len(table), dtype=torch.int32)
        self._update = library.function(
            "ngram_embeddings_update", "fast", *[Pointer] * 4, *[Size] * 4, *[Number] * 3, Pointer, Pointer
        )

    def __call__(self, index: Tensor, gradients: Tensor, rate: float, initial: float, eps: float) -> None:
        """Update the rows `index` (M, O), found by ngram_embeddings.py, from the gradients (M, C) of their sums."""
        (M, O), C = index.shape, gradients.shape[1]  # noqa: E741
        room = torch.empty(3 * M * O + 1, dtype=torch.int64)
        assert len(gradients) == M and self._table.shape[1] == C
        pointers = map(address, (self._table, self._accumulators, index, gradients))
        sizes = (M, O, C, len(self._table) - 1)
        self._update(*pointers, *sizes, rate, initial, eps, address(self._slots), address(room))


def _chunks(weights: Sequence[Tensor], chosen: Sequence[int] | Mapping[int, Moments]) -> ctypes.Array[_Chunk]:
    chunks = [
        _Chunk(i, start, min(start + CHUNK, weights[i].numel()))
        for i in chosen
        for start in range(0, weights[i].numel(), CHUNK)
    ]
    return (_Chunk * len(chunks))(*chunks)


def _piece(weight: Tensor, piece: MuonPiece) -> _Piece:
    R, C = piece.n_rows, weight.shape[1]
    rows = slice(piece.first_row, piece.first_row + R)
    transposed = piece.x.shape != (R, C)
    assert piece.x.shape == piece.direction.shape == ((C, R) if transposed else (R, C))
    matrices = (weight[rows], piece.momentum[rows], piece.x, piece.direction)
    sizes = (piece.weight, piece.first_row * C, R, C, transposed)
    return _Piece(*map(address, matrices), *sizes, sqrt(max(1.0, R / C)))
