"""Adaptive scores: each block is scored first and then learned from, by the model and by the n-grams.

Axes: N symbols of a piece, V symbols of the vocabulary.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from math import log, log1p

import numpy as np
import torch
from torch import Tensor

from charlm.checkpoint.snapshot import Snapshot
from charlm.data.tokenizer import Ids, Vocabulary
from charlm.evaluation.score import Figure, Scored, scored
from charlm.inference.context import ContextRule
from charlm.inference.predictor import ESCAPE, Scores, TransformerPredictor, first_character
from charlm.model.kv_cache import Cache
from charlm.ngram.online import OnlineCounts

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


COUNTS, MODEL = "counts", "model"
BLOCK = 64
"""How many characters are scored before they are learned; a text's first block has one more, its very first."""
BLOCKS_A_REPORT = 8


@dataclass(frozen=True)
class Progress:
    """How far the work is."""

    symbols: int
    of: int


@dataclass(frozen=True)
class Learners:
    """The counts that a model begins from, where it does, and the model, with weights of its own."""

    model: DynamicModel
    counts: OnlineCounts | None

    @classmethod
    def of(cls, snapshot: Snapshot, rule: ContextRule) -> "Learners":
        """Those of a checkpoint, which stays as it is."""
        own = {name: weight.clone() for name, weight in snapshot.weights.items()}
        predictor = TransformerPredictor.of(replace(snapshot, weights=own))
        counts = None if predictor.counts is None else OnlineCounts(predictor.counts)
        return cls(DynamicModel(predictor, rule), counts)


def scoring_online(
    learners: Learners, texts: Sequence[tuple[str, str]]
) -> Generator[Progress, None, dict[str, Figure]]:
    """Score named texts, each block before it is learned; the figures of COUNTS, if any, and of MODEL.

    The counts add the block's n-grams to theirs, and the model makes a step down its gradient. What
    was learned of one text is kept for the next; context is not.
    """
    vocabulary = learners.model.vocabulary
    done_texts: dict[str, list[Scored]] = {MODEL: []} if learners.counts is None else {COUNTS: [], MODEL: []}
    encoded = [vocabulary.encode(text) for _, text in texts]
    done, of = 0, sum(map(len, encoded))
    for (name, text), ids in zip(texts, encoded, strict=True):
        found: dict[str, list[Scores]] = {kind: [np.empty(0)] for kind in done_texts}
        for i, scores in enumerate(_blocks(learners, ids)):
            for kind, logp in scores.items():
                found[kind].append(logp)
            done += len(scores[MODEL])
            if i % BLOCKS_A_REPORT == 0:
                yield Progress(done, of)
        for kind, logps in found.items():
            done_texts[kind].append(scored(vocabulary, name, text, np.concatenate(logps)))
    return {kind: Figure(of_texts) for kind, of_texts in done_texts.items()}


def _blocks(learners: Learners, ids: Ids) -> Iterator[dict[str, Scores]]:
    """What counts (if there are any) and model make of each block of a text; then both learn it."""
    model, counts = learners.model, learners.counts
    model.begin(ids)
    if counts is None:
        for part in _parts(len(ids)):
            yield {MODEL: model.score(part, None)}
            model.learn()
        return
    contexts = counts.contexts(ids)
    for part in _parts(len(ids)):
        log_rows = torch.from_numpy(np.log(counts.rows(contexts[part])))
        read = torch.from_numpy(ids[part].astype(np.int64))
        of_counts = log_of_ids(log_rows, read, model.vocabulary).numpy()
        yield {COUNTS: of_counts, MODEL: model.score(part, log_rows)}
        model.learn()
        counts.learn(contexts[part], ids[part])


def _parts(n: int) -> Iterator[slice]:
    """The blocks of a text of n symbols."""
    start = 0
    while start < n:
        end = min(n, start + BLOCK + (start == 0))
        yield slice(start, end)
        start = end
