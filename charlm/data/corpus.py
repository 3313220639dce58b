"""A corpus: ids on disk, memory-mapped, in training, held-out and test parts, and batches of windows drawn from it.

An epoch cuts the text into windows of one block, from a start drawn for that epoch, and takes
each once, in a random order.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.data import cache, graphemes
from charlm.data.holdout import PARTS, Respected
from charlm.data.tokenizer import END, Ids, Vocabulary
from charlm.rng import mix, permute

OF_TEXT = 32
"""Digits of a key that say which text it is of, and how that is divided; what follows is of its graphemes."""


@dataclass(frozen=True)
class Corpus:
    """Ids of each part, in the narrowest integer type; characters may be several ids each."""

    key: str  # of the contents and of how they are divided: the name in the cache
    sha256: str  # of the text as UTF-8
    vocabulary: Vocabulary
    train: Ids
    held_out: Ids
    train_chars: int
    held_out_chars: int
    test: Ids | None = None  # a third part, that no choice may depend on
    test_chars: int = 0
    ends: tuple[int, int, int] = (0, 0, 0)  # of documents, in each part: symbols that are no characters
    left_out_chars: int = 0  # between the others, in none of them
    uncached: str | None = None  # why it is not in the cache
    respected: Respected | None = None  # how it was divided, where an earlier division holds in it

    @property
    def chars(self) -> int:
        """Characters of the whole text."""
        return self.train_chars + self.held_out_chars + self.test_chars + self.left_out_chars

    def training_text(self, last: int | None = None) -> str:
        """The training part as characters, or what its `last` ids say."""
        return self.vocabulary.decode(self.train[-last:] if last else self.train)

    def held_out_text(self) -> str:
        """The held-out part as characters, with END where documents end."""
        return self.vocabulary.decode(self.held_out, END)

    def test_text(self) -> str:
        """The test part in the same way; empty where there is none."""
        return "" if self.test is None else self.vocabulary.decode(self.test, END)


def key_of(settings: str, units: str) -> str:
    """The key of a text and of how it is divided; of graphemes also of the `regex` that finds them."""
    clusters = _digest(graphemes.version())[:8] if units == "graphemes" else ""
    return _digest(settings)[:OF_TEXT] + clusters


def same_text(key: str, other: str) -> bool:
    """Are two corpora of one text, divided alike, by whichever `regex` its graphemes were found?"""
    return key[:OF_TEXT] == other[:OF_TEXT]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def reopen(key: str, *, whole: bool = False) -> Corpus | None:
    """A corpus from the cache, or None if it is not there whole; checked all through if `whole`."""
    found = cache.read(key, PARTS, whole=whole)
    if found is None:
        return None
    facts, parts = found
    try:
        return corpus_of_parts(key, facts, *parts)
    except cache.DAMAGE:
        return None


def corpus_of_parts(key: str, facts: dict[str, Any], train: Ids, held_out: Ids, test: Ids) -> Corpus:
    """A corpus from what its cache says of it, and the ids of its parts."""
    vocabulary = Vocabulary.from_json(facts["vocabulary"])
    return Corpus(
        key,
        facts["sha256"],
        vocabulary,
        train,
        held_out,
        int(facts["train_chars"]),
        int(facts["held_out_chars"]),
        test,
        int(facts["test_chars"]),
        tuple(map(int, facts.get("ends", (0, 0, 0)))),  # type: ignore[arg-type]
        int(facts.get("left_out_chars", 0)),
        respected=Respected.from_json(facts["respected"]) if "respected" in facts else None,
    )


@dataclass(frozen=True)
class Windows:
    """The windows of a training text of `n` ids: `block_size` ids to read and the one after each."""

    n: int
    block_size: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        assert self.n > self.block_size > 0 and self.batch_size > 0

    @property
    def per_epoch(self) -> int:
        """Windows in an epoch: one fewer than fit, so that their start has room to move."""
        return max(1, (self.n - 1) // self.block_size - 1)

    def starts(self, step: int) -> NDArray[np.int64]:
        """Where each window of the batch of `step` (counted from 0) starts: (B,)."""
        windows = step * self.batch_size + np.arange(self.batch_size)
        epochs, index = windows // self.per_epoch, windows % self.per_epoch
        starts = np.empty_like(index)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            starts[chosen] = self._phase(epoch) + self.block_size * permute(
                index[chosen], self.per_epoch, int(mix(self.seed, epoch))
            )
        return starts

    def _phase(self, epoch: int) -> int:
        """Where the first window of an epoch starts."""
        room = self.n - 1 - self.per_epoch * self.block_size
        return int(mix(self.seed, epoch, 1) % np.uint64(room + 1))

    def batch(self, ids: NDArray[Any], step: int) -> NDArray[np.int64]:
        """The ids of the windows of `step`, each with the one that follows: (B, T + 1)."""
        starts = self.starts(step)
        windows: NDArray[np.int64] = ids[starts[:, None] + np.arange(self.block_size + 1)].astype(np.int64)
        return windows
