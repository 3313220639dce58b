"""An iterator of text: samples written side by side, each character once it is certain."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np

from charlm.config import SamplingConfig
from charlm.predictor import Predictor
from charlm.sampling.draw import Ids, draw
from charlm.sampling.stopping import StopFilter
from charlm.text.decoder import Decoder
from charlm.text.spans import can_write

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
    return "\n" if vocabulary.end is None and can_write(vocabulary, "\n") else ""
