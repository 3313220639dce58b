"""Bytes that training never saw: their share of the probability, outside of any softmax.

Axes: V ids (bytes that training never saw included).
"""

from math import log, log1p

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from charlm.text.vocabulary import Vocabulary

ESCAPE = 2.0**-16
"""The probability that they have together, wherever they stand."""


def with_lacking(vocabulary: Vocabulary, logits: Tensor) -> Tensor:
    """Logits (..., symbols) as log-probabilities (..., V), the bytes never seen included."""
    lacking = vocabulary.n_ids - logits.shape[-1]
    if not lacking:
        return torch.log_softmax(logits, dim=-1)
    known = torch.log_softmax(logits, dim=-1) + log1p(-ESCAPE)
    return F.pad(known, (0, lacking), value=log(ESCAPE / lacking))


def first_character(vocabulary: Vocabulary) -> NDArray[np.float64]:
    """Log-probabilities (V,) by how often each symbol occurs in the training part."""
    counts = np.array(vocabulary.counts, dtype=np.float64)
    lacking = vocabulary.n_ids - vocabulary.n_symbols
    escape = ESCAPE if lacking else 0.0
    known = np.log(counts / counts.sum()) + log1p(-escape)
    return np.concatenate((known, np.full(lacking, log(ESCAPE / max(1, lacking)))))
