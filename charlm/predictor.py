"""The one contract that everything after training uses: score a text, or step through one.

Axes: B texts side by side, T positions, V ids (bytes that training never saw included).
"""

from collections.abc import Iterator, Sequence
from math import log, log1p
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from charlm.checkpoint.snapshot import Snapshot, empty_model
from charlm.context import ContextRule
from charlm.model.cache import LayerCache
from charlm.model.language_model import LanguageModel
from charlm.text.vocabulary import Ids, Vocabulary

ESCAPE = 2.0**-16
"""The probability that bytes which training never saw have together, wherever they stand."""
IDS_AT_ONCE = 8192

Scores = NDArray[np.float64]


class Predictor(Protocol):
    """Whatever was trained, as sampling, evaluation and comparison know it."""

    vocabulary: Vocabulary
    rule: ContextRule

    def score(self, ids: Ids, rule: ContextRule | None = None) -> Scores:
        """The log-probability, in nats, of each id given what stands before it: (N,)."""

    def score_windows(
        self, ids: Ids, windows: Sequence[int], rule: ContextRule | None = None
    ) -> Iterator[Scores]:
        """For each of these windows of the rule, the log-probabilities of the ids it scores."""

    def start(self, batch_size: int) -> Any:
        """The state before anything was read."""

    def step(self, state: Any, ids: Tensor) -> tuple[Any, Tensor]:
        """Read ids (B, T), T >= 0: the new state, and log-probabilities (B, V) of what comes next."""


class TextState:
    """What a transformer keeps of the texts it reads: the last ids, and their keys and values."""

    def __init__(self, caches: list[LayerCache], batch_size: int) -> None:
        self.caches = caches
        self.length = 0  # characters read so far
        self.start = 0  # where the text that the caches hold begins
        self.recent = torch.empty((batch_size, 0), dtype=torch.long)  # (B, at most a block)


class TransformerPredictor:
    """A transformer under the context rule. It computes in the precision of its weights."""

    def __init__(self, model: LanguageModel, vocabulary: Vocabulary) -> None:
        self.model = model
        self.vocabulary = vocabulary
        self.rule = ContextRule.of(model.block_size)

    @classmethod
    def of(cls, snapshot: Snapshot) -> "TransformerPredictor":
        """The model that a checkpoint holds."""
        model = empty_model(snapshot.model_config, snapshot.vocabulary.n_symbols)
        model.load_state_dict(snapshot.weights, assign=True)
        return cls(model.eval(), snapshot.vocabulary)

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
        at_once = max(1, IDS_AT_ONCE // rule.block_size)
        for i in range(0, len(windows), at_once):
            yield from self._score_batch(ids, windows[i : i + at_once], rule)

    def _score_batch(self, ids: Ids, windows: Sequence[int], rule: ContextRule) -> list[Scores]:
        bounds = [rule.window(k, len(ids)) for k in windows]
        longest = max(end - start for start, _, end in bounds)
        rows = np.zeros((len(bounds), longest), dtype=np.int64)  # causal: what pads the end is never read
        for row, (start, _, end) in zip(rows, bounds, strict=True):
            row[: end - start] = ids[start:end]
        read = torch.from_numpy(rows).to(self._device())
        skip = min(first - start for start, first, _ in bounds) - 1
        hidden = self.model.hidden(read[:, :-1])[:, skip:]  # (B, T, C)
        logp = self._log_probabilities(hidden)  # (B, T, V)
        chosen = logp.gather(2, read[:, 1 + skip :, None])[..., 0].double().cpu().numpy()
        return [
            row[first - start - 1 - skip : end - start - 1 - skip]
            for row, (start, first, end) in zip(chosen, bounds, strict=True)
        ]

    def start(self, batch_size: int) -> TextState:
        """The state before anything was read."""
        return TextState(self.model.caches(batch_size), batch_size)

    @torch.inference_mode()
    def step(self, state: TextState, ids: Tensor) -> tuple[TextState, Tensor]:
        """Read ids (B, T), T >= 0: the new state, and log-probabilities (B, V) of what comes next.

        Before the first character these are how often each occurs in the training part. When the
        caches are full, the end of what they hold is read again, as the context rule says.
        """
        B, T = ids.shape
        state.length += T
        state.recent = torch.cat((state.recent, ids), dim=1)[:, -self.rule.block_size :]
        if state.length == 0:
            first = torch.from_numpy(self._first()).to(self.model.embedding.weight.dtype)
            return state, first.expand(B, -1)
        assert T > 0, "what comes next was asked for already"
        start = self.rule.start(state.length)
        if start != state.start:
            state.start, state.caches = start, self.model.caches(B)
            ids = state.recent[:, -(state.length - start) :]
        hidden = self.model.hidden(ids.to(self._device()), state.caches)[:, -1]  # (B, C)
        return state, self._log_probabilities(hidden)

    def _log_probabilities(self, hidden: Tensor) -> Tensor:
        """What the head says of every id: (..., V) from (..., C)."""
        logits = F.linear(hidden, self.model.embedding.weight)
        lacking = self.vocabulary.n_ids - self.model.n_symbols
        if not lacking:
            return torch.log_softmax(logits, dim=-1)
        known = torch.log_softmax(logits, dim=-1) + log1p(-ESCAPE)
        return F.pad(known, (0, lacking), value=log(ESCAPE / lacking))

    def _first(self) -> Scores:
        """Log-probabilities (V,) of a character that nothing precedes."""
        return first_character(self.vocabulary)

    def _device(self) -> torch.device:
        return self.model.embedding.weight.device


def first_character(vocabulary: Vocabulary) -> Scores:
    """Log-probabilities (V,) by how often each symbol occurs in the training part."""
    counts = np.array(vocabulary.counts, dtype=np.float64)
    lacking = vocabulary.n_ids - vocabulary.n_symbols
    escape = ESCAPE if lacking else 0.0
    known = np.log(counts / counts.sum()) + log1p(-escape)
    return np.concatenate((known, np.full(lacking, log(ESCAPE / max(1, lacking)))))
