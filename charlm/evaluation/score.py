"""Score a text: the nats of every character, each counted once; or an estimate from chunks spread over it.

Shapes: N symbols or characters of a text.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import exp, log

import numpy as np
import torch
from numpy.typing import NDArray

from charlm.data.shards import TextIds
from charlm.data.tokenizer import END_POINT, Vocabulary, code_points, without_ends
from charlm.evaluation.bootstrap import Numbers, standard_error
from charlm.evaluation.calibration import Reliability
from charlm.inference.context import ContextRule
from charlm.inference.predictor import Predictor, Scores
from charlm.inference.sliding_window import SlidingWindow

OnProgress = Callable[[str, int, int | None], None]
"""Called with what is being done, how much of it is done, and out of how much (None: unknown)."""


def no_progress(what: str, done: int, of: int | None) -> None:
    """Ignore progress."""


@dataclass(frozen=True)
class TextScore:
    """One text and the nats of each of its characters."""

    name: str
    text: str
    nats: Numbers  # (N,); the end of a document counts with the character before it
    unknown_chars: int
    ends: int = 0  # ends of documents, which are predicted too
    units: int = 0  # length in units of the vocabulary: characters or bytes
    calibration: Reliability | None = None  # of the predictions of its symbols, if it was measured

    @cached_property
    def bits(self) -> Numbers:
        """Bits of each character, (N,)."""
        return self.nats / log(2)


@dataclass(frozen=True)
class Score:
    """Bits per character and perplexity: how much a text surprises the model.

    bits = -(1/N) sum over t of log2 p(c_t | c_1 ... c_(t-1)), and perplexity = 2^bits. A
    character that was predicted with probability 1/2 costs 1 bit, with 1/8 it costs 3, and
    certainty costs nothing. Bits per character are also the size of the text compressed with
    the model (`charlm compress`). Perplexity is the number of equally likely characters that
    would be as hard to guess. Training minimises the same quantity in nats, the cross-entropy:
    1 nat is 1.4427 bits. Compare figures of the same text only. Shannon 1951, Prediction and
    entropy of printed English, Bell System Technical Journal 30:50.
    """

    texts: Sequence[TextScore]

    @cached_property
    def nats(self) -> Numbers:
        """Nats of each character of all texts, in order, (N,)."""
        return np.concatenate([text.nats for text in self.texts])

    @property
    def chars(self) -> int:
        """N: characters, each scored once."""
        return len(self.nats)

    @cached_property
    def bytes(self) -> int:
        """The size of the texts as UTF-8."""
        return sum(len(text.text.encode()) for text in self.texts)

    @property
    def units(self) -> int:
        """Length of the texts in units of the vocabulary."""
        return sum(text.units for text in self.texts)

    @property
    def unknown_chars(self) -> int:
        """Characters outside the vocabulary; they are scored as their bytes."""
        return sum(text.unknown_chars for text in self.texts)

    @property
    def ends(self) -> int:
        """Ends of documents, which are predicted too but are no characters."""
        return sum(text.ends for text in self.texts)

    @cached_property
    def nats_per_char(self) -> float:
        """Mean nats per character."""
        return float(self.nats.mean())

    @property
    def bits_per_char(self) -> float:
        """Mean bits per character."""
        return self.nats_per_char / log(2)

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of UTF-8."""
        return float(self.nats.sum()) / log(2) / self.bytes

    @property
    def bits_per_unit(self) -> float:
        """Bits per unit of the vocabulary."""
        return float(self.nats.sum()) / log(2) / self.units

    @property
    def perplexity(self) -> float:
        """Perplexity per character."""
        return exp(self.nats_per_char)

    @property
    def calibration(self) -> Reliability | None:
        """The calibration of the predictions of all symbols; None where it was not measured."""
        found = [text.calibration for text in self.texts if text.calibration is not None]
        return sum(found, Reliability.empty()) if len(found) == len(self.texts) else None


