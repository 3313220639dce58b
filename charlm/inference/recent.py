"""A predictor that corrects another one by recent n-grams (`charlm.model.recent_ngrams`). Shapes as in predictor.py."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from charlm.data.shards import TextIds
from charlm.data.tokenizer import UNIT_NOUNS
from charlm.inference.context import ContextRule
from charlm.inference.predictor import Carry, Edges, Predictor, Scores
from charlm.inference.text_state import IdRows
from charlm.model.recent_ngrams import RecentNgrams


@dataclass
class RecentState:
    """The last ids of B texts, and the state of the corrected predictor."""

    inner: Any
    ids: IdRows  # (B, room)
    length: int = 0  # of the texts in `ids`

    def append(self, ids: IdRows, chars: int) -> None:
        """Read ids (B, T), and keep at least the last `chars`."""
        T = ids.shape[1]
        if self.length + T > self.ids.shape[1]:
            kept = min(self.length, chars)
            room = np.empty((len(ids), 2 * chars + T), np.int64)
            room[:, :kept] = self.ids[:, self.length - kept : self.length]
            self.ids, self.length = room, kept
        self.ids[:, self.length : self.length + T] = ids
        self.length += T


def without_recent(predictor: Predictor) -> Predictor:
    """Return the predictor without recent n-grams."""
    return predictor.base if isinstance(predictor, RecentPredictor) else predictor


class RecentPredictor(Predictor):
    """Corrects the distributions of another predictor by the recent n-grams of the predicted text.

    Like the n-gram prior they are not bound by the context rule: they see the last symbols of the document, unless
    the rule has `reset_prior_at_start`.
    """

    def __init__(self, base: Predictor, recent: RecentNgrams, *, native: bool = True) -> None:
        self.base, self.recent, self._native = base, recent, native
        self.kind, self.vocabulary, self.rule = base.kind, base.vocabulary, base.rule
        self.precision, self.prior, self.mixed = base.precision, base.prior, base.mixed
        self.single_threaded, self.kernels, self.say = base.single_threaded, base.kernels, base.say

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The device of the model; corrections are computed on the CPU."""
        return self.base.device

    def in_blocks(self, rule: ContextRule) -> ContextRule:
        """Return the rule that reads a whole text fastest, with the same predictions as `rule`."""
        return self.base.in_blocks(rule)

    def grid(self, rule: ContextRule) -> int:
        """Return g such that a part of a text has the same chunks as the whole text if it begins at a multiple of g ids."""
        return self.base.grid(rule)

    def lookback(self, rule: ContextRule) -> int:
        """Return how many ids before the predicted one can matter, apart from a carried state."""
        return max(self.base.lookback(rule), self.recent.chars)

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
        found = self.base.distributions(ids, chunks, rule, folds=folds, carry=carry)
        for k, logp in zip(chunks, found, strict=True):
            part = rule.chunk(k, len(ids))
            begin, ats = part.start if rule.reset_prior_at_start else 0, np.arange(part.first, part.end)
            symbols = self.vocabulary.n_symbols, self.vocabulary.end
            corrected = self.recent.correct(
                logp.cpu().numpy(), ids, ats, *symbols, begin=begin, native=self._native
            )
            yield torch.from_numpy(corrected)

    def first_log_probs(self) -> Scores:
        """Return log-probabilities (V,) of the first id of a text."""
        return self.base.first_log_probs()

    def start(self, batch_size: int) -> RecentState:
        """Return the state of `batch_size` texts before their first character."""
        return RecentState(self.base.start(batch_size), np.empty((batch_size, 0), np.int64))

    def step(self, state: RecentState, ids: Tensor) -> tuple[RecentState, Tensor]:
        """Read ids (B, T), T >= 0. Returns the new state and log-probabilities (B, V) of the next id."""
        state.inner, logp = self.base.step(state.inner, ids)
        state.append(ids.cpu().numpy(), self.recent.chars)
        begins = np.arange(len(ids)) * state.ids.shape[1]
        ats, n_symbols = begins + state.length, self.vocabulary.n_symbols
        corrected = self.recent.log_probs(
            logp.cpu().numpy(), state.ids, ats, begins, n_symbols, native=self._native
        )
        return state, torch.from_numpy(corrected)

    def describe_context(self, rule: ContextRule) -> str:
        """Describe in words what each symbol is predicted from."""
        noun = UNIT_NOUNS[self.vocabulary.units]
        recent = f"n-grams of the last {self.recent.chars:,} {noun}s"
        return f"{self.base.describe_context(rule)}; {recent}"
