"""Revising the plan during training: each member's deadline and size, the threads, and the parts of a batch."""

from collections.abc import Iterator
from math import isinf

import torch

from charlm.checkpoint.run_folder import RunFolder
from charlm.errors import ResourceError
from charlm.threads import most_threads
from charlm.training.calibrate import FITS, SHIFT_PLACES, shift_starts
from charlm.training.deadline import LEAST_SECONDS, Deadline
from charlm.training.evaluator import Evaluator
from charlm.training.events import RESIZED, SPLIT, Planned
from charlm.training.plan import ENDED_EARLY, THREADS, Plan, write_plan
from charlm.training.planner import choose_again
from charlm.training.session import Session, TransformerSession
from charlm.training.thread_trials import ThreadTrials

FIT_SECONDS, FIT_MIXTURE_SECONDS = 0.8, 1.2
"""Time kept for fitting a temperature, or a mixture, besides scoring the reserved text."""
COUNT_SECONDS = 1.0
"""Time kept for counting the n-grams that measure the dataset shift, where no member needs them."""
RECENT_SECONDS = 6e-6
"""Time kept for looking up the recent n-grams of a symbol."""
PARENT_SAFETY, PARENT_RESERVE = 1.2, 0.7
"""Time kept for scoring the parent's text again at the end: the first score's seconds times SAFETY, plus RESERVE."""


