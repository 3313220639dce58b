"""Evaluation during training: on held-out text, and on the held-out text of the run that was fine-tuned."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from charlm.data.corpus import Corpus
from charlm.data.tokenizer import Ids, Vocabulary
from charlm.evaluation.score import Estimate, Slice, score_slice, spread
from charlm.inference.context import ContextRule
from charlm.inference.predictor import NgramPredictor, Predictor
from charlm.ngram.kneser_ney import KneserNey
from charlm.training.events import Evaluated, Remembered
from charlm.training.state import HeldOutLoss, ParentLoss, RunState


class HeldOut:
    """Scores a model on windows of the held-out text, and the n-gram baseline on the same windows."""

    def __init__(self, corpus: Corpus, predictor: Predictor, baseline: KneserNey | None) -> None:
        self.corpus, self.predictor, self.rule = corpus, predictor, predictor.rule
        self.baseline = None if baseline is None else NgramPredictor(baseline, corpus.vocabulary)
        self._baseline_scores: dict[tuple[int, ...], Estimate | None] = {}  # by windows

    def windows(self, symbols: int | None = None) -> Slice:
        """Windows spread over the held-out text that score about so many symbols, or all."""
        n = len(self.corpus.held_out)
        return spread(self.rule, n, n if symbols is None else symbols, self.corpus.held_out_chars)

    def score(self, part: Slice, stopped: Callable[[], bool]) -> Estimate | None:
        """Score these windows; None where there are none, or when stopped."""
        if not part.windows:
            return None
        return score_slice(self.predictor, self.corpus.held_out, part, stopped, self.rule)

    def score_baseline(self, part: Slice, stopped: Callable[[], bool]) -> Estimate | None:
        """The baseline's score on these windows; None where there is no baseline, or when stopped."""
        if self.baseline is None:
            return None
        if part.windows not in self._baseline_scores:  # the same windows until the final evaluation
            found = score_slice(self.baseline, self.corpus.held_out, part, stopped, self.rule)
            self._baseline_scores = {part.windows: found}
        return self._baseline_scores[part.windows]

    def record(
        self,
        state: RunState,
        part: Slice,
        estimate: Estimate,
        baseline: Estimate | None,
        *,
        compared: Estimate,
        is_best: bool,
        final: bool,
        seconds: float,
    ) -> Evaluated:
        """Put an evaluation into the state; the event that reports it.

        `compared`: the score on the windows that all evaluations of the run have in common.
        """
        difference = None if baseline is None else estimate.minus(baseline)
        loss = HeldOutLoss(
            step=state.step,
            nats_per_char=estimate.nats_per_char,
            standard_error=estimate.standard_error,
            baseline_nats_per_char=None if baseline is None else baseline.nats_per_char,
            difference=None if difference is None else difference.nats_per_char,
            difference_error=None if difference is None else difference.standard_error,
            chars=estimate.chars,
            blocks=len(part.windows),
            whole=part.whole,
        )
        state.last_evaluation = loss
        return Evaluated(
            step=loss.step,
            nats_per_char=loss.nats_per_char,
            standard_error=loss.standard_error,
            compared_nats_per_char=compared.nats_per_char,
            baseline_nats_per_char=loss.baseline_nats_per_char,
            difference=loss.difference,
            difference_error=loss.difference_error,
            chars=loss.chars,
            of_chars=self.corpus.held_out_chars,
            blocks=loss.blocks,
            is_best=is_best,
            rises=state.early_stopping.rises,
            final=final,
            seconds=seconds,
        )


@dataclass(frozen=True)
class ParentText:
    """The held-out text of the run that was fine-tuned, in the new vocabulary, and the windows scored each time."""

    run: str
    ids: Ids
    chars: int
    part: Slice
    rule: ContextRule
    parent: Predictor | None = None  # what that run predicts with, before the first step

    @classmethod
    def of(
        cls, run: str, corpus: Corpus, vocabulary: Vocabulary, rule: ContextRule, symbols: int
    ) -> "ParentText":
        """The held-out part of `corpus`, of which about so many symbols are scored."""
        ids = corpus.vocabulary.ids_in(vocabulary, corpus.held_out)
        part = spread(rule, len(ids), symbols, corpus.held_out_chars)
        return cls(run, ids, corpus.held_out_chars, part, rule)

    def score_before(self, predictor: Predictor) -> tuple[Remembered, ParentLoss]:
        """Score it with the parent's model and with the new one, before the first step."""
        assert self.parent is not None
        before, _ = self._score(self.parent)
        now, seconds = self._score(predictor)
        start = ParentLoss(
            run=self.run,
            before=before.nats_per_char,
            before_error=before.standard_error,
            before_sums=before.sums.tolist(),
            begun=now.nats_per_char,
            chars=before.chars,
            of_chars=self.chars,
            blocks=len(before.sums),
            seconds=seconds,
            step=0,
            nats_per_char=now.nats_per_char,
            forgotten=0.0,
            standard_error=None,
        )
        return self._compare(0, now, start, seconds, final=False)

    def score_after(
        self, step: int, predictor: Predictor, start: ParentLoss
    ) -> tuple[Remembered, ParentLoss]:
        """Score it again at a step: how much was forgotten since `start`."""
        now, seconds = self._score(predictor)
        return self._compare(step, now, start, seconds, final=True)

    def _score(self, predictor: Predictor) -> tuple[Estimate, float]:
        started = perf_counter()
        estimate = score_slice(predictor, self.ids, self.part, rule=self.rule)
        assert estimate is not None
        return estimate, perf_counter() - started

    def _compare(
        self, step: int, now: Estimate, start: ParentLoss, seconds: float, *, final: bool
    ) -> tuple[Remembered, ParentLoss]:
        change = Estimate(now.sums - np.array(start.before_sums), now.symbols, now.symbols_per_char)
        loss = replace(
            start,
            step=step,
            nats_per_char=now.nats_per_char,
            forgotten=change.nats_per_char,
            standard_error=change.standard_error,
        )
        event = Remembered(
            step=step,
            run=loss.run,
            before=loss.before,
            nats_per_char=loss.nats_per_char,
            forgotten=loss.forgotten,
            standard_error=loss.standard_error,
            chars=loss.chars,
            of_chars=loss.of_chars,
            blocks=loss.blocks,
            final=final,
            seconds=seconds,
        )
        return event, loss
