"""Ids drawn one after another, without end: what comes of a predictor, its odds and the noise.

The noise for character t of sample i depends on (seed, i, t) only, so a sample is the same
whatever else is sampled beside it.
"""

from collections.abc import Iterator
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray

from charlm.config import SamplingConfig
from charlm.predictor import Predictor, Reader
from charlm.randomness import uniform
from charlm.sampling.choose import choose

NOISE_AT_ONCE = 256

Ids = NDArray[np.int64]


def draw(predictor: Predictor, prompt: Ids, config: SamplingConfig, n: int) -> Iterator[Ids]:
    """What follows the ids of a prompt (T,), in n samples: an id (n,) of each at a time."""
    symbols = predictor.vocabulary.n_symbols
    reader = predictor if isinstance(predictor, Reader) else None
    state, logp = predictor.step(predictor.start(n), torch.from_numpy(prompt).expand(n, -1))
    logits = logp.cpu().numpy()
    for noise in _noise(config.seed, n):
        # Bytes that training never saw would only be noise: they are scored, and never written.
        ids = choose(logits[:, :symbols], noise, config)
        yield ids
        if reader is not None:
            state, logits = reader.read_id(state, ids)
        else:
            state, logp = predictor.step(state, torch.from_numpy(ids[:, None]))
            logits = logp.cpu().numpy()


def _noise(seed: int, n: int) -> Iterator[NDArray[np.float64]]:
    """For each character a number in [0, 1) for each sample: (n,). Drawn many at once."""
    for first in count(0, NOISE_AT_ONCE):
        yield from uniform(seed, np.arange(n), np.arange(first, first + NOISE_AT_ONCE)[:, None])
