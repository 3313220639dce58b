"""The predictor of a Kneser-Ney n-gram model on its own. Shapes as in predictor.py."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from charlm.data.shards import TextIds
from charlm.data.tokenizer import UNIT_NOUNS, Ids, Vocabulary
from charlm.inference.context import ContextRule
from charlm.inference.predictor import ESCAPE, Carry, Edges, Predictor, Scores, log_softmax_with_escape
from charlm.native.ngram_rows import Cursor
from charlm.ngram.kneser_ney import POSITIONS_AT_ONCE, KneserNey, PlainCursor

NGRAM_BLOCK = 64
"""Symbols that a chunk of the n-gram model scores; its context is only `order` symbols."""


class NgramPredictor(Predictor):
    """A Kneser-Ney n-gram model on its own: each symbol is predicted from the `order` symbols before it."""

    kind = "ngram"
    precision = torch.float64
    single_threaded = True

    def __init__(self, model: KneserNey, vocabulary: Vocabulary) -> None:
        assert model.n_symbols == vocabulary.n_symbols
        self.model, self.vocabulary = model, vocabulary
        self.rule = ContextRule.of_order(model.order)
        self._unseen = vocabulary.n_ids - vocabulary.n_symbols

    def score(self, ids: Ids, rule: ContextRule | None = None) -> Scores:
        """Return the log-probability, in nats, of each id of a text given the ones before it: (N,)."""
        return self._log_with_escape(self.model.probabilities(ids), np.asarray(ids))

    def score_chunks(
        self, ids: TextIds, chunks: Sequence[int], rule: ContextRule | None = None
    ) -> Iterator[Scores]:
        """Yield, for each chunk of the context rule, the log-probabilities (n,) of the ids that it scores."""
        rule = rule or self.rule
        at_once = max(1, POSITIONS_AT_ONCE // rule.block_size)
        for i in range(0, len(chunks), at_once):
            parts = [rule.chunk(k, len(ids)) for k in chunks[i : i + at_once]]
            at = np.concatenate([np.arange(part.first, part.end) for part in parts])
            most = None
            if rule.reset_prior_at_start:
                most = np.concatenate([np.arange(part.first, part.end) - part.start for part in parts])
            scores = self._log_with_escape(self.model.probabilities_at(ids, at, most), np.asarray(ids[at]))
            yield from np.split(scores, np.cumsum([part.end - part.first for part in parts])[:-1])

    def predictions(
        self,
        ids: TextIds,
        chunks: Sequence[int],
        rule: ContextRule | None = None,
        *,
        carry: Carry | None = None,
    ) -> Iterator[tuple[Scores, Tensor]]:
        """Yield the scores of `score_chunks` with their distributions (n, V), which have single precision."""
        yield from zip(
            self.score_chunks(ids, chunks, rule), self.distributions(ids, chunks, rule), strict=True
        )

    def in_blocks(self, rule: ContextRule) -> ContextRule:
        """Return the rule that scores NGRAM_BLOCK symbols at a time."""
        if rule.reset_prior_at_start:
            return rule
        return ContextRule(self.rule.block_size + NGRAM_BLOCK - 1, NGRAM_BLOCK)

    def distributions(
        self,
        ids: TextIds,
        chunks: Sequence[int],
        rule: ContextRule | None = None,
        *,
        folds: Edges | None = None,
        carry: Carry | None = None,
    ) -> Iterator[Tensor]:
        """Yield, for each chunk, the log-probabilities (n, V) of every id at each position that it scores."""
        rule = rule or self.rule
        for k in chunks:
            start, first, end = rule.chunk(k, len(ids))
            before = first - 1 - start if rule.reset_prior_at_start else None
            rows = self.model.log_rows(ids, np.array([first - 1]), end - first, before=before, folds=folds)
            yield log_softmax_with_escape(self.vocabulary, torch.from_numpy(rows[0]))

    def first_log_probs(self) -> Scores:
        """Return log-probabilities (V,) of the first id of a text."""
        return self.step(self.start(1), torch.empty((1, 0), dtype=torch.int64))[1][0].numpy()

    def start(self, batch_size: int) -> Cursor | PlainCursor:
        """Return a cursor over `batch_size` texts before their first character."""
        return self.model.cursor(batch_size)

    def step(self, state: Cursor | PlainCursor, ids: Tensor) -> tuple[Cursor | PlainCursor, Tensor]:
        """Read ids (B, T), T >= 0. Returns the new state and log-probabilities (B, V) of the next id."""
        state.read(ids.numpy())
        return state, log_softmax_with_escape(self.vocabulary, torch.from_numpy(np.log(state.next())))

    def describe_context(self, rule: ContextRule) -> str:
        """Describe in words what each symbol is predicted from."""
        word, order = UNIT_NOUNS[self.vocabulary.units], self.model.order
        return f"{order or 'no'} {word}{'s' * (order != 1)} before each"

    def _log_with_escape(self, p: Scores, ids: Ids) -> Scores:
        """Return log-probabilities (N,) of ids, from the model's probabilities (N,) of those in the vocabulary."""
        p = p * (1 - ESCAPE if self._unseen else 1)
        p[ids >= self.vocabulary.n_symbols] = ESCAPE / max(1, self._unseen)
        return np.log(p)
