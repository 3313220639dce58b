"""A model that goes on learning: after a piece of text was scored, a gradient step on that piece.

Axes: N symbols of a piece, V symbols of the vocabulary.
"""

from itertools import groupby
from math import log, log1p

import numpy as np
import torch
from torch import Tensor

from charlm.context import ContextRule
from charlm.model.cache import Cache
from charlm.predictor import Scores, TransformerPredictor
from charlm.text.vocabulary import Ids, Vocabulary
from charlm.unseen import ESCAPE, first_character

RATE = 3e-4
"""How far a step moves each number of a weight, in the root mean square; benchmarks/NOTES.md has what was tried."""
MEMORY = 0.999
"""What a step leaves of the mean square of the gradients seen before."""
LEAST = 1e-12


class DynamicModel:
    """Dynamic evaluation: the weights follow the text that is read, each character scored before.

    What stands before a piece is what the context rule lets it see. Where a window goes on over
    several pieces, what was read is kept as it was computed before the last steps, and no gradient
    flows back into it; so it is with what the counts said of it. A step goes down the gradient, which is divided by its usual size in that
    weight, one number for each: so one rate serves models of any size. The weights of the model are
    changed. Mikolov et al. 2010, Interspeech 1045; Krause et al. 2018, arXiv 1709.07432.
    """

    def __init__(self, predictor: TransformerPredictor, rule: ContextRule, rate: float = RATE) -> None:
        self.predictor, self.vocabulary = predictor, predictor.vocabulary
        self._model, self._rule = predictor.model, rule
        self._rate = rate
        self._weights = [weight for weight in self._model.parameters() if weight.requires_grad]
        self._squares = [torch.zeros((), dtype=weight.dtype) for weight in self._weights]
        self._steps = 0
        self.begin(np.empty(0, np.int32))

    def begin(self, ids: Ids) -> None:
        """Turn to another text, which nothing precedes."""
        self._ids = torch.from_numpy(ids.astype(np.int64))
        self._cache: Cache | None = None
        self._start = 0  # of the text that the cache holds
        self._said: Tensor | None = None  # what the counts said of the ids up to `_end`, each in its time
        self._end = 0
        self._loss: Tensor | None = None

    def score(self, part: slice, log_prior: Tensor | None) -> Scores:
        """Log-probabilities of a part of the ids, (N,); the parts of a text come in their order.

        `log_prior` (N, V) is what the counts say of each, for a model that begins from counts.
        """
        first, end = part.start, part.stop
        self._hear(log_prior, end)
        logp = [self._first(log_prior)] if first == 0 else []
        for start, places in groupby(range(max(1, first), end), self._rule.start):
            at = list(places)
            logp.append(self._piece(start, at[0], at[-1] + 1))
        joined = torch.cat(logp)
        self._loss = -joined.mean() if joined.requires_grad else None
        return joined.detach().double().numpy()

    def learn(self) -> None:
        """A step on what was scored last."""
        if self._loss is None or not self._rate:
            return
        gradients = torch.autograd.grad(self._loss, self._weights, allow_unused=True)
        self._steps += 1
        known = 1 - MEMORY**self._steps
        with torch.no_grad():
            for weight, square, gradient in zip(self._weights, self._squares, gradients, strict=True):
                if gradient is not None:
                    square.lerp_(gradient.square().mean(), 1 - MEMORY)
                    weight.sub_(gradient * (self._rate / ((square / known).sqrt() + LEAST)))

    def _first(self, log_prior: Tensor | None) -> Tensor:
        """That of the character that nothing precedes, (1,): as without learning, by counts alone."""
        if log_prior is None:
            return torch.from_numpy(first_character(self.vocabulary)[self._ids[:1].numpy()])
        return log_of_ids(log_prior[:1], self._ids[:1], self.vocabulary)

    def _hear(self, log_prior: Tensor | None, end: int) -> None:
        """Keep what the counts say of the ids up to `end`, as far back as a window can begin."""
        if log_prior is not None:
            new = log_prior.to(self._model.embedding.weight.dtype)
            before = new[:0] if self._said is None else self._said[-self._rule.block_size :]
            self._said, self._end = torch.cat((before, new)), end

    def _prior(self, first: int, end: int) -> Tensor | None:
        """What the counts said, if there are any, of the ids from `first` to `end` - 1: (1, N, V)."""
        if self._said is None:
            return None
        origin = self._end - len(self._said)
        assert first >= origin
        return self._said[None, first - origin : end - origin]

    def _piece(self, start: int, first: int, end: int) -> Tensor:
        """Those of ids that are read in one window, which begins at `start`: (end - first,)."""
        if self._cache is None or start != self._start:
            self._cache, self._start = self._model.cache(1), start
            if start < first - 1:
                with torch.no_grad():
                    before, known = self._ids[None, start : first - 1], self._prior(start + 1, first)
                    self._model.hidden(before, self._cache, log_prior=known)
        prior = self._prior(first, end)
        hidden = self._model.hidden(self._ids[None, first - 1 : end - 1], self._cache, log_prior=prior)
        self._cache.detach()
        logp = torch.log_softmax(self._model.logits(hidden, prior), dim=-1)[0]
        return log_of_ids(logp, self._ids[first:end], self.vocabulary)


def log_of_ids(log_rows: Tensor, ids: Tensor, vocabulary: Vocabulary) -> Tensor:
    """Log-probabilities (N,) of ids (N,), from those of the model's symbols (N, V).

    Bytes that training never saw share the same small probability as everywhere.
    """
    lacking = vocabulary.n_ids - vocabulary.n_symbols
    if not lacking:
        return log_rows.gather(1, ids[:, None])[:, 0]
    known = log_rows.gather(1, ids.clamp(max=vocabulary.n_symbols - 1)[:, None])[:, 0] + log1p(-ESCAPE)
    return known.where(ids < vocabulary.n_symbols, log(ESCAPE / lacking))
