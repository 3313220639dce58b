"""The one contract that everything after training uses: score a text, or step through one.

Axes: V ids (bytes that training never saw included).

Axes: B texts side by side, T positions, V symbols.

Axes: B texts side by side, T positions, V ids (bytes that training never saw included).
"""

from collections.abc import Iterator, Sequence
from ctypes import CDLL
from itertools import pairwise
from math import exp, log, log1p
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from charlm.checkpoint.snapshot import Snapshot, empty_model
from charlm.config import ModelConfig
from charlm.data.tokenizer import Ids, Vocabulary
from charlm.inference.context import ContextRule
from charlm.model.example import Example, Row
from charlm.model.fast_decoder import CStepper, Folded, Numbers, Stepper
from charlm.model.kv_cache import Cache
from charlm.model.masks import documents_of
from charlm.model.transformer import LanguageModel, initialise
from charlm.ngram.grams import Keys
from charlm.ngram.kneser_ney import AT_ONCE, KneserNey, probabilities, probabilities_at
from charlm.ngram.prior import log_next, log_prior
from charlm.ngram.rows import CRows

ESCAPE = 2.0**-16
"""The probability that they have together, wherever they stand."""


def with_lacking(vocabulary: Vocabulary, logits: Tensor) -> Tensor:
    """Logits (..., symbols) as log-probabilities (..., V), the bytes never seen included."""
    lacking = vocabulary.n_ids - logits.shape[-1]
    if not lacking:
        return torch.log_softmax(logits, dim=-1)
    known = torch.log_softmax(logits, dim=-1) + log1p(-ESCAPE)
    return F.pad(known, (0, lacking), value=log(ESCAPE / lacking))


def first_character(vocabulary: Vocabulary) -> NDArray[np.float64]:
    """Log-probabilities (V,) by how often each symbol occurs in the training part."""
    counts = np.array(vocabulary.counts, dtype=np.float64)
    lacking = vocabulary.n_ids - vocabulary.n_symbols
    escape = ESCAPE if lacking else 0.0
    known = np.log(counts / counts.sum()) + log1p(-escape)
    return np.concatenate((known, np.full(lacking, log(ESCAPE / max(1, lacking)))))


def read_on(
    model: LanguageModel, ids: Tensor, cache: Cache, end: int | None, log_prior: Tensor | None
) -> tuple[Tensor, Cache]:
    """What the head reads of ids (1, T) that go on from a state: (1, T, C), and the state after them.

    Every document begins with an empty one; `end` is the id that one begins with. `log_prior` (1, T, V)
    is what the counts say, if there are any.
    """
    begins = [] if end is None else (ids[0] == end).nonzero()[:, 0].tolist()
    found = []
    for start, stop in pairwise([0, *(at for at in begins if at), ids.shape[1]]):
        cache = model.cache(1) if start in begins else cache
        known = None if log_prior is None else log_prior[:, start:stop]
        found.append(model.hidden(ids[:, start:stop], cache, log_prior=known))
    return torch.cat(found, dim=1), cache


