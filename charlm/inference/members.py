"""Build the predictor of a checkpoint, whatever kind of model was trained; a mixture's members predict as one.

Shapes: B texts side by side, N positions, V symbols.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import lcm

import numpy as np
import torch
from torch import Tensor

from charlm.checkpoint.snapshot import Snapshot
from charlm.config import NGRAM
from charlm.data.shards import TextIds
from charlm.data.tokenizer import Vocabulary
from charlm.errors import ResourceError
from charlm.inference.accelerator import Say, quietly
from charlm.inference.context import ContextRule
from charlm.inference.ngram_predictor import NgramPredictor
from charlm.inference.predictor import (
    Carry,
    Edges,
    Predictor,
    Scores,
    TransformerPredictor,
    log_softmax_with_escape,
)
from charlm.inference.recent import RecentPredictor
from charlm.inference.text_state import IdRows, NgramState, TextState
from charlm.model.mixture import Mixture
from charlm.native.decoder import Floats, Floats32
from charlm.native.library import library
from charlm.native.mixture_kernel import MixtureKernel
from charlm.ngram.kneser_ney import KneserNey
from charlm.terminal import one_line


@dataclass(frozen=True)
class MixtureState:
    """The states of a mixture's members; those that use the n-gram model share its state."""

    ngrams: NgramState | None
    texts: tuple[TextState, ...]  # of each transformer


class MixturePredictor(Predictor):
    """Pools the members of a run into one distribution (`charlm.model.mixture`); each follows its own context rule."""

    kind = "mixture"

    def __init__(
        self, members: Sequence[Predictor], mixture: Mixture, vocabulary: Vocabulary, *, native: bool = True
    ) -> None:
        """`members` in the order of the mixture, at temperature 1; `native` as in TransformerPredictor."""
        assert len(members) == mixture.n_members > 1
        self.members, self.mixture, self.vocabulary = tuple(members), mixture, vocabulary
        kernels = library() if native else None
        weights = (mixture.bias, mixture.weights)
        self.pool = mixture.log_probs if kernels is None else MixtureKernel(kernels, *weights).log_probs
        transformers = [member for member in members if isinstance(member, TransformerPredictor)]
        assert len(transformers) == mixture.n_transformers
        self._transformers = transformers
        self.mixed = tuple(
            member.model.config.kind if isinstance(member, TransformerPredictor) else NGRAM
            for member in members
        )
        self.rule = max((member.rule for member in transformers), key=lambda rule: rule.block_size)
        self.precision = transformers[0].precision
        self.single_threaded = any(member.single_threaded for member in transformers)
        self.kernels, self.say = transformers[0].kernels, transformers[0].say
        priors = [member.model for member in members if isinstance(member, NgramPredictor)]
        priors += [member.prior for member in transformers if member.prior]
        self.prior = priors[0] if priors else None
        assert all(prior is self.prior for prior in priors)

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The device of its transformers; pooling is on the CPU."""
        return self._transformers[0].device

    def grid(self, rule: ContextRule) -> int:
        """Return g such that a part of a text has the same chunks as the whole text if it begins at a multiple of g ids."""
        return lcm(*(member.grid(own_rule(member, rule)) for member in self.members), rule.stride)

    def lookback(self, rule: ContextRule) -> int:
        """Return how many ids before the predicted one can matter, apart from a carried state."""
        return max(member.lookback(own_rule(member, rule)) for member in self.members)

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
        for logps in self.of_members(ids, chunks, rule, folds=folds, carry=carry):
            pooled = torch.from_numpy(self.pool(logps))
            yield log_softmax_with_escape(self.vocabulary, pooled)

    def of_members(
        self,
        ids: TextIds,
        chunks: Sequence[int],
        rule: ContextRule | None = None,
        *,
        folds: Edges | None = None,
        carry: Carry | None = None,
    ) -> Iterator[tuple[Floats32, ...]]:
        """Yield, for each chunk, the log-probabilities (n, symbols) of each member alone."""
        return zip(
            *(
                symbol_log_probs(member, ids, chunks, rule or self.rule, folds=folds, carry=carry)
                for member in self.members
            ),
            strict=True,
        )

    def first_log_probs(self) -> Scores:
        """Return log-probabilities (V,) of the first id of a text."""
        firsts = [member.first_log_probs()[None, : self.vocabulary.n_symbols] for member in self.members]
        pooled = torch.from_numpy(self.pool(firsts))
        return log_softmax_with_escape(self.vocabulary, pooled)[0].double().numpy()

    def start(self, batch_size: int) -> MixtureState:
        """Return the state of `batch_size` texts before their first character."""
        ngrams = None if self.prior is None else NgramState(self.prior, batch_size)
        return MixtureState(ngrams, tuple(member.start(batch_size, ngrams) for member in self._transformers))

    def step(self, state: MixtureState, ids: Tensor) -> tuple[MixtureState, Tensor]:
        """Read ids (B, T), T >= 0. Returns the new state and log-probabilities (B, V) of the next id."""
        if ids.shape[1] == 0:
            assert not state.texts[0].length, "the last step returned the log-probabilities after the last id"
            return state, torch.from_numpy(self.first_log_probs()).float().expand(len(ids), -1)
        pooled = torch.from_numpy(self._read(state, ids.numpy()))
        return state, log_softmax_with_escape(self.vocabulary, pooled)

    def next_logits(self, state: MixtureState, ids: IdRows) -> tuple[MixtureState, Floats32]:
        """Read one id (B,) of each text. Returns the new state and log-probabilities (B, symbols)."""
        return state, self._read(state, ids[:, None])

    def _read(self, state: MixtureState, ids: IdRows) -> Floats32:
        """Read ids (B, T), T > 0, and return log-probabilities (B, symbols)."""
        logits: list[Floats] = []
        if state.ngrams is not None:
            state.ngrams.read(ids)
        for member, text in zip(self._transformers, state.texts, strict=True):
            logits.append(member.logits_after(text, ids))
        if self.mixture.ngram and state.ngrams is not None:
            logits.append(state.ngrams.log_next())
        return self.pool(logits)

    def describe_context(self, rule: ContextRule) -> str:
        """Describe in words what each symbol is predicted from."""
        contexts = [member.describe_context(own_rule(member, rule)) for member in self.members]
        return " | ".join(
            dict.fromkeys(f"{kind}: {words}" for kind, words in zip(self.mixed, contexts, strict=True))
        )


def symbol_log_probs(
    member: Predictor,
    ids: TextIds,
    chunks: Sequence[int],
    rule: ContextRule,
    *,
    folds: Edges | None = None,
    carry: Carry | None = None,
) -> Iterator[Floats32]:
    """Yield a member's log-probabilities (n, symbols), by its own rule, where each chunk of `rule` scores."""
    own, n = own_rule(member, rule), len(ids)
    parts = [rule.chunk(k, n) for k in chunks]
    needed = [range(own.chunk_of(part.first), own.chunk_of(part.end - 1) + 1) for part in parts]
    every = list(dict.fromkeys(k for of_part in needed for k in of_part))  # two parts may share one
    found = dict[int, Tensor]()
    unread = zip(every, member.distributions(ids, every, own, folds=folds, carry=carry), strict=True)
    for part, of_part in zip(parts, needed, strict=True):
        found = {k: rows for k, rows in found.items() if k in of_part}
        while of_part[-1] not in found:
            k, rows = next(unread)
            found[k] = rows
        rows = torch.cat([found[k] for k in of_part])
        first = own.chunk(of_part[0], n).first
        yield _of_symbols(member.vocabulary, rows[part.first - first : part.end - first])


