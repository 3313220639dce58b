"""Surprisal of characters, words and lines, and the entropy of the model's prediction before each of them.

surprisal(u) = -log p(u | the text before u), the sum over the characters of u. These are the model's own symbols, not a
tokenizer's, so it is exact. The entropy before u is -sum over v of p(v) log p(v), the expected surprisal of the next
symbol. Both are in nats here.

Which white space counts with a word is a choice that changes every figure. White space after a word tells that the word
is over, so the probabilities of words with it sum to one; white space before a word tells that of the previous word.
Pimentel and Meister 2024, How to compute the probability of a word, arXiv 2410.02691.

Shapes: N characters, n symbols, V ids of the vocabulary.
"""

from collections.abc import Iterable, Iterator, Sequence
from math import log
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from charlm.data.segmentation import LONGEST_LINE, Span, segmenter
from charlm.data.stream import label_of
from charlm.data.tokenizer import END, END_POINT, Ids, Vocabulary, code_points, without_ends
from charlm.errors import TextError
from charlm.evaluation.bootstrap import Numbers
from charlm.evaluation.score import per_char
from charlm.evaluation.surprisal_config import SurprisalConfig
from charlm.inference.context import ContextRule
from charlm.inference.predictor import Predictor
from charlm.inference.sliding_window import SlidingWindow

NUMBERS_AT_ONCE = 1 << 20
"""Log-probabilities that are turned into entropies at once."""


class Unit(NamedTuple):
    """A character, word or line of a text. White space around a word, and the end of a line, are not in `text`."""

    file: str
    line: int  # from 1
    unit: int  # its number in the line, from 1
    text: str
    offset: int  # of `text` in the file, in characters
    byte_offset: int  # in bytes of UTF-8
    nats: float  # including the white space that counts with it
    entropy: float  # in nats, of the prediction before its first symbol that counts
    before: str = ""  # white space before it
    after: str = ""  # white space after it
    group: str = ""  # of a candidate, its group
    rank: int = 0  # of a candidate, from 1 on; 0: not ranked

    @property
    def length(self) -> int:
        """Characters of `text`."""
        return len(self.text)

    @property
    def bits(self) -> float:
        """Its surprisal in bits."""
        return self.nats / log(2)

    @property
    def entropy_bits(self) -> float:
        """The entropy of the prediction before it, in bits."""
        return self.entropy / log(2)


class Place:
    """A position in a file: the lines, characters and bytes that were passed so far."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.line, self.offset, self.byte_offset = 1, 0, 0
        self._units = 0  # in the line

    def next_unit(self) -> int:
        """Return the number of the unit that begins here, counted from 1 in its line."""
        self._units += 1
        return self._units

    def pass_over(self, text: str) -> None:
        """Advance past a text that begins here."""
        if not text:
            return
        self.offset += len(text)
        self.byte_offset += len(text) if text.isascii() else len(text.encode())
        if feeds := text.count("\n"):
            self.line += feeds
            self._units = 0


class _Scored(NamedTuple):
    """Scored characters of a document, without its end symbol."""

    text: str
    nats: Numbers  # (N,)
    entropies: Numbers  # (N,), of the predictions before them
    ends: bool = False  # the document ends after them


class Surprisal:
    """Scores the units of texts with one model; a text may come in pieces of any size, with the same result."""

    def __init__(
        self, predictor: Predictor, config: SurprisalConfig, rule: ContextRule | None = None
    ) -> None:
        """The rule is the predictor's by default."""
        self._vocabulary, self._config = predictor.vocabulary, config
        self._window = SlidingWindow(predictor, rule)
        self._find = segmenter(config.by, config.words or "unicode", config.space_counted or "after")

    def of_file(self, name: str, pieces: Iterable[str]) -> Iterator[Unit]:
        """Yield the units of a file, with END where its documents end. Raises TextError for a line that is too long."""
        place = Place(name)
        if not self._config.by_line_alone:
            yield from self._of_text(pieces, place)
            return
        for line in whole_lines(pieces, name):
            yield from self.of_line(line, place)

    def of_line(self, line: str, place: Place) -> Iterator[Unit]:
        """Yield the units of a line that is scored as if it were a file of its own."""
        line = line.strip(END)
        if line:
            yield from self._of_text([line + END], place)

    def _of_text(self, pieces: Iterable[str], place: Place) -> Iterator[Unit]:
        """Yield the units of a text that begins without context at a place in its file; no unit crosses documents."""
        held = _Scored("", np.empty(0), np.empty(0))
        for scored in self._scored(pieces):
            held = _Scored(
                held.text + scored.text,
                np.concatenate((held.nats, scored.nats)),
                np.concatenate((held.entropies, scored.entropies)),
            )
            spans = self._find(held.text, scored.ends)
            if spans:
                yield from self._sums(held, spans, place)
                end = spans[-1].end
                held = _Scored(held.text[end:], held.nats[end:], held.entropies[end:])
            if len(held.text) > LONGEST_LINE:
                raise _too_long(place.file, place.line)

    def _sums(self, held: _Scored, spans: Sequence[Span], place: Place) -> Iterator[Unit]:
        """Yield the units at adjacent spans, each with the sum over the characters that count."""
        text, alone = held.text, self._config.space_counted == "none"
        bounds = np.array([(s.first, s.after) if alone else (s.begin, s.end) for s in spans])
        padded = np.append(held.nats, 0.0)  # so that no bound is past the end
        sums = np.add.reduceat(padded, bounds.ravel())[::2].tolist()
        entropies = held.entropies[bounds[:, 0]].tolist()
        for (begin, first, after, end), nats, entropy in zip(spans, sums, entropies, strict=True):
            place.pass_over(text[begin:first])
            if first < after or not alone:
                yield Unit(
                    file=place.file,
                    line=place.line,
                    unit=place.next_unit(),
                    text=text[first:after],
                    offset=place.offset,
                    byte_offset=place.byte_offset,
                    nats=nats,
                    entropy=entropy,
                    before=text[begin:first],
                    after=text[after:end],
                )
            place.pass_over(text[first:end])

    def _scored(self, pieces: Iterable[str]) -> Iterator[_Scored]:
        """Yield the scored characters of a text, each as soon as all its symbols are scored."""
        reading = _Reading(self._vocabulary, pieces)
        nats, waiting = [np.empty(0)], list[Tensor]()
        entropies = [np.empty(0)]
        for scores, logp in self._window.read(reading.ids()):
            nats.append(-scores)
            waiting.append(logp)
            if sum(map(len, waiting)) * self._vocabulary.n_ids < NUMBERS_AT_ONCE:
                continue
            entropies.append(entropy_of(waiting, self._vocabulary.n_symbols))
            found, rest = reading.take(np.concatenate(nats), np.concatenate(entropies), is_all=False)
            nats, entropies, waiting = [rest.nats], [rest.entropies], []
            yield from found
        entropies.append(entropy_of(waiting, self._vocabulary.n_symbols))
        yield from reading.take(np.concatenate(nats), np.concatenate(entropies), is_all=True)[0]


