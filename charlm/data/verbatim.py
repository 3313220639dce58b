"""Measure how much of a text is copied word for word from the training text: the longest passage, where, and the share.

The training text is streamed, and hashes of its passages are looked up among those of the texts, so memory is bounded
by the texts. The first pass looks for passages of 8, 16, 32, ... symbols; then the exact length of the longest one is
found by binary search, reading only the blocks of the training text that may contain it by the first pass.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.data.corpus import Corpus
from charlm.data.overlap import AT_ONCE, Hashes, Passages, covered, doubled_hashes, hashes_of
from charlm.data.tokenizer import Decoder, Ids, Vocabulary
from charlm.rng import mix

LONG = 32
"""Symbols of a passage that counts for the share: about six words, too many to repeat by chance in most texts."""
SHORTEST = 8
BLOCK = 1 << 12
WINDOWS = 64
"""Windows of held-out text to compare with."""
Progress = tuple[int, int | None]


@dataclass(frozen=True)
class Verbatim:
    """How much of a text occurs word for word in the training text."""

    longest: int  # characters of its longest passage in the training text
    passage: str
    offset: int | None  # where that first occurs in the training text, in characters; None without a passage
    share: float  # of its characters, in passages of LONG symbols or more


@dataclass(frozen=True)
class Usual:
    """The same figures for held-out text of the same length, to compare with."""

    symbols: int  # of each window
    windows: int
    longest: float  # the median
    share: float  # the mean


@dataclass(frozen=True)
class VerbatimReport:
    """How much of each text occurs in the training text, and how much of held-out text; None where that is too short."""

    texts: tuple[Verbatim, ...]
    held_out: Usual | None

    def to_json(self, text: int) -> dict[str, Any]:
        """The stable JSON form of the report on one text."""
        return asdict(self.texts[text]) | {
            "held_out": None if self.held_out is None else asdict(self.held_out)
        }


def verbatim(corpus: Corpus, texts: Sequence[str]) -> Generator[Progress, None, VerbatimReport]:
    """Compare texts, and held-out text of their mean length, with the training text. Yields progress."""
    ids = [corpus.vocabulary.encode(text) for text in texts]
    windows = _windows(corpus, round(fmean(map(len, ids))) if ids else 0)
    search = _Search(corpus, [*ids, *windows])
    yield from search.run()
    found = [search.found(i) for i in range(len(ids) + len(windows))]
    of_windows = found[len(ids) :]
    usual = None
    if of_windows:
        longest, share = median(each.longest for each in of_windows), fmean(each.share for each in of_windows)
        usual = Usual(len(windows[0]), len(windows), float(longest), share)
    return VerbatimReport(tuple(found[: len(ids)]), usual)


def _windows(corpus: Corpus, n: int) -> list[Ids]:
    """Windows of n held-out symbols, spread evenly, without the ends of documents."""
    end, held_out = corpus.vocabulary.end, corpus.held_out
    without_ends = len(held_out) - corpus.ends[1]
    count = min(WINDOWS, without_ends // n) if n else 0
    starts = np.linspace(0, without_ends - n, count).astype(int).tolist()
    windows, at = [held_out[:0]] * count, 0
    for begin in range(0, len(held_out) if count else 0, AT_ONCE):
        piece = held_out[begin : begin + AT_ONCE]
        piece = piece if end is None else piece[piece != end]
        for i, start in enumerate(starts):
            here = piece[max(0, start - at) : max(0, start + n - at)]
            windows[i] = np.concatenate((windows[i], here))
        at += len(piece)
    return windows


class _Search:
    """Looks for the passages of some texts in the training text."""

    def __init__(self, corpus: Corpus, texts: Sequence[Ids]) -> None:
        self._train, self._vocabulary, self._texts = corpus.train, corpus.vocabulary, texts
        self._least = [0] * len(texts)  # symbols of the longest passage that was found
        self._most = [min(len(text), SHORTEST - 1) for text in texts]  # and that may still be found
        self._begins = _begins_char(corpus.vocabulary)
        self._share = [0.0] * len(texts)
        self._places: dict[
            int, tuple[int, int]
        ] = {}  # of the longest passage, in the training text and in the text
        self._blocks = np.zeros(len(self._train) // BLOCK + 1, np.bool_)

    def run(self) -> Iterator[Progress]:
        """Find the longest passage of each text, and its share in long ones."""
        yield from self._by_powers()
        while unsure := self._unsure():
            middle = {i: (self._least[i] + self._most[i] + 1) // 2 for i in unsure}
            found = yield from self._find(middle)
            for i, length in middle.items():
                if i in found:
                    self._least[i] = length
                else:
                    self._most[i] = length - 1
        self._places = yield from self._find({i: n for i, n in enumerate(self._least) if n})

    def found(self, text: int) -> Verbatim:
        """Return what was found of a text; a character of which only some bytes are in the passage is left out."""
        if not self._least[text]:
            return Verbatim(0, "", None, 0.0)
        at, begin = self._places[text]
        passage = self._texts[text][begin : begin + self._least[text]]
        skipped = int(self._begins[passage].argmax())
        shown = Decoder(self._vocabulary).feed(passage[skipped:].tolist())
        place = at + skipped
        starts = range(0, place, AT_ONCE)
        before = sum(int(self._begins[self._train[i : min(i + AT_ONCE, place)]].sum()) for i in starts)
        return Verbatim(len(shown), shown, before if shown else None, self._share[text])

    def _unsure(self) -> list[int]:
        return [
            i for i, (least, most) in enumerate(zip(self._least, self._most, strict=True)) if least < most
        ]

    def _by_powers(self) -> Iterator[Progress]:
        """Make one pass over the training text for passages of SHORTEST, 2 SHORTEST, ... symbols; note the blocks they begin in."""
        longest = max(map(len, self._texts), default=0)
        lengths = [SHORTEST << k for k in range(longest.bit_length()) if SHORTEST << k <= longest]
        wanted = {length: Passages(_hashes(text, length) for text in self._texts) for length in lengths}
        seen = {length: np.zeros(len(each.there), np.bool_) for length, each in wanted.items()}
        blocks = {length: np.zeros_like(self._blocks) for length in lengths}
        for start in range(0, len(self._train), AT_ONCE):
            yield start, len(self._train)
            part = self._train[start : start + AT_ONCE + longest]
            for length, hashes in doubled_hashes(part):
                if length > longest:
                    break
                if length in wanted:
                    at, which = wanted[length].find(hashes[:AT_ONCE])
                    seen[length][which] = True
                    blocks[length][(start + at) // BLOCK] = True
        for i, text in enumerate(self._texts):
            for length in lengths:
                hashes = _hashes(text, length)
                starts = np.flatnonzero(seen[length][np.searchsorted(wanted[length].there, hashes)])
                if length == LONG and len(starts):
                    begins = self._begins[text]
                    self._share[i] = float(begins[covered(starts, LONG, len(text))].sum() / begins.sum())
                if len(starts):
                    self._least[i], self._most[i] = length, min(len(text), 2 * length - 1)
            if self._most[i]:
                self._blocks |= blocks[self._least[i]] if self._least[i] else True

    def _find(self, lengths: dict[int, int]) -> Generator[Progress, None, dict[int, tuple[int, int]]]:
        """Find which texts share a passage of the given length with the training text: its first place there, and in the text."""
        found: dict[int, tuple[int, int]] = {}
        for length in sorted(set(lengths.values())):
            texts = {i: _hashes(self._texts[i], length) for i, n in lengths.items() if n == length}
            wanted = Passages(texts.values())
            first = np.full(len(wanted.there), len(self._train))
            for start, end in self._parts():
                yield start, len(self._train)
                at, which = wanted.find(_hashes(self._train[start : end + length - 1], length))
                np.minimum.at(first, which, start + at)
            for i, hashes in texts.items():
                places: NDArray[np.int64] = first[np.searchsorted(wanted.there, hashes)]
                begin = int(places.argmin())
                if places[begin] < len(self._train):
                    found[i] = int(places[begin]), begin
        return found

    def _parts(self) -> Iterator[tuple[int, int]]:
        """Yield where the blocks to search begin and end, those side by side together."""
        edges = np.flatnonzero(np.diff(self._blocks.astype(np.int8), prepend=0, append=0)).reshape(-1, 2)
        for first, last in (edges * BLOCK).tolist():
            for start in range(first, min(last, len(self._train)), AT_ONCE):
                yield start, min(start + AT_ONCE, last, len(self._train))


def _hashes(ids: Ids, length: int) -> Hashes:
    """Hash each passage of `length` ids, from the hashes of its first and its last ids of a power of two."""
    power = 1 << (length.bit_length() - 1)
    found = hashes_of(ids, power)
    rest = length - power
    return mix(found[: len(found) - rest], found[rest:]) if rest and len(found) > rest else found[rest:]


def _begins_char(vocabulary: Vocabulary) -> NDArray[np.bool_]:
    """Whether each id begins a character: not the bytes within one, and not the end of a document."""
    return np.array([bool(each) and each[0] & 0xC0 != 0x80 for each in vocabulary.spellings])
