"""The schedule: up, level, down to nothing; revisions never lift the rate again."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.training.schedule import Schedule

steps = st.integers(1, 5000)


@given(steps)
def test_the_usual_one_warms_up_and_comes_down(n: int) -> None:
    schedule = Schedule.warmup_cooldown(n)
    factors = [schedule.factor(step) for step in range(n)]
    assert schedule.end == n
    assert all(0 < factor <= 1 for factor in factors), "no step is wasted"
    peak = factors.index(max(factors))
    assert factors[: peak + 1] == sorted(factors[: peak + 1])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    if n >= 100:
        assert max(factors) == 1
        assert factors[-1] < 0.02


@settings(max_examples=40)
@given(steps, st.lists(st.tuples(st.floats(0, 1), st.integers(1, 5000)), max_size=5))
def test_moving_the_end_keeps_the_past_and_never_rises_after_the_level(
    n: int, moves: list[tuple[float, int]]
) -> None:
    schedule, step = Schedule.warmup_cooldown(n), 0
    for share, more in moves:
        step += int(share * (schedule.end - step))
        if step >= schedule.end:
            break
        before = [schedule.factor(s) for s in range(step)]
        moved = schedule.with_end_moved(step, step + more)
        assert moved.end == step + more
        assert [moved.factor(s) for s in range(step)] == before, "to the bit"
        schedule = moved
        factors = [schedule.factor(s) for s in range(schedule.end)]
        peak = factors.index(max(factors))
        assert factors[peak:] == pytest.approx(sorted(factors[peak:], reverse=True), abs=2e-6)


def test_a_run_that_went_back_before_the_last_piece_continues_from_the_factor_there() -> None:
    schedule = Schedule.parse("0:0,40:1,300:1,600:0/450:0.5,620:0")
    moved = schedule.with_end_moved(400, 700)
    assert [moved.factor(s) for s in range(400)] == [schedule.factor(s) for s in range(400)]
    assert moved.factor(400) == pytest.approx(schedule.factor(400), abs=0.01)
    assert schedule.with_end_moved(200, 700) == Schedule.warmup_cooldown(600).with_end_moved(200, 700)


@given(st.integers(2, 5000), steps)
def test_an_extension_has_its_own_warmup_and_cooldown(n: int, more: int) -> None:
    longer = Schedule.warmup_cooldown(n).with_restart(n, n + more)
    assert [longer.factor(s) for s in range(n)] == [Schedule.warmup_cooldown(n).factor(s) for s in range(n)]
    assert longer.end == n + more
    if more >= 100:
        later = [longer.factor(s) for s in range(n, n + more)]
        assert later[0] < 0.1 and max(later) == 1 and later[-1] < 0.02


@given(steps, st.integers(0, 4999), steps)
def test_a_schedule_survives_being_written_down(n: int, at: int, more: int) -> None:
    schedule = Schedule.warmup_cooldown(n).with_end_moved(min(at, n - 1), min(at, n - 1) + more)
    assert Schedule.parse(str(schedule)) == schedule


@pytest.mark.parametrize(
    "text",
    [
        *("", "0:0", "1:0,2:1", "0:0,5:2", "0:0,5:1,5:0", "0:0,9:nan", "0:0,9:1/"),
        *("0:0,9:1/0:1,9:0", "5:1,9:0", "0:0,x:1", "0:1,4", "5"),
    ],
)
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="schedule"):
        Schedule.parse(text)
