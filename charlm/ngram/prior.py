"""The n-gram prior in training: each position without the counts of its own part of the text.

Shapes: B windows, T positions, V symbols.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from charlm.data.tokenizer import Ids
from charlm.ngram.build import FOLDS, fold_edges
from charlm.ngram.kneser_ney import KneserNey
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
        return self.model.log_rows(self.train, starts, T, folds=fold_edges(len(self.train), FOLDS))
