"""Trainer.run(): a generator of events that trains, evaluates, saves, and recovers."""

from collections.abc import Iterator
from dataclasses import replace
from math import inf, isfinite
from time import perf_counter

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.snapshot import read, read_newest
from charlm.counts.kneser_ney import KneserNey
from charlm.counts_predictor import CountsPredictor
from charlm.errors import DivergedError, ResourceError
from charlm.evaluation.held_out import Estimate, Slice, score_slice, spread
from charlm.predictor import TransformerPredictor
from charlm.terminal import one_line
from charlm.training.compiling import compile_blocks
from charlm.training.device import keep_memory
from charlm.training.events import (
    Compiled,
    Evaluated,
    Event,
    Finished,
    Planned,
    Saved,
    SaveFailed,
    Skipped,
    Stepped,
    WentBack,
)
from charlm.training.old_text import LEAVING
from charlm.training.pace import CLOSING_MARGIN, Pace
from charlm.training.plan import Plan
from charlm.training.plan_file import write_plan
from charlm.training.session import Session
from charlm.training.signals import Stop
from charlm.training.state import figure_of
from charlm.training.step import learn
from charlm.training.watch import COOLED_AWAY, MOST_RETURNS, Memorising

CLOSING_CHARS = 200_000


class Trainer:
    """Carries a session through its plan. It alone writes checkpoints, and it prints nothing."""

    def __init__(
        self,
        session: Session,
        run: RunFolder,
        pace: Pace | None = None,
        baseline: KneserNey | None = None,
    ) -> None:
        """`baseline`: n-gram counts to compare each evaluation with; by default those the model starts from."""
        self.session = session
        self._baseline = baseline or session.kneser_ney
        self._baseline_scores: dict[tuple[int, ...], Estimate | None] = {}  # by windows
        self.run_folder = run
        self.pace = pace  # with --time only
        self.predictor = session.predictor
        self._saved_at = perf_counter()
        self._save_failed = False
        self._finish_reason: str | None = None

    @property
    def step(self) -> int:
        """Batches learned from so far."""
        return self.session.state.step

    def run(self, stop: Stop) -> Iterator[Event]:
        """Train to the end of the plan or until `stop`; the last event is Finished.

        Raises DivergedError when going back did not help, ResourceError when the last checkpoint
        cannot be written.
        """
        session = self.session
        keep_memory()
        if not self.run_folder.steps():
            yield from self._remember()
            yield from self._save()
        if self.pace is not None and session.state.old_text is not None:
            again = CLOSING_MARGIN * session.state.old_text["seconds"]  # the same at the end
            self.pace.afterwards += again + LEAVING
        if session.training_config.compile == "on" and not stop.is_set():
            yield self._compile()
        while self.step < session.plan.total_steps and not stop.is_set() and self._finish_reason is None:
            started = perf_counter()
            yield from self._step()
            if self.pace is not None:  # the listeners' share included
                self.pace.stepped(perf_counter() - started)
            yield from self._after_step(stop)
        yield from self._close(stop)

    def _compile(self) -> Compiled:
        started = perf_counter()
        reason = compile_blocks(self.session)
        return Compiled(step=self.step, seconds=perf_counter() - started, failure=reason)

    def _after_step(self, stop: Stop) -> Iterator[Event]:
        """What is due between steps: the plan, an evaluation, a save."""
        session, pace = self.session, self.pace
        if pace is not None and pace.first_look_due(session.plan.total_steps - self.step):
            held_out, config = self._slice(None), session.training_config
            yield self._replan(pace.first_plan(session.plan, self.step, session.windows, held_out, config))
        # The first plan chooses the windows that all evaluations have in common.
        planned = pace is None or pace.planned
        due = self.step % session.plan.eval_every == 0 and self.step < session.plan.total_steps
        if due and planned and not stop.is_set():
            before = replace(session.state.memorising)
            yield from self._evaluate(stop, self._slice(session.plan.eval_chars))
            yield from self._judge(before)
            if pace is not None and pace.step_seconds > 0:
                plan = pace.next_plan(session.plan, self.step, self._slice(None))
                if plan != session.plan:
                    yield self._replan(plan)
        overdue = perf_counter() - self._saved_at >= session.training_config.save_every
        if overdue and not session.state.divergence.doubtful:
            yield from self._save()

    # --- one step -----------------------------------------------------------------------------

    def _step(self) -> Iterator[Event]:
        started = perf_counter()
        session, state = self.session, self.session.state
        rates = session.learning_rates()
        loss, norm = learn(session, rates)
        seconds = perf_counter() - started
        state.step += 1
        state.seconds += seconds
        if loss != loss or norm != norm or float("inf") in (loss, norm):
            state.skipped.append(state.step)
            loss = float("nan")
            yield Skipped(step=state.step)
        else:
            state.updates += 1
            chars = state.step * session.chars_per_step
            yield Stepped(
                step=state.step,
                loss=loss,
                learning_rate=rates.adamw,
                grad_norm=norm,
                chars=chars,
                seconds=seconds,
            )
        reason = state.divergence.see(loss)
        if reason is not None:
            yield self._go_back(reason)

    def _go_back(self, reason: str) -> WentBack:
        """Return to the last good save, past the text that led here, at half the rate."""
        state = self.session.state
        if state.returns >= MOST_RETURNS:
            raise DivergedError(
                f"training went wrong again at step {self.step} ({reason}) after going back {MOST_RETURNS} "
                "times; try a lower --learning-rate"
            )
        wrong, passed, rate, returns = self.step, state.batch_offset, state.rate_factor / 2, state.returns + 1
        skipped = state.skipped
        snapshot = read_newest(self.run_folder, lambda _: None)
        self.session.restore(snapshot)
        state = self.session.state
        state.batch_offset = passed + wrong - state.step
        state.rate_factor, state.returns, state.skipped = rate, returns, skipped
        state.divergence.recent, state.divergence.bad_in_row = [], 0
        return WentBack(step=wrong, to_step=state.step, reason=reason, rate_factor=rate)

    def _replan(self, plan: Plan) -> Planned:
        """Put a new plan in force, on the disk before any step depends on it."""
        self.session.plan = plan
        write_plan(self.run_folder, plan)
        return Planned(step=self.step, total_steps=plan.total_steps, decision=plan.decisions[-1])

    # --- evaluating ---------------------------------------------------------------------------

    def _slice(self, symbols: int | None) -> Slice:
        """Windows over the held-out part that score about so many symbols, or all."""
        corpus = self.session.corpus
        n = len(corpus.held_out)
        return spread(self.predictor.rule, n, n if symbols is None else symbols, corpus.held_out_chars)

    def _closing_slice(self) -> Slice:
        """What the evaluation at the end scores: every window, unless that takes too long."""
        whole = self._slice(None)
        if self.pace is None:
            return self._slice(CLOSING_CHARS)
        return self._slice(self.pace.closing_windows(whole.of_windows) * whole.symbols_per_window)

    def _baseline_on(self, part: Slice, stop: Stop) -> Estimate | None:
        """What the n-gram baseline scores on the same windows; None where there is none, or when stopped."""
        if self._baseline is None:
            return None
        if part.windows not in self._baseline_scores:
            corpus = self.session.corpus
            predictor = CountsPredictor(self._baseline, corpus.vocabulary)
            found = score_slice(predictor, corpus.held_out, part, stop.is_set, self.predictor.rule)
            self._baseline_scores = {part.windows: found}  # the same windows until the closing evaluation
        return self._baseline_scores[part.windows]

    def _evaluate(self, stop: Stop, part: Slice, *, final: bool = False) -> Iterator[Event]:
        """Score part of the held-out text, and judge by it whether the model begins to memorise.

        Whether it is the best so far is decided on the windows that every evaluation has in common. The
        closing one scores those besides its own.
        """
        started = perf_counter()
        session, state = self.session, self.session.state
        common = self._slice(session.plan.eval_chars).windows if final else part.windows
        scored = tuple(sorted({*part.windows, *common}))
        with session.predicting():
            estimates = score_slice(
                self.predictor, session.corpus.held_out, replace(part, windows=scored), stop.is_set
            )
        if estimates is None or not part.windows:
            return
        estimate, compared = (estimates.of_windows(scored, windows) for windows in (part.windows, common))
        if not isfinite(estimates.nats_per_char):
            yield self._go_back("the held-out loss was not finite")
            return
        seconds = perf_counter() - started
        if self.pace is not None:
            self.pace.window_seconds = seconds / len(scored)
        margin = 0.0 if session.plan.schedule.cooling(self.step) else COOLED_AWAY
        is_best = state.memorising.see(self.step, compared.blocks, inf if final else margin)
        baseline = self._baseline_on(part, stop)
        state.last_figure = figure = figure_of(self.step, estimate, part, baseline)
        yield Evaluated(
            step=self.step,
            nats_per_char=estimate.nats_per_char,
            standard_error=estimate.standard_error,
            compared_nats_per_char=compared.nats_per_char,
            baseline_nats_per_char=figure["baseline_nats_per_char"],
            difference=figure["difference"],
            difference_error=figure["difference_error"],
            chars=estimate.chars,
            of_chars=session.corpus.held_out_chars,
            blocks=len(part.windows),
            is_best=is_best,
            rises=state.memorising.rises,
            final=final,
            seconds=seconds,
        )
        if self.pace is not None:
            self.pace.evaluation_seconds = perf_counter() - started
            self.pace.shown_seconds = self.pace.evaluation_seconds - seconds

    def _remember(self, *, final: bool = False) -> Iterator[Event]:
        """Score the held-out text of the run that this one goes on from, by the weights that will be used."""
        session, state = self.session, self.session.state
        old_text, predictor, step = session.old_text, self.predictor, self.step
        if old_text is None:
            return
        if final and self._finish_reason == "early":
            best = read(self.run_folder, "best")
            predictor, step = TransformerPredictor.of(best), best.step
            predictor.model.to(session.device)
        with session.predicting():
            if not final:
                event, state.old_text = old_text.begin(predictor)
                session.old_text = replace(old_text, first=None)  # which may be large
            else:
                assert state.old_text is not None
                event, state.old_text = old_text.again(step, predictor, state.old_text)
        yield event

    def _judge(self, before: Memorising) -> Iterator[Event]:
        """After an evaluation: keep the best weights, end a run that has begun to memorise."""
        config, state = self.session.training_config, self.session.state
        if state.memorising.best_step == self.step:
            yield from self._save(best=True)
            if self._save_failed:
                state.memorising = before  # what is not on the disk cannot be gone back to
        if config.patience and state.memorising.rises >= config.patience:
            self._finish_reason = "early"

    # --- saving and ending --------------------------------------------------------------------

    def _save(self, *, best: bool = False) -> Iterator[Event]:
        """Write a checkpoint; if the disk refuses, say so once and try again at the next one."""
        started = perf_counter()
        self._saved_at = started
        if not self.session.is_finite():
            return
        try:
            snapshot = self.session.snapshot()
            path = self.run_folder.save(self.step, snapshot.files(), snapshot.run_files(), best=best)
        except OSError as error:
            if not self._save_failed:
                yield SaveFailed(step=self.step, reason=error.strerror or str(error))
            self._save_failed = True
            return
        self._save_failed = False
        seconds = perf_counter() - started
        if self.pace is not None:
            self.pace.save_seconds = seconds
        yield Saved(step=self.step, path=str(path), seconds=seconds)

    def _close(self, stop: Stop) -> Iterator[Event]:
        """The evaluation of the finished model, the last save, and the last event."""
        state, plan = self.session.state, self.session.plan
        reason = self._finish_reason or (stop.reason if stop.is_set() else None) or "done"
        if reason == "done":
            yield from self._evaluate(stop, self._closing_slice(), final=True)
            reason = stop.reason or "done" if stop.is_set() else "done"
        if not self.session.is_finite():
            raise DivergedError(
                f"the weights after step {self.step} are not finite; the last save of {self.run_folder.name} is "
                "whole: try a lower --learning-rate"
            )
        state.finished = reason if reason in ("done", "early") else None
        if state.finished:
            yield from self._remember(final=True)
        yield from self._save(best=state.memorising.best_step == self.step)
        if self._save_failed:
            raise ResourceError(
                f"the last checkpoint, of step {self.step}, could not be written to "
                f"{one_line(str(self.run_folder.path))}; make room, and resume it"
            )
        best = state.memorising.best_step
        yield Finished(step=self.step, reason=reason, best_step=best, total_steps=plan.total_steps)
