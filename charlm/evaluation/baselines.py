"""What much simpler things make of the same text, so that a figure can be judged."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from math import log, log2

import numpy as np
from numpy.typing import NDArray

from charlm.config import FEWEST_HELD_OUT
from charlm.data.tokenizer import Ids, Vocabulary, without_ends
from charlm.evaluation.score import score_text
from charlm.inference.predictor import CountsPredictor
from charlm.ngram.build import Built, fit, lower_orders
from charlm.ngram.kneser_ney import KneserNey

KNESER_NEY = "kneser-ney"
CHOSEN = "as many as predict the end of its training part best"
"""How long the grams are that are counted for a yardstick."""

IDS_AT_ONCE = 1 << 20
LAST_BYTES = 32 << 20
"""How much of the training part a compressor reads, its end."""
PPMD_ORDER, PPMD_MEMORY = 6, 256 << 20
XZ_DICTIONARY_LEAST = 1 << 16

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Yardstick:
    """A figure to compare with; an adaptive one goes on learning from the text it measures."""

    bits_per_char: float
    adaptive: bool
    order: int | None = None  # characters of context, where that was chosen
    limits: str = ""  # what was left out for lack of memory or time
    source: str = ""  # whose counts they are, where it is counts


@dataclass(frozen=True)
class Baseline:
    """N-gram counts, and what they make of the whole held-out part."""

    stick: Yardstick
    model: KneserNey
    seconds: float  # that scoring it took


def yardsticks(
    vocabulary: Vocabulary, training_text: Callable[[], str] | None, text: str
) -> dict[str, Yardstick | str]:
    """Each yardstick by name but for Kneser-Ney, or why it is missing. `training_text` is None where it is gone.

    The compressors are not asked where documents end.
    """
    plain = without_ends(text)
    found: dict[str, Yardstick | str] = {**simplest(vocabulary, vocabulary.encode(text), len(plain))}
    return {**found, **compressors(training_text, plain)}


def simplest(vocabulary: Vocabulary, ids: Ids, chars: int) -> dict[str, Yardstick]:
    """Those that only need to know how often each symbol occurs in a text, of so many characters."""
    counts = np.zeros(vocabulary.n_ids, np.int64)
    for start in range(0, len(ids), IDS_AT_ONCE):
        counts += np.bincount(ids[start : start + IDS_AT_ONCE], minlength=len(counts))
    return {
        "uniform": Yardstick(uniform_bits(vocabulary, counts) / chars, adaptive=False),
        "unigram": Yardstick(unigram_bits(vocabulary, counts) / chars, adaptive=False),
    }


def compressors(training_text: Callable[[], str] | None, plain: str) -> dict[str, Yardstick | str]:
    """What compressors that have read the training part, where it is still there, make of a text."""
    found: dict[str, Yardstick | str] = {}
    if training_text is None:
        found["xz"] = "the training text is no longer there"
    elif len(plain) < FEWEST_HELD_OUT:  # what it adds to a compressed file is whole bytes, or words
        found["xz"] = (
            f"it adapts to the text, and needs {FEWEST_HELD_OUT} characters to be measured on; there are {len(plain):,}"
        )
    else:
        if find_spec("pyppmd") is not None:
            found["ppmd"] = Yardstick(ppmd_bits(training_text(), plain), adaptive=True)
        try:
            found["xz"] = Yardstick(xz_bits(training_text(), plain), adaptive=True)
        except ImportError:
            found["xz"] = "this Python was built without lzma"
    return found


def uniform_bits(vocabulary: Vocabulary, counts: Counts) -> float:
    """Every symbol of the training part equally likely; what it lacks costs the bytes that spell it.

    Bits in all, of symbols that occur so often, (n_ids,).
    """
    return float(counts.sum() * log2(vocabulary.n_symbols) + counts[vocabulary.n_symbols :].sum() * log2(256))


def unigram_bits(vocabulary: Vocabulary, counts: Counts) -> float:
    """How often each symbol occurs in the training part, plus one; bits in all, as `uniform_bits`.

    Bytes that it lacks are one more symbol together, of count one, each as likely as the others.
    """
    known, lacking = vocabulary.n_symbols, vocabulary.n_ids - vocabulary.n_symbols
    seen = np.full(vocabulary.n_ids, 1 / max(1, lacking))
    seen[:known] = np.array(vocabulary.counts) + 1
    return float((counts * -np.log2(seen / seen.sum())).sum())


def kneser_ney(
    vocabulary: Vocabulary, train: Ids, text: str, *, memory: int, most: int | None = None
) -> Yardstick:
    """Counts of the training part's n-grams alone; how long, is chosen on its end.

    `memory` in bytes; `most`: symbols that there is time to count.
    """
    built = count_training_part(vocabulary, train, memory=memory, most=most)
    return replace(stick_of(built, vocabulary, text), source=CHOSEN)


def kneser_ney_by_order(
    vocabulary: Vocabulary, train: Ids, text: str, *, memory: int, most: int | None = None
) -> list[Yardstick]:
    """The same of each order from 1 to the chosen one, which comes last."""
    chosen = kneser_ney(vocabulary, train, text, memory=memory, most=most)
    assert chosen.order is not None
    lower = lower_orders(
        train, vocabulary.n_symbols, chosen.order, memory=memory, most=most, end=vocabulary.end
    )
    return [*reversed([of_counts(model, vocabulary, text) for model in lower]), chosen]


def stick_of(built: Built, vocabulary: Vocabulary, text: str) -> Yardstick:
    """What counts that were just made make of a text."""
    return replace(of_counts(built.model, vocabulary, text), limits=built.limits)


def of_counts(model: KneserNey, vocabulary: Vocabulary, text: str, source: str = "") -> Yardstick:
    """What counts make of a text."""
    bits = score_text(CountsPredictor(model, vocabulary), "", text).bits
    return Yardstick(float(bits.mean()), adaptive=False, order=model.order, source=source)


def stick_of_ids(built: Built, vocabulary: Vocabulary, ids: Ids, chars: int) -> Yardstick:
    """The same of a text that is there as ids, of so many characters, in a memory that does not grow with it."""
    predictor, nats = CountsPredictor(built.model, vocabulary), 0.0
    for start in range(0, len(ids), IDS_AT_ONCE):
        before = min(start, built.model.order)
        nats -= float(predictor.score(ids[start - before : start + IDS_AT_ONCE])[before:].sum())
    return Yardstick(nats / log(2) / chars, adaptive=False, order=built.model.order, limits=built.limits)


def count_training_part(vocabulary: Vocabulary, train: Ids, *, memory: int, most: int | None) -> Built:
    """The counts that Kneser-Ney is made of."""
    return fit(train, vocabulary.n_symbols, memory=memory, most=most, end=vocabulary.end)


def ppmd_bits(training_text: str, text: str) -> float:
    """What the text adds to the size of the training part under PPMd (variant H), which adapts as it reads.

    Of the training part at most the last 32 MB.
    """
    before, more = training_text.encode()[-LAST_BYTES:], text.encode()
    return (_ppmd_size(before + more) - _ppmd_size(before)) * 8 / len(text)


def _ppmd_size(data: bytes) -> int:
    encoder = import_module("pyppmd").Ppmd7Encoder(PPMD_ORDER, PPMD_MEMORY)
    return len(encoder.encode(data)) + len(encoder.flush())


def xz_bits(training_text: str, text: str) -> float:
    """What the text adds to the size of the training part under xz, which adapts to it as it reads.

    Of the training part at most the last 32 MB.
    """
    before, more = training_text.encode()[-LAST_BYTES:], text.encode()
    return (xz_size(before + more) - xz_size(before)) * 8 / len(text)


def xz_size(data: bytes) -> int:
    """Bytes of the data under xz, its check left out. Raises ImportError where Python lacks it."""
    import lzma  # here, since not every Python has it

    dictionary = max(XZ_DICTIONARY_LEAST, 1 << (len(data) - 1).bit_length()) if data else XZ_DICTIONARY_LEAST
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": min(dictionary, 2 * LAST_BYTES)}]
    return len(lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_NONE, filters=filters))
