"""The score of a text: the bits of every character, each exactly once; of all of it, or of windows spread over it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import exp, log

import numpy as np
from numpy.typing import NDArray

from charlm.data.tokenizer import END_POINT, Ids, Vocabulary, code_points, without_ends
from charlm.evaluation.bootstrap import standard_error
from charlm.inference.context import ContextRule
from charlm.inference.predictor import Predictor

Numbers = NDArray[np.float64]
Watch = Callable[[str, int, int | None], None]


def unwatched(what: str, done: int, of: int | None) -> None:
    """A watch that nobody looks at."""


@dataclass(frozen=True)
class Scored:
    """One text and the nats of each of its characters."""

    name: str
    text: str
    nats: Numbers  # (characters,), the ends of documents counted with the character before
    unknown_chars: int
    ends: int = 0  # of documents, predicted too
    units: int = 0  # of the vocabulary: characters or bytes

    @cached_property
    def bits(self) -> Numbers:
        """Bits of each character."""
        return self.nats / log(2)


@dataclass(frozen=True)
class Figure:
    """What several scored texts say together."""

    texts: Sequence[Scored]

    @cached_property
    def nats(self) -> Numbers:
        """Nats of each character of all texts, in order."""
        return np.concatenate([scored.nats for scored in self.texts])

    @property
    def chars(self) -> int:
        """Characters, each scored once."""
        return len(self.nats)

    @cached_property
    def bytes(self) -> int:
        """The size of the texts as UTF-8."""
        return sum(len(scored.text.encode()) for scored in self.texts)

    @property
    def units(self) -> int:
        """The same texts in the units of the vocabulary."""
        return sum(scored.units for scored in self.texts)

    @property
    def unknown_chars(self) -> int:
        """Characters that the vocabulary lacks; they are scored too, as the bytes that spell them."""
        return sum(scored.unknown_chars for scored in self.texts)

    @property
    def ends(self) -> int:
        """Ends of documents, which are predicted too, and are no characters."""
        return sum(scored.ends for scored in self.texts)

    @cached_property
    def nats_per_char(self) -> float:
        """Mean nats a character."""
        return float(self.nats.mean())

    @property
    def bits_per_char(self) -> float:
        """Mean bits a character."""
        return self.nats_per_char / log(2)

    @property
    def bits_per_byte(self) -> float:
        """Bits for each byte of UTF-8."""
        return float(self.nats.sum()) / log(2) / self.bytes

    @property
    def bits_per_unit(self) -> float:
        """Bits for each unit of the vocabulary."""
        return float(self.nats.sum()) / log(2) / self.units

    @property
    def perplexity(self) -> float:
        """Per character: as if so many characters were equally likely each time."""
        return exp(self.nats_per_char)


def score_text(
    predictor: Predictor, name: str, text: str, rule: ContextRule | None = None, watch: Watch = unwatched
) -> Scored:
    """Score every character of a text that nothing precedes, and every end of a document it has.

    `watch` is told how many of its symbols are scored.
    """
    vocabulary = predictor.vocabulary
    ids = vocabulary.encode(text)
    if watch is unwatched:
        return scored(vocabulary, name, text, predictor.score(ids, rule))
    pieces = [predictor.score(ids[:1])]
    done = len(pieces[0])
    for piece in predictor.score_windows(ids, range((rule or predictor.rule).windows(len(ids))), rule):
        pieces.append(piece)
        done += len(piece)
        watch("scoring", done, len(ids))
    return scored(vocabulary, name, text, np.concatenate(pieces))


def scored(vocabulary: Vocabulary, name: str, text: str, logp: Numbers) -> Scored:
    """A text and the log-probabilities of its ids."""
    plain = without_ends(text)
    return Scored(
        name,
        plain,
        per_char(vocabulary, text, -logp),
        sum(vocabulary.unknown_chars(plain).values()),
        len(text) - len(plain) if vocabulary.has_end else 0,
        vocabulary.count_units(plain),
    )


def per_char(vocabulary: Vocabulary, text: str, symbols: Numbers) -> Numbers:
    """What each character of a text costs, from what its symbols cost: (characters,).

    The end of a document is no character: what it costs is added to the character before.
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
    """The windows of a text that are scored, and how its symbols make characters."""

    windows: tuple[int, ...]
    of_windows: int
    symbols_per_window: int
    symbols_per_char: float
    in_order: bool = False  # each window reads on from the one before, from the first

    @property
    def whole(self) -> bool:
        """Is every symbol of the text scored?"""
        return len(self.windows) == self.of_windows


def spread(rule: ContextRule, n: int, symbols: int, chars: int) -> Slice:
    """Windows that score about `symbols` of the `n` ids of a text of `chars` characters.

    They are spread evenly; where the state is carried from one to the next, they are the first.
    """
    there = max(rule.windows(n), min(n, 1))  # a single symbol, which has no context, is a window too
    wanted = min(there, max(1, round(symbols / rule.stride)))
    last = wanted - 1 if rule.carried else there - 1
    windows = np.linspace(0, last, wanted if there else 0).round().astype(int)
    return Slice(tuple(windows.tolist()), there, rule.stride, n / max(1, chars), rule.carried)


@dataclass(frozen=True)
class Estimate:
    """What a slice says of the whole: the sum and the number of scores in each block (window)."""

    sums: NDArray[np.float64]
    symbols: NDArray[np.int64]
    symbols_per_char: float

    @property
    def blocks(self) -> list[float]:
        """Nats a symbol in each block."""
        return list(map(float, self.sums / self.symbols))

    @property
    def nats_per_char(self) -> float:
        """Nats a character over all blocks."""
        return float(self.sums.sum() / self.symbols.sum()) * self.symbols_per_char

    @property
    def standard_error(self) -> float | None:
        """Of `nats_per_char`, from how much the blocks differ; None for a single block: it is unknown."""
        off = self.sums - self.symbols * (self.sums.sum() / self.symbols.sum())
        error = standard_error(off)
        return None if error is None else error * len(off) / float(self.symbols.sum()) * self.symbols_per_char

    def minus(self, other: "Estimate") -> "Estimate":
        """The paired difference from an estimate of the same blocks."""
        return replace(self, sums=self.sums - other.sums)

    def of_windows(self, scored: Sequence[int], wanted: Sequence[int]) -> "Estimate":
        """The estimate from some of the windows that were scored."""
        kept = np.isin(scored, wanted)
        return replace(self, sums=self.sums[kept], symbols=self.symbols[kept])

    @property
    def chars(self) -> int:
        """About how many characters were scored."""
        return round(float(self.symbols.sum()) / self.symbols_per_char)


def score_slice(
    predictor: Predictor,
    ids: Ids,
    part: Slice,
    stopped: Callable[[], bool] = lambda: False,
    rule: ContextRule | None = None,
) -> Estimate | None:
    """Score a slice, of the predictor's own rule unless told; None if `stopped` said so in the middle.

    The text's first symbol, which nothing precedes, belongs to the first window. So the slice of the whole
    text has the same figure as `charlm eval`.
    """
    sums: list[float] = []
    symbols: list[int] = []
    alone = len(ids) == 1
    found = [np.empty(0)] * len(part.windows) if alone else predictor.score_windows(ids, part.windows, rule)
    for window, scores in zip(part.windows, found, strict=True):
        if stopped():
            return None
        if window == 0:
            scores = np.concatenate((predictor.score(ids[:1]), scores))
        sums.append(-float(scores.sum()))
        symbols.append(len(scores))
    return Estimate(np.array(sums), np.array(symbols), part.symbols_per_char)
