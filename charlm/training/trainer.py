"""The training loop: Trainer.run() is a generator of events that trains, evaluates, saves and recovers.

Axes: B windows, T symbols, V symbols of the model.
"""

from collections.abc import Iterator
from dataclasses import replace
from math import isfinite, nan
from time import perf_counter

import torch
from torch import Tensor

from charlm.checkpoint.run_folder import RunFolder
from charlm.errors import DivergedError, ResourceError
from charlm.ngram.kneser_ney import KneserNey
from charlm.strict_json import to_json
from charlm.terminal import one_line
from charlm.training import events
from charlm.training.calibrate import calibrate
from charlm.training.checkpointer import Checkpointer
from charlm.training.deadline import Deadline
from charlm.training.device import is_accelerator, keep_memory
from charlm.training.distributed import AgreedStop
from charlm.training.evaluator import Evaluator
from charlm.training.events import Event
from charlm.training.guards import MAX_ROLLBACKS
from charlm.training.replanner import Replanner
from charlm.training.session import Session, TransformerSession
from charlm.training.signals import Stop
from charlm.training.state import read_state
from charlm.training.step import compile_model, gpu_errors, idle_step, train_step

READ_EVERY = 20
"""Steps on a GPU, which goes on without the host until the figures of all of them are read at once."""


