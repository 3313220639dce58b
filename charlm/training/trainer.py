"""The training loop: Trainer.run() is a generator of events that trains, evaluates, saves and recovers.

Axes: B windows, T symbols, V symbols of the model.
"""

from collections.abc import Iterator
from dataclasses import replace
from math import inf, isfinite, isinf, nan
from time import perf_counter

import torch
from torch import Tensor

from charlm.checkpoint.run_folder import RunFolder
from charlm.errors import DivergedError, ResourceError
from charlm.evaluation.score import Slice
from charlm.ngram.kneser_ney import KneserNey
from charlm.strict_json import to_json
from charlm.terminal import one_line
from charlm.threads import most_threads
from charlm.training import events
from charlm.training.calibrate import FITS, SHIFT_PLACES, calibrate, shift_starts
from charlm.training.deadline import LEAST_SECONDS, Deadline
from charlm.training.device import is_accelerator, keep_memory
from charlm.training.distributed import AgreedStop
from charlm.training.events import RESIZED, SPLIT, Event
from charlm.training.guards import COOLDOWN_GAIN, MAX_ROLLBACKS
from charlm.training.plan import ENDED_EARLY, THREADS, Plan, write_plan
from charlm.training.planner import choose_again
from charlm.training.session import Session, TransformerSession
from charlm.training.sharded_save import save_rows
from charlm.training.signals import Stop
from charlm.training.state import read_state
from charlm.training.step import compile_model, gpu_errors, idle_step, train_step
from charlm.training.thread_trials import ThreadTrials

FIT_SECONDS, FIT_MIXTURE_SECONDS = 0.8, 1.2
"""Time kept for fitting a temperature, or a mixture, besides scoring the reserved text."""
COUNT_SECONDS = 1.0
"""Of counting the n-grams that tell the dataset shift, where no member needs them."""
RECENT_SECONDS = 6e-6
"""Of looking up the recent n-grams of a symbol."""
PARENT_SAFETY, PARENT_RESERVE = 1.2, 0.7
"""Time kept for scoring the parent's text again at the end: the first score's seconds times SAFETY, plus RESERVE."""


READ_EVERY = 20
"""Steps on a GPU, which goes on without the host until the figures of all of them are read at once."""


