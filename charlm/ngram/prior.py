"""Counts as a model sees them: whole for text that is new to them, without its own fold in training.

Axes: B texts, T positions, V symbols.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charlm.data.tokenizer import Ids
from charlm.ngram.build import Built, build
from charlm.ngram.folds import FOLDS, fold_of
from charlm.ngram.grams import Index, Keys, Packing
from charlm.ngram.kneser_ney import LEAST, KneserNey

LogRows = NDArray[np.float32]


@dataclass(frozen=True)
class TrainingPrior:
    """The counts of a training text, of which any of FOLDS contiguous parts can be left out.

    A model that learns beside counts of the very characters it learns from would trust them far too
    much: there, each was seen at least once. So every position sees the counts of the other folds.
    """

    built: Built
    train: Ids

    @classmethod
    def of(
        cls,
        train: Ids,
        n_symbols: int,
        order: int,
        *,
        memory: int,
        most: int | None,
        end: int | None = None,
        beside: Sequence[Ids] = (),
    ) -> "TrainingPrior":
        """Count `order` characters of context, or as many as fit a key, in at most `memory` bytes.

        `most`: symbols that there is time for, evenly spread. `end`: the symbol that ends a document.
        `beside`: other texts that are counted too, whole for every position.
        """
        order = min(order, Packing(n_symbols).highest_order)
        built = build(
            train, n_symbols, order, memory=memory, most=most, n_folds=FOLDS, end=end, beside=beside
        )
        return cls(built, train)

    @property
    def model(self) -> KneserNey:
        """The counts."""
        return self.built.model

    def log_rows(self, starts: Index, T: int) -> LogRows:
        """What is to be expected at the T positions after each of `starts` (B,): (B, T, V)."""
        folds = fold_of(starts[:, None] + np.arange(1, T + 1), len(self.train), FOLDS)  # of what is predicted
        return self.model.log_rows(contexts_at(self.model, self.train, starts, T), folds)


def log_prior(model: KneserNey, ids: Ids, starts: Index, T: int, *, bound: bool = False) -> LogRows:
    """What whole counts say after each of the T symbols of a text from each of `starts` (B,) on: (B, T, V).

    `bound`: by nothing that stands before the start, so the first positions by lower orders.
    """
    contexts = contexts_at(model, ids, starts, T)
    rows = model.log_rows(contexts)
    if bound:
        for t in range(min(T, model.order - 1)):
            few = np.maximum(model.rows(contexts[:, t], up_to=t + 1), LEAST)
            np.log(few, out=rows[:, t], casting="same_kind")
    return rows


def contexts_at(model: KneserNey, ids: Ids, starts: Index, T: int) -> Keys:
    """The contexts that those symbols end, (B, T); what lies beyond the ends of the text is as good as any.

    Counts look as far back as they always do, over the start of the transformer's window too: their
    few characters of context cost nothing to know.
    """
    at = starts[:, None] + np.arange(-model.order, T)
    read = np.where(at < 0, model.n_symbols, ids[np.clip(at, 0, len(ids) - 1)])
    return model.contexts(read)[:, model.order :]


def log_next(model: KneserNey, contexts: Keys) -> NDArray[np.float64]:
    """The same after contexts (B,) that go on by a symbol at a time: (B, V)."""
    if len(contexts) > FEW:
        return np.log(model.rows(contexts))
    return np.log(np.stack([model.row(key) for key in contexts]))


FEW = 7
"""Texts side by side that are stepped through one by one."""
