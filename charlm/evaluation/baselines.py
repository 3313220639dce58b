"""Baselines: what simple models and compressors achieve on the same text."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from math import log, log2

import numpy as np

from charlm.config import FEWEST_HELD_OUT
from charlm.data.shards import TextIds
from charlm.data.tokenizer import Vocabulary, without_ends
from charlm.inference.ngram_predictor import NgramPredictor
from charlm.ngram.build import fit, lower_orders
from charlm.ngram.kneser_ney import POSITIONS_AT_ONCE, KneserNey

KNESER_NEY = "kneser-ney"
CHOSEN = "chosen on the end of the training part"
"""The source of a Kneser-Ney baseline whose order was chosen."""

LAST_BYTES = 32 << 20
"""Bytes at the end of the training part that a compressor reads."""
PPMD_ORDER, PPMD_MEMORY = 6, 256 << 20
XZ_DICTIONARY_LEAST = 1 << 16


@dataclass(frozen=True)
class Baseline:
    """A score to compare with. An adaptive baseline learns from the text while scoring it."""

    bits_per_char: float
    adaptive: bool
    order: int | None = None  # characters of context, of an n-gram model
    limits: str = ""  # what an n-gram model left out for lack of memory or time
    source: str = ""  # where an n-gram model comes from


@dataclass(frozen=True)
class NgramBaseline:
    """The n-gram model of a training part, and its score on the whole held-out part."""

    baseline: Baseline
    model: KneserNey
    seconds: float  # spent scoring


def measure_baselines(
    vocabulary: Vocabulary, training_text: Callable[[], str] | None, text: str
) -> dict[str, Baseline | str]:
    """Return all baselines except Kneser-Ney by name, each or the reason why it is missing.

    `training_text` is None if the text is gone. Compressors do not predict the ends of documents.
    """
    plain = without_ends(text)
    found: dict[str, Baseline | str] = {**symbol_baselines(vocabulary, vocabulary.encode(text), len(plain))}
    return {**found, **compressor_baselines(training_text, plain)}


def symbol_baselines(vocabulary: Vocabulary, ids: TextIds, chars: int) -> dict[str, Baseline]:
    """Return the uniform and unigram baselines for a text of `chars` characters given as ids (N,).

    uniform: every symbol of the training part is equally likely; others cost 8 bits per byte more. unigram: symbol
    frequencies of the training part, by add-one smoothing; bytes that it lacks are together one more symbol of count 1.
    """
    counts, n_symbols = np.zeros(vocabulary.n_ids, np.int64), vocabulary.n_symbols
    for start in range(0, len(ids), POSITIONS_AT_ONCE):
        counts += np.bincount(ids[start : start + POSITIONS_AT_ONCE], minlength=len(counts))
    uniform = counts.sum() * log2(n_symbols) + counts[n_symbols:].sum() * log2(256)
    seen = np.full(vocabulary.n_ids, 1 / max(1, vocabulary.n_ids - n_symbols))
    seen[:n_symbols] = np.array(vocabulary.counts) + 1
    unigram = (counts * -np.log2(seen / seen.sum())).sum()
    bits = {"uniform": float(uniform), "unigram": float(unigram)}
    return {name: Baseline(total / chars, adaptive=False) for name, total in bits.items()}


def compressor_baselines(training_text: Callable[[], str] | None, plain: str) -> dict[str, Baseline | str]:
    """Return the scores of xz, and of ppmd if pyppmd is installed, primed with the training part; or why xz is missing."""
    found: dict[str, Baseline | str] = {}
    if training_text is None:
        found["xz"] = "the training text is missing"
    elif len(plain) < FEWEST_HELD_OUT:  # compressors add whole bytes, or words, to a file
        found["xz"] = f"it needs at least {FEWEST_HELD_OUT} characters to measure, got {len(plain):,}"
    else:
        if find_spec("pyppmd") is not None:
            found["ppmd"] = Baseline(_bits_added(_ppmd_size, training_text(), plain), adaptive=True)
        try:
            found["xz"] = Baseline(_bits_added(xz_size, training_text(), plain), adaptive=True)
        except ImportError:
            found["xz"] = "this Python was built without lzma"
    return found


def kneser_ney(
    vocabulary: Vocabulary, train: TextIds, text: str, *, memory: int, most: int | None = None
) -> Baseline:
    """Score Kneser-Ney n-grams of the training part, of the order that predicts its end best.

    `memory` in bytes; `most`: count at most this many symbols.
    """
    built = fit(train, vocabulary.n_symbols, memory=memory, most=most, end=vocabulary.end)
    ids, chars = vocabulary.encode(text), len(without_ends(text))
    return ngram_baseline(built.model, vocabulary, ids, chars, limits=built.limits, source=CHOSEN)


def kneser_ney_by_order(
    vocabulary: Vocabulary, train: TextIds, text: str, *, memory: int, most: int | None = None
) -> list[Baseline]:
    """Return the baseline `kneser_ney` for each order from 1 to the chosen one, which comes last."""
    chosen = kneser_ney(vocabulary, train, text, memory=memory, most=most)
    assert chosen.order is not None
    lower = lower_orders(
        train, vocabulary.n_symbols, chosen.order, memory=memory, most=most, end=vocabulary.end
    )
    ids, chars = vocabulary.encode(text), len(without_ends(text))
    return [*reversed([ngram_baseline(model, vocabulary, ids, chars) for model in lower]), chosen]


def ngram_baseline(
    model: KneserNey, vocabulary: Vocabulary, ids: TextIds, chars: int, *, limits: str = "", source: str = ""
) -> Baseline:
    """Score an n-gram model on a text of `chars` characters given as ids (N,), in constant memory."""
    predictor, nats = NgramPredictor(model, vocabulary), 0.0
    for start in range(0, len(ids), POSITIONS_AT_ONCE):
        before = min(start, model.order)
        nats -= float(predictor.score(ids[start - before : start + POSITIONS_AT_ONCE])[before:].sum())
    return Baseline(nats / log(2) / chars, adaptive=False, order=model.order, limits=limits, source=source)


def _bits_added(size: Callable[[bytes], int], training_text: str, text: str) -> float:
    """Return the bits per character that the text adds to the compressed size of the training part (its last 32 MB)."""
    before, more = training_text.encode()[-LAST_BYTES:], text.encode()
    return (size(before + more) - size(before)) * 8 / len(text)


def _ppmd_size(data: bytes) -> int:
    """Return the size of the data compressed by PPMd (variant H)."""
    encoder = import_module("pyppmd").Ppmd7Encoder(PPMD_ORDER, PPMD_MEMORY)
    return len(encoder.encode(data)) + len(encoder.flush())


def xz_size(data: bytes) -> int:
    """Return the size of the data compressed by xz, without a checksum. Raises ImportError if Python lacks lzma."""
    import lzma  # here: not every Python has it

    dictionary = max(XZ_DICTIONARY_LEAST, 1 << (len(data) - 1).bit_length()) if data else XZ_DICTIONARY_LEAST
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": min(dictionary, 2 * LAST_BYTES)}]
    return len(lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_NONE, filters=filters))