def entropy_of(logp: Sequence[Tensor], n_symbols: int) -> Numbers:
    """Return the entropies (n,), in nats, of distributions (n, V) in parts; ids from `n_symbols` on are equally likely."""
    if not logp:
        return np.empty(0)
    n_unseen = logp[0].shape[1] - n_symbols
    one_of_each = torch.cat([part[:, : n_symbols + 1] for part in logp]).double()
    terms = one_of_each.exp() * one_of_each  # no probability is 0
    if n_unseen:
        terms[:, -1] *= n_unseen
    found: Numbers = -terms.sum(dim=-1).numpy()
    return found


class _Symbols(NamedTuple):
    """The scores of symbols whose characters are not complete."""

    nats: Numbers  # (n,)
    entropies: Numbers  # (n,)


class _Reading:
    """A text that is read in pieces; it keeps the part that is not scored yet."""

    def __init__(self, vocabulary: Vocabulary, pieces: Iterable[str]) -> None:
        self._vocabulary, self._pieces = vocabulary, pieces
        self._waiting = ""

    def ids(self) -> Iterator[Ids]:
        """Yield the ids of each piece."""
        for piece in self._pieces:
            text = piece if self._vocabulary.has_end else without_ends(piece)
            self._waiting += text
            yield self._vocabulary.encode(text)

    def take(self, nats: Numbers, entropies: Numbers, *, is_all: bool) -> tuple[list[_Scored], _Symbols]:
        """Return the characters whose symbols are all scored, given the waiting symbols' scores (n,), and those left over.

        The end of a document counts with the character before it, which therefore waits for what follows it.
        """
        waiting = self._waiting if is_all else self._waiting[: len(nats) + 1]
        lengths = self._vocabulary.ids_per_char(waiting)
        stops = np.cumsum(lengths)
        n = int(np.searchsorted(stops, len(nats), side="right"))
        n = n if is_all else min(n, len(waiting) - 1)
        while not is_all and n > 0 and waiting[n] == END:
            n -= 1
        text, used = waiting[:n], int(stops[n - 1]) if n else 0
        self._waiting = self._waiting[n:]
        starts = (stops[:n] - lengths[:n])[code_points(text) != END_POINT]
        costs, before = per_char(self._vocabulary, text, nats[:used]), entropies[starts]
        found, begin = list[_Scored](), 0
        parts = text.split(END)
        for i, part in enumerate(parts):
            end, last = begin + len(part), i == len(parts) - 1
            if part:
                found.append(_Scored(part, costs[begin:end], before[begin:end], is_all or not last))
            begin = end
        return found, _Symbols(nats[used:], entropies[used:])


def whole_lines(pieces: Iterable[str], name: str) -> Iterator[str]:
    """Yield the lines of a text, each with its line feed. Raises TextError for one that is too long."""
    held, line = "", 1
    for piece in pieces:
        *whole, held = (held + piece).split("\n")
        for text in whole:
            yield text + "\n"
        line += len(whole)
        if len(held) > LONGEST_LINE:
            raise _too_long(name, line)
    if held:
        yield held


def _too_long(name: str, line: int) -> TextError:
    return TextError(
        f"line {line:,} of {label_of(name)} has more than {LONGEST_LINE:,} characters, too many to score as one line; "
        "use --by word or --by char with --context document"
    )
