"""Blocks and loss as two autograd functions, for training and scoring on a CPU: matrix products in torch, all else in C.

`ModelConfig.has_kernels` says which models are supported, and `kernels_for` whether a model can use the kernels now; the
modules in attention.py and transformer.py compute the same, and are the reference. Shapes: B texts, T positions, N = B T rows, C width, V symbols.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from charlm.model.attention import Attention
from charlm.model.layers import NORM_EPS
from charlm.model.positions import Rotary, rotary_turns
from charlm.native.block_kernels import AttentionShape, Kernels, kernels

if TYPE_CHECKING:
    from charlm.model.transformer import Block, LanguageModel


class LayerWeights(NamedTuple):
    """The weights of a block, in the order of FusedBlocks' arguments."""

    mixer_norm: Tensor  # (C,)
    qkv: Tensor  # ((H + 2 K) D, C)
    q_norm: Tensor  # (D,)
    k_norm: Tensor  # (D,)
    out: Tensor  # (C, H D)
    mlp_norm: Tensor  # (C,)
    gate_up: Tensor  # (2 F, C)
    down: Tensor  # (C, F)

    @classmethod
    def of(cls, block: "Block") -> "LayerWeights":
        """Return the weights of a block whose mixer is attention."""
        mixer, mlp = block.mixer, block.mlp
        assert isinstance(mixer, Attention)
        gains = mixer.q_norm.weight, mixer.k_norm.weight
        matrices = mlp.gate_up.weight, mlp.down.weight
        return cls(
            block.mixer_norm.weight,
            mixer.qkv.weight,
            *gains,
            mixer.out.weight,
            block.mlp_norm.weight,
            *matrices,
        )

    def rounded(self, dtype: torch.dtype) -> "LayerWeights":
        """Return the same weights, with matrices in that dtype."""
        return LayerWeights(*(weight.to(dtype) if weight.ndim == 2 else weight for weight in self))


class LayerValues(NamedTuple):
    """The activations of a block that its backward pass needs."""

    x: Tensor  # (N, C) fp32
    r: Tensor  # (N,)
    normed: Tensor  # (N, C)
    qkv: Tensor  # (N, (H + 2 K) D)
    attended: Tensor  # (N, H D)
    sums: Tensor  # (B, H, T, 2)
    x_mlp: Tensor  # (N, C) fp32
    r_mlp: Tensor  # (N,)
    normed_mlp: Tensor  # (N, C)
    gate_up: Tensor  # (N, 2 F)
    hidden: Tensor  # (N, F)
    kept: Tensor | None  # dropout mask of the attention branch (N, C)
    kept_mlp: Tensor | None  # and of the MLP branch


class Pass(NamedTuple):
    """The arguments of one pass through all blocks, apart from the weights."""

    kernels: Kernels
    shape: AttentionShape
    dropout: float


def kernels_for(model: "LanguageModel") -> Kernels | None:
    """Return the kernels for this model's blocks in the current precision; None where the modules compute them."""
    weight = model.embedding.weight
    if not model.has_kernels or weight.device.type != "cpu" or weight.dtype != torch.float32:
        return None
    if any(map(_has_hooks, model.parts)):  # the kernels would not call them
        return None
    return kernels(torch.bfloat16 if torch.is_autocast_enabled("cpu") else torch.float32)


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)


