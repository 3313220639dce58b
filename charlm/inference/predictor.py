"""The interface to a trained model: score a text, or step through one.

Sampling, evaluation, compression and comparison use a Predictor, whatever kind of model was trained.

Shapes: B texts side by side, T positions, C width, V ids (bytes that training never saw included), N ids of a text.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from itertools import pairwise
from math import log, log1p
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from charlm.checkpoint.snapshot import empty_model
from charlm.config import ModelConfig
from charlm.data.shards import TextIds
from charlm.data.tokenizer import UNIT_NOUNS, Ids, Vocabulary
from charlm.inference.accelerator import Batches, Say, gpu_failures, quietly
from charlm.inference.context import ContextRule
from charlm.inference.text_state import IdRows, NgramState, TextState
from charlm.model.fast_decoder import arranged, fast_decoder_fits
from charlm.model.kv_cache import ModelCache
from charlm.model.masks import documents_of
from charlm.model.transformer import LanguageModel
from charlm.native.decoder import CDecoder, Floats, ModelArrays
from charlm.native.library import library
from charlm.ngram.kneser_ney import KneserNey

Scores = NDArray[np.float64]
Edges = NDArray[np.int64]
Carry = dict["TransformerPredictor", ModelCache]
"""The states of models that carry one from a part of a text to the next."""
ESCAPE = 2.0**-16
"""The total probability of all bytes that training never saw, in every context."""
IDS_AT_ONCE, IDS_AT_ONCE_ON_GPU = 8192, 65536
NUMBERS_AT_ONCE = 1 << 23
"""Probabilities computed at once; this bounds the memory for vocabularies of tens of thousands of symbols."""


def log_softmax_with_escape(vocabulary: Vocabulary, logits: Tensor) -> Tensor:
    """Return log-probabilities (..., V) from logits (..., symbols): log-softmax, with ESCAPE shared by the unseen bytes."""
    unseen = vocabulary.n_ids - logits.shape[-1]
    if not unseen:
        return torch.log_softmax(logits, dim=-1)
    known = torch.log_softmax(logits, dim=-1) + log1p(-ESCAPE)
    return F.pad(known, (0, unseen), value=log(ESCAPE / unseen))


def unigram_log_probs(vocabulary: Vocabulary) -> Scores:
    """Return log-probabilities (V,) without context: the logarithms of the frequencies in the training text."""
    counts = torch.tensor(vocabulary.counts, dtype=torch.float64)
    return log_softmax_with_escape(vocabulary, counts.log()).numpy()


class Predictor:
    """A trained model of any kind, as sampling, evaluation, compression and comparison see it."""

    kind: str  # its name in results: `transformer`, `ngram`, `mixture`
    vocabulary: Vocabulary
    rule: ContextRule  # what each prediction may see
    precision: torch.dtype
    prior: KneserNey | None = None  # the n-gram model that it starts from
    mixed: tuple[str, ...] = ()  # the kinds of its members, by `--members`; empty for a single model
    single_threaded: bool = False  # steps are so small that threads would only wait for each other
    kernels: str = "none"  # the build and clone of the compiled kernels that compute its steps
    device = torch.device("cpu")  # of its transformers
    say: Say = quietly  # called when a GPU's memory is full

    def score(self, ids: Ids, rule: ContextRule | None = None) -> Scores:
        """Return the log-probability, in nats, of each id of a text given the ones before it: (N,)."""
        if not len(ids):
            return np.empty(0)
        chunks = range((rule or self.rule).n_chunks(len(ids)))
        return np.concatenate([self.first_log_probs()[ids[:1]], *self.score_chunks(ids, chunks, rule)])

    def first_log_probs(self) -> Scores:
        """Return log-probabilities (V,) of the first id of a text."""
        raise NotImplementedError

    def score_chunks(
        self, ids: TextIds, chunks: Sequence[int], rule: ContextRule | None = None
    ) -> Iterator[Scores]:
        """Yield, for each chunk of the context rule, the log-probabilities (n,) of the ids that it scores."""
        return (scores for scores, _ in self.predictions(ids, chunks, rule))

    def predictions(
        self,
        ids: TextIds,
        chunks: Sequence[int],
        rule: ContextRule | None = None,
        *,
        carry: Carry | None = None,
    ) -> Iterator[tuple[Scores, Tensor]]:
        """Yield the scores of `score_chunks` with their distributions (n, V). `carry`: as in `distributions`."""
        rule = rule or self.rule
        for k, logp in zip(chunks, self.distributions(ids, chunks, rule, carry=carry), strict=True):
            part = rule.chunk(k, len(ids))
            scored = torch.from_numpy(ids[part.first : part.end].astype(np.int64))[:, None]
            yield logp.gather(1, scored)[:, 0].double().numpy(), logp

    def in_blocks(self, rule: ContextRule) -> ContextRule:
        """Return the rule that reads a whole text fastest, with the same predictions as `rule`."""
        return rule

    def grid(self, rule: ContextRule) -> int:
        """Return g such that a part of a text has the same chunks as the whole text if it begins at a multiple of g ids."""
        return rule.stride

    def lookback(self, rule: ContextRule) -> int:
        """Return how many ids before the predicted one can matter, apart from a carried state."""
        return rule.block_size + (self.prior.order if self.prior else 0)

    def distributions(
        self,
        ids: TextIds,
        chunks: Sequence[int],
        rule: ContextRule | None = None,
        *,
        folds: Edges | None = None,
        carry: Carry | None = None,
    ) -> Iterator[Tensor]:
        """Yield, for each chunk, the log-probabilities (n, V) of every id at each position that it scores.

        `folds` (F + 1,): edges in `ids`; the n-gram model leaves out its counts of the fold that a symbol is in.
        `carry`: the states before the first of consecutive chunks (empty at the start of a text), updated to those
        after the last; without it, a carried state starts at the first chunk of `ids`.
        """
        raise NotImplementedError

    def start(self, batch_size: int) -> Any:
        """Return the state of `batch_size` texts before their first character."""
        raise NotImplementedError

    def step(self, state: Any, ids: Tensor) -> tuple[Any, Tensor]:
        """Read ids (B, T), T >= 0. Returns the new state and log-probabilities (B, V) of the next id.

        A state belongs to one document: an end symbol may only be the very first id.
        """
        raise NotImplementedError

    def next_logits(self, state: Any, ids: IdRows) -> tuple[Any, Floats]:
        """Read one id (B,) of each text. Returns the new state and logits (B, symbols).

        The logits are valid until the next call with this state. Like `step`, but without unseen bytes, and free to skip the normalisation.
        """
        state, logp = self.step(state, torch.from_numpy(ids[:, None]))
        return state, logp[:, : self.vocabulary.n_symbols].cpu().numpy()

    def describe_context(self, rule: ContextRule) -> str:
        """Describe in words what each symbol is predicted from."""
        return rule.describe(UNIT_NOUNS[self.vocabulary.units], self.prior.order if self.prior else 0)


class TransformerPredictor(Predictor):
    """The predictor of a transformer: a forward pass for each chunk of a text, or one step for each symbol.

    Steps are computed by the fast decoder where it fits the model, and by torch otherwise
    (`charlm explain autoregressive`).
    """

    kind = "transformer"

    def __init__(
        self,
        model: LanguageModel,
        vocabulary: Vocabulary,
        prior: KneserNey | None = None,
        *,
        temperature: float = 1.0,
        native: bool = True,
    ) -> None:
        """The logits are divided by `temperature`. `native`: steps may use the compiled kernels instead of torch."""
        assert model.config.causal, "a model that reads ahead predicts nothing"
        assert (prior is None) == (model.prior is None)
        self.model, self.vocabulary, self.prior = model, vocabulary, prior
        self.temperature = temperature
        self.rule = ContextRule.of_model(model.config)
        self._native = native
        self._batches = Batches("windows", "a single window")
        self._arrays: ModelArrays | None = None  # for the fast decoder
        self._arranged: list[tuple[int, int]] = []  # the versions of the weights in them

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        weights: Mapping[str, Tensor],
        vocabulary: Vocabulary,
        prior: KneserNey | None,
        *,
        temperature: float = 1.0,
        native: bool = True,
    ) -> "TransformerPredictor":
        """Build a predictor that uses these weights without a copy, and the prior if the configuration has one."""
        model = empty_model(config, vocabulary.n_symbols)
        model.load_state_dict(weights, assign=True)
        prior = None if model.prior is None else prior
        return cls(model.eval(), vocabulary, prior, temperature=temperature, native=native)

    @property
    def precision(self) -> torch.dtype:  # type: ignore[override]
        """The dtype of the weights."""
        return self.model.embedding.weight.dtype

    @property
    def single_threaded(self) -> bool:  # type: ignore[override]
        """Whether torch computes the steps on the CPU; the fast decoder has enough work for several threads."""
        return self.device.type == "cpu" and not (self._native and fast_decoder_fits(self.model))

    @property
    def kernels(self) -> str:  # type: ignore[override]
        """The build and clone of the compiled kernels that compute its steps."""
        found = library() if self._native else None
        return "none" if found is None else found.identity

    @torch.inference_mode()
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
        assert not rule.carried or self.rule.carried, "this model has no state to carry"
        if rule.carried:
            with gpu_failures(self.device):
                yield from self._read_in_order(ids, chunks, rule, folds, carry)
            return
        most = IDS_AT_ONCE if self.device.type == "cpu" else IDS_AT_ONCE_ON_GPU
        at_once = max(1, min(most, NUMBERS_AT_ONCE // self.vocabulary.n_ids) // rule.block_size)
        read = partial(self._read_batch, ids, rule, folds)
        yield from self._batches.of(chunks, at_once, read, self.device, self.say)

    def _read_in_order(
        self,
        ids: TextIds,
        chunks: Sequence[int],
        rule: ContextRule,
        folds: Edges | None,
        carry: Carry | None,
    ) -> Iterator[Tensor]:
        """Read chunks one after another, carrying the state; each document starts from an empty state.

        Here first = start + 1: a chunk has no context but the state. `a` and `b` bound its part of one document.
        """
        carry = {} if carry is None else carry
        begin = min(chunks, default=0) if self in carry else 0
        cache, wanted = carry.get(self) or self.new_cache(1), set(chunks)
        end_id = self.vocabulary.end
        for k in range(begin, max(wanted, default=-1) + 1):
            start, _, end = rule.chunk(k, len(ids))
            read = torch.from_numpy(ids[start : end - 1].astype(np.int64))[None].to(self.device)
            log_prior = self._log_prior(ids, [start], read.shape[1], folds)  # (1, T, symbols)
            begins = [] if end_id is None else (read[0] == end_id).nonzero()[:, 0].tolist()
            hidden = []
            for a, b in pairwise([0, *(at for at in begins if at), read.shape[1]]):  # parts of one document
                cache = self.new_cache(1) if a in begins else cache
                part = None if log_prior is None else log_prior[:, a:b]
                hidden.append(self.hidden(read[:, a:b], cache, log_prior=part))
            carry[self] = cache
            if k in wanted:
                yield self._log_probs(torch.cat(hidden, dim=1), log_prior)[0].cpu()

    def _read_batch(
        self, ids: TextIds, rule: ContextRule, folds: Edges | None, chunks: Sequence[int]
    ) -> list[Tensor]:
        """Read independent chunks in one forward pass.

        Each row holds ids at these positions; the output at p predicts the id at p + 1:

            0             .. skip             context only, in all of these chunks
            skip + 1      .. first - start    context only, in this chunk
            first - start .. end - start      scored
            end - start   .. longest          padding, which a causal model never reads

        The head is applied to the outputs from `skip` on.
        """
        parts = [rule.chunk(k, len(ids)) for k in chunks]
        longest = max(part.end - part.start for part in parts) - 1
        rows = np.zeros((len(parts), longest), dtype=np.int64)
        for row, part in zip(rows, parts, strict=True):
            row[: part.end - 1 - part.start] = ids[part.start : part.end - 1]
        read = torch.from_numpy(rows).to(self.device)
        skip = min(part.first - part.start for part in parts) - 1
        docs = documents_of(read, self.vocabulary.end)
        starts = [part.start for part in parts]
        log_prior = self._log_prior(
            ids, starts, longest, folds, reset_context_at_start=rule.reset_prior_at_start
        )
        hidden = self.hidden(read, docs=docs, log_prior=log_prior)[:, skip:]  # (B, T, C)
        logp = self._log_probs(hidden, None if log_prior is None else log_prior[:, skip:]).cpu()  # (B, T, V)
        return [
            row[part.first - part.start - 1 - skip : part.end - part.start - 1 - skip]
            for row, part in zip(logp, parts, strict=True)
        ]

    def hidden(
        self,
        ids: Tensor,
        cache: ModelCache | None = None,
        docs: Tensor | None = None,
        log_prior: Tensor | None = None,
    ) -> Tensor:
        """Return the last block's output (B, T, C); the arguments are those of the model's `hidden`."""
        return self.model.hidden(ids, cache, docs, log_prior)

    def new_cache(self, batch_size: int) -> ModelCache:
        """Return an empty cache for `batch_size` texts."""
        return self.model.new_cache(batch_size)

    def at(self, temperature: float) -> "TransformerPredictor":
        """Return the same predictor at another temperature."""
        other = copy(self)
        other.temperature = temperature
        return other

    def forget_arrays(self) -> None:
        """Free the fast decoder's copy of the weights."""
        self._arrays = None

    def start(self, batch_size: int, ngrams: NgramState | None = None) -> TextState:
        """Return the state of `batch_size` texts before their first character.

        `ngrams`: the state of the prior, if several transformers share it.
        """
        decoder = None
        kernels = library() if self._native and fast_decoder_fits(self.model) else None
        if kernels is not None:
            version = [(id(weight), weight._version) for weight in self.model.parameters()]
            if self._arrays is None or version != self._arranged:  # new, or trained since
                self._arrays, self._arranged = arranged(self.model), version
            decoder = CDecoder(kernels, self._arrays, batch_size)
        if self.prior is None:
            ngrams = None
        elif ngrams is None:
            ngrams = NgramState(self.prior, batch_size)
        return TextState(self.rule, batch_size, decoder, ngrams)

    def step(self, state: TextState, ids: Tensor) -> tuple[TextState, Tensor]:
        """Read ids (B, T), T >= 0. Returns the new state and log-probabilities (B, V) of the next id.

        When the cache is full, the last part of the window is read again from position 0 (the context rule).
        """
        B, T = ids.shape
        if state.length + T == 0:
            first = torch.from_numpy(self.first_log_probs()).to(self.precision)
            return state, first.expand(B, -1)
        assert T > 0, "the log-probabilities after the last id were returned by the last step"
        return state, log_softmax_with_escape(
            self.vocabulary, torch.from_numpy(self._read(state, ids.numpy()))
        )

    def next_logits(self, state: TextState, ids: IdRows) -> tuple[TextState, Floats]:
        """Read one id (B,) of each text. Returns the new state and logits (B, symbols).

        The logits are valid until the next call with this state.
        """
        return state, self._read(state, ids[:, None])

    def _read(self, state: TextState, ids: IdRows) -> Floats:
        """Read ids (B, T), and return logits (B, symbols)."""
        if state.prior is not None:
            state.prior.read(ids)
        return self.logits_after(state, ids)

    def logits_after(self, state: TextState, ids: IdRows) -> Floats:
        """Read ids (B, T), T > 0, that the prior has read already. Returns logits (B, symbols), as `next_logits` does."""
        in_cache, log_prior = state.append(ids), state.log_prior()
        if state.decoder is None:
            logits = self._read_with_torch(state, in_cache, log_prior)
        else:
            logits = state.decoder.next_logits(state.in_view, in_cache, log_prior)
        return logits if self.temperature == 1 else logits / np.float32(self.temperature)

    @torch.inference_mode()
    def _read_with_torch(self, state: TextState, in_cache: int, log_prior: Floats | None) -> Floats:
        """Return logits (B, symbols) after the unread ids of a state, given the prior (B, T, symbols) after each."""
        unread = torch.from_numpy(state.unread.copy()).to(self.device)
        if in_cache == 0:
            state.cache = None  # freed before another one is allocated
            state.cache = self.new_cache(len(unread))
        prior = None if log_prior is None else torch.from_numpy(log_prior).to(self.device)
        hidden = self.hidden(unread, state.cache, log_prior=prior)[:, -1]  # (B, C)
        return self.model.logits(hidden, None if prior is None else prior[:, -1]).cpu().numpy()

    def _log_prior(
        self,
        ids: TextIds,
        starts: Sequence[int],
        T: int,
        folds: Edges | None = None,
        *,
        reset_context_at_start: bool = False,
    ) -> Tensor | None:
        """Return the prior's log-probabilities (B, T, symbols) after each of T ids from each of `starts`; None without one.

        `reset_context_at_start`: read no context before a start. `folds`: as in `distributions`.
        """
        if self.prior is None:
            return None
        before = 0 if reset_context_at_start else None
        rows = self.prior.log_rows(ids, np.array(starts), T, before=before, folds=folds)
        return torch.from_numpy(rows).to(self.device)

    def _log_probs(self, hidden: Tensor, log_prior: Tensor | None = None) -> Tensor:
        """Return log-probabilities (..., V) from the last layer's output (..., C)."""
        logits = self.model.logits(hidden, log_prior) / self.temperature
        return log_softmax_with_escape(self.vocabulary, logits)

    def first_log_probs(self) -> Scores:
        """Return log-probabilities (V,) of the first id: the prior's, or else those of the training text's frequencies."""
        if self.prior is None:
            return unigram_log_probs(self.vocabulary)
        log_prior = torch.from_numpy(np.log(self.prior.rows(self.prior.start(1))))  # (1, symbols)
        return log_softmax_with_escape(self.vocabulary, log_prior)[0].numpy()

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The device of its weights."""
        return self.model.embedding.weight.device
