"""A time budget: how fast the run is, and how many steps still fit before the deadline."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import inf, isinf
from statistics import median
from time import perf_counter

from charlm.data.corpus import BatchSampler
from charlm.evaluation.score import Slice
from charlm.training.plan import Plan
from charlm.training.planner import evaluation_interval, regularised

FIRST_PLAN_SHARE = 0.05
FIRST_PLAN_SECONDS = 4.0
FIRST_PLAN_STEPS = 8
LATEST_PLAN_SHARE = 0.25  # of the budget left: then the first plan is due whatever was timed
WARMUP_STEPS = 3  # not timed: memory is allocated and kernels are chosen
FINAL_SYMBOLS = 200_000  # scored in the final evaluation of a run without a time budget
FINAL_EVALUATION_SHARE = 0.05  # of the budget, at most
EVALUATION_SHARE = 0.04  # of the budget, for all earlier evaluations
MIN_EVAL_CHARS = 2_000
LEAST_SECONDS = 0.5  # that a member has, however late it is
SAFETY = 1.2
SIZE_SHARE = 0.1  # of the budget: then the steps so far show whether the size fits it
FAR_OFF = 2.0  # times faster or slower than expected
MIN_CHANGE = 0.01  # of the steps left: smaller changes of the end are not worth a new plan


@dataclass
class Deadline:
    """A stopwatch with a deadline, by default without: then no time is a reason to plan. In seconds of `clock`."""

    budget: float = inf
    at: float = inf
    reserve: float = 0.8  # needed after training: the report, leaving Python
    first_step: int = 0  # of this session
    clock: Callable[[], float] = perf_counter
    step_seconds: float = 0.0  # expected of each further step
    evaluation_seconds: float = 0.0  # of one evaluation, listeners included
    listener_seconds: float = 0.0  # the listeners' part of that
    chunk_seconds: float = 0.0  # of one chunk in an evaluation
    save_seconds: float = 0.0
    calibrated_symbols: int = 0  # that are scored after the last step, besides the evaluation
    closing_members: int = 1  # whose predictions the evaluation after the last step mixes
    correcting_seconds: float = 0.0  # of each symbol there, by recent n-grams
    keeps_chunks: bool = False  # does each evaluation score the chunks that those before this session did?
    size_judged: bool = False  # are the steps compared with those that its size was chosen for?
    _steps: list[float] = field(default_factory=list)

    @property
    def has_eval_chunks(self) -> bool:
        """Are the chunks of the evaluations chosen?"""
        return self.step_seconds > 0 or self.keeps_chunks or isinf(self.budget)

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self.at - self.clock()

    def of_member(
        self,
        share: float,
        first_step: int,
        n_members: int,
        reserved: int,
        seconds: float,
        *,
        correcting: float = 0.0,
        last: bool,
    ) -> "Deadline":
        """The deadline of the member that is trained as number `n_members`, from `first_step` on.

        It has a share of the time until training must end. Kept for calibration after it: `seconds`, and the scoring of
        so many `reserved` symbols by all members; for the evaluation after the last one, scoring by all members,
        and `correcting` seconds for each symbol, by recent n-grams.
        """
        if isinf(self.budget):
            return self
        own = replace(self, first_step=first_step, _steps=[], step_seconds=0.0)
        own.calibrated_symbols = n_members * reserved
        own.keeps_chunks = self.keeps_chunks or first_step > self.first_step
        if last:
            own.closing_members, own.correcting_seconds = n_members, correcting
            own.reserve += seconds
            own.budget = self.budget if first_step == self.first_step else max(LEAST_SECONDS, self.left)
            return own
        own.budget = max(LEAST_SECONDS, share * (self.left - self.reserve))
        own.at, own.reserve = self.clock() + own.budget, seconds
        return own

    def begun_again(self, first_step: int) -> "Deadline":
        """The same deadline for a member whose training begins again at `first_step`, with another size."""
        if isinf(self.budget):
            return self
        own = replace(self, first_step=first_step, budget=max(LEAST_SECONDS, self.left), _steps=[])
        own.step_seconds, own.evaluation_seconds = 0.0, own.listener_seconds
        own.keeps_chunks, own.size_judged = False, True
        return own

    def add_step(self, seconds: float) -> None:
        """Take in the time of a step."""
        if not isinf(self.budget):
            self._steps.append(seconds)

    def change_speed(self, steps: Sequence[float]) -> None:
        """Expect further steps to be like these, and forget those before."""
        self._steps, self.step_seconds = list(steps), median(steps)

    def add_evaluation(self, n_chunks: int, scoring: float, whole: float) -> None:
        """Take in the time of an evaluation: of scoring so many chunks, and of all, listeners included."""
        self.chunk_seconds = scoring / n_chunks
        self.evaluation_seconds, self.listener_seconds = whole, whole - scoring

    def first_plan_due(self, steps_left: int) -> bool:
        """Are enough steps timed to decide the schedule for the first time?"""
        if self.step_seconds > 0 or isinf(self.budget):
            return False
        timed = self._steps[WARMUP_STEPS:]
        enough = sum(timed) >= min(FIRST_PLAN_SECONDS, FIRST_PLAN_SHARE * self.budget)
        return (
            (enough and len(timed) >= FIRST_PLAN_STEPS)
            or steps_left == 0
            or self.left < LATEST_PLAN_SHARE * self.budget
        )

    def measure(self) -> None:
        """Estimate the speed from the past: as much of it as there is time left.

        So a temporary slowdown hardly moves the end early on, when a cooldown that has begun could not be
        undone, and the last steps are predicted from those just before. The first estimate is a median, which
        a single slow step does not move.
        """
        if self.step_seconds == 0:
            self._steps = self._steps[WARMUP_STEPS:] or self._steps
            self.step_seconds = median(self._steps)
            return
        sums = list(accumulate(reversed(self._steps)))
        n = min(len(sums), 1 + bisect_left(sums, self.left))
        self.step_seconds = sums[n - 1] / n

    def judge_size(self, expected: float | None) -> float | None:
        """The seconds of a step, a median, where they are far from what was `expected`; asked once for a member."""
        timed = self.step_seconds > 0 and len(self._steps) >= FIRST_PLAN_STEPS
        due = LATEST_PLAN_SHARE <= self.left / self.budget <= 1 - SIZE_SHARE
        if expected is None or self.size_judged or not timed or not due:
            return None
        self.size_judged, now = True, median(self._steps)
        return None if expected / FAR_OFF < now < expected * FAR_OFF else now

    def closing_seconds(self, n_chunks: int, symbols_per_chunk: int) -> float:
        """Time needed after the last step: calibration, scoring at most so many chunks, saving, leaving."""
        whole = n_chunks * self._closing_chunk_seconds(symbols_per_chunk)
        scoring = min(FINAL_EVALUATION_SHARE * self.budget, whole)
        scoring += self.calibrated_symbols / symbols_per_chunk * self.chunk_seconds
        return SAFETY * (scoring + self.listener_seconds + self.save_seconds) + self.reserve

    def closing_symbols(self, whole: Slice) -> int:
        """How many symbols of the held-out text the final evaluation has time for."""
        if isinf(self.budget):
            return FINAL_SYMBOLS
        n_chunks = whole.n_chunks
        if self.chunk_seconds > 0:
            one = self._closing_chunk_seconds(whole.symbols_per_chunk)
            n_chunks = max(1, min(n_chunks, int(FINAL_EVALUATION_SHARE * self.budget / one)))
        return n_chunks * whole.symbols_per_chunk

    def _closing_chunk_seconds(self, symbols: int) -> float:
        """The seconds of one chunk, of so many symbols, in the evaluation after the last step."""
        return self.closing_members * self.chunk_seconds + self.correcting_seconds * symbols

    def steps_left(self, eval_every: int, closing: Slice) -> int:
        """How many steps fit, with an evaluation every `eval_every` and the `closing` one; at least one."""
        available = self.left - self.closing_seconds(len(closing.chunks), closing.symbols_per_chunk)
        one = self.step_seconds + (self.evaluation_seconds + self.save_seconds) / eval_every
        return max(1, int(available / one)) if one > 0 else 1

    def first_plan(self, plan: Plan, number: int, step: int, sampler: BatchSampler, held_out: Slice) -> Plan:
        """Choose member `number`'s steps, regularisation and evaluations from the speed of its first steps.

        `held_out`: what the evaluation after its last step scores.
        """
        self.measure()
        config = plan.members[number].training
        # A forward pass takes a third of a step; where the state is carried, chunks are read one by one.
        at_once = 1 if held_out.in_order else sampler.batch_size
        self.chunk_seconds = self.step_seconds / 3 / at_once
        end = step + self.steps_left(plan.eval_every, held_out)
        steps = end - self.first_step
        interval = evaluation_interval(steps, self.budget, sampler.per_epoch / sampler.batch_size)
        every = config.eval_every or interval
        scored = EVALUATION_SHARE * self.budget * every / steps / self.chunk_seconds
        chars = config.eval_chars or max(MIN_EVAL_CHARS, round(scored * held_out.symbols_per_chunk))
        if self.keeps_chunks:  # so that the best checkpoint so far stays comparable
            chars = plan.eval_chars
        # Where the guess was so low that its cooldown has begun, the rate rises again.
        plan = (plan.with_restart if plan.schedule.is_cooling(step) else plan.with_end_moved)(
            number, step, end
        )
        plan = replace(plan, eval_every=every, eval_chars=chars)
        plan = regularised(plan, number, steps * sampler.batch_size / sampler.per_epoch)
        return plan.record(decided="schedule, from the first steps", at_step=step, **self._facts())

    def next_plan(self, plan: Plan, number: int, step: int, held_out: Slice) -> Plan:
        """Move the end of member `number` to what fits at the present speed; the same plan if it hardly moves."""
        self.measure()
        end, before = step + self.steps_left(plan.eval_every, held_out), plan.members[number].end
        if abs(end - before) <= MIN_CHANGE * (before - step):
            return plan
        plan = plan.with_end_moved(number, step, end)
        return plan.record(decided="schedule, from the steps since", at_step=step, **self._facts())

    def _facts(self) -> dict[str, float]:
        return {
            "seconds_left": round(self.left, 3),
            "step_seconds": round(self.step_seconds, 6),
            "evaluation_seconds": round(self.evaluation_seconds, 4),
        }
