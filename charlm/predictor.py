"""The one contract that everything after training uses: score a text, or step through one.

Axes: B texts side by side, T positions, V ids (bytes that training never saw included).
"""

from collections.abc import Iterator, Sequence
from ctypes import CDLL
from math import exp
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charlm.checkpoint.snapshot import Snapshot, empty_model
from charlm.config import ModelConfig
from charlm.context import ContextRule
from charlm.counts.c_rows import CRows
from charlm.counts.kneser_ney import KneserNey
from charlm.counts.prior import log_next, log_prior
from charlm.model.c_stepper import CStepper
from charlm.model.example import Example, Row
from charlm.model.folded import Folded, Numbers
from charlm.model.language_model import LanguageModel, initialise
from charlm.model.masks import documents_of
from charlm.model.stepper import Stepper
from charlm.reading import TextState, read_on
from charlm.text.vocabulary import Ids, Vocabulary
from charlm.unseen import first_character, with_lacking

IDS_AT_ONCE = 8192
NUMBERS_AT_ONCE = 1 << 23
"""Probabilities computed at once: of tens of thousands of symbols, more would not stay in memory that is there."""

Scores = NDArray[np.float64]


class Predictor(Protocol):
    """Whatever was trained, as sampling, evaluation and comparison know it."""

    kind: str  # as figures name it: `transformer`, `counts`
    vocabulary: Vocabulary
    rule: ContextRule
    counts: KneserNey | None  # that it begins from, besides what it is itself

    @property
    def precision(self) -> torch.dtype:
        """Of the numbers that it computes with."""

    @property
    def best_alone(self) -> bool:
        """Does it step in products so small that threads would only wait for each other?"""

    def score(self, ids: Ids, rule: ContextRule | None = None) -> Scores:
        """The log-probability, in nats, of each id given what stands before it: (N,)."""

    def score_windows(
        self, ids: Ids, windows: Sequence[int], rule: ContextRule | None = None
    ) -> Iterator[Scores]:
        """For each of these windows of the rule, the log-probabilities of the ids it scores."""

    def start(self, batch_size: int) -> Any:
        """The state before anything was read."""

    def step(self, state: Any, ids: Tensor) -> tuple[Any, Tensor]:
        """Read ids (B, T), T >= 0: the new state, and log-probabilities (B, V) of what comes next.

        A state is of one document: the end of a document is read as the first of its ids or not at all.
        """


@runtime_checkable
class Reader(Predictor, Protocol):
    """A predictor that reads single characters faster than by `step`."""

    def read_id(self, state: Any, ids: NDArray[np.int64]) -> tuple[Any, Numbers]:
        """Read an id (B,) of each text: the new state, and logits (B, symbols of the model).

        Those are log-probabilities of what comes next, but for a constant in each row, and without the
        bytes that training never saw. They hold until the next is read.
        """