def score_text(predictor: Predictor, name: str, text: str, rule: ContextRule | None = None) -> TextScore:
    """Score every character of a text, from an empty context, and every end of a document in it."""
    ids = predictor.vocabulary.encode(text)
    return text_score(predictor.vocabulary, name, text, predictor.score(ids, rule))


def score_with_calibration(
    predictor: Predictor,
    name: str,
    text: str,
    rule: ContextRule | None = None,
    on_progress: OnProgress = no_progress,
) -> TextScore:
    """Score a text as `score_text` does, and measure the calibration of the predictions in the same pass."""
    ids = predictor.vocabulary.encode(text)
    pieces, calibration, done = [np.empty(0)], Reliability.empty(), 0
    for scores, logp in SlidingWindow(predictor, rule).read([ids]):
        targets = torch.from_numpy(ids[done : done + len(scores)].astype(np.int64))
        pieces.append(scores)
        calibration += Reliability.of(logp, targets)
        done += len(scores)
        on_progress("scoring", done, len(ids))
    score = text_score(predictor.vocabulary, name, text, np.concatenate(pieces))
    return replace(score, calibration=calibration)


def _n_chunks(rule: ContextRule, n: int) -> int:
    """Return the number of chunks of a text of n symbols; the first one scores the first symbol too."""
    return max(rule.n_chunks(n), min(n, 1))


def _scored_chunks(
    predictor: Predictor, ids: TextIds, chunks: Sequence[int], rule: ContextRule
) -> Iterator[Scores]:
    """Yield the log-probabilities (n,) of the ids of each chunk; the text's first id belongs to the first chunk."""
    alone = len(ids) == 1
    found = [np.empty(0)] * len(chunks) if alone else predictor.score_chunks(ids, chunks, rule)
    for k, scores in zip(chunks, found, strict=True):
        yield scores if k else np.concatenate((predictor.score(ids[:1]), scores))


def _calibrated_chunks(
    predictor: Predictor, ids: TextIds, chunks: Sequence[int], rule: ContextRule
) -> Iterator[tuple[Scores, Reliability]]:
    """Yield the log-probabilities (n,) of the ids of each chunk, and their calibration."""
    first = torch.from_numpy(predictor.first_log_probs())[None]  # (1, V)
    alone = len(ids) == 1
    found = [(np.empty(0), first[:0])] * len(chunks) if alone else predictor.predictions(ids, chunks, rule)
    for k, (scores, logp) in zip(chunks, found, strict=True):
        part = rule.chunk(k, len(ids))
        targets = torch.from_numpy(ids[part.first : part.end].astype(np.int64))
        reliability = Reliability.of(logp, targets)
        if k == 0:
            begin = torch.from_numpy(ids[:1].astype(np.int64))
            scores = np.concatenate((first[0, begin].numpy(), scores))
            reliability += Reliability.of(first, begin)
        yield scores, reliability


def text_score(vocabulary: Vocabulary, name: str, text: str, logp: Numbers) -> TextScore:
    """Build the score of a text from the log-probabilities of its ids."""
    plain = without_ends(text)
    return TextScore(
        name,
        plain,
        per_char(vocabulary, text, -logp),
        sum(vocabulary.unknown_chars(plain).values()),
        len(text) - len(plain) if vocabulary.has_end else 0,
        vocabulary.count_units(plain),
    )


def per_char(vocabulary: Vocabulary, text: str, symbols: Numbers) -> Numbers:
    """Return the cost of each character of a text, from the costs of its symbols: (characters,).

    The end of a document is not a character; its cost is added to the character before.
    """
    plain = without_ends(text)
    if not vocabulary.has_end:
        text = plain
    if not plain:
        return np.empty(0)
    lengths = vocabulary.ids_per_char(text)
    costs = np.add.reduceat(symbols, np.cumsum(lengths) - lengths)
    if len(plain) == len(text):
        return costs
    of_char = np.maximum(np.cumsum(code_points(text) != END_POINT) - 1, 0)
    return np.bincount(of_char, costs).astype(np.float64)


