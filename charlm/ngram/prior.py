"""Rows of the n-gram prior: of the whole model for new text, without the text's own fold in training.

Shapes: B windows, T positions, V symbols.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charlm.data.tokenizer import Ids
from charlm.ngram.build import FOLDS, fold_of
from charlm.ngram.grams import Keys
from charlm.ngram.kneser_ney import LEAST, KneserNey
from charlm.ngram.table import Index

LogRows = NDArray[np.float32]


@dataclass(frozen=True)
class TrainingPrior:
    """The n-gram model of a training text, from which any of FOLDS contiguous parts can be left out.

    An n-gram model that has counted the very characters it predicts is far too sure of them, and a transformer trained
    beside it would trust it far too much. So every training position gets the prior of the other folds.
    """

    model: KneserNey  # of the whole text, with FOLDS
    train: Ids

    def log_rows(self, starts: Index, T: int) -> LogRows:
        """Log-probabilities (B, T, V) of the symbol after each of the T positions from each of `starts` (B,)."""
        folds = fold_of(starts[:, None] + np.arange(1, T + 1), len(self.train), FOLDS)  # of the target
        return self.model.log_rows(contexts_at(self.model, self.train, starts, T), folds)


def log_prior(
    model: KneserNey, ids: Ids, starts: Index, T: int, *, reset_context_at_start: bool = False
) -> LogRows:
    """Log-probabilities (B, T, V) of the symbol after each of T symbols from each of `starts` (B,), with all counts.

    `reset_context_at_start`: use no context from before a start, so that the first positions use lower orders.
    """
    contexts = contexts_at(model, ids, starts, T)
    rows = model.log_rows(contexts)
    if reset_context_at_start:
        for t in range(min(T, model.order - 1)):
            few = np.maximum(model.rows(contexts[:, t], up_to=t + 1), LEAST)
            np.log(few, out=rows[:, t], casting="same_kind")
    return rows


def contexts_at(model: KneserNey, ids: Ids, starts: Index, T: int) -> Keys:
    """The contexts (B, T) that end with each of T symbols from each of `starts` (B,).

    They reach back over the start of the transformer's window. Positions beyond the end of the text (padding) get an
    arbitrary context.
    """
    at = starts[:, None] + np.arange(-model.order, T)
    read = np.where(at < 0, model.n_symbols, ids[np.clip(at, 0, len(ids) - 1)])
    return model.contexts(read)[:, model.order :]
