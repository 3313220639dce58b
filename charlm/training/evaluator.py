"""Evaluating during training: the held-out loss beside the n-gram baseline's, and early stopping by it."""

from math import inf

from charlm.evaluation.score import Slice
from charlm.inference.predictor import Predictor
from charlm.ngram.kneser_ney import KneserNey
from charlm.training.deadline import Deadline
from charlm.training.distributed import AgreedStop
from charlm.training.events import Evaluated
from charlm.training.guards import COOLDOWN_GAIN
from charlm.training.held_out import HeldOut, Scores
from charlm.training.session import Session, TransformerSession


class Evaluator:
    """Evaluates a session on held-out text, and updates its early stopping."""

    def __init__(self, session: Session, baseline: KneserNey | None) -> None:
        """`baseline`: n-grams to compare with; default: the prior."""
        self.session, self._baseline = session, baseline
        self.held_out: HeldOut = session.held_out(baseline)

    @property
    def predictor(self) -> Predictor:
        """The model that is evaluated: the member in training, or the mixture at the end."""
        return self.held_out.predictor

    def use_member(self) -> None:
        """Evaluate the member in training, which is a new one or was restored."""
        self.held_out = self.session.held_out(self._baseline)

    def use_mixture(self, session: TransformerSession) -> None:
        """Evaluate all members that are trained, as they were calibrated."""
        self.held_out = session.held_out(self._baseline, session.pooled())

    def regular_chunks(self) -> Slice:
        """The chunks that all evaluations have in common."""
        return self.held_out.choose_chunks(self.session.plan.eval_chars)

    def closing_chunks(self, deadline: Deadline) -> Slice:
        """The chunks of the evaluation after the member's last step: of the last one, all that there is time for."""
        if not self.session.is_last:
            return self.regular_chunks()
        return self.held_out.choose_chunks(deadline.closing_symbols(self.held_out.choose_chunks()))

    def score(self, part: Slice, stop: AgreedStop, *, final: bool) -> Scores | None:
        """Score the chunks of `part`; None when stopped.

        Early stopping compares evaluations on the chunks that all have in common; the final one, whose own
        differ, scores those too.
        """
        common = self.regular_chunks() if final else part
        with self.session.predicting():
            scores = self.held_out.score(part, common, stop, self.session.ranks)
        stop.agree()
        return scores

    def record(
        self, part: Slice, scores: Scores, seconds: float, stop: AgreedStop, *, final: bool
    ) -> Evaluated:
        """Update early stopping and the last evaluation in the session's state; return the event that reports them."""
        session, state = self.session, self.session.state
        is_best = state.early_stopping.update(state.step, scores.common.blocks, self._margin(final=final))
        state.last_evaluation = self.held_out.loss(state.step, part, scores.own, stop.own.is_set)
        stop.agree()
        return Evaluated(
            **vars(state.last_evaluation),
            member=session.number + 1,
            mixed=self.predictor.mixed,
            compared_nats_per_char=scores.common.nats_per_char,
            of_chars=session.corpus.held_out_chars,
            is_best=is_best,
            rises=state.early_stopping.rises,
            final=final,
            seconds=seconds,
            calibration=scores.calibration.to_json() if final and scores.calibration else None,
        )

    def _margin(self, *, final: bool) -> float:
        """Return the rise of the loss, in nats, up to which early stopping ignores it.

        Within the first pass nothing has been memorised; at a high learning rate a small rise means nothing; the
        final evaluation cannot stop anything.
        """
        session = self.session
        first_pass = isinstance(session, TransformerSession) and session.in_first_pass
        cooling = session.plan.schedule.is_cooling(session.state.step)
        return inf if final or first_pass else 0.0 if cooling else COOLDOWN_GAIN