class TextState:
    """What is kept of the texts read: the ids in sight, and what the model and the counts keep of them."""

    def __init__(
        self,
        rule: ContextRule,
        batch_size: int,
        cache: Cache | None,
        stepper: Stepper | CStepper | None,
        counts: KneserNey | None = None,
    ) -> None:
        self.rule = rule
        self.cache, self.stepper = cache, stepper  # one of them: torch's, or that of the fast path
        self.length = 0  # characters read so far
        self.start = 0  # where the text that the cache holds begins
        self.ids = np.empty((batch_size, 0 if rule.carried else rule.block_size), dtype=np.int64)
        self.counts = counts  # that the model begins from, if it does
        self._last = counts.start(batch_size) if counts is not None else None  # the contexts' keys, (B,)
        filler = None if counts is None else counts.filler
        self._following = filler.following(self._last) if filler and self._last is not None else None
        self._keys = np.empty(self.ids.shape, dtype=np.uint64)  # those after each of the ids in sight
        self._unread: Keys | None = None  # those after the ids that are to be read, (B, T)

    @property
    def held(self) -> int:
        """How many characters of a text are in sight."""
        return self.length - self.start

    def take(self, ids: NDArray[np.int64]) -> int | None:
        """Note ids (B, T) as read; from where on those in sight are to be read, None for all of them anew."""
        T, held = ids.shape[1], self.held
        self.length += T
        keys = self._look(ids)
        start = self.rule.start(self.length)
        if start == self.start:
            if not self.rule.carried:
                self.ids[:, held : held + T] = ids
                self._keys[:, held : held + T] = keys
            self._unread = keys
            return held
        self.start = start
        kept = max(0, self.held - T)
        for there, new in ((self.ids, ids), (self._keys, keys)):
            there[:, :kept] = there[:, held - kept : held]
            there[:, kept : self.held] = new[:, T - (self.held - kept) :]
        self._unread = self._keys[:, : self.held]
        return None

    def log_prior(self) -> NDArray[np.floating[Any]] | None:
        """What the counts say, if there are any, after each of the ids that are to be read: (B, T, V)."""
        if self.counts is None or self._unread is None:
            return None
        if self._following is not None and self._unread.shape[1] == 1:
            return self._following.log_next()[:, None]
        keys = self._unread.reshape(-1)
        known = self.counts
        rows = log_next(known, keys) if known.filler is None else known.log_rows(keys)
        return rows.reshape(*self._unread.shape, -1)

    def _look(self, ids: NDArray[np.int64]) -> Keys:
        """Move the counts' contexts on by ids (B, T): the keys of those that end at each, (B, T)."""
        if self._following is not None and self._last is not None and ids.shape[1] == 1:
            self._following.read(ids[:, 0])
            return self._last[:, None]
        keys = np.empty(ids.shape, dtype=np.uint64)
        if self.counts is None or self._last is None:
            return keys
        order = self.counts.order
        for t, column in enumerate(ids.T[:order]):
            if self._following is not None:
                self._following.read(column)
            else:
                self._last[:] = self.counts.step(self._last, column)
            keys[:, t] = self._last
        if ids.shape[1] > order:  # from there on they know nothing of what was read before
            keys[:, order:] = self.counts.contexts(ids)[:, order:]
            self._last[:] = keys[:, -1]
            if self._following is not None:
                self._following.leap()
        return keys


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
    the context rule says (charlm/inference/context.py). It computes in the precision of
    the model's weights.
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
        """With the `library` of charlm/native/library.py it reads single characters faster.

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


class CountsPredictor:
    """Kneser-Ney as a predictor: each character from exactly as many before it as the order says.

    Bytes that training never saw share the same small probability as under any other model.
    """

    kind = "counts"
    precision = torch.float64
    best_alone = True
    counts: KneserNey | None = None  # it begins from nothing else

    def __init__(self, model: KneserNey, vocabulary: Vocabulary) -> None:
        assert model.n_symbols == vocabulary.n_symbols
        self.model = model
        self.vocabulary = vocabulary
        self.rule = ContextRule.of_order(model.order)

    def score(self, ids: Ids, rule: ContextRule | None = None) -> Scores:
        """The log-probability, in nats, of each id given what stands before it: (N,)."""
        return self._scores(ids)

    def score_windows(
        self, ids: Ids, windows: Sequence[int], rule: ContextRule | None = None
    ) -> Iterator[Scores]:
        """For each of these windows of the rule, the log-probabilities of the ids it scores."""
        rule = rule or self.rule
        at_once = max(1, AT_ONCE // rule.block_size)
        for i in range(0, len(windows), at_once):
            bounds = [rule.window(k, len(ids)) for k in windows[i : i + at_once]]
            places = np.concatenate([np.arange(first, end) for _, first, end in bounds])
            most = None
            if rule.counts_bound:
                most = np.concatenate([np.arange(first, end) - start for start, first, end in bounds])
            scores = self._known(probabilities_at(self.model, ids, places, most), np.asarray(ids[places]))
            ends = np.cumsum([end - first for _, first, end in bounds])
            yield from np.split(scores, ends[:-1])

    def start(self, batch_size: int) -> Keys:
        """The state before anything was read: the contexts, (B,)."""
        return self.model.start(batch_size)

    def step(self, state: Keys, ids: Tensor) -> tuple[Keys, Tensor]:
        """Read ids (B, T), T >= 0: the new state, and log-probabilities (B, V) of what comes next."""
        for column in ids.numpy().T:
            state = self.model.step(state, column)
        known = log_next(self.model, state)
        lacking = self.vocabulary.n_ids - self.vocabulary.n_symbols
        if not lacking:
            return state, torch.from_numpy(known)
        never = np.full((len(state), lacking), log(ESCAPE / lacking))
        return state, torch.from_numpy(np.concatenate((known + log1p(-ESCAPE), never), axis=1))

    def _scores(self, ids: Ids) -> Scores:
        """Those of a text that nothing precedes."""
        return self._known(probabilities(self.model, ids), np.asarray(ids))

    def _known(self, found: Scores, ids: Ids) -> Scores:
        """The log-probabilities of ids, from what the counts say of those that are symbols."""
        lacking = self.vocabulary.n_ids - self.vocabulary.n_symbols
        found = found * (1 - ESCAPE if lacking else 1)
        found[ids >= self.vocabulary.n_symbols] = ESCAPE / max(1, lacking)
        return np.log(found)


def predictor_of(
    snapshot: Snapshot, library: CDLL | None = None, device: torch.device | None = None
) -> Predictor:
    """What a checkpoint predicts with; a transformer on that device, by default the CPU.

    With the `library` of charlm/native/library.py it reads single characters faster. Raises
    CheckpointError where the counts are damaged.
    """
    if snapshot.model_config.is_ngram:
        counts = snapshot.kneser_ney()
        assert counts is not None, "a checkpoint is not read without the counts that it is made of"
        return CountsPredictor(counts, snapshot.vocabulary)
    predictor = TransformerPredictor.of(snapshot, library)
    predictor.model.to(device)
    return predictor
