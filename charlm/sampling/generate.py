"""An iterator of text: samples written side by side, each character once it is certain.

The noise for character t of sample i depends on (seed, i, t) only, so a sample is the same
whatever else is sampled beside it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray

from charlm.config import SamplingConfig
from charlm.predictor import Predictor
from charlm.randomness import uniform
from charlm.sampling.choose import choose
from charlm.sampling.stopping import StopFilter
from charlm.text.vocabulary import Decoder

NOISE_AT_ONCE = 256


@dataclass(frozen=True)
class Piece:
    """More text of a sample."""

    sample: int
    text: str


@dataclass(frozen=True)
class Ended:
    """A sample is complete."""

    sample: int
    reason: str  # "length" or "stop"
    chars: int


class Writer:
    """One sample being written: ids in; out come characters that no stop text takes back."""

    def __init__(self, sample: int, decoder: Decoder, stops: Sequence[str], length: int) -> None:
        self.sample, self.left = sample, length
        self.decoder = decoder
        self.filter = StopFilter(stops)
        self.chars = 0
        self.reason: str | None = None

    def write(self, id_: int) -> Iterator[Piece | Ended]:
        """Take in one id."""
        text = self.decoder.feed([id_])[: self.left]
        self.left -= len(text)
        if self.left == 0:
            self.reason = "length"
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
) -> Iterator[Piece | Ended]:
    """Write `n` samples of `length` characters after `prompt`, or up to a stop text.

    The stop text is not part of the sample. ValueError for a top_k beyond the vocabulary.
    """
    vocabulary = predictor.vocabulary
    if config.top_k is not None and config.top_k > vocabulary.n_symbols:
        raise ValueError(
            f"top_k is {config.top_k}; allowed: 1 to {vocabulary.n_symbols}, the symbols of this model"
        )
    writers = [Writer(i, Decoder(vocabulary), stops, length) for i in range(n)]
    ids = torch.from_numpy(vocabulary.encode(prompt).astype(np.int64)).expand(n, -1)
    state = predictor.start(n)
    for noise in _noise(config.seed, n):
        state, logp = predictor.step(state, ids)
        # Bytes that training never saw would only be noise: they are scored, and never written.
        chosen = choose(logp[:, : vocabulary.n_symbols].cpu().numpy(), noise, config)
        for writer, id_ in zip(writers, chosen.tolist(), strict=True):
            if writer.reason is None:
                yield from writer.write(id_)
        if all(writer.reason is not None for writer in writers):
            return
        ids = torch.from_numpy(chosen[:, None])


def _noise(seed: int, n: int) -> Iterator[NDArray[np.float64]]:
    """For each character a number in [0, 1) for each sample: (n,). Drawn many at once."""
    for first in count(0, NOISE_AT_ONCE):
        yield from uniform(seed, np.arange(n), np.arange(first, first + NOISE_AT_ONCE)[:, None])


def sample_text(predictor: Predictor, prompt: str, config: SamplingConfig, length: int) -> str:
    """One sample, joined."""
    pieces = generate(predictor, prompt, config, length=length)
    return "".join(piece.text for piece in pieces if isinstance(piece, Piece))


def default_prompt(predictor: Predictor) -> str:
    """What a sample starts from when nothing is given: a new line, if the model knows one."""
    return "\n" if "\n" in predictor.vocabulary.chars else ""