class Trainer:
    """Trains a session to the end of its plan. It alone writes checkpoints, and it prints nothing."""

    def __init__(
        self,
        session: Session,
        run: RunFolder,
        deadline: Deadline | None = None,
        baseline: KneserNey | None = None,
    ) -> None:
        """`deadline`: for a run with a time budget. `baseline`: n-grams to compare with; default: the prior."""
        self.session, self.run_folder = session, run
        self.whole_deadline = self.deadline = deadline or Deadline()  # of the run, of the member in training
        self._baseline = baseline
        self.held_out = session.held_out(baseline)
        self._trials = ThreadTrials(most_threads(), self.deadline.budget, self.deadline.clock)
        self.ranks = session.ranks
        self._saved_at = self.ranks.clock()
        self._save_failed = False
        self._closed_early = False

    @property
    def _stopped_early(self) -> bool:
        """Has the held-out loss risen as often as `patience` allows?"""
        patience = self.session.training_config.patience
        rises = self.session.state.early_stopping.rises
        return self._closed_early or (bool(patience) and rises >= patience)

    @property
    def _is_trained(self) -> bool:
        """Is the training of the model, or of the present member, at its end?"""
        session = self.session
        end = session.member_end if isinstance(session, TransformerSession) else session.plan.total_steps
        return self.step >= end or self._stopped_early

    @property
    def _is_last(self) -> bool:
        return not isinstance(self.session, TransformerSession) or self.session.is_last

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
        session, deadline, stop = self.session, self.deadline, AgreedStop(self.ranks, stop)
        keep_memory()
        if session.counted is not None:
            yield session.counted
        elif not self.ranks.share(self.run_folder.steps):
            yield from self._score_parent_text()
            yield from self._save()
        if session.state.parent_loss is not None:
            deadline.reserve += PARENT_SAFETY * session.state.parent_loss.seconds + PARENT_RESERVE
        self._set_deadline(deadline.first_step)
        if not stop.is_set():
            yield from self._prepare_device()
        yield from self._evaluate_if_due(stop)  # for the run may have been stopped before it did
        while not stop.is_set():
            if self._begins_again:
                yield from self._begin_again()
            if self._is_trained:
                yield from self._close_member(stop)
                if stop.is_set():
                    continue
                if not self._is_trained:  # it went back
                    continue
                if self._is_last:
                    break
                yield from self._begin_next_member()
            started, before = self.deadline.clock(), self.step
            yield from self._guarded_steps(stop)
            stop.agree()
            # Listeners included; a run that went back has taken at least one step.
            taken = max(1, self.step - before)
            yield from self._after_steps(stop, taken, (self.deadline.clock() - started) / taken)
        yield from self._finish(stop)

    # --- members ------------------------------------------------------------------------------

    def _set_deadline(self, first_step: int) -> None:
        """The deadline of the member that begins now."""
        if not isinstance(self.session, TransformerSession):
            return
        session = self.session
        n_members = len(session.earlier) + 1
        correcting = RECENT_SECONDS if session.training_config.recent_chars else 0.0
        seconds = (FIT_SECONDS if n_members == 1 else FIT_MIXTURE_SECONDS) * bool(session.reserved)
        seconds += correcting * (FITS * session.reserved + SHIFT_PLACES * bool(session.reserved))
        if session.reserved and session.prior is None and len(shift_starts(session)):
            seconds += COUNT_SECONDS
        share = session.plan.share_of(session.number)
        self.deadline = self.whole_deadline.of_member(
            share,
            first_step,
            n_members,
            session.reserved,
            seconds,
            correcting=correcting,
            last=session.is_last,
        )
        self._trials = ThreadTrials(most_threads(), self.deadline.budget, self.deadline.clock)

    def _closing_chunks(self) -> Slice:
        """What the evaluation after the last step of the model, or of the present member, scores."""
        if not self._is_last:
            return self.held_out.choose_chunks(self.session.plan.eval_chars)
        return self.held_out.choose_chunks(self.deadline.closing_symbols(self.held_out.choose_chunks()))

    def _close_member(self, stop: AgreedStop) -> Iterator[Event]:
        """Calibrate what is trained, and evaluate it: at the end of the run on all that there is time for."""
        session = self.session
        if isinstance(session, TransformerSession):
            if self._stopped_early:
                session.return_to_best(self.run_folder)
                self._closed_early = True
            if not session.is_finite():
                yield self._roll_back("a weight was not finite")
                return
            if session.reserved:
                yield self._calibrate(session)
            self.held_out = session.held_out(self._baseline, session.pooled())
        yield from self._evaluate(stop, self._closing_chunks(), final=self._is_last)

    def _begin_next_member(self) -> Iterator[Event]:
        """Begin the training of the next member, which a checkpoint keeps."""
        session = self.transformer
        if self._closed_early and session.plan.members[session.number].end != self.step:
            plan = session.plan.ended(session.number, self.step)
            yield self._replan(plan.record(decided=ENDED_EARLY, at_step=self.step))
        self._closed_early = False
        session.next_member()
        self._set_deadline(self.step)
        yield from self._keep_beginning()

    @property
    def _begins_again(self) -> bool:
        return isinstance(self.session, TransformerSession) and self.session.begins_again

    def _begin_again(self) -> Iterator[Event]:
        """Begin the training of the member again, with the size that the plan has from here on."""
        self.transformer.begin_again()
        self.deadline = self.deadline.begun_again(self.step)
        self._trials = ThreadTrials(most_threads(), self.deadline.budget, self.deadline.clock)
        if self.ranks.is_first:
            self.run_folder.forget_best()  # until a checkpoint of the new model is
        yield from self._keep_beginning()

    def _keep_beginning(self) -> Iterator[Event]:
        """Prepare the model whose training begins, which a checkpoint keeps."""
        self.held_out = self.session.held_out(self._baseline)
        yield from self._prepare_device()
        yield from self._save()

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
                yield self._split_batch()
            except RuntimeError as error:  # NotImplementedError too: MPS lacks operators
                if not on_gpu or self.ranks.talks:
                    raise
                reason, left = one_line(str(error), limit=160), session.device.type
                self.transformer.compute_on_cpu(self.run_folder)
                self.held_out = session.held_out(self._baseline)
                yield events.LeftDevice(step=self.step, device=left, reason=reason)
                return

    # --- steps --------------------------------------------------------------------------------

    @property
    def _next_read(self) -> int:
        """The step before which the figures of those from here on are read: on a CPU after each."""
        session, step = self.transformer, self.step
        if not is_accelerator(session.device):
            return step + 1
        every = session.plan.eval_every_at(step)
        due = [step - step % READ_EVERY + READ_EVERY, session.member_end]
        due.append(step - session.member_step % every + every)
        return min([*due, *(at for at in session.plan.decided_at if at > step)])

    def _guarded_steps(self, stop: Stop | None = None) -> Iterator[Event]:
        """Take steps up to the next reading, or `stop`, and report them; roll back if the loss has diverged.

        What is known of them when they are taken is a pure function of the step, so that it does not matter when the
        rest is read.
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
                yield self._split_batch()
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

    def _split_batch(self) -> events.Planned:
        """Compute batches in twice as many parts, or a few more, since the memory is full. Raises ResourceError."""
        session = self.transformer
        size, parts = session.training_config.batch_size or 1, session.training_config.grad_accum
        if self.ranks.talks:  # the others are in the middle of the step
            divide = "" if self.ranks.shards else ", or --shard, which divides the weights over the ranks"
            raise ResourceError(
                f"step {self.step}: the memory of {session.device.type} is full on rank {self.ranks.rank}; give "
                f"--grad-accum {2 * parts}, which computes each batch in as many parts{divide}"
            )
        more = next((n for n in range(2 * parts, size + 1) if size % n == 0), size)
        if parts == size:
            raise ResourceError(
                f"step {self.step}: the memory of {session.device.type} is too small for a single window; try a smaller "
                "--block-size or --n-embd"
            )
        session.optimizer.clear_gradients()
        if session.device.type == "cuda":
            torch.cuda.empty_cache()
        plan = session.plan.with_parts(session.number, more)
        planned = self._replan(plan.record(decided=SPLIT, at_step=self.step, grad_accum=more))
        session.follow_plan(self.step)
        return planned

    def _roll_back(self, reason: str) -> events.WentBack:
        """Return to the last checkpoint, at half the learning rate and with later batches."""
        diverged_at = self.step
        if self.session.state.returns >= MAX_ROLLBACKS:
            raise DivergedError(
                f"training diverged again at step {diverged_at} ({reason}) after {MAX_ROLLBACKS} rollbacks; try a "
                "lower --learning-rate"
            )
        to_step = self.transformer.roll_back(self.run_folder)
        self.held_out, self._closed_early = self.session.held_out(self._baseline), False
        self._trials.cancel()
        factor = self.session.state.rate_factor
        return events.WentBack(step=diverged_at, to_step=to_step, reason=reason, rate_factor=factor)

    def _after_steps(self, stop: AgreedStop, taken: int, seconds: float) -> Iterator[Event]:
        """What is due after steps, each of which took so long: a new plan, an evaluation, a checkpoint."""
        session = self.transformer
        for _ in range(taken):
            if not self._trials.is_on:
                self.deadline.add_step(seconds)
            self._trials.add_step(seconds)
        if self.step > self.deadline.first_step:  # else it went back to a checkpoint from before
            yield from self._plan_rest()
        if session.begins_again:
            return
        yield from self._evaluate_if_due(stop)
        overdue = self.ranks.clock() - self._saved_at >= session.training_config.save_every
        if overdue and not session.state.divergence.suspected:
            yield from self._save()

    def _plan_rest(self) -> Iterator[Event]:
        """Decide the schedule when enough steps are timed, the threads, and once whether the size fits the time."""
        session, deadline, plan, step = self.transformer, self.deadline, self.transformer.plan, self.step
        if self._trials.is_on:
            yield from self._end_trial()
            return
        if deadline.first_plan_due(session.member_end - step):
            sampler, closing = session.batch_sampler, self._closing_chunks()
            yield self._replan(deadline.first_plan(plan, session.number, step, sampler, closing))
            yield from self._try_threads(planned=True)
            return
        yield from self._choose_size_again()
        if not session.begins_again:
            yield from self._try_threads(planned=False)

    def _choose_size_again(self) -> Iterator[Event]:
        """Choose another size where the steps are far faster or slower than expected."""
        session, deadline, plan, step = self.transformer, self.deadline, self.transformer.plan, self.step
        member = plan.members[session.number]
        if not member.is_size_open or deadline.first_step != session.state.member_start:
            return
        seconds = deadline.judge_size(member.step_seconds)
        if seconds is None:
            return
        left, n_train = max(LEAST_SECONDS, deadline.left), len(session.corpus.train)
        resized = choose_again(plan, session.number, step, left, seconds, n_train)
        if resized is not None:
            facts = {
                "seconds_left": round(left, 3),
                "step_seconds": round(seconds, 6),
                "expected_step_seconds": member.step_seconds,
            }
            yield self._replan(resized.record(decided=RESIZED, at_step=step, **facts))

    def _try_threads(self, *, planned: bool) -> Iterator[Event]:
        """Try the other number of threads where it is time, and the number was left open."""
        session, plan = self.transformer, self.session.plan
        member = plan.members[session.number]
        left_open = (
            THREADS in member.left_open and not session.threads_given and not isinf(self.deadline.budget)
        )
        if self.ranks.talks:  # of which each has its own share of the processors
            return
        # Compiled blocks would be compiled again.
        threads = member.training.threads if member.training.compile != "on" else None
        if not left_open or threads is None or session.device.type != "cpu":
            return
        if self._trials.is_due(threads, session.member_end - self.step, planned=planned):
            yield self._replan(self._trials.begin(plan, session.number, self.step))

    def _end_trial(self) -> Iterator[Event]:
        """Keep the faster number of threads once a trial is over, and plan the rest by the new speed."""
        session, deadline = self.transformer, self.deadline
        plan = self._trials.outcome(session.plan, session.number, self.step)
        if plan is None:
            return
        planned = self._replan(plan)
        yield planned
        if planned.changes_threads:
            deadline.change_speed(self._trials.timed)
            plan = deadline.next_plan(plan, session.number, self.step, self._closing_chunks())
            if plan != session.plan:
                yield self._replan(plan)

    def _replan(self, plan: Plan) -> events.Planned:
        """Put a new plan in force; it is on the disk before any step depends on it."""
        self.session.plan = plan
        if self.ranks.is_first:
            write_plan(self.run_folder, plan)
        return events.Planned(step=self.step, total_steps=plan.total_steps, decision=plan.decisions[-1])

    def _compile(self) -> events.Compiled:
        started = perf_counter()
        failure = compile_model(self.transformer)
        return events.Compiled(step=self.step, seconds=perf_counter() - started, failure=failure)

    # --- evaluating ---------------------------------------------------------------------------

    def _evaluate_if_due(self, stop: AgreedStop) -> Iterator[Event]:
        """Evaluate every `eval_every` steps, but for the last one, and then plan the rest by what is known now."""
        session, deadline, last = self.session, self.deadline, self.session.state.last_evaluation
        if not isinstance(session, TransformerSession):
            return
        plan, due = session.plan, session.state.member_start < self.step < session.member_end
        due = due or plan.ended_early(self.step)
        due = due and session.member_step % plan.eval_every_at(self.step) == 0
        done = last is not None and last.step == self.step
        # The first plan chooses the chunks that all evaluations have in common.
        if not due or done or not deadline.has_eval_chunks or stop.is_set():
            return
        yield from self._evaluate_and_save(stop)
        if deadline.step_seconds > 0 and self.step > deadline.first_step and not self._trials.is_on:
            plan = deadline.next_plan(session.plan, session.number, self.step, self._closing_chunks())
            if plan != session.plan:
                yield self._replan(plan)
            yield from self._try_threads(planned=True)

    def _evaluate_and_save(self, stop: AgreedStop) -> Iterator[Event]:
        """Evaluate on held-out text, save the best checkpoint, and stop a run that overfits."""
        before = replace(self.session.state.early_stopping)
        yield from self._evaluate(stop, self.held_out.choose_chunks(self.session.plan.eval_chars))
        state = self.session.state
        if state.early_stopping.best_step == self.step:
            yield from self._save(best=True)
            if self._save_failed:
                state.early_stopping = before  # a checkpoint that is not on the disk cannot be the best

    def _evaluate(self, stop: AgreedStop, part: Slice, *, final: bool = False) -> Iterator[Event]:
        """Score the chunks of `part` and report it; where the loss is not finite, roll back.

        Early stopping compares evaluations on the chunks that all have in common; the final one, whose own
        differ, scores those too.
        """
        clock = self.deadline.clock
        started, session, state = clock(), self.session, self.session.state
        common = self.held_out.choose_chunks(session.plan.eval_chars) if final else part
        with session.predicting():
            scores = self.held_out.score(part, common, stop, self.ranks)
        stop.agree()
        if scores is None:
            return
        if not scores.is_finite:
            yield self._roll_back("the held-out loss was not finite")
            return
        seconds = clock() - started
        # Within the first pass nothing has been memorised; at a high learning rate a small rise means nothing; the
        # final evaluation cannot stop anything.
        first_pass = isinstance(session, TransformerSession) and session.in_first_pass
        cooling = session.plan.schedule.is_cooling(self.step)
        margin = inf if final or first_pass else 0.0 if cooling else COOLDOWN_GAIN
        is_best = state.early_stopping.update(self.step, scores.common.blocks, margin)
        state.last_evaluation = self.held_out.loss(self.step, part, scores.own, stop.own.is_set)
        stop.agree()
        yield events.Evaluated(
            **vars(state.last_evaluation),
            member=session.number + 1,
            mixed=self.held_out.predictor.mixed,
            compared_nats_per_char=scores.common.nats_per_char,
            of_chars=session.corpus.held_out_chars,
            is_best=is_best,
            rises=state.early_stopping.rises,
            final=final,
            seconds=seconds,
            calibration=scores.calibration.to_json() if final and scores.calibration else None,
        )
        self.deadline.add_evaluation(scores.n_chunks, seconds, clock() - started)

    # --- saving and finishing -----------------------------------------------------------------

    def _save(self, *, best: bool = False) -> Iterator[Event]:
        """Write a checkpoint if all weights are finite. If the disk refuses, report it once and try again later."""
        self._saved_at, started = self.ranks.clock(), self.deadline.clock()
        if not self.session.is_finite():
            return

        written = self._write(best=best)
        self.ranks.agree()
        if "failure" in written:
            if not self._save_failed:
                yield events.SaveFailed(step=self.step, reason=written["failure"])
            self._save_failed = True
            return
        self._save_failed = False
        seconds = self.deadline.clock() - started
        self.deadline.save_seconds = seconds
        yield events.Saved(step=self.step, path=written["path"], seconds=seconds)

    def _write(self, *, best: bool) -> dict[str, str]:
        """Write a checkpoint: its `path`, or the `failure`, on all ranks."""
        session = self.session
        if self.ranks.shards and isinstance(session, TransformerSession):
            return save_rows(session, self.run_folder, best=best)

        def write() -> dict[str, str]:
            try:
                snapshot = session.snapshot()
                path = self.run_folder.save(self.step, snapshot.files(), snapshot.run_files(), best=best)
            except OSError as error:
                return {"failure": error.strerror or str(error)}
            return {"path": str(path)}

        if isinstance(session, TransformerSession):
            session.optimizer.gather()
        return dict(self.ranks.share(write))

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
        if self.ranks.talks:
            self.session.state = read_state(self.ranks.share(lambda: to_json(self.session.state)))
            self.ranks.agree()

    def _finish(self, stop: Stop) -> Iterator[Event]:
        """The last checkpoint and the last event."""
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
        if self._save_failed:
            again = "resume the run" if self.ranks.share(self.run_folder.steps) else "train again"
            raise ResourceError(
                f"the last checkpoint, of step {self.step}, could not be written to "
                f"{one_line(str(self.run_folder.path))}; free some space and {again}"
            )
        total = self.session.plan.total_steps
        yield events.Finished(step=self.step, reason=reason, best_step=best, total_steps=total)
