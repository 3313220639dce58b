"""How a held-out part compares with what is trained on: other characters, and what counts alone make of it."""

import numpy as np
from numpy.typing import NDArray

from charlm.config import TrainingConfig
from charlm.data.corpus import Corpus
from charlm.data.overlap import MOST_READ, PIECE, spread_pieces
from charlm.data.tokenizer import END, Ids
from charlm.evaluation.baselines import Yardstick, kneser_ney

STRETCHES = 20
MOST_COUNTED = 4_000_000
"""Symbols of the training part that are counted, and of the held-out part that are scored below."""
SCORED_PIECES, SCORED_PIECE = 20, 10_000


def shift(corpus: Corpus) -> float | None:
    """Bits per symbol lost by taking the training part's frequencies for the held-out part's own.

    What is lost in the same way for as much text from all over the training part is taken off: that
    is chance, or the price of a large vocabulary. None where nothing is held out.
    """
    n, size = corpus.vocabulary.n_ids, min(len(corpus.held_out), len(corpus.train) // 2)
    if not size:
        return None
    before, after = (_frequencies(part, n) for part in (corpus.train, corpus.held_out))
    spread = np.zeros(n, dtype=np.int64)
    piece = max(1, size // STRETCHES)
    for start in np.linspace(0, len(corpus.train) - piece, STRETCHES).astype(int).tolist():
        spread += np.bincount(corpus.train[start : start + min(piece, PIECE)], minlength=n)
    return max(0.0, _lost(before, after) - _lost(np.maximum(0, before - spread), spread))


def is_ngram(corpus: Corpus) -> Yardstick | None:
    """Kneser-Ney counted on the training part, bounded, and scored on up to 20 pieces of the held-out part.

    The same as `charlm eval` says of the whole held-out part, where that and the training part are
    short. None where nothing is held out.
    """
    text = corpus.vocabulary.decode(_spread(corpus.held_out), END)
    if not text.replace(END, ""):
        return None
    memory = TrainingConfig().prior_memory << 20
    most = MOST_COUNTED if len(corpus.train) > MOST_COUNTED else None
    return kneser_ney(corpus.vocabulary, corpus.train, text, memory=memory, most=most)


def _spread(ids: Ids) -> Ids:
    """All of a short part; of a longer one evenly spread pieces."""
    if len(ids) <= SCORED_PIECES * SCORED_PIECE:
        return ids
    starts = np.linspace(0, len(ids) - SCORED_PIECE, SCORED_PIECES).astype(int).tolist()
    return np.concatenate([ids[start : start + SCORED_PIECE] for start in starts])


def _lost(before: NDArray[np.int64], after: NDArray[np.int64]) -> float:
    """The divergence of the latter frequencies from the former, plus one each, in bits."""
    seen = after > 0
    own, taken = after[seen] / after.sum(), (before[seen] + 1) / (before.sum() + len(before))
    return float((own * np.log2(own / taken)).sum())


def _frequencies(ids: Ids, n: int) -> NDArray[np.int64]:
    counts = np.zeros(n, dtype=np.int64)
    for piece in spread_pieces(ids, MOST_READ):
        counts += np.bincount(piece, minlength=n)
    return counts
