"""Look inside one prediction of a transformer: what each head attends to, and what each layer would predict.

Shapes: N ids of the text, T of them in the context, C width, H heads, D head size, V ids of the vocabulary.
"""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from charlm.data.tokenizer import Ids
from charlm.inference.predictor import TransformerPredictor, log_softmax_with_escape
from charlm.model.attention import (
    Attention,
    Mixer,
    PositionInfo,
    SimpleAttention,
    attend_plain,
    split_heads,
)
from charlm.model.transformer import Block

IDS_AT_ONCE = 4096
"""Ids that a model that carries state reads at once."""


@dataclass(frozen=True)
class Inside:
    """How a transformer arrives at its prediction of the next id."""

    start: int  # the first id of the context
    attention: list[Tensor]  # per block (H, T): weights of the last position; (0, T) without attention
    lens: list[Tensor]  # per layer (V,): log-probabilities after the embedding and after each block
    log_prior: Tensor | None  # (V,): those of the n-gram prior


@torch.inference_mode()
def look_inside(predictor: TransformerPredictor, ids: Ids) -> Inside:
    """Predict what follows ids (N,), N > 0, and keep what every layer does at the last of them.

    The lens of a layer is the final norm and the head, with the gated prior, applied to its output (nostalgebraist
    2020, Interpreting GPT: the logit lens). That after the last block is the prediction itself.
    """
    model, carried = predictor.model, predictor.rule.carried
    cache = None
    if carried:
        cache = model.new_cache(1)
        for begin in range(0, len(ids) - 1, IDS_AT_ONCE):
            part = ids[begin : min(begin + IDS_AT_ONCE, len(ids) - 1)]
            model.hidden(_batch(part), cache, log_prior=_log_prior(predictor, ids, begin, begin + len(part)))
    start = len(ids) - 1 if carried else predictor.rule.start(len(ids))
    read, log_prior = _batch(ids[start:]), _log_prior(predictor, ids, start, len(ids))
    places = torch.arange(read.shape[1]) + (0 if cache is None else cache.length)
    x = model.position.embed(
        model.embed(read, None if cache is None else cache.last_ids), places
    )  # (1, T, C)
    if log_prior is not None and model.prior is not None:
        x = x + model.prior.embed(log_prior)
    info = model.position_info(places, None, x)
    last = None if log_prior is None else log_prior[:, -1]
    lens, attention = [_lens(predictor, x, last)], list[Tensor]()
    for layer, module in enumerate(model.blocks):
        block = cast("Block", module)
        attention.append(_attention_weights(block.mixer, block.mixer_norm(x), info))
        x = block(x, info, None if cache is None else cache.layers[layer])
        lens.append(_lens(predictor, x, last))
    known = None if last is None else log_softmax_with_escape(predictor.vocabulary, last[0])
    return Inside(0 if carried else start, attention, lens, known)


def _batch(ids: Ids) -> Tensor:
    return torch.from_numpy(ids.astype(np.int64))[None]


def _log_prior(predictor: TransformerPredictor, ids: Ids, begin: int, end: int) -> Tensor | None:
    """The prior's log-probabilities (1, T, symbols) after each id from `begin` to `end`; None without a prior."""
    if predictor.prior is None:
        return None
    return torch.from_numpy(predictor.prior.log_rows(ids, np.array([begin]), end - begin))


def _lens(predictor: TransformerPredictor, x: Tensor, log_prior: Tensor | None) -> Tensor:
    """Apply the head to the last position of (1, T, C): log-probabilities (V,)."""
    logits = predictor.model.logits(predictor.model.norm(x[:, -1]), log_prior)
    return log_softmax_with_escape(predictor.vocabulary, logits[0] / predictor.temperature)


def _attention_weights(mixer: Mixer, x: Tensor, info: PositionInfo) -> Tensor:
    """Return the attention weights (H, T) of the last position of (1, T, C); (0, T) if the mixer has none."""
    T = x.shape[1]
    if isinstance(mixer, Attention):
        q, k, _ = (split_heads(part, mixer.head_size) for part in mixer.qkv.split(x))  # (1, H or K, T, D)
        q, k = mixer.q_norm(q), mixer.k_norm(k)
        k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    elif isinstance(mixer, SimpleAttention):
        q = k = split_heads(x, mixer.head_size)
    else:
        return x.new_empty(0, T)
    q, k = info.rotate(q)[:, :, -1:], info.rotate(k)
    weights = attend_plain(
        q, k, torch.eye(T, dtype=q.dtype), info.bias[..., -1:, :]
    )  # unit vectors as values give the weights
    return weights[0, :, 0]
