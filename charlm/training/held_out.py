"""Evaluation during training: on the held-out text, and on that of the fine-tuned run, to measure forgetting."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from math import isfinite
from time import perf_counter

import numpy as np
import torch

from charlm.data.corpus import Corpus
from charlm.data.shards import TextIds
from charlm.evaluation.calibration import BINS, Reliability
from charlm.evaluation.score import Estimate, Slice, score_slice, spread
from charlm.inference.context import ContextRule
from charlm.inference.ngram_predictor import NgramPredictor
from charlm.inference.predictor import Predictor
from charlm.ngram.kneser_ney import KneserNey
from charlm.training.distributed import ALONE, AgreedStop, Ranks, current
from charlm.training.events import HeldOutLoss, OldTextLoss, Remembered
from charlm.training.state import ParentLoss

CHUNKS_AT_ONCE = 64
"""Chunks that each rank scores before all check whether one was told to stop."""


@dataclass(frozen=True)
class Scores:
    """A model's scores on the chunks of an evaluation, and on the chunks that all evaluations share."""

    own: Estimate
    common: Estimate
    n_chunks: int  # scored
    calibration: Reliability | None  # on all these chunks

    @property
    def is_finite(self) -> bool:
        """Whether all losses are finite."""
        return isfinite(self.own.nats_per_char) and isfinite(self.common.nats_per_char)


class HeldOut:
    """Scores a model on chunks of the held-out text, and the n-gram baseline on the same chunks."""

    def __init__(
        self,
        corpus: Corpus,
        predictor: Predictor,
        baseline: KneserNey | None,
        rule: ContextRule | None = None,
        *,
        always_whole: bool = False,
        together: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """`rule`: by default the predictor's. `always_whole`: each evaluation scores all of the text.

        `together`: the context in which ranks that have divided the weights predict.
        """
        self._together = together
        self.corpus, self.predictor, self.rule = corpus, predictor, rule or predictor.rule
        self.always_whole = always_whole
        self.baseline = None if baseline is None else NgramPredictor(baseline, corpus.vocabulary)
        self._baseline_scores: dict[tuple[int, ...], Estimate | None] = {}  # by chunks

    def choose_chunks(self, symbols: int | None = None) -> Slice:
        """Choose chunks spread over the held-out text that score about so many symbols, or all."""
        n = len(self.corpus.held_out)
        if symbols is None or self.always_whole:
            symbols = n + self.rule.stride
        return spread(self.rule, n, symbols, self.corpus.held_out_chars)

    def score(self, part: Slice, common: Slice, stop: AgreedStop, ranks: Ranks = ALONE) -> Scores | None:
        """Score the chunks of `part` and of `common`; return None if there are none, or when stopped."""
        chunks = tuple(sorted({*part.chunks, *common.chunks}))
        if not chunks:
            return None
        both = replace(part, chunks=chunks)
        found = self._score_together(both, stop, ranks)
        if found is None:
            return None
        own, compared = (found.subset(chunks, each.chunks) for each in (part, common))
        return Scores(own, compared, len(chunks), found.calibration)

    def _score_together(self, part: Slice, stop: AgreedStop, ranks: Ranks) -> Estimate | None:
        """Score chunks, divided over the ranks, in rounds after each of which they may stop.

        If each chunk continues the one before, rank 0 scores them all.
        """
        ids = self.corpus.held_out
        if not ranks.is_distributed:
            return score_slice(self.predictor, ids, part, stop.is_set, self.rule, calibrated=True)
        n = len(part.chunks)
        sums, symbols = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.int64)
        bins = torch.zeros(3, BINS, dtype=torch.float64)
        size = n if part.in_order else ranks.size * CHUNKS_AT_ONCE
        for first in range(0, n, size):
            mine = [
                k
                for k in range(first, min(n, first + size))
                if (0 if part.in_order else k % ranks.size) == ranks.rank
            ]
            own = replace(part, chunks=tuple(part.chunks[k] for k in mine))
            never = lambda: part.in_order and stop.own.is_set()  # noqa: E731
            with self._together():
                found = (
                    score_slice(self.predictor, ids, own, never, self.rule, calibrated=True) if mine else None
                )
            if found is not None:
                assert found.calibration is not None
                sums[mine], symbols[mine] = torch.from_numpy(found.sums), torch.from_numpy(found.symbols)
                bins += torch.from_numpy(np.stack([*vars(found.calibration).values()]).astype(np.float64))
            if stop.agree():
                return None
        for tensor in (sums, symbols, bins):
            ranks.all_reduce(tensor)
        counts, confidence, right = bins.numpy()
        calibration = Reliability(counts.astype(np.int64), confidence, right.astype(np.int64))
        return Estimate(sums.numpy(), symbols.numpy(), part.symbols_per_char, calibration)

    def loss(self, step: int, part: Slice, score: Estimate, stopped: Callable[[], bool]) -> HeldOutLoss:
        """Compare a score with the baseline's on the same chunks; without the baseline when stopped."""
        baseline = self._score_baseline(part, stopped)
        difference = None if baseline is None else score.minus(baseline)
        return HeldOutLoss(
            step=step,
            nats_per_char=score.nats_per_char,
            standard_error=score.standard_error,
            baseline_nats_per_char=None if baseline is None else baseline.nats_per_char,
            difference=None if difference is None else difference.nats_per_char,
            difference_error=None if difference is None else difference.standard_error,
            chars=score.chars,
            blocks=len(part.chunks),
            whole=part.whole,
        )

    def _score_baseline(self, part: Slice, stopped: Callable[[], bool]) -> Estimate | None:
        if self.baseline is None or not current().is_first:  # only rank 0 reports it
            return None
        if part.chunks not in self._baseline_scores:  # the same chunks until the final evaluation
            found = score_slice(self.baseline, self.corpus.held_out, part, stopped, self.rule)
            self._baseline_scores = {part.chunks: found}
        return self._baseline_scores[part.chunks]


