"""Pack a run's model for its page: 16-bit weights, n-gram counts, vocabulary and mixture.

Shapes: R rows of a table, C width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import log
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.checkpoint.snapshot import TABLE, Snapshot
from charlm.config import NGRAM, ModelConfig
from charlm.data.documents import separator_of
from charlm.data.text_config import TextConfig
from charlm.data.tokenizer import Vocabulary
from charlm.errors import CheckpointError
from charlm.evaluation.score import Estimate, score_slice, spread
from charlm.inference.members import predictor_of
from charlm.inference.predictor import Predictor
from charlm.model.mixture import Mixture
from charlm.ngram.kneser_ney import KneserNey
from charlm.ngram.table import Level
from charlm.page.container import Array, bits_of, compressed_size, half_precision, packed
from charlm.page.pruning import BASE64, MEGABYTE, level_arrays, pruned_to
from charlm.training.run_corpus import corpus_of

PAGE_MEGABYTES, LEAST_NGRAM_MEGABYTES = 14.5, 3.0
"""By default the n-grams get what the weights leave of a page of 15 MB, half of one reserved for the scripts and the run's
curves, and at least the second."""
SCORED = 30_000
"""Held-out symbols on which the cost of pruning is measured."""


@dataclass(frozen=True)
class PackedModel:
    """A model for the page, and what packing lost."""

    data: bytes  # gzipped
    snapshot: Snapshot  # the run with the weights and n-grams that were packed
    bits_lost: float | None = (
        None  # by pruning, per held-out character; None: nothing pruned, or the text is gone
    )
    bits_error: float | None = None  # its standard error

    @cached_property
    def predictor(self) -> Predictor:
        """A predictor with the same predictions as the page."""
        return predictor_of(self.snapshot)


def pack(
    snapshot: Snapshot, *, ngram_megabytes: float | None = None, about: Mapping[str, Any] | None = None
) -> PackedModel:
    """Pack the model of a run for its page.

    `ngram_megabytes`: how much of the page the n-grams may take, by default what is left of 15 MB; beyond that they are
    pruned, longest and rarest contexts first. `about`: what the page says about the run, as JSON. Raises UsageError if
    not even single symbols fit, CheckpointError if the checkpoint is damaged.
    """
    ngram = snapshot.kneser_ney() if uses_ngram(snapshot) else None
    kept = transformers_of(snapshot)
    arrays, rounded = dict[str, Array](), list[dict[str, Tensor]]()
    for i, (_, weights) in enumerate(kept):
        own, as_packed = weight_arrays(f"{i}.", weights)
        arrays |= own
        rounded.append(as_packed)
    if ngram_megabytes is None:
        left = PAGE_MEGABYTES - BASE64 * compressed_size(*arrays.values()) / MEGABYTE
        ngram_megabytes = max(LEAST_NGRAM_MEGABYTES, left)
    whole = list(ngram.levels) if ngram is not None else []
    levels = pruned_to(whole, ngram_megabytes)
    is_pruned = sum(len(level.symbols) for level in levels) < sum(len(level.symbols) for level in whole)
    arrays |= level_arrays(levels)
    as_packed_snapshot = _with_parts(snapshot, rounded, levels if is_pruned else None)
    data = packed({**header_of(snapshot, levels), "about": dict(about or {})}, arrays)
    lost = bits_lost(snapshot, as_packed_snapshot) if is_pruned else None
    if lost is None:
        return PackedModel(data, as_packed_snapshot)
    error = lost.standard_error
    return PackedModel(
        data, as_packed_snapshot, lost.nats_per_char / log(2), None if error is None else error / log(2)
    )


def transformers_of(snapshot: Snapshot) -> list[tuple[ModelConfig, Mapping[str, Tensor]]]:
    """Return the transformers that predict, with their weights, in the order of the mixture."""
    if snapshot.model_config.is_ngram:
        return []
    trained = [(member.model_config, member.weights) for member in snapshot.earlier]
    trained.append((snapshot.model_config, snapshot.weights))
    return trained[: 1 if snapshot.mixture is None else snapshot.mixture.n_transformers]


def uses_ngram(snapshot: Snapshot) -> bool:
    """Whether the run's predictions use n-grams."""
    mixed = snapshot.mixture is not None and snapshot.mixture.ngram
    return (
        snapshot.model_config.is_ngram
        or mixed
        or any(config.prior for config, _ in transformers_of(snapshot))
    )


