"""The training kernels in C (norm.c, attention.c, swiglu.c, loss.c), called on tensors.

Each allocates its outputs, in fp32 or in the dtype of the activations. Shapes: N rows, B texts, T positions,
C width, H query heads, K key heads, D head size, F hidden width, V symbols, W columns of scores (V, or V + 1 with a gate).
"""

import ctypes
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from charlm.native.library import Library, Pointer, Size, library
from charlm.native.tensors import address

PARTS = 16  # as in kernel.h


class _Attention(ctypes.Structure):
    _fields_ = [
        *((name, Size) for name in ("B", "T", "H", "K", "D")),
        ("eps", ctypes.c_float),
        *((name, Pointer) for name in ("q_gain", "k_gain", "cosines", "sines", "first")),
    ]


@dataclass(frozen=True, eq=False)
class AttentionShape:
    """The arguments of attention that all layers share in one pass."""

    B: int
    T: int
    H: int
    K: int
    D: int
    eps: float
    cosines: Tensor  # (T, D / 2)
    sines: Tensor
    first: Tensor | None  # (B, T) int32: the first key that each query may read; None: 0

    def __post_init__(self) -> None:
        assert self.D % 2 == 0 and self.H % self.K == 0
        assert self.cosines.shape == self.sines.shape == (self.T, self.D // 2)
        assert self.first is None or (
            self.first.shape == (self.B, self.T) and self.first.dtype == torch.int32
        )

    def for_c(self, q_gain: Tensor, k_gain: Tensor) -> _Attention:
        """Return the arguments of one layer for C; valid while these tensors live."""
        assert q_gain.shape == k_gain.shape == (self.D,)
        pointers = map(address, (q_gain, k_gain, self.cosines, self.sines, self.first))
        return _Attention(self.B, self.T, self.H, self.K, self.D, self.eps, *pointers)


class Kernels:
    """The kernels for activations of one dtype, bf16 or fp32."""

    def __init__(self, native: Library, dtype: torch.dtype) -> None:
        kind = "bf16" if dtype == torch.bfloat16 else "fp32"
        P, S = Pointer, Size
        self.dtype = dtype
        self._norm = native.function("norm", kind, *[P] * 6, S, S, ctypes.c_float)
        self._norm_backward = native.function("norm_backward", kind, *[P] * 8, S, S)
        self._swiglu = native.function("swiglu", kind, P, P, S, S)
        self._swiglu_backward = native.function("swiglu_backward", kind, *[P] * 3, S, S)
        self._room = native.function("attention_room", kind, P, P)
        self._attention = native.function("attention", kind, *[P] * 5, S)
        self._attention_backward = native.function("attention_backward", kind, *[P] * 8, S)
        self._cross_entropy = native.function("cross_entropy", kind, *[P] * 6, S, S)

    def norm(
        self, residual: Tensor, branch: Tensor | None, gain: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return x = residual + branch (N, C), RMSNorm(x) (N, C) in the dtype, and the inverse root mean squares (N,)."""
        N, C = residual.shape
        x = residual if branch is None else torch.empty_like(residual)
        y, r = residual.new_empty((N, C), dtype=self.dtype), residual.new_empty(N)
        self._norm(
            address(residual), address(branch), address(gain), address(x), address(y), address(r), N, C, eps
        )
        return x, y, r

    def norm_backward(
        self, x: Tensor, gain: Tensor, r: Tensor, dy: Tensor, dx: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add to dx (N, C) the gradient through y; return dx in the dtype, and the gradient of the gain (C,)."""
        N, C = x.shape
        rounded = dx if self.dtype == dx.dtype else dx.new_empty((N, C), dtype=self.dtype)
        dgain, parts = dx.new_empty(C), dx.new_empty((PARTS, C))
        arguments = map(address, (x, gain, r, dy, dx))
        self._norm_backward(
            *arguments, address(None if rounded is dx else rounded), address(dgain), address(parts), N, C
        )
        return rounded, dgain

    def swiglu(self, gate_up: Tensor) -> Tensor:
        """Return silu(gate) up, (N, F), from (N, 2 F)."""
        N, F = gate_up.shape[0], gate_up.shape[1] // 2
        h = gate_up.new_empty((N, F))
        self._swiglu(address(gate_up), address(h), N, F)
        return h

    def swiglu_backward(self, gate_up: Tensor, dh: Tensor) -> Tensor:
        """Return the gradient of gate_up (N, 2 F), given dh (N, F)."""
        N, F = dh.shape
        dgate_up = torch.empty_like(gate_up)
        self._swiglu_backward(address(gate_up), address(dh), address(dgate_up), N, F)
        return dgate_up

    def attention(
        self, shape: AttentionShape, q_gain: Tensor, k_gain: Tensor, qkv: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return attention's output (N, H D) before its last matrix, from qkv (N, (H + 2 K) D); and sums for `backward`."""
        N = shape.B * shape.T
        assert qkv.shape == (N, (shape.H + 2 * shape.K) * shape.D)
        out = qkv.new_empty((N, shape.H * shape.D))
        sums = qkv.new_empty((shape.B, shape.H, shape.T, 2), dtype=torch.float32)
        a = shape.for_c(q_gain, k_gain)
        room, threads = self._buffer(a)
        arguments = map(address, (qkv, out, sums, room))
        self._attention(ctypes.byref(a), *arguments, threads)
        return out, sums

    def attention_backward(
        self,
        shape: AttentionShape,
        q_gain: Tensor,
        k_gain: Tensor,
        qkv: Tensor,
        out: Tensor,
        sums: Tensor,
        dout: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of qkv and of both gains (2, D), given dout (N, H D)."""
        dqkv = torch.empty_like(qkv)
        dgains = sums.new_empty((shape.B * shape.K, 2, shape.D))
        a = shape.for_c(q_gain, k_gain)
        room, threads = self._buffer(a)
        arguments = map(address, (qkv, out, dout, sums, dqkv, dgains, room))
        self._attention_backward(ctypes.byref(a), *arguments, threads)
        return dqkv, dgains.sum(dim=0)

    def cross_entropy(
        self, scores: Tensor, log_prior: Tensor | None, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the losses (N,) of targets (N,), and the gradient (N, W) of their mean, from scores (N, W)."""
        N, W = scores.shape
        V = W - (log_prior is not None)
        assert log_prior is None or (log_prior.shape == (N, V) and log_prior.dtype == torch.float32)
        assert targets.shape == (N,) and targets.dtype == torch.int64
        if N and not 0 <= int(targets.min()) <= int(targets.max()) < V:
            raise IndexError("a target is not in the vocabulary")  # C would write out of bounds
        losses, dscores = scores.new_empty(N, dtype=torch.float32), torch.empty_like(scores)
        room = losses.new_empty((N, V))
        arguments = map(address, (targets, losses, dscores, room))
        self._cross_entropy(address(scores), address(log_prior), *arguments, N, V)
        return losses, dscores

    def _buffer(self, a: _Attention) -> tuple[Tensor, int]:
        """Return buffers for as many threads as torch uses, and the number of threads."""
        size, threads = Size(), torch.get_num_threads()
        self._room(ctypes.byref(a), ctypes.byref(size))
        return torch.empty(threads * size.value), threads


@cache
def _kernels(native: Library, dtype: torch.dtype) -> Kernels:
    return Kernels(native, dtype)


def kernels(dtype: torch.dtype) -> Kernels | None:
    """Return the kernels for activations of that dtype, bf16 or fp32; None without the library."""
    native = library()
    return None if native is None else _kernels(native, dtype)
