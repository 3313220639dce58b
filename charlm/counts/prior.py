"""Counts as a model sees them: whole for text that is new to them, without its own fold in training.

Axes: B texts, T positions, V symbols.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charlm.counts.build import Built, build
from charlm.counts.folds import FOLDS, fold_of
from charlm.counts.grams import Keys, Packing
from charlm.counts.kneser_ney import KneserNey
from charlm.counts.level import Index
from charlm.text.vocabulary import Ids

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
        cls, train: Ids, n_symbols: int, order: int, *, memory: int, most: int | None, end: int | None = None
    ) -> "TrainingPrior":
        """Count `order` characters of context, or as many as fit a key, in at most `memory` bytes.

        `most`: symbols that there is time for, evenly spread. `end`: the symbol that ends a document.
        """
        order = min(order, Packing(n_symbols).highest_order)
        return cls(build(train, n_symbols, order, memory=memory, most=most, n_folds=FOLDS, end=end), train)

    @property
    def model(self) -> KneserNey:
        """The counts."""
        return self.built.model

    def log_rows(self, starts: Index, T: int) -> LogRows:
        """What is to be expected at the T positions after each of `starts` (B,): (B, T, V).

        A window of the text is read as if nothing preceded it, as the transformer reads it.
        """
        at = starts[:, None] + np.arange(T)
        folds = fold_of(at + 1, len(self.train), FOLDS)  # of what is predicted
        return self.model.log_rows(self.model.contexts(self.train[at]), folds)


def log_prior(model: KneserNey, ids: Ids, last: int) -> LogRows:
    """What whole counts say after each of the `last` symbols of texts (B, T) that nothing precedes."""
    return model.log_rows(model.contexts(ids)[:, ids.shape[1] - last :])


def log_next(model: KneserNey, contexts: Keys) -> NDArray[np.float64]:
    """The same after contexts (B,) that go on by a symbol at a time: (B, V)."""
    if len(contexts) > FEW:
        return np.log(model.rows(contexts))
    return np.log(np.stack([model.row(key) for key in contexts]))


FEW = 4
"""Texts side by side that are stepped through one by one."""