def weight_arrays(prefix: str, weights: Mapping[str, Tensor]) -> tuple[dict[str, Array], dict[str, Tensor]]:
    """Convert weights to 16 bits. Return them as arrays by name, and as tensors of these values.

    Training never touches most rows of the table of n-gram embeddings, so only its nonzero rows (R, C) are stored, and one
    bit for each row: whether it is stored.
    """
    arrays, rounded = dict[str, Array](), dict[str, Tensor]()
    for name, weight in weights.items():
        array = half_precision(weight.detach().float().cpu().numpy())
        rounded[name] = torch.from_numpy(array.astype(np.float32))
        if name == TABLE:
            stored: NDArray[np.bool_] = np.abs(array).max(axis=1) > 0
            arrays[f"{prefix}{name}.stored"] = bits_of(stored)
            array = array[stored]
        arrays[prefix + name] = array
    return arrays, rounded


def _with_parts(
    snapshot: Snapshot, rounded: Sequence[dict[str, Tensor]], levels: Sequence[Level] | None
) -> Snapshot:
    """Return a snapshot with other weights for the transformers that predict, and other n-grams (None: its own)."""
    ngram = snapshot.ngram
    if levels is not None and ngram is not None:
        ngram = KneserNey(snapshot.vocabulary.n_symbols, levels, dense=False).to_bytes()
    n_earlier = len(snapshot.earlier)
    earlier = tuple(
        replace(member, weights=own) for member, own in zip(snapshot.earlier, rounded, strict=False)
    )
    last = rounded[n_earlier] if len(rounded) > n_earlier else snapshot.weights
    return replace(snapshot, earlier=(*earlier, *snapshot.earlier[len(earlier) :]), weights=last, ngram=ngram)


def bits_lost(snapshot: Snapshot, as_packed: Snapshot) -> Estimate | None:
    """Measure what a page's model loses on held-out text against the run's; None if that text is gone or has nothing held out."""
    try:
        corpus = corpus_of(snapshot)
    except CheckpointError:
        return None
    text = corpus.held_out_text()
    ids = snapshot.vocabulary.encode(text)
    if len(ids) < 2:
        return None
    of_page, of_run = predictor_of(as_packed), predictor_of(snapshot)
    part = spread(of_run.rule, len(ids), SCORED, len(text))
    found = score_slice(of_page, ids, part, rule=of_run.rule)
    other = score_slice(of_run, ids, part, rule=of_run.rule)
    assert found is not None and other is not None, "nothing stops them"
    return found.minus(other)


def header_of(snapshot: Snapshot, levels: Sequence[Level]) -> dict[str, Any]:
    """Return the header for the scripts, whose names are in camelCase."""
    kept, mixture, vocabulary = transformers_of(snapshot), snapshot.mixture, snapshot.vocabulary
    several = mixture is not None and mixture.n_members > 1
    kind = NGRAM if snapshot.model_config.is_ngram else "mixture" if several else "transformer"
    return {
        "name": snapshot.run.name,
        "kind": kind,
        "text": _text_settings(snapshot.run.text),
        "vocabulary": _vocabulary(vocabulary),
        "transformers": [_model_settings(config) for config, _ in kept],
        "ngram": {"discounts": [level.discounts.tolist() for level in levels]} if levels else None,
        "mixture": None if mixture is None else _mixture(mixture),
    }


def _text_settings(config: TextConfig) -> dict[str, Any]:
    """Return how a prompt is normalized, and what separates documents that are written."""
    return {
        "newlines": config.newlines,
        "normalize": config.normalize,
        "lowercase": config.lowercase,
        "collapseSpaces": config.collapse_spaces,
        "separator": separator_of(config),
    }


def _vocabulary(vocabulary: Vocabulary) -> dict[str, Any]:
    return {
        "chars": vocabulary.chars,
        "trainedBytes": list(vocabulary.trained_bytes),
        "counts": vocabulary.counts,
        "hasEnd": vocabulary.has_end,
        "units": vocabulary.units,
        "ids": vocabulary.ids or list(range(vocabulary.n_symbols)),
    }


def _model_settings(config: ModelConfig) -> dict[str, Any]:
    config = config.completed()
    return {
        "kind": config.kind,
        "nLayer": config.n_layer,
        "nHead": config.n_head or 1,
        "nKvHead": config.n_kv_head or config.n_head or 1,
        "nEmbd": config.n_embd,
        "blockSize": config.block_size,
        "mixers": config.mixers,
        "position": config.position,
        "window": config.window,
        "locality": config.locality,
        "prior": config.prior,
        "ngramEmbeddings": config.ngram_embeddings,
        "ngramEmbeddingRows": config.ngram_embedding_rows,
        "carriesState": config.carries_state,
    }


def _mixture(mixture: Mixture) -> dict[str, Any]:
    recent = None if mixture.recent is None else asdict(mixture.recent)
    return {
        "nTransformers": mixture.n_transformers,
        "ngram": mixture.ngram,
        "bias": mixture.bias,
        "weights": mixture.weights,
        "recent": recent,
    }
