"""The time budget of a run: measures its speed, and computes how many steps still fit before the deadline."""

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
LATEST_PLAN_SHARE = 0.25  # of the budget left: the first plan is due then at the latest
WARMUP_STEPS = 3  # not timed: memory is allocated and kernels are chosen
FINAL_SYMBOLS = 200_000  # scored in the final evaluation of a run without a time budget
FINAL_EVALUATION_SHARE = 0.05  # of the budget, at most
EVALUATION_SHARE = 0.04  # of the budget, for all earlier evaluations
MIN_EVAL_CHARS = 2_000
LEAST_SECONDS = 0.5  # that a member gets, however late it is
SAFETY = 1.2
SIZE_SHARE = 0.1  # of the budget spent: then the size is compared with the measured steps
FAR_OFF = 2.0  # times faster or slower than expected
MIN_CHANGE = 0.01  # of the steps left: smaller moves of the end are not worth a new plan


@dataclass
class Deadline:
    """A time budget and the measured times of a run, in seconds of `clock`; by default without limit."""

    budget: float = inf
    at: float = inf
    reserve: float = 0.8  # needed after training: the report, Python's exit
    first_step: int = 0  # of this session
    clock: Callable[[], float] = perf_counter
    step_seconds: float = 0.0  # expected of each further step
    evaluation_seconds: float = 0.0  # of one evaluation, listeners included
    listener_seconds: float = 0.0  # the listeners' part of that
    chunk_seconds: float = 0.0  # of one chunk in an evaluation
    save_seconds: float = 0.0
    reserved_symbols: int = 0  # scored after the last step by calibration, which mixes all members
    n_members: int = 1  # trained so far, this one included
    earlier_chunk_seconds: float = 0.0  # of one chunk by the mixture of earlier members; 0 if not measured
    closing_members: int = 1  # that the evaluation after the last step mixes
    correcting_seconds: float = 0.0  # of each symbol there, by recent n-grams
    keeps_chunks: bool = False  # whether evaluations score the same chunks as before this session
    size_judged: bool = False  # whether the steps were compared with those that the size was chosen for
    _steps: list[float] = field(default_factory=list)

    @property
    def has_eval_chunks(self) -> bool:
        """Whether the chunks of the evaluations are chosen."""
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
        earlier: float = 0.0,
        last: bool,
    ) -> "Deadline":
        """Return the deadline of the member that is trained as number `n_members`, from `first_step` on.

        It gets a share of the time until training must end. Time is set aside for the calibration after it (`seconds`, and
        scoring `reserved` symbols by all members) and, if it is the `last`, for the final evaluation by all members, with
        `correcting` seconds per symbol for recent n-grams. `earlier`: the seconds in which the mixture of the members
        before it scored a chunk, recent n-grams included; 0 if that was not measured.
        """
        if isinf(self.budget):
            return self
        own = replace(self, first_step=first_step, _steps=[], step_seconds=0.0)
        own.reserved_symbols, own.n_members, own.earlier_chunk_seconds = reserved, n_members, earlier
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
        """Return the same deadline for a member whose training restarts at `first_step` with another size."""
        if isinf(self.budget):
            return self
        own = replace(self, first_step=first_step, budget=max(LEAST_SECONDS, self.left), _steps=[])
        own.step_seconds, own.evaluation_seconds = 0.0, own.listener_seconds
        own.keeps_chunks, own.size_judged = False, True
        return own

    def add_step(self, seconds: float) -> None:
        """Record the duration of a step."""
        if not isinf(self.budget):
            self._steps.append(seconds)

    def change_speed(self, steps: Sequence[float]) -> None:
        """Expect later steps to take as long as these, and forget earlier ones."""
        self._steps, self.step_seconds = list(steps), median(steps)

    def add_evaluation(self, n_chunks: int, scoring: float, whole: float) -> None:
        """Record the duration of an evaluation: of scoring `n_chunks`, and of the whole, listeners included."""
        self.chunk_seconds = scoring / n_chunks
        self.evaluation_seconds, self.listener_seconds = whole, whole - scoring

    def first_plan_due(self, steps_left: int) -> bool:
        """Whether it is time for the first plan: enough steps are timed, or the end is near."""
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
        """Estimate the duration of a step from the latest steps, over as much time as is left.

        So a temporary slowdown early on hardly moves the end (a cooldown that has begun could not be undone), and
        the last steps are predicted from those just before. The first estimate is a median, which is robust to
        single slow steps.
        """
        if self.step_seconds == 0:
            self._steps = self._steps[WARMUP_STEPS:] or self._steps
            self.step_seconds = median(self._steps)
            return
        sums = list(accumulate(reversed(self._steps)))
        n = min(len(sums), 1 + bisect_left(sums, self.left))
        self.step_seconds = sums[n - 1] / n

    def judge_size(self, expected: float | None) -> float | None:
        """Return the median seconds of a step if they are far from those `expected`, else None; judged once per member."""
        timed = self.step_seconds > 0 and len(self._steps) >= FIRST_PLAN_STEPS
        due = LATEST_PLAN_SHARE <= self.left / self.budget <= 1 - SIZE_SHARE
        if expected is None or self.size_judged or not timed or not due:
            return None
        self.size_judged, now = True, median(self._steps)
        return None if expected / FAR_OFF < now < expected * FAR_OFF else now

    def closing_seconds(self, n_chunks: int, symbols_per_chunk: int) -> float:
        """Return the time needed after the last step: calibration, scoring at most `n_chunks`, saving, exit."""
        whole = n_chunks * self._closing_chunk_seconds(symbols_per_chunk)
        scoring = min(FINAL_EVALUATION_SHARE * self.budget, whole)
        scoring += self.reserved_symbols / symbols_per_chunk * self._mixed_chunk_seconds(self.n_members)
        return SAFETY * (scoring + self.listener_seconds + self.save_seconds) + self.reserve

    def closing_symbols(self, whole: Slice) -> int:
        """Return how many held-out symbols the final evaluation has time for."""
        if isinf(self.budget):
            return FINAL_SYMBOLS
        n_chunks = whole.n_chunks
        if self.chunk_seconds > 0:
            one = self._closing_chunk_seconds(whole.symbols_per_chunk)
            n_chunks = max(1, min(n_chunks, int(FINAL_EVALUATION_SHARE * self.budget / one)))
        return n_chunks * whole.symbols_per_chunk

    def _closing_chunk_seconds(self, symbols: int) -> float:
        """Return the seconds of one chunk of `symbols` symbols in the evaluation after the last step."""
        seconds = self._mixed_chunk_seconds(self.closing_members)
        measured = self.closing_members > 1 and self.earlier_chunk_seconds > 0
        return seconds if measured else seconds + self.correcting_seconds * symbols

    def _mixed_chunk_seconds(self, n_members: int) -> float:
        """Return the seconds of one chunk by the mixture of `n_members`, the one in training included.

        Members differ in cost, and on a long text looking up n-grams costs most, so what was measured counts.
        """
        if n_members > 1 and self.earlier_chunk_seconds > 0:
            return self.earlier_chunk_seconds + self.chunk_seconds
        return n_members * self.chunk_seconds

    def steps_left(self, eval_every: int, closing: Slice) -> int:
        """Return how many steps fit, with an evaluation every `eval_every` and the `closing` one; at least one."""
        available = self.left - self.closing_seconds(len(closing.chunks), closing.symbols_per_chunk)
        one = self.step_seconds + (self.evaluation_seconds + self.save_seconds) / eval_every
        return max(1, int(available / one)) if one > 0 else 1

    def first_plan(self, plan: Plan, number: int, step: int, sampler: BatchSampler, held_out: Slice) -> Plan:
        """Choose member `number`'s steps, regularisation and evaluations from the speed of its first steps.

        `held_out`: the slice that the evaluation after its last step scores.
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
        # If the first guess was so low that the cooldown has begun, the learning rate rises again.
        plan = (plan.with_restart if plan.schedule.is_cooling(step) else plan.with_end_moved)(
            number, step, end
        )
        plan = replace(plan, eval_every=every, eval_chars=chars)
        plan = regularised(plan, number, steps * sampler.batch_size / sampler.per_epoch)
        return plan.record(decided="schedule, from the first steps", at_step=step, **self._facts())

    def next_plan(self, plan: Plan, number: int, step: int, held_out: Slice) -> Plan:
        """Move the end of member `number` to what fits at the current speed; return the same plan if it hardly moves."""
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