@dataclass(frozen=True)
class ParentText:
    """The held-out text of the fine-tuned run, in the new vocabulary, and the chunks of it that are scored each time."""

    run: str
    ids: TextIds
    chars: int
    part: Slice
    rule: ContextRule
    parent: Predictor | None = None  # that run's predictor, needed before the first step only
    parent_ids: TextIds | None = None  # the text in that run's own vocabulary

    def score(
        self, step: int, predictor: Predictor, first: ParentLoss | None
    ) -> tuple[Remembered, ParentLoss]:
        """Score the text at a step, to measure forgetting. Without a `first` score, the parent's model is scored too."""
        started, final = perf_counter(), first is not None
        now = self._score(predictor, self.ids)
        seconds = perf_counter() - started
        if first is None:
            assert self.parent is not None and self.parent_ids is not None
            before = self._score(self.parent, self.parent_ids)
            first = ParentLoss(
                step=step,
                run=self.run,
                before=before.nats_per_char,
                nats_per_char=now.nats_per_char,
                forgotten=0.0,
                standard_error=None,
                chars=before.chars,
                of_chars=self.chars,
                blocks=len(before.sums),
                before_error=before.standard_error,
                before_sums=before.sums.tolist(),
                begun=now.nats_per_char,
                seconds=seconds,
            )
        change = replace(now, sums=now.sums - np.array(first.before_sums))
        loss = replace(
            first,
            step=step,
            nats_per_char=now.nats_per_char,
            forgotten=change.nats_per_char,
            standard_error=change.standard_error,
        )
        shared = {field.name: getattr(loss, field.name) for field in fields(OldTextLoss)}
        return Remembered(**shared, final=final, seconds=seconds), loss

    def _score(self, predictor: Predictor, ids: TextIds) -> Estimate:
        estimate = score_slice(predictor, ids, self.part, rule=self.rule)
        assert estimate is not None
        return estimate
