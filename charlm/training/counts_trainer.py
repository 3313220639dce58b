"""Carrying a run of counts alone to its end: they were counted, and are scored and saved."""

from collections.abc import Iterator
from time import perf_counter

from charlm.checkpoint.run_folder import RunFolder
from charlm.context import ContextRule
from charlm.errors import ResourceError
from charlm.evaluation.held_out import score_slice, spread
from charlm.terminal import one_line
from charlm.training.counts_session import CountsSession
from charlm.training.events import Counted, Evaluated, Event, Finished, Saved
from charlm.training.signals import Stop
from charlm.training.state import figure_of

BLOCK = 64
"""Symbols whose scores are summed, so that the figure's error is judged by stretches of text, as others' is."""


class CountsTrainer:
    """Carries such a run to its end: the counts are scored on the held-out part, and saved."""

    def __init__(self, session: CountsSession, run: RunFolder) -> None:
        self.session, self.run_folder, self.predictor = session, run, session.predictor

    @property
    def step(self) -> int:
        """The one step, which was the counting."""
        return self.session.state.step

    def run(self, stop: Stop) -> Iterator[Event]:
        """Score and save; the last event is Finished. Raises ResourceError where it cannot be saved.

        What is stopped before it was scored is saved too, and scored when it is resumed.
        """
        session, state = self.session, self.session.state
        if session.limits is not None:
            chars, seconds = session.chars_per_step, state.seconds
            yield Counted(step=self.step, chars=chars, seconds=seconds, limits=session.limits)
        yield from self._evaluate(stop)
        state.finished = None if stop.is_set() else "done"
        yield self._save()
        reason = (stop.reason if stop.is_set() else None) or "done"
        best, total = state.memorising.best_step, session.plan.total_steps
        yield Finished(step=self.step, reason=reason, best_step=best, total_steps=total)

    def _evaluate(self, stop: Stop) -> Iterator[Event]:
        """Score the whole held-out part."""
        corpus, started = self.session.corpus, perf_counter()
        rule = ContextRule(self.predictor.rule.block_size + BLOCK - 1, BLOCK)  # the same, many at a time
        n = len(corpus.held_out)
        part = spread(rule, n, n + BLOCK, corpus.held_out_chars)  # every window
        estimate = score_slice(self.predictor, corpus.held_out, part, stop.is_set, rule)
        if estimate is None or not part.windows:
            return
        self.session.state.last_figure = figure_of(self.step, estimate, part, None)
        self.session.state.memorising.see(self.step, estimate.blocks)  # the best: there is no other
        yield Evaluated(
            step=self.step,
            nats_per_char=estimate.nats_per_char,
            standard_error=estimate.standard_error,
            compared_nats_per_char=estimate.nats_per_char,
            baseline_nats_per_char=None,
            difference=None,
            difference_error=None,
            chars=estimate.chars,
            of_chars=corpus.held_out_chars,
            blocks=len(part.windows),
            is_best=True,
            rises=0,
            final=True,
            seconds=perf_counter() - started,
        )

    def _save(self) -> Saved:
        started, snapshot = perf_counter(), self.session.snapshot()
        best = self.session.state.memorising.best_step == self.step
        try:
            path = self.run_folder.save(self.step, snapshot.files(), snapshot.run_files(), best=best)
        except OSError as error:
            raise ResourceError(
                f"the counts could not be written to {one_line(str(self.run_folder.path))} "
                f"({error.strerror or error}); make room, and train again"
            ) from None
        return Saved(step=self.step, path=str(path), seconds=perf_counter() - started)
