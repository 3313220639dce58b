"""Sliding-window predictions of a text that arrives in pieces: the same as of the whole text, in bounded memory.

Shapes: n ids of a chunk, V ids of the vocabulary.
"""

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from charlm.data.tokenizer import Ids
from charlm.inference.context import ContextRule
from charlm.inference.predictor import Carry, Predictor, Scores

SYMBOLS_AT_ONCE = 1 << 15
"""Symbols whose chunks are given to the predictor together: they depend on the text alone, not on its pieces, because
the last bits of a product of matrices depend on the shape of the batch."""


class SlidingWindow:
    """Reads texts by a context rule, keeping only the part of a text that later predictions can still see."""

    def __init__(self, predictor: Predictor, rule: ContextRule | None = None) -> None:
        """The rule is the predictor's by default."""
        self._predictor = predictor
        self._rule = predictor.in_blocks(rule or predictor.rule)
        self._at_once = max(1, SYMBOLS_AT_ONCE // self._rule.stride)
        self._grid, self._lookback = predictor.grid(self._rule), predictor.lookback(self._rule)
        self._first = torch.from_numpy(predictor.first_log_probs())[None]  # (1, V)

    def read(self, pieces: Iterable[Ids]) -> Iterator[tuple[Scores, Tensor]]:
        """Yield the log-probabilities (n,) of the ids of one text and the distributions (n, V) that they are from.

        In order: of the first id alone, then of chunk after chunk.
        """
        rule, carry = self._rule, Carry()
        kept, begin, k = np.empty(0, np.int32), 0, 0  # the ids from `begin` on; the next chunk
        for piece in chain(pieces, [None]):
            if piece is not None:
                if len(piece) and begin + len(kept) == 0:
                    yield self._first[0, int(piece[0]), None].double().numpy(), self._first
                kept = np.concatenate((kept, piece))
            while (stop := self._complete(k, begin + len(kept), is_all=piece is None)) > k:
                skipped = begin // rule.stride
                chunks = range(k - skipped, stop - skipped)
                yield from self._predictor.predictions(kept, chunks, rule, carry=carry)
                k = stop
                unseen = max(0, rule.start_of_scores(k) - 1 - self._lookback) // self._grid * self._grid
                kept, begin = kept[unseen - begin :], unseen

    def _complete(self, k: int, n: int, *, is_all: bool) -> int:
        """Return the end of the chunks from k on that can be read at once when n ids are known."""
        stop = k + self._at_once
        if is_all:
            return min(stop, self._rule.n_chunks(n))
        return stop if (stop - 1) * self._rule.stride + self._rule.block_size < n else k
