"""Ids drawn one after another, without end: what comes of a predictor, its odds and the noise.

The noise for character t of sample i depends on (seed, i, t) only, so a sample is the same
whatever else is sampled beside it. Where a document ends, the next begins with nothing before it.
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
