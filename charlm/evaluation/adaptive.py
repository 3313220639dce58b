"""Dynamic evaluation: each block of a text is scored first and then learned, by the model and by its n-gram prior.

Shapes: N symbols of a block, P symbols that a window can reach back, V symbols of the vocabulary.
"""

from collections.abc import Generator, Iterator, Sequence
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from charlm.checkpoint.snapshot import Snapshot
from charlm.data.tokenizer import Ids
from charlm.evaluation.score import Score, TextScore, text_score
from charlm.inference.accelerator import gpu_failures
from charlm.inference.context import ContextRule
from charlm.inference.members import MixturePredictor, own_rule, predictor_of
from charlm.inference.predictor import (
    Scores,
    TransformerPredictor,
    log_softmax_with_escape,
    unigram_log_probs,
)
from charlm.inference.recent import RecentPredictor, without_recent
from charlm.model.kv_cache import ModelCache
from charlm.ngram.online import OnlineKneserNey

LEARNING_RATE = 3e-4
"""The root mean square change of a weight in one step; benchmarks/NOTES.md has what was tried."""
DECAY = 0.999
"""Decay of the running mean square of the gradients."""
EPSILON = 1e-12
NGRAM, MODEL = "ngram", "model"
BLOCK = 64
"""Characters in a block; the first block of a text has one more."""
BLOCKS_A_REPORT = 8


