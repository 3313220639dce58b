"""Keeping to a time, on a clock that the test turns."""

import pytest

from charlm.config import ModelConfig, TrainingConfig
from charlm.data.corpus import BatchSampler
from charlm.evaluation.score import Slice
from charlm.training.deadline import Deadline
from charlm.training.plan import MemberPlan, Plan
from charlm.training.schedule import Schedule

SAMPLER = BatchSampler(1_000_000, 64, 16, 1)
HELD_OUT = Slice(tuple(range(3000)), 3000, 32, 1.0)


def planned(steps: int, eval_every: int) -> Plan:
    """The plan of one transformer."""
    member = MemberPlan(model=ModelConfig(), training=TrainingConfig(), end=steps)
    schedule = Schedule.warmup_cooldown(steps)
    return Plan(schedule=schedule, eval_every=eval_every, eval_chars=1000, members=(member,))


@pytest.mark.parametrize("speed", [0.002, 0.05, 0.4])
@pytest.mark.parametrize("drift", [0.7, 1.0, 1.4])
@pytest.mark.parametrize("budget", [10.0, 60.0, 600.0])
def test_a_run_ends_when_it_was_promised(speed: float, drift: float, budget: float) -> None:
    """Whatever the first guess, and when the machine changes its speed on the way."""
    now = 3.0
    deadline = Deadline(budget=budget, at=budget, clock=lambda: now)
    plan, step = planned(77, eval_every=8), 0
    while step < plan.total_steps:
        took = speed * (drift if now > budget / 2 else 1)
        now, step = now + took, step + 1
        deadline.add_step(took)
        if deadline.first_plan_due(plan.total_steps - step):
            plan = deadline.first_plan(plan, 0, step, SAMPLER, HELD_OUT)
        if deadline.step_seconds and step % plan.eval_every == 0 and step < plan.total_steps:
            n_chunks = plan.eval_chars / HELD_OUT.symbols_per_chunk
            deadline.chunk_seconds = took / 3 / 16
            deadline.evaluation_seconds = n_chunks * deadline.chunk_seconds + 0.1
            deadline.shown_seconds = 0.1
            now += deadline.evaluation_seconds
            plan = deadline.next_plan(plan, 0, step, HELD_OUT)
    now += (
        deadline.closing_symbols(HELD_OUT) / HELD_OUT.symbols_per_chunk * deadline.chunk_seconds
        + 0.1
        + deadline.reserve
    )
    assert abs(now - budget) <= max(0.05 * budget, 3)
    assert plan.decisions[-1]["schedule"].endswith(f"{step}:0")


def test_after_the_last_step_no_more_is_kept_than_the_evaluation_may_take() -> None:
    """However long the held-out text is, by all members and recent n-grams together."""
    now, budget, stride = 0.0, 3600.0, 64
    whole = Deadline(budget=budget, at=budget, clock=lambda: now)
    deadline = whole.of_member(0.5, 0, n_members=3, reserved=12_000, seconds=2.0, correcting=6e-6, last=True)
    deadline.chunk_seconds = 0.03
    short, long = (Slice(tuple(range(n)), n, stride, 1.0) for n in (100, 100_000))
    assert deadline.closing_symbols(short) == 100 * stride
    n_chunks = deadline.closing_symbols(long) // stride
    one = 3 * 0.03 + stride * 6e-6  # as long as a chunk takes
    assert 0.045 * budget < n_chunks * one <= 0.05 * budget
    calibration = 2.0 + 1.2 * 3 * 12_000 / stride * 0.03
    kept = deadline.closing_seconds(n_chunks, stride) - whole.reserve - calibration
    assert kept == pytest.approx(1.2 * n_chunks * one)
    assert deadline.closing_seconds(100_000, stride) < 1.2 * 0.05 * budget + whole.reserve + calibration + 1


def test_time_is_kept_for_the_mixture_as_fast_as_its_earlier_members_were() -> None:
    """The n-grams of a long text cost more than the member that is trained last."""
    now, budget, stride, last = 0.0, 600.0, 64, 0.0018
    whole = Deadline(budget=budget, at=budget, clock=lambda: now)
    deadline = whole.of_member(
        0.5, 0, n_members=2, reserved=12_000, seconds=2.0, correcting=6e-6, earlier=0.0041, last=True
    )
    deadline.chunk_seconds = last
    n_chunks = deadline.closing_symbols(Slice(tuple(range(100_000)), 100_000, stride, 1.0)) // stride
    assert 0.045 * budget < n_chunks * (0.0041 + last) <= 0.05 * budget
    calibration = 2.0 + 1.2 * 12_000 / stride * (0.0041 + last)
    kept = deadline.closing_seconds(n_chunks, stride) - whole.reserve - calibration
    assert kept == pytest.approx(1.2 * n_chunks * (0.0041 + last))


def test_a_machine_that_is_slow_for_a_while_does_not_begin_the_cooldown() -> None:
    now, budget = 0.0, 600.0
    deadline = Deadline(budget=budget, at=budget, clock=lambda: now)
    plan, step = planned(2000, eval_every=60), 0
    while now < 0.45 * budget:
        took = 0.9 if 0.3 < now / budget < 0.4 else 0.25
        now, step = now + took, step + 1
        deadline.add_step(took)
        if deadline.first_plan_due(plan.total_steps - step):
            plan = deadline.first_plan(plan, 0, step, SAMPLER, HELD_OUT)
        elif deadline.step_seconds and step % plan.eval_every == 0:
            plan = deadline.next_plan(plan, 0, step, HELD_OUT)
        assert plan.schedule.factor(step) == 1 or step < 50
