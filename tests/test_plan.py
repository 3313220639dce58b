"""The plan: a pure function of what it is given; what was set by hand stays."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.config import ModelConfig, TrainingConfig
from charlm.training.plan import Plan
from charlm.training.planner import choose
from charlm.training.schedule import Schedule
from charlm.training.sizes import SIZES, Budget, StepTime, choose_size, sizes_of


def at_speed(seconds: float, gflops: float) -> Budget:
    """A time budget on a machine whose steps have that speed."""
    size = SIZES[2]
    timed = StepTime(kind="no-prior", size=size, threads=1, precision="fp32", seconds=size.gflop / gflops)
    return Budget(seconds=seconds, timed=(timed,))


budgets = st.one_of(
    st.builds(lambda n: Budget(steps=n), st.integers(1, 10**6)),
    st.builds(lambda s, g: at_speed(s, g), st.floats(1, 1e6), st.floats(1, 1e6)),
)


@given(budgets, st.integers(2, 10**9))
def test_whatever_is_planned_can_be_built(budget: Budget, n_train: int) -> None:
    choice = choose(budget, n_train, ModelConfig(), TrainingConfig())
    m = choice.model
    assert m.n_embd and m.n_head and m.block_size and choice.training.batch_size
    assert m.n_embd % (2 * m.n_head) == 0
    assert m.block_size < n_train
    assert choice.plan.total_steps >= 1
    assert choice == choose(budget, n_train, ModelConfig(), TrainingConfig())


@pytest.mark.parametrize("kind", ["prior", "no-prior"])
def test_where_hardly_a_step_fits_the_smallest_size_is_chosen(kind: str) -> None:
    """Else every size would get one step, and the one whose step reads most would seem best."""
    smallest = sizes_of(kind)[0]
    timed = StepTime(kind=kind, size=smallest, threads=2, precision="fp32", seconds=0.95)
    assert choose_size(kind, Budget(seconds=1.0, timed=(timed,)), 1_000_000) == smallest


@given(budgets, st.sampled_from(["n_layer", "n_embd", "n_head", "dropout"]), st.integers(1, 64))
def test_what_is_set_by_hand_stays(budget: Budget, name: str, value: int) -> None:
    wanted = {"n_embd": 2 * value, "dropout": value / 100}.get(name, value)
    choice = choose(
        budget, 10**6, ModelConfig(**{name: wanted}), TrainingConfig(learning_rate=0.5, batch_size=7)
    )
    assert getattr(choice.model, name) == wanted
    assert (choice.training.learning_rate, choice.training.batch_size) == (0.5, 7)


def test_more_time_never_means_a_smaller_model() -> None:
    for kind in ("prior", "no-prior"):
        sizes = [choose_size(kind, at_speed(s, 50), 10**8).weights for s in range(5, 10**5, 500)]
        assert sizes == sorted(sizes) and len(set(sizes)) >= 3


def test_short_texts_get_short_blocks_and_small_models() -> None:
    choice = choose(at_speed(600, 50), 45, ModelConfig(), TrainingConfig())
    assert choice.model.block_size == 22
    assert choice.model.n_embd == SIZES[0].n_embd
    assert choice.model.dropout == 0.2


@pytest.mark.parametrize(
    ("n_symbols", "members"),
    [(65, "prior,no-prior,ngram"), (3_000, "prior,no-prior,ngram"), (5_000, "prior")],
)
def test_a_mixture_needs_a_text_that_has_each_symbol_often(n_symbols: int, members: str) -> None:
    choice = choose(at_speed(600, 50), 1_700_000, ModelConfig(), TrainingConfig(), n_symbols=n_symbols)
    assert choice.training.members == members


def test_a_schedule_and_steps_must_agree() -> None:
    training = TrainingConfig(schedule="0:0,10:1,20:0")
    assert choose(Budget(steps=20), 1000, ModelConfig(), training).plan.total_steps == 20
    with pytest.raises(ValueError, match="leave one out"):
        choose(Budget(steps=21), 1000, ModelConfig(), training)


def test_an_odd_width_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="even"):
        choose(Budget(steps=20), 1000, ModelConfig(n_embd=33), TrainingConfig())


def test_the_last_decision_is_in_force() -> None:
    plan = Plan(schedule=Schedule.warmup_cooldown(100), eval_every=10, eval_chars=99).record(decided="size")
    from dataclasses import replace

    later = replace(plan, schedule=Schedule.warmup_cooldown(120)).record(decided="schedule")
    assert Plan.from_json(later.to_json()) == later
    assert len(later.decisions) == 2


@pytest.mark.parametrize(
    "decisions", [None, [], [3], [{}], [{"eval_every": 0, "eval_chars": 1, "schedule": "0:0,1:1"}]]
)
def test_what_is_no_plan_is_refused(decisions: object) -> None:
    with pytest.raises(ValueError):
        Plan.from_json({"decisions": decisions})
