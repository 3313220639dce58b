"""Text as an iterator of pieces: many samples side by side, each character once it is certain.

The noise for character t of sample i depends on (seed, i, t) only, so a sample is the same
whatever else is sampled beside it. Where a document ends, the next begins with nothing before it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray

from charlm.config import SamplingConfig
from charlm.data.tokenizer import Decoder
from charlm.inference.predictor import Predictor, Reader
from charlm.inference.sampling import StopFilter, choose
from charlm.rng import uniform

NOISE_AT_ONCE = 256

Ids = NDArray[np.int64]


def draw(
    predictor: Predictor, prompt: Ids, config: SamplingConfig, n: int, *, one_document: bool = False
) -> Iterator[Ids]:
    """What follows the ids of a prompt (T,), in n samples: an id (n,) of each at a time.

    Without a seed in `config` one is drawn at random. With `one_document` a sample whose document has ended goes on with nothing but its end.
    """
    seed, end = config.seeded().seed, predictor.vocabulary.end
    assert seed is not None
    groups = [_Group(predictor, prompt, np.arange(n))]
    for noise in _noise(seed, n):
        ids = np.full(n, -1 if end is None else end)
        for group in groups:
            ids[group.samples] = group.choose(noise[group.samples], config)
        yield ids
        new: list[_Group] = []
        if end is not None and (ids == end).any():
            for group in groups:
                ended = group.part(ids, end)
                new += [_Group(predictor, np.array([end]), np.array([i])) for i in ended if not one_document]
            groups = [group for group in groups if len(group.samples)]
        for group in groups:
            group.read(ids[group.samples])
        groups += new


class _Group:
    """Samples that are read side by side, since they began together."""

    def __init__(self, predictor: Predictor, prompt: Ids, samples: Ids) -> None:
        self.samples = samples  # numbers (G,) of those whose ids are chosen here
        self._predictor, n = predictor, len(samples)
        self._reader = predictor if isinstance(predictor, Reader) else None
        self._symbols = predictor.vocabulary.n_symbols
        self._rows: Ids | None = None  # theirs (G,) among all that began here; None: all
        self._last = np.zeros(n, dtype=np.int64)  # what each row has read, those that have left too
        self._state, logp = predictor.step(predictor.start(n), torch.from_numpy(prompt).expand(n, -1))
        self._logits = logp.cpu().numpy()

    def choose(self, noise: NDArray[np.float64], config: SamplingConfig) -> Ids:
        """The next id of each of its samples."""
        # Bytes that training never saw would only be noise: they are scored, and never written.
        rows = slice(None) if self._rows is None else self._rows
        logits: NDArray[np.float64] = self._logits[rows, : self._symbols]
        return choose(logits, noise, config)

    def part(self, ids: Ids, end: int) -> Ids:
        """Part with the samples that have come to an end: their numbers."""
        stays = ids[self.samples] != end
        ended: Ids = self.samples[~stays]
        self.samples = self.samples[stays]
        self._rows = np.flatnonzero(stays) if self._rows is None else self._rows[stays]
        return ended

    def read(self, ids: Ids) -> None:
        """Read what was chosen for each of its samples."""
        if self._rows is not None:
            self._last[self._rows] = ids
            ids = self._last
        if self._reader is not None:
            self._state, self._logits = self._reader.read_id(self._state, ids)
        else:
            self._state, logp = self._predictor.step(self._state, torch.from_numpy(ids[:, None]))
            self._logits = logp.cpu().numpy()


def _noise(seed: int, n: int) -> Iterator[NDArray[np.float64]]:
    """For each character a number in [0, 1) for each sample: (n,). Drawn many at once."""
    for first in count(0, NOISE_AT_ONCE):
        yield from uniform(seed, np.arange(n), np.arange(first, first + NOISE_AT_ONCE)[:, None])


IDS_AT_ONCE = 64
SECONDS_BETWEEN = 0.04
"""Text comes in pieces of so many characters or so often, whichever is sooner: to an eye, as it is written."""


@dataclass(frozen=True)
class Piece:
    """More text of a sample."""

    sample: int
    text: str


@dataclass(frozen=True)
class Ended:
    """A sample is complete."""

    sample: int
    reason: str  # "length", "stop" or "document"
    chars: int


class Writer:
    """One sample being written: ids in; out come characters that no stop text takes back."""

    def __init__(
        self, sample: int, decoder: Decoder, stops: Sequence[str], length: int, end: int | None = None
    ) -> None:
        """`end` is the id that ends it, if one does."""
        self.sample, self.left, self._end = sample, length, end
        self.decoder = decoder
        self.filter = StopFilter(stops)
        self.chars = 0
        self.reason: str | None = None

    def write(self, ids: list[int]) -> Iterator[Piece | Ended]:
        """Take in ids; those after the sample's end are lost."""
        ended = self._end is not None and self._end in ids
        if ended:
            ids = ids[: ids.index(self._end)]  # type: ignore[arg-type]
        text = self.decoder.feed(ids)
        text = (text + self.decoder.flush() if ended else text)[: self.left]
        self.left -= len(text)
        if self.left == 0:  # even where more ids came with these: how many do depends on the clock
            self.reason = "length"
        elif ended:
            self.reason = "document"
        text = self.filter.feed(text)
        if self.filter.found:
            self.reason = "stop"
        elif self.reason is not None:
            text += self.filter.flush()
        self.chars += len(text)
        if text:
            yield Piece(self.sample, text)
        if self.reason is not None:
            yield Ended(self.sample, self.reason, self.chars)