class Replanner:
    """Revises the plan of a session while it trains. A new plan is on the disk before any step depends on it."""

    def __init__(self, session: Session, run: RunFolder, deadline: Deadline, evaluator: Evaluator) -> None:
        """`deadline`: of the whole run. `evaluator`: tells what the final evaluation, for which time is kept, scores."""
        self.session, self.run_folder, self.evaluator = session, run, evaluator
        self._whole_deadline = self.deadline = deadline  # of the run, of the member in training
        self._trials = self._new_trials()

    @property
    def _transformer(self) -> TransformerSession:
        """The session; an n-gram model takes no steps."""
        assert isinstance(self.session, TransformerSession)
        return self.session

    # --- deadlines ----------------------------------------------------------------------------

    def begin_run(self) -> None:
        """Keep time for scoring the parent's text again, and set the deadline of the member in training."""
        parent = self.session.state.parent_loss
        if parent is not None:
            self._whole_deadline.reserve += PARENT_SAFETY * parent.seconds + PARENT_RESERVE
        self.begin_member(self._whole_deadline.first_step)

    def begin_member(self, first_step: int) -> None:
        """Set the deadline of the member whose training begins, or is resumed, at `first_step`."""
        if not isinstance(self.session, TransformerSession):
            return
        session = self.session
        n_members = len(session.earlier) + 1
        correcting = RECENT_SECONDS if session.training_config.recent_chars else 0.0
        seconds = (FIT_SECONDS if n_members == 1 else FIT_MIXTURE_SECONDS) * bool(session.reserved)
        seconds += correcting * (FITS * session.reserved + SHIFT_PLACES * bool(session.reserved))
        if session.reserved and session.prior is None and len(shift_starts(session)):
            seconds += COUNT_SECONDS
        self.deadline = self._whole_deadline.of_member(
            session.plan.share_of(session.number),
            first_step,
            n_members,
            session.reserved,
            seconds,
            correcting=correcting,
            earlier=self.deadline.chunk_seconds if n_members > 1 else 0.0,
            last=session.is_last,
        )
        self._trials = self._new_trials()

    def begin_member_again(self) -> None:
        """Set the deadline of the member whose training begins again now, with another size."""
        self.deadline = self.deadline.begun_again(self.session.state.step)
        self._trials = self._new_trials()

    def _new_trials(self) -> ThreadTrials:
        return ThreadTrials(most_threads(), self.deadline.budget, self.deadline.clock)

    # --- when the plan is revised -------------------------------------------------------------

    def after_steps(self, taken: int, seconds: float) -> Iterator[Planned]:
        """Revise the plan after steps, each of which took so many seconds.

        Decide the schedule once enough steps are timed, then the threads, and once whether the size fits the time.
        """
        session, deadline, step = self._transformer, self.deadline, self.session.state.step
        for _ in range(taken):
            if not self._trials.is_on:
                deadline.add_step(seconds)
            self._trials.add_step(seconds)
        if step <= deadline.first_step:  # it rolled back to a checkpoint from before
            return
        if self._trials.is_on:
            yield from self._end_trial()
        elif deadline.first_plan_due(session.member_end - step):
            sampler, closing = session.batch_sampler, self.evaluator.closing_chunks(deadline)
            yield self._put_in_force(
                deadline.first_plan(session.plan, session.number, step, sampler, closing)
            )
            yield from self._try_threads(planned=True)
        else:
            yield from self._choose_size_again()
            if not session.begins_again:
                yield from self._try_threads(planned=False)

    def after_evaluation(self) -> Iterator[Planned]:
        """Revise the plan after an evaluation: how many steps fit the time that is left, and the threads."""
        deadline = self.deadline
        if (
            deadline.step_seconds > 0
            and self.session.state.step > deadline.first_step
            and not self._trials.is_on
        ):
            yield from self._move_end()
            yield from self._try_threads(planned=True)

    def end_member_early(self) -> Iterator[Planned]:
        """End the training of the member at this step, if the plan has more: later ones begin sooner."""
        session, step = self._transformer, self.session.state.step
        if session.member_end != step:
            plan = session.plan.ended(session.number, step)
            yield self._put_in_force(plan.record(decided=ENDED_EARLY, at_step=step))

    def split_batch(self) -> Planned:
        """Compute batches in twice as many parts, or a few more, since the memory is full. Raises ResourceError."""
        session, ranks, step = self._transformer, self.session.ranks, self.session.state.step
        size, parts = session.training_config.batch_size or 1, session.training_config.grad_accum
        more = next((n for n in range(2 * parts, size + 1) if size % n == 0), size)
        if ranks.is_distributed:  # the others are in the middle of the step
            give = f"--grad-accum {more}, which computes each batch in as many parts"
            if more > size // ranks.size:  # a rank computes at least a window at once
                give = "a smaller --block-size or --n-embd"
            divide = "" if ranks.shards else ", or --shard, which divides the weights over the ranks"
            raise ResourceError(
                f"step {step}: the memory of {session.device.type} is full on rank {ranks.rank}; give {give}{divide}"
            )
        if parts == size:
            raise ResourceError(
                f"step {step}: the memory of {session.device.type} is too small for a single window; try a smaller "
                "--block-size or --n-embd"
            )
        session.optimizer.clear_gradients()
        if session.device.type == "cuda":
            torch.cuda.empty_cache()
        plan = session.plan.with_parts(session.number, more)
        planned = self._put_in_force(plan.record(decided=SPLIT, at_step=step, grad_accum=more))
        session.follow_plan(step)
        return planned

    def cancel_trial(self) -> None:
        """Forget a trial of threads that is going on, since training rolled back."""
        self._trials.cancel()

    # --- how it is revised --------------------------------------------------------------------

    def _put_in_force(self, plan: Plan) -> Planned:
        """Put a new plan in force and write it to plan.json, where it is before any step depends on it."""
        self.session.plan = plan
        if self.session.ranks.is_first:
            write_plan(self.run_folder, plan)
        step = self.session.state.step
        return Planned(step=step, total_steps=plan.total_steps, decision=plan.decisions[-1])

    def _move_end(self) -> Iterator[Planned]:
        """Move the end of the member's training to what fits at the present speed."""
        session, deadline = self._transformer, self.deadline
        closing = self.evaluator.closing_chunks(deadline)
        plan = deadline.next_plan(session.plan, session.number, session.state.step, closing)
        if plan != session.plan:
            yield self._put_in_force(plan)

    def _choose_size_again(self) -> Iterator[Planned]:
        """Choose another size where the steps are far faster or slower than expected."""
        session, deadline, plan, step = (
            self._transformer,
            self.deadline,
            self.session.plan,
            self.session.state.step,
        )
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
            yield self._put_in_force(resized.record(decided=RESIZED, at_step=step, **facts))

    def _try_threads(self, *, planned: bool) -> Iterator[Planned]:
        """Begin a trial of the other number of threads where it is time, and the number was left open.

        `planned`: the rest of the training has just been planned.
        """
        session, step = self._transformer, self.session.state.step
        member = session.plan.members[session.number]
        left_open = (
            THREADS in member.left_open and not session.threads_given and not isinf(self.deadline.budget)
        )
        if session.ranks.is_distributed:  # of which each has its own share of the processors
            return
        # Compiled blocks would be compiled again.
        threads = member.training.threads if member.training.compile != "on" else None
        if not left_open or threads is None or session.device.type != "cpu":
            return
        if self._trials.is_due(threads, session.member_end - step, planned=planned):
            yield self._put_in_force(self._trials.begin(session.plan, session.number, step))

    def _end_trial(self) -> Iterator[Planned]:
        """Keep the faster number of threads once a trial is over, and plan the rest by the new speed."""
        session = self._transformer
        plan = self._trials.outcome(session.plan, session.number, session.state.step)
        if plan is None:
            return
        planned = self._put_in_force(plan)
        yield planned
        if planned.changes_threads:
            self.deadline.change_speed(self._trials.timed)
            yield from self._move_end()