class Trainer:
    """Trains a session to the end of its plan, evaluates it and saves it. It prints nothing."""

    def __init__(
        self,
        session: Session,
        run: RunFolder,
        deadline: Deadline | None = None,
        baseline: KneserNey | None = None,
    ) -> None:
        """`deadline`: for a run with a time budget. `baseline`: n-grams to compare with; default: the prior."""
        deadline = deadline or Deadline()
        self.session, self.run_folder, self.ranks = session, run, session.ranks
        self.evaluator = Evaluator(session, baseline)
        self.replanner = Replanner(session, run, deadline, self.evaluator)
        self.checkpointer = Checkpointer(session, run, deadline.clock)
        self._clock = deadline.clock
        self._ended_early = False  # has early stopping ended the training of the present member?

    @property
    def step(self) -> int:
        """Steps done so far."""
        return self.session.state.step

    @property
    def transformer(self) -> TransformerSession:
        """The session; an n-gram model takes no steps."""
        assert isinstance(self.session, TransformerSession)
        return self.session

    def run(self, stop: Stop) -> Iterator[Event]:
        """Train to the end of the plan or until `stop`; the last event is Finished.

        Raises DivergedError when rolling back did not help, ResourceError when the last checkpoint cannot be
        written.
        """
        session, stop = self.session, AgreedStop(self.ranks, stop)
        keep_memory()
        if session.counted is not None:
            yield session.counted
        elif not self.ranks.broadcast_object(self.run_folder.steps):
            yield from self._score_parent_text()
            yield from self._save()
        self.replanner.begin_run()
        if not stop.is_set():
            yield from self._prepare_device()
        yield from self._evaluate_if_due(stop)  # which a run that was stopped may have left out
        while not stop.is_set():
            if session.begins_again:
                yield from self._begin_member_again()
            if self._is_trained:
                yield from self._close_member(stop)
                if stop.is_set() or not self._is_trained:  # it rolled back
                    continue
                if session.is_last:
                    break
                yield from self._begin_next_member()
            started, before = self._clock(), self.step
            yield from self._guarded_steps(stop)
            stop.agree()
            # Listeners included; a run that rolled back has taken at least one step.
            taken = max(1, self.step - before)
            yield from self._after_steps(stop, taken, (self._clock() - started) / taken)
        yield from self._finish(stop)

    # --- steps --------------------------------------------------------------------------------

    @property
    def _next_read(self) -> int:
        """The step at which the figures of the steps up to it are read: on a CPU the next one."""
        session, step = self.transformer, self.step
        if not is_accelerator(session.device):
            return step + 1
        every = session.plan.eval_every_at(step)
        due = [step - step % READ_EVERY + READ_EVERY, session.member_end]
        due.append(step - session.member_step % every + every)
        return min([*due, *(at for at in session.plan.decided_at if at > step)])

    def _guarded_steps(self, stop: Stop | None = None) -> Iterator[Event]:
        """Take steps up to the next reading, or `stop`, and report them; roll back if the loss has diverged.

        A step's learning rate and symbols depend on its number alone, so reading losses and norms later changes nothing.
        """
        session, state, started = self.transformer, self.session.state, perf_counter()
        end, taken, figures = self._next_read, list[tuple[int, float, int]](), list[Tensor]()
        while state.step < end and not (taken and stop is not None and stop.is_set()):
            if self.step in session.plan.decided_at:
                session.follow_plan(self.step)
            rates = session.learning_rates()
            try:
                with gpu_errors(session):
                    figures.append(torch.stack(train_step(session, rates)))  # (2,)
            except torch.OutOfMemoryError:
                yield self.replanner.split_batch()
                continue
            state.step += 1
            taken.append((state.step, float(rates.adamw), session.chars_read))
        with gpu_errors(session):
            read = torch.stack(figures).tolist()  # (N, 2): the host waits here
        seconds = (perf_counter() - started) / len(taken)
        for (step, rate, chars), (loss, norm) in zip(taken, read, strict=True):
            state.seconds += seconds
            if isfinite(loss) and isfinite(norm):
                state.updates += 1
                yield events.Stepped(
                    step=step,
                    loss=loss,
                    learning_rate=rate,
                    grad_norm=norm,
                    chars=chars,
                    seconds=seconds,
                    member=session.number + 1,
                )
            else:
                state.skipped.append(step)
                loss = nan
                yield events.Skipped(step=step)
            reason = state.divergence.update(loss)
            if reason is not None:
                yield self._roll_back(reason)
                return

    def _roll_back(self, reason: str) -> events.WentBack:
        """Return to the last checkpoint, at half the learning rate and with later batches."""
        diverged_at = self.step
        if self.session.state.returns >= MAX_ROLLBACKS:
            raise DivergedError(
                f"training diverged again at step {diverged_at} ({reason}) after {MAX_ROLLBACKS} rollbacks; try a "
                "lower --learning-rate"
            )
        to_step = self.transformer.roll_back(self.run_folder)
        self.evaluator.use_member()
        self._ended_early = False
        self.replanner.cancel_trial()
        factor = self.session.state.rate_factor
        return events.WentBack(step=diverged_at, to_step=to_step, reason=reason, rate_factor=factor)

    def _after_steps(self, stop: AgreedStop, taken: int, seconds: float) -> Iterator[Event]:
        """Do what is due after steps, each of which took so long: revise the plan, evaluate, save a checkpoint."""
        yield from self.replanner.after_steps(taken, seconds)
        if self.session.begins_again:
            return
        yield from self._evaluate_if_due(stop)
        if self.checkpointer.is_due:
            yield from self._save()

    # --- members ------------------------------------------------------------------------------

    @property
    def _stopped_early(self) -> bool:
        """Has the held-out loss risen as often as `patience` allows?"""
        patience = self.session.training_config.patience
        rises = self.session.state.early_stopping.rises
        return self._ended_early or (bool(patience) and rises >= patience)

    @property
    def _is_trained(self) -> bool:
        """Is the training of the model, or of the present member, at its end?"""
        return self.step >= self.session.member_end or self._stopped_early

    def _close_member(self, stop: AgreedStop) -> Iterator[Event]:
        """Calibrate what is trained, and evaluate it: at the end of the run on all that there is time for."""
        session = self.session
        if isinstance(session, TransformerSession):
            if self._stopped_early:
                session.return_to_best(self.run_folder)
                self._ended_early = True
            if not session.is_finite():
                yield self._roll_back("a weight was not finite")
                return
            if session.reserved:
                yield self._calibrate(session)
            self.evaluator.use_mixture(session)
        yield from self._evaluate(stop, final=session.is_last)

    def _begin_next_member(self) -> Iterator[Event]:
        """Begin the training of the next member."""
        if self._ended_early:
            yield from self.replanner.end_member_early()
        self._ended_early = False
        self.transformer.next_member()
        self.replanner.begin_member(self.step)
        yield from self._prepare_and_save()

    def _begin_member_again(self) -> Iterator[Event]:
        """Begin the training of the member again, with the size that the plan has from here on."""
        self.transformer.begin_again()
        self.replanner.begin_member_again()
        if self.ranks.is_first:
            self.run_folder.forget_best()  # the best checkpoint is of the model that is given up
        yield from self._prepare_and_save()

    def _prepare_and_save(self) -> Iterator[Event]:
        """Prepare the model whose training begins, and save it."""
        self.evaluator.use_member()
        yield from self._prepare_device()
        yield from self._save()

    # --- evaluating and saving ----------------------------------------------------------------

    def _evaluate_if_due(self, stop: AgreedStop) -> Iterator[Event]:
        """Evaluate every `eval_every` steps, but for the last one, and then revise the plan by what is known now."""
        session, last = self.session, self.session.state.last_evaluation
        if not isinstance(session, TransformerSession):
            return
        plan, due = session.plan, session.state.member_start < self.step < session.member_end
        due = due or plan.ended_early(self.step)
        due = due and session.member_step % plan.eval_every_at(self.step) == 0
        done = last is not None and last.step == self.step
        # The first plan chooses the chunks that all evaluations have in common.
        if not due or done or not self.replanner.deadline.has_eval_chunks or stop.is_set():
            return
        yield from self._evaluate_and_save(stop)
        yield from self.replanner.after_evaluation()

    def _evaluate_and_save(self, stop: AgreedStop) -> Iterator[Event]:
        """Evaluate on held-out text, save the best checkpoint, and stop a run that overfits."""
        before = replace(self.session.state.early_stopping)
        yield from self._evaluate(stop)
        state = self.session.state
        if state.early_stopping.best_step == self.step:
            yield from self._save(best=True)
            if self.checkpointer.failed:
                state.early_stopping = before  # a checkpoint that is not on the disk cannot be the best

    def _evaluate(self, stop: AgreedStop, *, final: bool = False) -> Iterator[Event]:
        """Score held-out text and report it; where the loss is not finite, roll back."""
        evaluator, deadline = self.evaluator, self.replanner.deadline
        part = evaluator.closing_chunks(deadline) if final else evaluator.regular_chunks()
        started = self._clock()
        scores = evaluator.score(part, stop, final=final)
        if scores is None:
            return
        if not scores.is_finite:
            yield self._roll_back("the held-out loss was not finite")
            return
        seconds = self._clock() - started
        yield evaluator.record(part, scores, seconds, stop, final=final)
        deadline.add_evaluation(scores.n_chunks, seconds, self._clock() - started)

    def _save(self, *, best: bool = False) -> Iterator[Event]:
        """Save a checkpoint, and keep as much time for the last one."""
        event = self.checkpointer.save(best=best)
        if isinstance(event, events.Saved):
            self.replanner.deadline.save_seconds = event.seconds
        if event is not None:
            yield event

    def _finish(self, stop: Stop) -> Iterator[Event]:
        """Save the last checkpoint, and yield the last event."""
        state = self.session.state
        if not self.session.is_finite():
            raise DivergedError(
                f"the weights after step {self.step} are not finite; the last checkpoint of {self.run_folder.name} is "
                "intact: try a lower --learning-rate"
            )
        # A run that was stopped is not finished: whoever resumes it closes a member that ended early.
        if self._stopped_early:
            state.early_stopping.rises = self.session.training_config.patience
        state.finished = None if stop.is_set() else "early" if self._stopped_early else "done"
        reason = state.finished or stop.reason or "done"
        if state.finished:
            yield from self._score_parent_text()
        best = state.early_stopping.best_step
        yield from self._save(best=best == self.step)
        if self.checkpointer.failed:
            again = "resume the run" if self.ranks.broadcast_object(self.run_folder.steps) else "train again"
            raise ResourceError(
                f"the last checkpoint, of step {self.step}, could not be written to "
                f"{one_line(str(self.run_folder.path))}; free some space and {again}"
            )
        total = self.session.plan.total_steps
        yield events.Finished(step=self.step, reason=reason, best_step=best, total_steps=total)

    # --- the device ---------------------------------------------------------------------------

    def _prepare_device(self) -> Iterator[Event]:
        """Compile the step where the plan says so. Try a GPU's step, which changes nothing; where it fails, use the CPU."""
        session = self.session
        on_gpu = isinstance(session, TransformerSession) and is_accelerator(session.device)
        while True:
            try:
                if session.training_config.compile == "on" and not self.ranks.shards:
                    yield self._compile()
                if on_gpu:
                    idle_step(self.transformer)
                return
            except torch.OutOfMemoryError:
                yield self.replanner.split_batch()
            except RuntimeError as error:  # NotImplementedError too: MPS lacks operators
                if not on_gpu or self.ranks.is_distributed:
                    raise
                reason, left = one_line(str(error), limit=160), session.device.type
                self.transformer.compute_on_cpu(self.run_folder)
                self.evaluator.use_member()
                yield events.LeftDevice(step=self.step, device=left, reason=reason)
                return

    def _compile(self) -> events.Compiled:
        started = perf_counter()
        failure = compile_model(self.transformer)
        return events.Compiled(step=self.step, seconds=perf_counter() - started, failure=failure)

    # --- what rank 0 does for all -------------------------------------------------------------

    def _calibrate(self, session: TransformerSession) -> events.Calibrated:
        """Calibrate on rank 0, for all."""
        with session.predicting(), session.together():
            if self.ranks.is_first:
                calibrate(session)
        self._share_state()
        assert session.state.calibrated is not None
        return session.state.calibrated

    def _score_parent_text(self) -> Iterator[Event]:
        """Score the held-out text of the run that was fine-tuned on rank 0, for all."""
        with self.session.predicting(), self.session.together():
            found = [*self.session.score_parent_text()] if self.ranks.is_first else []
        yield from found
        self._share_state()

    def _share_state(self) -> None:
        """Give all ranks the state of rank 0."""
        if self.ranks.is_distributed:
            self.session.state = read_state(self.ranks.broadcast_object(lambda: to_json(self.session.state)))
            self.ranks.agree()
