"""A transformer's weights laid out for the fast decoder in C (charlm/native/decoder.py), which reads symbol by symbol.

At one character per call the products are so small that torch's overhead would take most of the time.

Shapes: H query heads, K key heads, D head size, C width, F hidden width of the MLP, V symbols, W block size.
"""

from math import sqrt
from typing import cast

import numpy as np
import torch
from torch import Tensor

from charlm.model.attention import Attention
from charlm.model.layers import NORM_EPS
from charlm.model.positions import Position, Rotary
from charlm.model.transformer import Block, LanguageModel
from charlm.native.decoder import Floats32, LayerArrays, ModelArrays, panels
from charlm.native.library import library


def fast_decoder_fits(model: LanguageModel) -> bool:
    """Whether the fast decoder is available and supports this model.

    It supports attention only, with no bias on the scores but the causal mask, on the CPU in fp32.
    """
    weight, config, position = model.embedding.weight, model.config, type(model.position)
    return (
        library() is not None
        and (weight.dtype, weight.device.type) == (torch.float32, "cpu")
        and set(config.mixers) == {"attention"}
        and config.causal
        and config.window is None
        and not config.locality
        and position.bias is Position.bias
        and (position is Rotary or position.rotation is Position.rotation)
        and model.n_symbols > 1  # with one symbol, NgramPrior cannot tell a prior from a dropped one
    )


@torch.no_grad()
def arranged(model: LanguageModel) -> ModelArrays:
    """Return a model's weights laid out for C, with the gain of each norm folded into the matrix after it."""
    weight, prior, ngrams = model.embedding.weight, model.prior, model.ngrams
    pos = torch.arange(model.block_size)
    zeros = weight.new_zeros(1, model.block_size, weight.shape[1])
    added = model.position.embed(zeros, pos)[0]  # (W, C)
    turns = None
    if isinstance(model.position, Rotary):
        half = model.position.head_size // 2
        cos, sin = (angle[:, :half] for angle in model.position.angles(pos, zeros))
        turns = _array(torch.stack((cos, sin), dim=-1).flatten(1))  # (W, D)
    gate = [] if prior is None else [prior.gate]
    return ModelArrays(
        block_size=model.block_size,
        layers=[_layer(cast("Block", block), rotated=turns is not None) for block in model.blocks],
        embedding=_array(torch.cat((weight, torch.zeros_like(weight[:1])))),
        added=_array(added) if added.any() else None,
        ngrams=None if ngrams is None else _array(ngrams.table),
        orders=0 if ngrams is None else len(ngrams.orders),
        turns=turns,
        read=None if prior is None else panels(_array(prior.read.T)),
        head=panels(_fold(torch.cat((weight, *gate)), model.norm.weight)),
        eps=NORM_EPS,
    )


def _layer(block: Block, *, rotated: bool) -> LayerArrays:
    mixer = block.mixer
    assert isinstance(mixer, Attention)
    D, K = mixer.head_size, mixer.n_kv_head
    H = mixer.qkv.sizes[0] // D
    # The two values of a rotated pair become neighbours.
    order = np.arange(D).reshape(2, -1).T.ravel() if rotated else np.arange(D)
    columns = np.arange(mixer.qkv.weight.shape[0])
    columns[: (H + K) * D] = (np.arange(H + K)[:, None] * D + order).ravel()
    q_gain, k_gain = (_array(norm.weight)[order] for norm in (mixer.q_norm, mixer.k_norm))
    # silu(a) b = -((-a) b / (1 + exp(-a))): the gate is stored negated, and so is the matrix after it.
    gate_up = _fold(block.mlp.gate_up.weight, block.mlp_norm.weight)
    gate_up[:, : block.mlp.gate_up.sizes[0]] *= -1
    return LayerArrays(
        qkv=panels(_fold(mixer.qkv.weight, block.mixer_norm.weight)[:, columns]),
        gains=np.stack([q_gain / np.float32(sqrt(D))] * H + [k_gain] * K),
        out=panels(_array(mixer.out.weight.T)),
        gate_up=panels(gate_up),
        down=panels(_array(-block.mlp.down.weight.T)),
    )


def _fold(weight: Tensor, gain: Tensor) -> Floats32:
    """Multiply a matrix (R, C) by the gain (C,) of the norm before it, and transpose it to (C, R)."""
    return _array((weight * gain).T)


def _array(weight: Tensor) -> Floats32:
    return np.ascontiguousarray(weight.detach().numpy())