def run_blocks(model: "LanguageModel", c: Kernels, x: Tensor, docs: Tensor | None) -> Tensor:
    """Compute all blocks and the final norm: (B, T, C) in the kernels' dtype, from (B, T, C) and documents (B, T)."""
    B, T, C = x.shape
    mixer = model.blocks[0].mixer
    assert isinstance(mixer, Attention) and isinstance(model.position, Rotary)
    D = mixer.head_size
    cosines, sines = _angles(D, model.position.base, T)
    first = first_keys(B, T, model.config.window, docs)
    shape = AttentionShape(B, T, C // D, mixer.n_kv_head, D, NORM_EPS, cosines, sines, first)
    dropout = (model.config.dropout or 0.0) if model.training else 0.0
    weights = [weight for block in model.blocks for weight in LayerWeights.of(block)]  # type: ignore[arg-type]
    told = Pass(c, shape, dropout)
    y: Tensor = FusedBlocks.apply(  # type: ignore[no-untyped-call]
        x.reshape(B * T, C), told, model.norm.weight, *weights
    )
    return y.view(B, T, C)


@lru_cache(maxsize=8)
def _angles(head_size: int, base: float, T: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of rotary positions, (T, D / 2) each: one of the two equal halves of Rotary.angles."""
    turn = rotary_turns(head_size, base, torch.arange(T))
    return turn.cos().float(), turn.sin().float()


def first_keys(B: int, T: int, window: int | None, docs: Tensor | None) -> Tensor | None:
    """Return the first key (B, T) that each query may read, given window and documents (B, T); None: 0 for all."""
    if window is None and docs is None:
        return None
    at = torch.arange(T, dtype=torch.int32).expand(B, T)
    first = torch.zeros_like(at) if window is None else (at - (window - 1)).clamp(min=0)
    if docs is not None:
        begins = F.pad(docs[:, 1:] != docs[:, :-1], (1, 0))
        first = torch.maximum(first, (at * begins).cummax(dim=1).values)
    return first.contiguous()


class FusedBlocks(torch.autograd.Function):
    """All blocks and the final norm: (N, C) in the kernels' dtype, from x (N, C) and weights in LayerWeights' order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, told: Pass, gain: Tensor, *weights: Tensor) -> Tensor:
        """Compute the output; save the layers' activations if any input needs a gradient."""
        n, saved, branch = len(LayerWeights._fields), list[Tensor | None](), None
        for i in range(0, len(weights), n):
            w = LayerWeights(*weights[i : i + n]).rounded(told.kernels.dtype)
            x, values, branch = FusedBlocks._layer(told, w, x, branch)
            if any(ctx.needs_input_grad):
                saved += [*w, *values]
        x, y, r = told.kernels.norm(x, branch, gain, NORM_EPS)
        ctx.told = told
        ctx.save_for_backward(gain, x, r, *saved)
        return y

    @staticmethod
    def _layer(
        told: Pass, w: LayerWeights, x: Tensor, branch: Tensor | None
    ) -> tuple[Tensor, LayerValues, Tensor]:
        """Compute one block from x and the branch to be added to it; return the next x, values to save, the next branch."""
        c = told.kernels
        x, normed, r = c.norm(x, branch, w.mixer_norm, NORM_EPS)
        qkv = normed @ w.qkv.T
        attended, sums = c.attention(told.shape, w.q_norm, w.k_norm, qkv)
        branch, kept = _drop(attended @ w.out.T, told)
        x_mlp, normed_mlp, r_mlp = c.norm(x, branch, w.mlp_norm, NORM_EPS)
        gate_up = normed_mlp @ w.gate_up.T
        hidden = c.swiglu(gate_up)
        branch, kept_mlp = _drop(hidden @ w.down.T, told)
        mixer = (x, r, normed, qkv, attended, sums)
        mlp = (x_mlp, r_mlp, normed_mlp, gate_up, hidden)
        return x_mlp, LayerValues(*mixer, *mlp, kept, kept_mlp), branch

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, of the final gain and of each weight."""
        told, (gain, x, r, *saved) = ctx.told, ctx.saved_tensors
        dx, found = torch.zeros_like(x), list[Tensor]()
        rounded, dgain = told.kernels.norm_backward(x, gain, r, gradients[0].contiguous(), dx)
        n, size = len(LayerWeights._fields), len(LayerWeights._fields) + len(LayerValues._fields)
        for i in range(len(saved) - size, -1, -size):
            w, values = LayerWeights(*saved[i : i + n]), LayerValues(*saved[i + n : i + size])
            rounded, of_layer = FusedBlocks._layer_backward(told, w, values, dx, rounded)
            found = [*of_layer, *found]
        return dx, None, dgain, *found

    @staticmethod
    def _layer_backward(
        told: Pass, w: LayerWeights, v: LayerValues, dx: Tensor, rounded: Tensor
    ) -> tuple[Tensor, LayerWeights]:
        """Turn dx, the gradient of a block's output, into that of its input; return it rounded, and those of the weights."""
        c = told.kernels
        d = _drop_backward(rounded, v.kept_mlp, told)
        ddown, dhidden = _matrix_gradient(d, v.hidden), d @ w.down
        dgate_up = c.swiglu_backward(v.gate_up, dhidden)
        dgate_up_matrix, dnormed = _matrix_gradient(dgate_up, v.normed_mlp), dgate_up @ w.gate_up
        rounded, dmlp_norm = c.norm_backward(v.x_mlp, w.mlp_norm, v.r_mlp, dnormed, dx)
        d = _drop_backward(rounded, v.kept, told)
        dout, dattended = _matrix_gradient(d, v.attended), d @ w.out
        dqkv, dgains = c.attention_backward(
            told.shape, w.q_norm, w.k_norm, v.qkv, v.attended, v.sums, dattended
        )
        dqkv_matrix, dnormed = _matrix_gradient(dqkv, v.normed), dqkv @ w.qkv
        rounded, dmixer_norm = c.norm_backward(v.x, w.mixer_norm, v.r, dnormed, dx)
        mixer = (dmixer_norm, dqkv_matrix, dgains[0], dgains[1], dout)
        return rounded, LayerWeights(*mixer, dmlp_norm, dgate_up_matrix, ddown)


def _drop(branch: Tensor, told: Pass) -> tuple[Tensor, Tensor | None]:
    """Apply dropout with the random numbers that nn.Dropout would draw; return the mask too."""
    if not told.dropout:
        return branch, None
    B, C = told.shape.B, branch.shape[1]
    dropped, kept = torch.native_dropout(branch.view(B, -1, C), told.dropout, True)
    return dropped.view_as(branch), kept.view_as(branch)


def _drop_backward(d: Tensor, kept: Tensor | None, told: Pass) -> Tensor:
    return d if kept is None else d * kept * (1 / (1 - told.dropout))


def _matrix_gradient(dy: Tensor, x: Tensor) -> Tensor:
    """Return the gradient (out, in) of a matrix, in fp32, from dy (N, out) and x (N, in)."""
    return (dy.T @ x).float()


def cross_entropy(
    model: "LanguageModel", c: Kernels, hidden: Tensor, log_prior: Tensor | None, targets: Tensor
) -> Tensor:
    """Return the mean cross-entropy of targets (B, T), given the hidden vectors (B, T, C) that `run_blocks` returned."""
    B, T, C = hidden.shape
    head = model.embedding.weight
    prior = None
    if log_prior is not None:
        assert model.prior is not None
        head, prior = torch.cat((head, model.prior.gate)), log_prior.reshape(B * T, -1).contiguous()
    x, targets = hidden.reshape(B * T, C), targets.flatten().contiguous()
    loss: Tensor = FusedLoss.apply(x, head, c, prior, targets)  # type: ignore[no-untyped-call]
    return loss


class FusedLoss(torch.autograd.Function):
    """Output head and mean cross-entropy of targets (N,), from hidden vectors (N, C) and the head's weights (W, C)."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, c: Kernels, log_prior: Tensor | None, targets: Tensor
    ) -> Tensor:
        """Return the loss; the gradient of the scores is computed here already."""
        head = head.to(c.dtype)
        losses, dscores = c.cross_entropy(hidden @ head.T, log_prior, targets)
        ctx.save_for_backward(hidden, head, dscores)
        return losses.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the hidden vectors and of the head."""
        hidden, head, dscores = ctx.saved_tensors
        if float(gradients[0]) != 1:
            dscores = dscores * gradients[0]
        return dscores @ head, _matrix_gradient(dscores, hidden), None, None, None
