"""How fast a run goes, and how many steps still fit before its time is over."""

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import accumulate
from statistics import median
from time import perf_counter

from charlm.config import TrainingConfig
from charlm.data.corpus import Windows
from charlm.evaluation.score import Slice
from charlm.training.planner import Plan, evaluation_interval

FIRST_LOOK_SHARE = 0.05
FIRST_LOOK_SECONDS = 4.0
FIRST_LOOK_STEPS = 8
LATEST_LOOK_SHARE = 0.25  # of the budget left: then it is looked at whatever was timed
WARM_STEPS = 3  # the first steps are slower: memory is asked for, kernels are chosen
CLOSING_SHARE = 0.05  # of the budget, at most, for the evaluation at the end
EVALUATION_SHARE = 0.04  # of the budget, for all those before
FEWEST_EVALUATED = 2_000
CLOSING_MARGIN = 1.2
WORTH_MOVING = 0.01  # of the steps left: a smaller change of the end is let be


@dataclass
class Pace:
    """A stopwatch with a deadline. All times in seconds of `clock`."""

    budget: float
    deadline: float
    afterwards: float = 0.5  # what the caller does when training has ended: its report, leaving Python
    first_step: int = 0  # of this sitting
    clock: Callable[[], float] = perf_counter
    step_seconds: float = 0.0  # of one step, as it is expected from now on
    evaluation_seconds: float = 0.0  # of one evaluation and all that listeners do about it
    shown_seconds: float = 0.0  # the listeners' part of that
    window_seconds: float = 0.0  # of one window in an evaluation
    save_seconds: float = 0.0
    _steps: list[float] = field(default_factory=list)

    @property
    def planned(self) -> bool:
        """Are the windows of the evaluations chosen? More training keeps those of before."""
        return self.step_seconds > 0 or self.first_step > 0

    @property
    def left(self) -> float:
        """Until the deadline."""
        return self.deadline - self.clock()

    def stepped(self, seconds: float) -> None:
        """Take in one step."""
        self._steps.append(seconds)

    def first_look_due(self, steps_left: int) -> bool:
        """Is it time to decide the schedule for the first time: are enough steps timed?"""
        if self.step_seconds > 0:
            return False
        timed = self._steps[WARM_STEPS:]
        enough = sum(timed) >= min(FIRST_LOOK_SECONDS, FIRST_LOOK_SHARE * self.budget)
        return (
            (enough and len(timed) >= FIRST_LOOK_STEPS)
            or steps_left == 0
            or self.left < LATEST_LOOK_SHARE * self.budget
        )

    def measure(self) -> None:
        """Expect the speed of as long a time past as there is left.

        So a machine that is slow for a while hardly moves the end early on, when there is no way back
        from a cooldown that has begun, and the last steps are told by those just before. The first
        few are told by their median, which a hiccup does not move.
        """
        if self.step_seconds == 0:
            self._steps = self._steps[WARM_STEPS:] or self._steps
            self.step_seconds = median(self._steps)
            return
        sums = list(accumulate(reversed(self._steps)))
        n = min(len(sums), 1 + bisect_left(sums, self.left))
        self.step_seconds = sums[n - 1] / n

    def closing_seconds(self, windows: int) -> float:
        """For what follows the last step: scoring at most so many windows, saving, leaving."""
        scoring = min(CLOSING_SHARE * self.budget, windows * self.window_seconds)
        return CLOSING_MARGIN * (scoring + self.shown_seconds + self.save_seconds) + self.afterwards

    def closing_windows(self, windows: int) -> int:
        """How many of the windows the evaluation at the end can score."""
        if self.window_seconds == 0:
            return windows
        return max(1, min(windows, int(CLOSING_SHARE * self.budget / self.window_seconds)))

    def steps_left(self, eval_every: int, windows: int) -> int:
        """How many steps fit, with an evaluation every `eval_every`; at least one."""
        available = self.left - self.closing_seconds(windows)
        one = self.step_seconds + (self.evaluation_seconds + self.save_seconds) / eval_every
        return max(1, int(available / one)) if one > 0 else 1

    def first_plan(
        self, plan: Plan, step: int, windows: Windows, held_out: Slice, config: TrainingConfig
    ) -> Plan:
        """From the first steps' speed: how many there will be, and how often it is evaluated."""
        self.measure()
        # A forward pass takes a third of a step; where the state is carried, windows are read one by one.
        at_once = 1 if held_out.in_order else windows.batch_size
        self.window_seconds = self.step_seconds / 3 / at_once
        end = step + self.steps_left(plan.eval_every, held_out.of_windows)
        steps = end - self.first_step
        interval = evaluation_interval(steps, self.budget, windows.per_epoch / windows.batch_size)
        every = config.eval_every or interval
        scored = EVALUATION_SHARE * self.budget * every / steps / self.window_seconds
        chars = config.eval_chars or max(FEWEST_EVALUATED, round(scored * held_out.symbols_per_window))
        if self.first_step > 0:  # the slice stays, so that the best so far can be compared with
            chars = plan.eval_chars
        # Where the guess was so low that its cooldown has begun, the rate climbs again.
        schedule = plan.schedule.extended if plan.schedule.cooling(step) else plan.schedule.retimed
        plan = replace(plan, eval_every=every, eval_chars=chars, schedule=schedule(step, end))
        return plan.decided(decided="schedule, from the first steps", at_step=step, **self._facts())

    def next_plan(self, plan: Plan, step: int, held_out: Slice) -> Plan:
        """After an evaluation: when the run will end, at the speed it has now; the same plan if as planned."""
        self.measure()
        end = step + self.steps_left(plan.eval_every, held_out.of_windows)
        if abs(end - plan.total_steps) <= WORTH_MOVING * (plan.total_steps - step):
            return plan
        plan = replace(plan, schedule=plan.schedule.retimed(step, end))
        return plan.decided(decided="schedule, from the steps since", at_step=step, **self._facts())

    def _facts(self) -> dict[str, float]:
        """What was measured, for the plan's record."""
        return {
            "seconds_left": round(self.left, 3),
            "step_seconds": round(self.step_seconds, 6),
            "evaluation_seconds": round(self.evaluation_seconds, 4),
        }