class TransformerPredictor:
    """Autoregression: a text's probability is a product, a factor for each character.

    p(c_1 ... c_n) = p(c_1) p(c_2 | c_1) ... p(c_n | c_1 ... c_(n-1)). So a model of the next character
    is a model of whole texts: it scores a text by these conditionals, and writes one by drawing from
    them, each character it draws being read before the next. What is far back falls out of sight as
    the context rule says (charlm/context.py). It computes in the precision of the model's weights.
    Shannon 1948, Bell System Technical Journal 27:379; by a neural network: Bengio et al. 2003, Journal
    of Machine Learning Research 3:1137.
    """

    kind = "transformer"

    def __init__(
        self,
        model: LanguageModel,
        vocabulary: Vocabulary,
        library: CDLL | None = None,
        counts: KneserNey | None = None,
    ) -> None:
        """With the `library` of charlm/compiled.py it reads single characters faster.

        `counts` are what the model begins from, where it does.
        """
        assert model.config.causal, "a model that reads ahead predicts nothing"
        assert (counts is None) == (model.prior is None)
        self.counts = counts
        self.model = model
        self.vocabulary = vocabulary
        self.rule = ContextRule.of_model(model.config)
        self._library = library
        if counts is not None and counts.filler is None:
            counts.filler = CRows.of(counts, library)
        self._folded: Folded | None = None  # what reads fastest, laid out once something is to be read
        self._folded_of: list[tuple[int, int]] = []  # the weights that it was laid out from

    @classmethod
    def of(cls, snapshot: Snapshot, library: CDLL | None = None) -> "TransformerPredictor":
        """The model that a checkpoint holds."""
        model = empty_model(snapshot.model_config, snapshot.vocabulary.n_symbols)
        model.load_state_dict(snapshot.weights, assign=True)
        counts = snapshot.kneser_ney() if model.prior is not None else None
        return cls(model.eval(), snapshot.vocabulary, library, counts)

    @property
    def precision(self) -> torch.dtype:
        """That of the model's weights."""
        return self.model.embedding.weight.dtype

    @property
    def best_alone(self) -> bool:
        """Where there is a path for single characters, it is so small."""
        return Folded.fits(self.model)

    @torch.inference_mode()
    def score(self, ids: Ids, rule: ContextRule | None = None) -> Scores:
        """The log-probability, in nats, of each id given what stands before it: (N,)."""
        if not len(ids):
            return np.empty(0)
        windows = range((rule or self.rule).windows(len(ids)))
        return np.concatenate([self._first()[ids[:1]], *self.score_windows(ids, windows, rule)])

    @torch.inference_mode()
    def score_windows(
        self, ids: Ids, windows: Sequence[int], rule: ContextRule | None = None
    ) -> Iterator[Scores]:
        """For each of these windows of the rule, the log-probabilities of the ids it scores."""
        rule = rule or self.rule
        assert not rule.carried or self.rule.carried, "it has no state that could be carried"
        if rule.carried:
            yield from self._score_in_order(ids, windows, rule)
            return
        at_once = max(1, min(IDS_AT_ONCE, NUMBERS_AT_ONCE // self.vocabulary.n_ids) // rule.block_size)
        for i in range(0, len(windows), at_once):
            yield from self._score_batch(ids, windows[i : i + at_once], rule)

    def _score_in_order(self, ids: Ids, windows: Sequence[int], rule: ContextRule) -> Iterator[Scores]:
        """The same with the state carried from window to window, those between read too."""
        cache, wanted = self.model.cache(1), set(windows)
        for k in range(max(wanted, default=-1) + 1):
            start, first, end = rule.window(k, len(ids))
            read = torch.from_numpy(ids[start:end].astype(np.int64))[None].to(self._device())
            log_prior = self._prior(ids, [start], end - 1 - start)
            hidden, cache = read_on(self.model, read[:, :-1], cache, self.vocabulary.end, log_prior)
            logp = self._log_probabilities(hidden, log_prior)  # (1, T, V)
            assert first == start + 1
            if k in wanted:
                yield logp.gather(2, read[:, 1:, None])[0, :, 0].double().cpu().numpy()

    def _score_batch(self, ids: Ids, windows: Sequence[int], rule: ContextRule) -> list[Scores]:
        bounds = [rule.window(k, len(ids)) for k in windows]
        longest = max(end - start for start, _, end in bounds)
        rows = np.zeros((len(bounds), longest), dtype=np.int64)  # causal: what pads the end is never read
        for row, (start, _, end) in zip(rows, bounds, strict=True):
            row[: end - start] = ids[start:end]
        read = torch.from_numpy(rows).to(self._device())
        skip = min(first - start for start, first, _ in bounds) - 1
        docs = documents_of(read[:, :-1], self.vocabulary.end)
        log_prior = self._prior(ids, [start for start, *_ in bounds], longest - 1, bound=rule.counts_bound)
        hidden = self.model.hidden(read[:, :-1], docs=docs, log_prior=log_prior)[:, skip:]  # (B, T, C)
        known = None if log_prior is None else log_prior[:, skip:]
        logp = self._log_probabilities(hidden, known)  # (B, T, V)
        chosen = logp.gather(2, read[:, 1 + skip :, None])[..., 0].double().cpu().numpy()
        return [
            row[first - start - 1 - skip : end - start - 1 - skip]
            for row, (start, first, end) in zip(chosen, bounds, strict=True)
        ]

    def _fold(self) -> None:
        """Lay out what reads fastest, again where training has changed the weights since."""
        weights = [(id(weight), weight._version) for weight in self.model.parameters()]
        if Folded.fits(self.model) and weights != self._folded_of:
            self._folded, self._folded_of = Folded(self.model), weights

    def start(self, batch_size: int) -> TextState:
        """The state before anything was read."""
        self._fold()
        stepper: Stepper | CStepper | None = None
        library = self._library
        if self._folded is not None and library is not None and CStepper.fits(self._folded, library):
            stepper = CStepper(self._folded, batch_size, library)
        elif self._folded is not None:
            stepper = Stepper(self._folded, batch_size)
        cache = self.model.cache(batch_size) if stepper is None else None
        return TextState(self.rule, batch_size, cache, stepper, self.counts)

    @torch.inference_mode()
    def step(self, state: TextState, ids: Tensor) -> tuple[TextState, Tensor]:
        """Read ids (B, T), T >= 0: the new state, and log-probabilities (B, V) of what comes next.

        Before the first character these are how often each occurs in the training part. When the
        cache is full, the end of what it holds is read again, as the context rule says.
        """
        B, T = ids.shape
        if state.length + T == 0:
            first = torch.from_numpy(self._first()).to(self.model.embedding.weight.dtype)
            return state, first.expand(B, -1)
        assert T > 0, "what comes next was asked for already"
        if state.stepper is not None:
            return state, with_lacking(self.vocabulary, torch.from_numpy(self._read(state, ids.numpy())))
        assert state.cache is not None
        if state.take(ids.numpy()) is None:
            state.cache = self.model.cache(B)
            ids = torch.from_numpy(state.ids[:, : state.held].copy())
        known = state.log_prior()
        prior = None if known is None else torch.from_numpy(known).to(self._device())  # (B, T, V)
        hidden = self.model.hidden(ids.to(self._device()), state.cache, log_prior=prior)[:, -1]  # (B, C)
        return state, self._log_probabilities(hidden, None if prior is None else prior[:, -1])

    def read_id(self, state: TextState, ids: NDArray[np.int64]) -> tuple[TextState, Numbers]:
        """Read an id (B,) of each text: the new state, and logits (B, symbols of the model)."""
        if state.stepper is None:
            state, logp = self.step(state, torch.from_numpy(ids[:, None]))
            return state, logp[:, : self.vocabulary.n_symbols].cpu().numpy()
        return state, self._read(state, ids[:, None])

    @staticmethod
    def example() -> Example:
        """An untrained model scores a word, at once and character by character."""
        text = "to be"
        vocabulary = Vocabulary.build("to be or not to be", 1)
        config = ModelConfig(n_layer=1, n_head=1, n_embd=8, block_size=4)
        predictor = TransformerPredictor(LanguageModel(config, vocabulary.n_symbols).double(), vocabulary)
        initialise(predictor.model, torch.Generator().manual_seed(1))
        ids = vocabulary.encode(text)
        at_once, state = predictor.score(ids), predictor.start(1)
        rows: list[Row] = []
        for t, id_ in enumerate(ids):
            state, logp = predictor.step(
                state, torch.from_numpy(ids[None, max(0, t - 1) : t].astype(np.int64))
            )
            rows.append((repr(text[:t]), repr(text[t]), f"{exp(logp[0, id_]):.4f}", f"{exp(at_once[t]):.4f}"))
        rows.append(("", "product", *(f"{np.prod([float(r[i]) for r in rows]):.2e}" for i in (2, 3))))
        says = "An untrained model's probability of 'to be', in steps and in one pass:"
        return Example(says, ("before", "character", "one by one", "at once"), tuple(rows))

    def _read(self, state: TextState, ids: NDArray[np.int64]) -> Numbers:
        """Logits (B, symbols of the model) of what follows ids (B, T), by the fast path."""
        assert state.stepper is not None
        assert self._folded is not None
        at, known = state.take(ids), state.log_prior()
        told = None if known is None else self._folded.told(known)
        logits = state.stepper.read(state.ids[:, : state.held], at or 0, told)
        if known is None:
            return logits
        known = known[:, -1].astype(logits.dtype, copy=False)
        known *= 1 + logits[:, -1:]
        known += logits[:, :-1]
        return known

    def _prior(self, ids: Ids, starts: Sequence[int], T: int, *, bound: bool = False) -> Tensor | None:
        """What the counts say, if there are any, after each of T ids from each of `starts` (B,): (B, T, V).

        `bound`: by nothing that stands before the start.
        """
        if self.counts is None:
            return None
        rows = log_prior(self.counts, ids, np.array(starts), T, bound=bound)
        return torch.from_numpy(rows).to(self._device())

    def _log_probabilities(self, hidden: Tensor, log_prior: Tensor | None = None) -> Tensor:
        """What the head says of every id: (..., V) from (..., C)."""
        return with_lacking(self.vocabulary, self.model.logits(hidden, log_prior))

    def _first(self) -> Scores:
        """Log-probabilities (V,) of a character that nothing precedes."""
        if self.counts is None:
            return first_character(self.vocabulary)
        known = torch.from_numpy(log_next(self.counts, self.counts.start(1)))
        return with_lacking(self.vocabulary, known)[0].numpy()

    def _device(self) -> torch.device:
        return self.model.embedding.weight.device
