"""Ids drawn one after another, without end: what comes of a predictor, its odds and the noise.

The noise for character t of sample i depends on (seed, i, t) only, so a sample is the same
whatever else is sampled beside it. Axes: B samples, T ids drawn at once, V symbols.
"""

from collections.abc import Iterator
from itertools import count, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from charlm.config import SamplingConfig
from charlm.predictor import Predictor, Reader
from charlm.randomness import uniform
from charlm.sampling.choose import choose, fall, odds
from charlm.sampling.drafts import LONGEST, Drafts

NOISE_AT_ONCE = 256
DRAFTED = 7

Ids = NDArray[np.int64]
Noise = Iterator[NDArray[np.float64]]


def draw(predictor: Predictor, prompt: Ids, config: SamplingConfig, n: int) -> Iterator[Ids]:
    """What follows the ids of a prompt (T,), in n samples: pieces (n, T), T >= 1."""
    symbols = predictor.vocabulary.n_symbols
    noise = _noise(config.seed, n)
    state, logp = predictor.step(predictor.start(n), torch.from_numpy(prompt).expand(n, -1))
    # Bytes that training never saw would only be noise: they are scored, and never written.
    first = choose(logp[:, :symbols].cpu().numpy(), next(noise), config)[:, None]
    yield first
    if not isinstance(predictor, Reader):
        yield from _by_steps(predictor, state, first, config, noise)
    elif n == 1:
        yield from _by_drafts(predictor, state, first, config, noise)
    else:
        yield from _by_reading(predictor, state, first, config, noise)


def _by_steps(predictor: Predictor, state: Any, ids: Ids, config: SamplingConfig, noise: Noise) -> Iterator[Ids]:
    """Whatever the predictor is."""
    symbols = predictor.vocabulary.n_symbols
    for row in noise:
        state, logp = predictor.step(state, torch.from_numpy(ids))
        ids = choose(logp[:, :symbols].cpu().numpy(), row, config)[:, None]
        yield ids


def _by_reading(predictor: Reader, state: Any, ids: Ids, config: SamplingConfig, noise: Noise) -> Iterator[Ids]:
    """Many samples: guesses would not hold in all of them."""
    for row in noise:
        state, logits = predictor.read(state, ids)
        ids = choose(logits[:, 0], row, config)[:, None]
        yield ids


def _by_drafts(predictor: Reader, state: Any, ids: Ids, config: SamplingConfig, noise: Noise) -> Iterator[Ids]:
    """One sample, in which several characters are guessed and read at once."""
    drafts, ahead = Drafts(), np.empty(0)
    written = ids[0].tolist()
    while True:
        while len(ahead) <= DRAFTED:
            ahead = np.concatenate((ahead, *islice(noise, NOISE_AT_ONCE)))
        guessed = drafts.guess(written, ahead[:DRAFTED])
        state, logits = predictor.read(state, np.array([[written[-1], *guessed]]))
        cumulative = odds(logits[0], config).cumsum(axis=-1)  # (T, V)
        drawn = fall(cumulative, ahead[: len(cumulative)]).tolist()
        kept = 1
        while kept < len(drawn) and drawn[kept - 1] == guessed[kept - 1]:
            kept += 1
        state = predictor.take_back(state, len(drawn) - kept)
        for id_, row in zip(drawn[:kept], cumulative, strict=False):
            drafts.learn(written, row)
            written.append(id_)
        del written[: -LONGEST]
        ahead = ahead[kept:]
        yield np.array([drawn[:kept]])


def _noise(seed: int, n: int) -> Iterator[NDArray[np.float64]]:
    """For each character a number in [0, 1) for each sample: (n,). Drawn many at once."""
    for first in count(0, NOISE_AT_ONCE):
        yield from uniform(seed, np.arange(n), np.arange(first, first + NOISE_AT_ONCE)[:, None])