class DynamicModel:
    """A model that takes a gradient step on each block after it has scored it; its n-gram model, if any, counts it.

    In a mixture each transformer learns on its own, and the mixture weights stay. The context rule holds. When a
    window spans several blocks, the cache keeps what was computed with earlier weights, and no gradient flows back
    into it; the same holds for the prior. Each weight's gradient is divided by its running root mean square, one
    number per tensor, so that one learning rate serves models of any size. Mikolov et al. 2010, Interspeech 1045;
    Krause et al. 2018, arXiv 1709.07432.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        rule: ContextRule,
        rate: float = LEARNING_RATE,
        device: torch.device | None = None,
    ) -> None:
        """Its transformers learn on `device`, by default the CPU; its n-gram model on the CPU."""
        predictor = predictor_of(snapshot, device)
        self._recent = predictor.recent if isinstance(predictor, RecentPredictor) else None
        predictor = without_recent(predictor)
        self._mixture = predictor if isinstance(predictor, MixturePredictor) else None
        members = predictor.members if isinstance(predictor, MixturePredictor) else (predictor,)
        self.vocabulary, self.device = predictor.vocabulary, predictor.device
        self.prior = (
            None if predictor.prior is None else (OnlineKneserNey(predictor.prior, self.vocabulary.end))
        )
        self._transformers = [
            _Learner(member, own_rule(member, rule), rate)
            for member in members
            if isinstance(member, TransformerPredictor)
        ]
        self._most = max(learner.rule.block_size for learner in self._transformers)

    def begin(self, ids: Ids) -> None:
        """Start another text, with an empty context."""
        self._ids, self._part = ids, slice(0, 0)
        self._contexts = None if self.prior is None else self.prior.contexts(ids)
        self._priors: Tensor | None = None  # (1, P, V): the prior of the last ids, each row as computed then
        for learner in self._transformers:
            learner.begin(ids)

    def score(self, part: slice) -> dict[str, Scores]:
        """Return log-probabilities (N,) of a part of the ids by MODEL, and by NGRAM if it exists; parts come in order."""
        scores, first, rows = {}, unigram_log_probs(self.vocabulary), None
        if self.prior is not None and self._contexts is not None:
            rows = torch.from_numpy(np.log(self.prior.rows(self._contexts[part])))  # (N, V)
            scores[NGRAM] = self._log_of_ids(rows, part)
            first, new = rows[0].numpy(), rows.float()[None]
            kept = new[:, :0] if self._priors is None else self._priors[:, -self._most :]
            self._priors = torch.cat((kept, new), dim=1)
        self._part = part
        origin = 0 if self._priors is None else part.stop - self._priors.shape[1]
        found = [learner.score(part, self._priors, origin) for learner in self._transformers]
        if part.start == 0:
            begin = torch.from_numpy(first[: self.vocabulary.n_symbols]).float()[None]
            found = [torch.cat((begin, logits)) for logits in found]
        logits = found[0]
        if self._mixture is not None:
            found += [rows] if self._mixture.mixture.ngram and rows is not None else []
            logits = torch.from_numpy(self._mixture.pool([each.float().numpy() for each in found]))
        return {**scores, MODEL: self._log_of_ids(self._corrected(logits, part), part)}

    def _corrected(self, logits: Tensor, part: slice) -> Tensor:
        """Correct the logits (N, V) of a part of the ids by recent n-grams, if the model has them."""
        if self._recent is None:
            return logits
        ats, symbols = np.arange(part.start, part.stop), (self.vocabulary.n_symbols, self.vocabulary.end)
        logp = torch.log_softmax(logits.float(), dim=-1).numpy()
        return torch.from_numpy(self._recent.correct(logp, self._ids, ats, *symbols))

    def learn(self) -> None:
        """Learn the part that was scored last."""
        if self.prior is not None and self._contexts is not None:
            self.prior.learn(self._contexts[self._part], self._ids[self._part])
        for learner in self._transformers:
            learner.learn()

    def _log_of_ids(self, logits: Tensor, part: slice) -> Scores:
        """Return log-probabilities (N,) of a part of the ids, from logits or log-probabilities (N, V)."""
        ids = torch.from_numpy(self._ids[part].astype(np.int64))[:, None]
        logp = log_softmax_with_escape(self.vocabulary, logits)
        found: Scores = logp.gather(1, ids)[:, 0].double().numpy()
        return found


class _Learner:
    """A transformer that learns each part of a text after it has predicted it."""

    def __init__(self, predictor: TransformerPredictor, rule: ContextRule, rate: float) -> None:
        self._model, self._temperature = predictor.model, predictor.temperature
        self._vocabulary, self._rate = predictor.vocabulary, rate
        own = {name: weight.clone() for name, weight in self._model.state_dict().items()}
        self._model.load_state_dict(own, assign=True)
        self.rule = rule
        self._weights = [weight for weight in self._model.parameters() if weight.requires_grad]
        self._squares = [weight.new_zeros(()) for weight in self._weights]
        self._steps = 0

    def begin(self, ids: Ids) -> None:
        """Start another text, with an empty context."""
        self._ids = ids
        self._cache: ModelCache | None = None
        self._start = 0  # of the window that the cache holds
        self._loss: Tensor | None = None

    def score(self, part: slice, priors: Tensor | None, origin: int) -> Tensor:
        """Return logits (N, V), on the CPU, of a part of the ids, without the text's first id.

        `priors` (1, P, V) begins with the prior of id `origin`.
        """
        found = []
        for start, places in groupby(range(max(1, part.start), part.stop), self.rule.start):
            at = list(places)
            found.append(self._read_window(start, slice(at[0], at[-1] + 1), priors, origin))
        if not found:
            self._loss = None
            return torch.empty(0, self._model.n_symbols)
        logits = torch.cat(found)
        targets = self._tensor(slice(max(1, part.start), part.stop))[:, None]
        loss = -log_softmax_with_escape(self._vocabulary, logits).gather(1, targets).mean()
        self._loss = loss if loss.requires_grad else None
        return logits.detach().cpu() / self._temperature

    def learn(self) -> None:
        """Learn the part that was scored last."""
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

    def _read_window(self, start: int, part: slice, priors: Tensor | None, origin: int) -> Tensor:
        """Return logits (N, V) of ids in one window, which begins at `start`."""
        before = part.start - 1
        if self._cache is None or start != self._start:
            self._cache, self._start = self._model.new_cache(1), start
            if start < before:
                with torch.no_grad():
                    known = self._prior_of(priors, slice(start + 1, before + 1), origin)
                    self._model.hidden(self._tensor(slice(start, before))[None], self._cache, log_prior=known)
        prior = self._prior_of(priors, part, origin)
        read = self._tensor(slice(before, part.stop - 1))[None]
        hidden = self._model.hidden(read, self._cache, log_prior=prior)
        self._cache.detach()
        return self._model.logits(hidden, prior)[0]

    def _prior_of(self, priors: Tensor | None, part: slice, origin: int) -> Tensor | None:
        """Return the prior of a part of the ids, (1, N, V); None if the model has no prior."""
        if priors is None or self._model.prior is None:
            return None
        assert part.start >= origin
        return priors[:, part.start - origin : part.stop - origin].to(self._model.embedding.weight)

    def _tensor(self, part: slice) -> Tensor:
        return torch.from_numpy(self._ids[part].astype(np.int64)).to(self._model.embedding.weight.device)


def scoring_online(
    model: DynamicModel, texts: Sequence[tuple[str, str]]
) -> Generator[tuple[int, int], None, dict[str, Score]]:
    """Score named texts, each block before it is learned; return the scores of MODEL, and of NGRAM if there is a prior.

    Yields the number of symbols done, and their total. What was learned from one text is kept for the next; context is
    not.
    """
    kinds = [MODEL] if model.prior is None else [NGRAM, MODEL]
    scored: dict[str, list[TextScore]] = {kind: [] for kind in kinds}
    encoded = [model.vocabulary.encode(text) for _, text in texts]
    done, of = 0, sum(map(len, encoded))
    for (name, text), ids in zip(texts, encoded, strict=True):
        found: dict[str, list[Scores]] = {kind: [np.empty(0)] for kind in kinds}
        model.begin(ids)
        for i, part in enumerate(_blocks(len(ids))):
            with gpu_failures(model.device):
                for kind, logp in model.score(part).items():
                    found[kind].append(logp)
                model.learn()
            done += part.stop - part.start
            if i % BLOCKS_A_REPORT == 0:
                yield done, of
        for kind, logps in found.items():
            scored[kind].append(text_score(model.vocabulary, name, text, np.concatenate(logps)))
    return {kind: Score(of_texts) for kind, of_texts in scored.items()}


def _blocks(n: int) -> Iterator[slice]:
    """Yield the blocks of a text of n symbols."""
    start = 0
    while start < n:
        end = min(n, start + BLOCK + (start == 0))
        yield slice(start, end)
        start = end