@dataclass(frozen=True)
class Slice:
    """The chunks of a text to score, and the number of symbols per character."""

    chunks: tuple[int, ...]
    n_chunks: int
    symbols_per_chunk: int
    symbols_per_char: float
    in_order: bool = False  # each chunk continues the one before

    @property
    def whole(self) -> bool:
        """Whether every symbol of the text is scored."""
        return len(self.chunks) == self.n_chunks


def spread(rule: ContextRule, n: int, symbols: int, chars: int) -> Slice:
    """Choose chunks that score about `symbols` of the `n` ids of a text with `chars` characters.

    They are evenly spread, or the first ones if the state is carried from one to the next.
    """
    n_chunks = _n_chunks(rule, n)
    wanted = min(n_chunks, max(1, round(symbols / rule.stride)))
    last = wanted - 1 if rule.carried else n_chunks - 1
    chunks = np.linspace(0, last, wanted if n_chunks else 0).round().astype(int)
    return Slice(tuple(chunks.tolist()), n_chunks, rule.stride, n / max(1, chars), rule.carried)


@dataclass(frozen=True)
class Estimate:
    """The loss of a text estimated from a slice: the sum and the number of scores in each block (chunk)."""

    sums: Numbers
    symbols: NDArray[np.int64]
    symbols_per_char: float
    calibration: Reliability | None = None  # of all blocks, if it was measured

    @property
    def blocks(self) -> list[float]:
        """Nats per symbol in each block."""
        return list(map(float, self.sums / self.symbols))

    @property
    def nats_per_char(self) -> float:
        """Nats per character over all blocks."""
        return float(self.sums.sum() / self.symbols.sum()) * self.symbols_per_char

    @property
    def standard_error(self) -> float | None:
        """The standard error of `nats_per_char`, from how much the blocks differ; None for a single block."""
        off = self.sums - self.symbols * (self.sums.sum() / self.symbols.sum())
        error = standard_error(off)
        return None if error is None else error * len(off) / float(self.symbols.sum()) * self.symbols_per_char

    def minus(self, other: "Estimate") -> "Estimate":
        """Return the paired difference from another estimate on the same blocks."""
        return replace(self, sums=self.sums - other.sums, calibration=None)

    def subset(self, scored: Sequence[int], wanted: Sequence[int]) -> "Estimate":
        """Return the estimate from a subset of the scored chunks."""
        kept = np.isin(scored, wanted)
        return replace(self, sums=self.sums[kept], symbols=self.symbols[kept], calibration=None)

    @property
    def chars(self) -> int:
        """About how many characters were scored."""
        return round(float(self.symbols.sum()) / self.symbols_per_char)


def score_slice(
    predictor: Predictor,
    ids: TextIds,
    part: Slice,
    stopped: Callable[[], bool] = lambda: False,
    rule: ContextRule | None = None,
    *,
    calibrated: bool = False,
) -> Estimate | None:
    """Score a slice; return None if `stopped` returns True meanwhile. The rule is the predictor's by default.

    The text's first symbol belongs to the first chunk, so a slice of the whole text gives the score of `charlm eval`.
    `calibrated`: measure the calibration too.
    """
    rule = rule or predictor.rule
    sums: list[float] = []
    symbols: list[int] = []
    calibration = Reliability.empty()
    found: Iterator[tuple[Scores, Reliability]]
    if calibrated:
        found = _calibrated_chunks(predictor, ids, part.chunks, rule)
    else:
        found = ((s, calibration) for s in _scored_chunks(predictor, ids, part.chunks, rule))
    for scores, reliability in found:
        if stopped():
            return None
        sums.append(-float(scores.sum()))
        symbols.append(len(scores))
        calibration += reliability
    return Estimate(
        np.array(sums), np.array(symbols), part.symbols_per_char, calibration if calibrated else None
    )
