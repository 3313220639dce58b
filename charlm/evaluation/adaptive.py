"""Dynamic evaluation: each block of a text is scored first and then learned, by the model and by its n-gram prior.

Shapes: N symbols of a block, V symbols of the vocabulary.
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
from charlm.evaluation.score import Score, TextScore, text_score
from charlm.inference.context import ContextRule
from charlm.inference.predictor import ESCAPE, Scores, TransformerPredictor, symbol_frequencies
from charlm.model.kv_cache import ModelCache
from charlm.ngram.online import OnlineKneserNey

LEARNING_RATE = 3e-4
"""The root mean square change of a weight in one step; benchmarks/NOTES.md has what was tried."""
DECAY = 0.999
"""Decay of the running mean square of the gradients."""
EPSILON = 1e-12


class DynamicModel:
    """A model that takes a gradient step on each block after it has scored it. It changes the predictor's weights.

    The context rule holds. When a window spans several blocks, the cache keeps what was computed before the last steps,
    and no gradient flows back into it; the same holds for the prior. Each weight's gradient is divided by its running
    root mean square, one number per tensor, so that one learning rate serves models of any size. Mikolov et al. 2010,
    Interspeech 1045; Krause et al. 2018, arXiv 1709.07432.
    """

    def __init__(
        self, predictor: TransformerPredictor, rule: ContextRule, rate: float = LEARNING_RATE
    ) -> None:
        self.predictor, self.vocabulary = predictor, predictor.vocabulary
        self._model, self._rule = predictor.model, rule
        self._rate = rate
        self._weights = [weight for weight in self._model.parameters() if weight.requires_grad]
        self._squares = [torch.zeros((), dtype=weight.dtype) for weight in self._weights]
        self._steps = 0
        self.begin(np.empty(0, np.int32))

    def begin(self, ids: Ids) -> None:
        """Start another text, with an empty context."""
        self._ids = torch.from_numpy(ids.astype(np.int64))
        self._cache: ModelCache | None = None
        self._start = 0  # of the window that the cache holds
        self._priors: Tensor | None = (
            None  # rows of the prior for the last ids up to `_end`, each from its time
        )
        self._end = 0
        self._loss: Tensor | None = None

    def score(self, part: slice, log_prior: Tensor | None) -> Scores:
        """Log-probabilities of a part of the ids, (N,); parts must come in order.

        `log_prior` (N, V): rows of the n-gram prior, for a model that has one.
        """
        first, end = part.start, part.stop
        self._keep_prior(log_prior, end)
        logp = [self._first(log_prior)] if first == 0 else []
        for start, places in groupby(range(max(1, first), end), self._rule.start):
            at = list(places)
            logp.append(self._piece(start, at[0], at[-1] + 1))
        joined = torch.cat(logp)
        self._loss = -joined.mean() if joined.requires_grad else None
        return joined.detach().double().numpy()

    def learn(self) -> None:
        """Take a gradient step on the part that was scored last."""
        if self._loss is None or not self._rate:
            return
        gradients = torch.autograd.grad(self._loss, self._weights, allow_unused=True)
        self._steps += 1
        correction = 1 - DECAY**self._steps
        with torch.no_grad():
            for weight, square, gradient in zip(self._weights, self._squares, gradients, strict=True):
                if gradient is not None:
                    square.lerp_(gradient.square().mean(), 1 - DECAY)
                    weight.sub_(gradient * (self._rate / ((square / correction).sqrt() + EPSILON)))

    def _first(self, log_prior: Tensor | None) -> Tensor:
        """The log-probability of the first character, (1,): by the prior, or by the frequencies in the training text."""
        if log_prior is None:
            return torch.from_numpy(symbol_frequencies(self.vocabulary)[self._ids[:1].numpy()])
        return log_of_ids(log_prior[:1], self._ids[:1], self.vocabulary)

    def _keep_prior(self, log_prior: Tensor | None, end: int) -> None:
        """Keep the prior of the ids up to `end`, as far back as a window can begin."""
        if log_prior is not None:
            new = log_prior.to(self._model.embedding.weight.dtype)
            before = new[:0] if self._priors is None else self._priors[-self._rule.block_size :]
            self._priors, self._end = torch.cat((before, new)), end

    def _prior(self, first: int, end: int) -> Tensor | None:
        """The kept prior of the ids from `first` to `end` - 1, (1, N, V), if there is a prior."""
        if self._priors is None:
            return None
        origin = self._end - len(self._priors)
        assert first >= origin
        return self._priors[None, first - origin : end - origin]

    def _piece(self, start: int, first: int, end: int) -> Tensor:
        """Log-probabilities of ids in one window, which begins at `start`: (end - first,)."""
        if self._cache is None or start != self._start:
            self._cache, self._start = self._model.new_cache(1), start
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
    """Log-probabilities (N,) of ids (N,), from rows (N, V) over the vocabulary; unseen bytes share ESCAPE."""
    unseen = vocabulary.n_ids - vocabulary.n_symbols
    if not unseen:
        return log_rows.gather(1, ids[:, None])[:, 0]
    known = log_rows.gather(1, ids.clamp(max=vocabulary.n_symbols - 1)[:, None])[:, 0] + log1p(-ESCAPE)
    return known.where(ids < vocabulary.n_symbols, log(ESCAPE / unseen))


NGRAM, MODEL = "ngram", "model"
BLOCK = 64
"""Characters in a block; the first block of a text has one more."""
BLOCKS_A_REPORT = 8


@dataclass(frozen=True)
class Progress:
    """How far the work is."""

    symbols: int
    of: int


@dataclass(frozen=True)
class Learners:
    """The model, with its own copy of the weights, and its n-gram prior, if it has one."""

    model: DynamicModel
    prior: OnlineKneserNey | None

    @classmethod
    def of(cls, snapshot: Snapshot, rule: ContextRule) -> "Learners":
        """The learners of a checkpoint, which is not changed."""
        own = {name: weight.clone() for name, weight in snapshot.weights.items()}
        predictor = TransformerPredictor.of(replace(snapshot, weights=own))
        prior = None if predictor.prior is None else OnlineKneserNey(predictor.prior)
        return cls(DynamicModel(predictor, rule), prior)


def scoring_online(
    learners: Learners, texts: Sequence[tuple[str, str]]
) -> Generator[Progress, None, dict[str, Score]]:
    """Score named texts, each block before it is learned; returns the scores of MODEL, and of NGRAM if there is a prior.

    The n-gram model adds the block to its counts, and the transformer takes a gradient step. What was learned from one
    text is kept for the next; context is not.
    """
    vocabulary = learners.model.vocabulary
    done_texts: dict[str, list[TextScore]] = {MODEL: []} if learners.prior is None else {NGRAM: [], MODEL: []}
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
            done_texts[kind].append(text_score(vocabulary, name, text, np.concatenate(logps)))
    return {kind: Score(of_texts) for kind, of_texts in done_texts.items()}


def _blocks(learners: Learners, ids: Ids) -> Iterator[dict[str, Scores]]:
    """The log-probabilities of each block by n-gram prior (if any) and model, which then learn it."""
    model, prior = learners.model, learners.prior
    model.begin(ids)
    if prior is None:
        for part in _parts(len(ids)):
            yield {MODEL: model.score(part, None)}
            model.learn()
        return
    contexts = prior.contexts(ids)
    for part in _parts(len(ids)):
        log_rows = torch.from_numpy(np.log(prior.rows(contexts[part])))
        read = torch.from_numpy(ids[part].astype(np.int64))
        by_prior = log_of_ids(log_rows, read, model.vocabulary).numpy()
        yield {NGRAM: by_prior, MODEL: model.score(part, log_rows)}
        model.learn()
        prior.learn(contexts[part], ids[part])


def _parts(n: int) -> Iterator[slice]:
    """The blocks of a text of n symbols."""
    start = 0
    while start < n:
        end = min(n, start + BLOCK + (start == 0))
        yield slice(start, end)
        start = end