def generate(
    predictor: Predictor,
    prompt: str,
    config: SamplingConfig,
    *,
    n: int = 1,
    length: int,
    stops: Sequence[str] = (),
    one_document: bool = False,
    between: str = "",
) -> Iterator[Piece | Ended]:
    """Write `n` samples of `length` characters after `prompt`, or up to the stop text that is complete first.

    The stop text is not part of the sample. Where the model tells documents apart, the prompt begins
    one; with `one_document` a sample stops at its end, else `between` stands before the next.
    ValueError for a top_k beyond the vocabulary, and for one document of a model that knows none.
    """
    vocabulary = predictor.vocabulary
    if one_document and vocabulary.end is None:
        raise ValueError(
            "one_document cannot act: this model does not tell documents apart; train with --documents for one that does"
        )
    first = [] if vocabulary.end is None else [vocabulary.end]
    ids_before = np.concatenate((first, vocabulary.encode(prompt))).astype(np.int64)
    if config.top_k is not None and config.top_k > vocabulary.n_symbols:
        raise ValueError(
            f"top_k is {config.top_k}; allowed: 1 to {vocabulary.n_symbols}, the symbols of this model"
        )
    end = vocabulary.end if one_document else None
    writers = [Writer(i, Decoder(vocabulary, between), stops, length, end) for i in range(n)]
    pieces: list[Ids] = []
    enough, due = 1, 0.0  # the first character is shown at once
    for ids in draw(predictor, ids_before, config, n, one_document=one_document):
        pieces.append(ids)
        if len(pieces) < enough and perf_counter() < due:
            continue
        for writer, row in zip(writers, np.stack(pieces, axis=1).tolist(), strict=True):
            if writer.reason is None:
                yield from writer.write(row)
        left = [writer.left for writer in writers if writer.reason is None]
        if not left:
            return
        pieces, due = [], perf_counter() + SECONDS_BETWEEN
        enough = min(IDS_AT_ONCE, max(left))


def sample_text(
    predictor: Predictor, prompt: str, config: SamplingConfig, length: int, between: str = ""
) -> str:
    """One sample, joined."""
    pieces = generate(predictor, prompt, config, length=length, between=between)
    return "".join(piece.text for piece in pieces if isinstance(piece, Piece))


def default_prompt(predictor: Predictor) -> str:
    """What a sample starts from when nothing is given: a document, or a new line if the model knows one."""
    vocabulary = predictor.vocabulary
    return "\n" if vocabulary.end is None and vocabulary.can_write("\n") else ""
