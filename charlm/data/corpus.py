"""A corpus: ids of the training, held-out and test parts, memory-mapped; and the training batches drawn from it."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.data import corpus_cache as cache
from charlm.data.holdout import PARTS, InheritedSplit
from charlm.data.shards import Shards, TextIds
from charlm.data.tokenizer import END, Vocabulary
from charlm.rng import mix, permute
from charlm.strict_json import from_json


@dataclass(frozen=True, kw_only=True)
class TextFacts:
    """What the cache stores about a text, besides its ids and their vocabulary."""

    sha256: str  # of the text as UTF-8
    train_chars: int
    held_out_chars: int
    test_chars: int = 0
    left_out_chars: int = 0  # in gaps between the parts
    ends: tuple[int, int, int] = (0, 0, 0)  # ends of documents in each part, which are no characters
    inherited_split: InheritedSplit | None = None  # fine-tuning: keeps held out what the earlier run held out


@dataclass(frozen=True, kw_only=True)
class Corpus(TextFacts):
    """An encoded text: the ids (n,) of each part, in the narrowest integer type, in shards if there are very many.

    A character may be several ids.
    """

    key: str  # its name in the cache: a hash of the text and of how it is split
    vocabulary: Vocabulary
    train: TextIds
    held_out: TextIds
    test: TextIds  # for a single evaluation at the end: no choice may depend on it
    uncached: str | None = None  # why it could not be cached

    @property
    def chars(self) -> int:
        """Characters of the whole text."""
        return self.train_chars + self.held_out_chars + self.test_chars + self.left_out_chars

    def training_text(self, last: int | None = None) -> str:
        """Decode the training part, or its `last` ids, without the ends of documents."""
        return self.vocabulary.decode(self.train[-last:] if last else self.train)

    def held_out_text(self) -> str:
        """The held-out part as text, with END after each document."""
        return self.vocabulary.decode(self.held_out, END)

    def test_text(self) -> str:
        """The test part as text, with END after each document; empty if there is none."""
        return self.vocabulary.decode(self.test, END)


def reopen(key: str, *, whole: bool = False) -> Corpus | None:
    """Open a corpus in the cache; None if it is missing or damaged. With `whole` every id is checked."""
    found = cache.read(key, whole=whole)
    try:
        return corpus_of_parts(key, *found) if found else None
    except cache.DAMAGE:
        return None


def corpus_of_parts(key: str, facts: Mapping[str, Any], parts: Mapping[str, TextIds]) -> Corpus:
    """Build a corpus from the facts in the cache and the ids of its parts."""
    known = from_json(TextFacts, {f.name: facts[f.name] for f in fields(TextFacts) if f.name in facts})
    vocabulary = Vocabulary.from_json(facts["vocabulary"])
    train, held_out, test = (parts[name] for name in PARTS)
    return Corpus(key=key, vocabulary=vocabulary, train=train, held_out=held_out, test=test, **vars(known))


STEPS_AT_ONCE = 64
"""Training steps whose windows are drawn at once."""


@dataclass(frozen=True)
class BatchSampler:
    """The training batches of a text of `n` ids: windows of `block_size` inputs each, and the id after them.

    An epoch cuts the text into windows, from an offset drawn for that epoch, and takes each once, in random
    order. The order is a pure function of seed and step.
    """

    n: int
    block_size: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        assert self.n > self.block_size > 0 and self.batch_size > 0

    @property
    def per_epoch(self) -> int:
        """Windows in an epoch: one fewer than fit, so that the offset can vary."""
        return max(1, (self.n - 1) // self.block_size - 1)

    def starts(self, step: int) -> NDArray[np.int64]:
        """Return where each window of the batch of `step` (counted from 0) starts: (B,)."""
        starts: NDArray[np.int64] = _starts(self, step // STEPS_AT_ONCE)[step % STEPS_AT_ONCE]
        return starts

    def starts_of_windows(self, windows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where windows start, given their numbers (N,), counted from 0 over all epochs: (N,)."""
        epochs, index = windows // self.per_epoch, windows % self.per_epoch
        starts = np.empty_like(index)
        for epoch in np.unique(epochs):
            in_epoch = epochs == epoch
            shuffled = permute(index[in_epoch], self.per_epoch, int(mix(self.seed, epoch)))
            starts[in_epoch] = self._offset(epoch) + self.block_size * shuffled
        return starts

    def _offset(self, epoch: int) -> int:
        """Draw where the first window of an epoch starts: from 0 to the number of ids that its windows leave over."""
        room = self.n - 1 - self.per_epoch * self.block_size
        return int(mix(self.seed, epoch, 1) % np.uint64(room + 1))

    def batch(self, ids: TextIds, step: int, rows: slice = slice(None)) -> NDArray[np.int64]:
        """The ids of the windows of `step`, or of some `rows` of them, inputs and the id after them: (B, T + 1)."""
        starts = self.starts(step)[rows]
        length = self.block_size + 1
        if isinstance(ids, Shards):
            windows = np.stack([ids[start : start + length] for start in starts.tolist()])
        else:
            windows = ids[starts[:, None] + np.arange(length)]
        return windows.astype(np.int64)


@lru_cache(maxsize=4)
def _starts(sampler: BatchSampler, group: int) -> NDArray[np.int64]:
    """Return where the windows of a group of steps start: (STEPS_AT_ONCE, B).

    Drawn step by step they would take as long as a small training step.
    """
    shape = STEPS_AT_ONCE, sampler.batch_size
    first = group * STEPS_AT_ONCE * sampler.batch_size
    return sampler.starts_of_windows(first + np.arange(STEPS_AT_ONCE * sampler.batch_size)).reshape(shape)
