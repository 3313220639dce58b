"""Trainer.run(): a generator of events that trains, evaluates, saves, and recovers.

Axes: B windows, T symbols.
"""

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import inf, isfinite
from time import perf_counter

import torch
import torch.nn.functional as F
from torch import Tensor

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.snapshot import read, read_newest
from charlm.errors import DivergedError, ResourceError
from charlm.evaluation.score import Estimate, Slice, score_slice, spread
from charlm.inference.predictor import NgramPredictor, TransformerPredictor
from charlm.model.masks import documents_of
from charlm.model.transformer import LanguageModel
from charlm.native.compiler import compilers
from charlm.ngram.kneser_ney import KneserNey
from charlm.rng import mix
from charlm.terminal import one_line
from charlm.threads import threads
from charlm.training.deadline import CLOSING_MARGIN, Pace
from charlm.training.device import computing, keep_memory
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
from charlm.training.forgetting import LEAVING
from charlm.training.guards import COOLED_AWAY, MOST_RETURNS, Memorising
from charlm.training.optimizer import Rates
from charlm.training.planner import Plan, write_plan
from charlm.training.session import Session
from charlm.training.signals import Stop
from charlm.training.state import figure_of


def learn(session: Session, rates: Rates) -> tuple[float, float]:
    """Learn from the next batch: its loss in nats a symbol, and the length of its gradient.

    Where either is not finite, no weight changes; that is decided on the device, before.
    """
    config, state = session.training_config, session.state
    end = session.corpus.vocabulary.end
    session.model.zero_grad(set_to_none=True)
    step = state.step + state.batch_offset
    windows = torch.from_numpy(session.windows.batch(session.corpus.train, step)).to(session.device)
    rows: Sequence[Tensor | None] = [None] * config.grad_accum
    if session.prior_rows is not None:
        rows = torch.from_numpy(session.prior_rows.batch(step)).to(session.device).chunk(config.grad_accum)
    total = torch.zeros((), device=session.device)
    for part, (ids, log_prior) in enumerate(zip(windows.chunk(config.grad_accum), rows, strict=True)):
        if session.model_config.dropout or session.model_config.ngram_embedding_dropout:
            torch.manual_seed(int(mix(config.seed, step, part) >> 1))
        with computing(session.device, config.precision):
            loss = batch_loss(session.model, ids, log_prior, end) / config.grad_accum
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    norm = torch.nn.utils.clip_grad_norm_(session.model.parameters(), config.grad_clip)
    session.optimizer.update(rates, torch.isfinite(total) & torch.isfinite(norm))
    return float(total), float(norm)


def batch_loss(
    model: LanguageModel, ids: Tensor, log_prior: Tensor | None = None, end: int | None = None
) -> Tensor:
    """Mean nats of the symbol that follows each of `ids[:, :-1]`, from windows (B, T + 1).

    `log_prior` (B, T, V): what the counts say there, for a model that begins from them. `end`: the id
    across which nothing is read. The softmax is that of 32-bit logits, whatever the products before were
    made of.
    """
    logits = model(ids[:, :-1], docs=documents_of(ids[:, :-1], end), log_prior=log_prior).flatten(
        0, 1
    )  # (B T, V)
    return F.cross_entropy(logits if logits.dtype == torch.float64 else logits.float(), ids[:, 1:].flatten())


COMPILERS = ("g++", "clang++", "c++", "cl")
"""What TorchInductor asks for on a CPU."""


def has_compiler(device: torch.device) -> bool:
    """Is there what it takes to compile: a C++ compiler for a CPU, Triton for a GPU?"""
    if device.type == "cpu":
        return bool(compilers((os.environ.get("CXX", ""), *COMPILERS)))
    return device.type == "cuda" and bool(torch.utils._triton.has_triton())


def compile_blocks(session: Session) -> str | None:
    """Compile the model's blocks for batches of this run, and try them; why not, where it fails.

    Compiling happens at the first call, forward and backward, and fails there if it fails. So that is
    done here, with a batch of the first symbol, from which nothing is learned. What failed is taken
    back, and the run goes on as if it had not been tried.
    """
    model, config = session.model, session.training_config
    assert config.batch_size
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(threads()))
    ids = torch.zeros(config.batch_size // config.grad_accum, model.block_size + 1, dtype=torch.long)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.compiled = torch.compile(model.run_blocks, dynamic=False)
            with computing(session.device, config.precision):
                loss = batch_loss(model, ids.to(session.device), end=session.corpus.vocabulary.end)
            loss.backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # noqa: BLE001, whatever a compiler may raise
        model.compiled = None
        return one_line(f"{type(error).__name__}: {error}", limit=200)
    finally:
        model.zero_grad(set_to_none=True)
        if model.ngrams is not None:
            model.ngrams.pending.clear()
    return None


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
            predictor = NgramPredictor(self._baseline, corpus.vocabulary)
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
