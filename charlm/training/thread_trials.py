"""Trials, in a run with a time budget, of another number of threads: all, or half of them.

On a busy machine threads wait for each other, and half of them can be faster. The number in use was chosen by steps timed
before training, and the machine may be busier or idler since.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from statistics import median

from charlm.training.events import ON_TRIAL, TRIED
from charlm.training.plan import Plan

STEPS = 4  # of a trial; the first one is not counted, since threads are started in it
LEAST, RECENT = 5, 9  # steps that a trial is compared with
SLOWED = 1.5  # times as long as the fastest before: half of the threads are tried, or a trial is aborted
GAIN = 1.1  # times as fast: the least that justifies a change
SHARE = 0.01  # of the member's time, for all trials but the first
GAP = 10.0  # times as long as a trial took, until the next; doubled each time


@dataclass
class ThreadTrials:
    """Decides when to try the other number of threads, and which one to keep. Times are in seconds of `clock`."""

    most: int  # available threads
    budget: float  # of the member
    clock: Callable[[], float]
    timed: list[float] = field(default_factory=list)  # the counted steps of the last trial
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    _fastest: float = inf  # median of RECENT steps so far
    _trial: list[float] | None = None
    _other: int = 0  # the number on trial
    _cost: float = 0.0  # of the last trial: the time it took beyond as many usual steps
    _spent: float = 0.0
    _gap: float = 0.0
    _not_before: float = -inf

    @property
    def is_on(self) -> bool:
        """Whether a trial is in progress."""
        return self._trial is not None

    def cancel(self) -> None:
        """Drop a trial in progress, since the run went back. In the plan it ends without an outcome."""
        self._trial = None

    def add_step(self, seconds: float) -> None:
        """Record the duration of a step."""
        if self._trial is not None:
            self._trial.append(seconds)
            return
        self._recent.append(seconds)
        if len(self._recent) == RECENT:
            self._fastest = min(self._fastest, median(self._recent))

    def is_due(self, threads: int, steps_left: int, *, planned: bool) -> bool:
        """Whether it is time to try the other number than `threads`.

        While half of them are in use, when the rest of the run has just been `planned`; while all are, once steps are
        slower than before.
        """
        if self.is_on or len(self._recent) < LEAST or steps_left <= 2 * STEPS or self.most == 1:
            return False
        if self.clock() < self._not_before or self._spent + self._cost > SHARE * self.budget:
            return False
        return planned if threads < self.most else median(self._recent) >= SLOWED * self._fastest

    def begin(self, plan: Plan, number: int, step: int) -> Plan:
        """Start a trial; return the plan with it in the next steps of member `number`."""
        before = plan.members[number].training.threads
        assert before is not None
        self._trial, self._other = [], self.most if before < self.most else self.most // 2
        facts = {
            "threads": self._other,
            "threads_before": before,
            "step_seconds": round(median(self._recent), 6),
        }
        return plan.record(decided=ON_TRIAL, at_step=step, until_step=step + STEPS, **facts)

    def outcome(self, plan: Plan, number: int, step: int) -> Plan | None:
        """Return the plan with the faster number of threads, once the trial is over; None before."""
        assert self._trial is not None
        usual, self.timed = median(self._recent), self._trial[1:]
        if len(self._trial) < STEPS and (not self.timed or min(self.timed) <= SLOWED * usual):
            return None
        before, found = plan.members[number].training.threads, median(self.timed)
        took = sum(self._trial)
        self._cost = max(0.0, took - len(self._trial) * usual)
        self._spent += self._cost
        self._gap = max(2 * self._gap, GAP * took)
        self._not_before, self._trial = self.clock() + self._gap, None
        assert before is not None
        chosen = before
        if found * GAIN < usual:
            chosen = self._other
            self._recent.clear()
            self._recent.extend(self.timed)
        facts = {"threads": chosen, "threads_before": before, "step_seconds": round(usual, 6)}
        plan = plan.with_threads(number, chosen)
        return plan.record(decided=TRIED, at_step=step, step_seconds_on_trial=round(found, 6), **facts)
