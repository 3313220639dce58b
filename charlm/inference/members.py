"""The predictor of a checkpoint, whatever was trained; several members predict as one.

Shapes: B texts side by side, N places, V symbols.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from charlm.checkpoint.snapshot import Snapshot
from charlm.data.tokenizer import Ids, Vocabulary
from charlm.inference.context import ContextRule
from charlm.inference.predictor import (
    Edges,
    NgramPredictor,
    Predictor,
    Scores,
    TransformerPredictor,
    log_softmax_with_escape,
)
from charlm.inference.text_state import IdRows
from charlm.model.mixture import Floats32, Mixture, log_normalised


class MixturePredictor(Predictor):
    """The members of a run as one distribution (`charlm.model.mixture`); each sees what its own context rule allows."""

    kind = "mixture"

    def __init__(self, members: Sequence[Predictor], mixture: Mixture, vocabulary: Vocabulary) -> None:
        """`members` in the order of the mixture, their temperatures 1."""
        assert len(members) == mixture.n_members
        self.members, self.mixture, self.vocabulary = tuple(members), mixture, vocabulary
        transformers = [member for member in members if isinstance(member, TransformerPredictor)]
        self.rule = max((member.rule for member in transformers), key=lambda rule: rule.block_size)
        self.precision = transformers[0].precision
        self.single_threaded = any(member.single_threaded for member in transformers)
        self.kernels = transformers[0].kernels
        priors = [member.model for member in members if isinstance(member, NgramPredictor)]
        self.prior = next(iter([*priors, *(member.prior for member in transformers if member.prior)]), None)

    def distributions(
        self,
        ids: Ids,
        chunks: Sequence[int],
        rule: ContextRule | None = None,
        *,
        folds: Edges | None = None,
    ) -> Iterator[Tensor]:
        """For each of these chunks, the log-probabilities (n, V) of every id at each place that it scores."""
        for logps in self.of_members(ids, chunks, rule, folds=folds):
            pooled = torch.from_numpy(self.mixture.log_probs(logps))
            yield log_softmax_with_escape(self.vocabulary, pooled)

    def of_members(
        self,
        ids: Ids,
        chunks: Sequence[int],
        rule: ContextRule | None = None,
        *,
        folds: Edges | None = None,
    ) -> Iterator[tuple[Floats32, ...]]:
        """For each of these chunks, the log-probabilities (n, symbols) of each member alone."""
        return zip(
            *(
                symbol_log_probs(member, ids, chunks, rule or self.rule, folds=folds)
                for member in self.members
            ),
            strict=True,
        )

    def first_log_probs(self) -> Scores:
        """Log-probabilities (V,) of the first id of a text."""
        logp = self.step(self.start(1), torch.empty((1, 0), dtype=torch.int64))[1]
        return logp[0].double().numpy()

    def start(self, batch_size: int) -> list[Any]:
        """The states of `batch_size` texts before their first character."""
        return [member.start(batch_size) for member in self.members]

    def step(self, state: list[Any], ids: Tensor) -> tuple[list[Any], Tensor]:
        """Read ids (B, T), T >= 0. Returns the new state and log-probabilities (B, V) of the next id."""
        read = [member.step(of_member, ids) for member, of_member in zip(self.members, state, strict=True)]
        logps = [_of_symbols(self.vocabulary, logp) for _, logp in read]
        pooled = torch.from_numpy(self.mixture.log_probs(logps))
        return [new for new, _ in read], log_softmax_with_escape(self.vocabulary, pooled)

    def next_logits(self, state: list[Any], ids: IdRows) -> tuple[list[Any], Floats32]:
        """Read one id (B,) of each text. Returns the new state and log-probabilities (B, symbols)."""
        read = [
            member.next_logits(of_member, ids) for member, of_member in zip(self.members, state, strict=True)
        ]
        return [new for new, _ in read], self.mixture.log_probs(
            [log_normalised(logits) for _, logits in read]
        )

    def describe_context(self, rule: ContextRule) -> str:
        """What each symbol is predicted from, in words."""
        return " | ".join(
            dict.fromkeys(member.describe_context(own_rule(member, rule)) for member in self.members)
        )


def symbol_log_probs(
    member: Predictor, ids: Ids, chunks: Sequence[int], rule: ContextRule, *, folds: Edges | None = None
) -> Iterator[Floats32]:
    """A member's log-probabilities (n, symbols) at the places that each chunk of `rule` scores, by its own rule."""
    own, n = own_rule(member, rule), len(ids)
    parts = [rule.chunk(k, n) for k in chunks]
    needed = [range(own.chunk_of(part.first), own.chunk_of(part.end - 1) + 1) for part in parts]
    found = member.distributions(ids, [k for of_part in needed for k in of_part], own, folds=folds)
    for part, of_part in zip(parts, needed, strict=True):
        rows = torch.cat([next(found) for _ in of_part])
        first = own.chunk(of_part[0], n).first
        yield _of_symbols(member.vocabulary, rows[part.first - first : part.end - first])


def own_rule(member: Predictor, rule: ContextRule) -> ContextRule:
    """The rule of a member where the mixture follows `rule`: never a longer block than it was trained with."""
    if isinstance(member, NgramPredictor):
        return member.in_blocks(rule)
    block_size = min(rule.block_size, member.rule.block_size)
    usual = rule.stride == max(1, rule.block_size // 2)
    stride = max(1, block_size // 2) if usual else min(rule.stride, block_size)
    return ContextRule(block_size, stride, rule.carried, rule.reset_prior_at_start)


def _of_symbols(vocabulary: Vocabulary, logp: Tensor) -> Floats32:
    """Log-probabilities (N, symbols), without the bytes that training never saw."""
    known = logp[:, : vocabulary.n_symbols]
    return torch.log_softmax(known, dim=-1).float().cpu().numpy()


def predictor_of(snapshot: Snapshot, device: torch.device | None = None, *, native: bool = True) -> Predictor:
    """The predictor of a checkpoint; transformers go to `device`, by default the CPU.

    Raises CheckpointError if the n-gram model is damaged.
    """
    ngram, vocabulary, mixture = snapshot.kneser_ney(), snapshot.vocabulary, snapshot.mixture
    if snapshot.model_config.is_ngram:
        assert ngram is not None, "reading a checkpoint refuses an n-gram run without its n-grams"
        return NgramPredictor(ngram, vocabulary)
    trained = [
        *((member.model_config, member.weights) for member in snapshot.earlier),
        (snapshot.model_config, snapshot.weights),
    ]
    if mixture is None:  # the first one is still in training
        trained = trained[:1]
    temperature = None if mixture is None else mixture.temperature
    members: list[Predictor] = []
    for config, weights in trained[: None if mixture is None else mixture.n_transformers]:
        member = TransformerPredictor.of(
            config, weights, vocabulary, ngram, temperature=temperature or 1.0, native=native
        )
        member.model.to(device)
        members.append(member)
    if mixture is None or mixture.n_members == 1:
        return members[0]
    if mixture.ngram:
        assert ngram is not None, "reading a checkpoint refuses a mixture without its n-grams"
        members.append(NgramPredictor(ngram, vocabulary))
    return MixturePredictor(members, mixture, vocabulary)