def own_rule(member: Predictor, rule: ContextRule) -> ContextRule:
    """Return a member's rule when the mixture follows `rule`: its block is never longer than in its training."""
    if isinstance(member, NgramPredictor):
        return member.in_blocks(rule)
    block_size = min(rule.block_size, member.rule.block_size)
    usual = rule.stride == max(1, rule.block_size // 2)
    stride = max(1, block_size // 2) if usual else min(rule.stride, block_size)
    return ContextRule(block_size, stride, rule.carried, rule.reset_prior_at_start)


def _of_symbols(vocabulary: Vocabulary, logp: Tensor) -> Floats32:
    """Return log-probabilities (N, symbols), renormalised without the bytes that training never saw."""
    known = logp[:, : vocabulary.n_symbols]
    return torch.log_softmax(known, dim=-1).float().cpu().numpy()


def predictor_of(
    snapshot: Snapshot,
    device: torch.device | None = None,
    *,
    native: bool = True,
    ngram: KneserNey | None = None,
    last: TransformerPredictor | None = None,
    say: Say = quietly,
) -> Predictor:
    """Return the predictor of a checkpoint, with its transformers on `device`, by default the CPU.

    `ngram`: the n-gram model, by default the saved one. `last`: the predictor of the last transformer, for a snapshot in
    which its weights have no values. `say` is called with what does not fit the device. Raises CheckpointError if the
    n-gram model is damaged.
    """
    ngram, vocabulary, mixture = ngram or snapshot.kneser_ney(), snapshot.vocabulary, snapshot.mixture
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
    divided = None if last is None else len(snapshot.earlier)
    transformers = [
        last.at(temperature or 1.0)
        if last is not None and i == divided
        else TransformerPredictor.of(
            config, weights, vocabulary, ngram, temperature=temperature or 1.0, native=native
        )
        for i, (config, weights) in enumerate(trained[: None if mixture is None else mixture.n_transformers])
    ]
    for member in transformers:
        member.say = say
    if device is not None and device.type != "cpu":
        failure = _move([member for i, member in enumerate(transformers) if i != divided], device)
        if failure is not None:
            say(f"the GPU ({device.type}) cannot compute with this model: {failure}; computing on the CPU")
            return predictor_of(snapshot, native=native, ngram=ngram, last=last, say=say)
    members: list[Predictor] = [*transformers]
    if mixture is None:
        return members[0]
    if mixture.ngram:
        assert ngram is not None, "reading a checkpoint refuses a mixture without its n-grams"
        members.append(NgramPredictor(ngram, vocabulary))
    alone = mixture.n_members == 1
    pooled = members[0] if alone else MixturePredictor(members, mixture, vocabulary, native=native)
    return pooled if mixture.recent is None else RecentPredictor(pooled, mixture.recent, native=native)


def _move(transformers: Sequence[TransformerPredictor], device: torch.device) -> str | None:
    """Move transformers to a GPU, and try to score and step with each; return why one fails, or None."""
    ids = np.zeros(3, np.int64)
    try:
        for member in transformers:
            member.model.to(device)
            member.score(ids)
            state, _ = member.step(member.start(1), torch.from_numpy(ids[:2])[None])
            member.next_logits(state, ids[2:])
    except (RuntimeError, ResourceError) as error:  # NotImplementedError too: MPS lacks operators
        return one_line(str(error), limit=160)
    return None
