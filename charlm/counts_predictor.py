"""The counts alone as a model, under the contract that everything after training uses."""

from collections.abc import Iterator, Sequence
from math import log, log1p

import numpy as np
import torch
from torch import Tensor

from charlm.context import ContextRule
from charlm.counts.grams import Keys
from charlm.counts.kneser_ney import KneserNey
from charlm.counts.prior import log_next
from charlm.counts.scoring import AT_ONCE, probabilities, probabilities_at
from charlm.predictor import Scores
from charlm.text.vocabulary import Ids, Vocabulary
from charlm.unseen import ESCAPE


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
