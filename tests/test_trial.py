"""Trial steps: what was timed decides, and is written down before it does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from charlm.config import ModelConfig, TrainingConfig
from charlm.data.corpus import Corpus
from charlm.strict_json import from_json
from charlm.training import distributed, trial
from charlm.training.events import HeldOutLoss
from charlm.training.guards import Divergence
from charlm.training.plan import Forecast, Plan
from charlm.training.planner import Choice, choose, expected_end, forecast_of
from charlm.training.schedule import Schedule
from charlm.training.session import TransformerSession
from charlm.training.sizes import SIZES, Budget, Size, StepTime
from charlm.training.state import RunState, forecast
from tests.conftest import Result

TOY = ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=16, ngram_embeddings=1)


class Machine:
    """A machine on which only trial steps take time: by threads, precision and the step's operations."""

    def __init__(self, gflops: dict[tuple[int, str], float], threads: int) -> None:
        self.gflops, self.threads, self.now = gflops, threads, 0.0
        self.slow_steps: set[int] = set()  # which take a hundred times as long
        self.steps = 0

    def step(self, session: TransformerSession, rates: object) -> None:
        size = Size.of(session.model_config, session.training_config)
        speed = self.gflops[self.threads, session.training_config.precision]
        self.now += size.gflop / speed * (100 if self.steps in self.slow_steps else 1)
        self.steps += 1

    def use(self, threads: int) -> None:
        self.threads = threads


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Machine]:
    def make(gflops: dict[tuple[int, str], float], *, threads: int = 4, bf16: bool = False) -> Machine:
        made = Machine(gflops, threads)
        monkeypatch.setattr(torch, "get_num_threads", lambda: made.threads)
        monkeypatch.setattr(torch, "set_num_threads", made.use)
        monkeypatch.setattr(trial, "train_step", made.step)
        monkeypatch.setattr(distributed, "perf_counter", lambda: made.now)
        features = {"avx512_bf16": bf16}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features, raising=False)
        return made

    return make


def measured(
    corpus: Corpus, seconds: float = 60.0, n_train: int = 10**6, model: ModelConfig = TOY, **given: object
) -> tuple[int, Budget, Choice]:
    """What trial steps find, and what is chosen by it."""
    training = TrainingConfig(**given)  # type: ignore[arg-type]

    def choose_for(budget: Budget) -> Choice:
        return choose(budget, n_train, model, training)

    threads, budget = trial.timed_budget(corpus, training, seconds, choose_for)
    return threads, budget, choose_for(budget)


@pytest.mark.parametrize(
    ("all_threads", "half", "given", "expected"),
    [(100, 60, None, 4), (50, 55, None, 4), (20, 60, None, 2), (20, 60, 4, 4)],
    ids=["faster", "hardly slower", "slower", "slower but asked for"],
)
def test_half_the_threads_where_they_are_clearly_faster(
    machine: Callable[..., Machine],
    corpus: Corpus,
    all_threads: float,
    half: float,
    given: int | None,
    expected: int,
) -> None:
    found = machine({(4, "fp32"): all_threads, (2, "fp32"): half})
    threads, budget, _ = measured(corpus, threads=given)
    assert threads == expected == found.threads
    assert {timed.threads for timed in budget.timed} == {expected}


@pytest.mark.parametrize(
    ("has_it", "speed", "asked", "expected"),
    [
        (True, 200, "auto", "bf16"),
        (True, 105, "auto", "fp32"),
        (True, 200, "fp32", "fp32"),
        (True, 20, "bf16", "bf16"),
        (False, 900, "auto", "fp32"),
    ],
)
def test_the_precision_follows_the_processor_and_what_was_timed(
    machine: Callable[..., Machine], corpus: Corpus, has_it: bool, speed: float, asked: str, expected: str
) -> None:
    machine({(1, "fp32"): 100, (1, "bf16"): speed}, threads=1, bf16=has_it)
    _, budget, choice = measured(corpus, precision=asked)
    assert budget.precision == choice.training.precision == expected


@pytest.mark.parametrize("slow", range(12))
def test_one_slow_step_decides_nothing(machine: Callable[..., Machine], corpus: Corpus, slow: int) -> None:
    found = machine({(4, "fp32"): 100, (2, "fp32"): 55, (4, "bf16"): 200, (2, "bf16"): 110}, bf16=True)
    found.slow_steps = {slow}
    threads, budget, _ = measured(corpus, seconds=1e4)
    assert (threads, budget.precision) == (4, "bf16")


@pytest.mark.parametrize("gflops", [1, 10, 100, 1000, 10_000])
@pytest.mark.parametrize("model", [ModelConfig(), ModelConfig(prior=False)], ids=["any", "no prior"])
def test_what_is_chosen_was_timed(
    machine: Callable[..., Machine],
    corpus: Corpus,
    monkeypatch: pytest.MonkeyPatch,
    gflops: float,
    model: ModelConfig,
) -> None:
    """Here no model is built, for some are large; the rows of the table are timed all the same."""
    made = machine({(1, "fp32"): gflops}, threads=1)

    def one_step(session: "trial._Trial") -> None:
        made.now += 0.001
        session.times.append(session.session.gflop / gflops)  # type: ignore[attr-defined]

    class Bare:
        def __init__(self, plan, number):  # type: ignore[no-untyped-def]
            self.plan, self.number = plan, number
            self.model_config, self.training_config = (
                plan.members[number].model,
                plan.members[number].training,
            )
            self.gflop = Size.of(self.model_config, self.training_config).gflop

    monkeypatch.setattr(trial, "_session", lambda corpus, plan, number, precision: Bare(plan, number))
    monkeypatch.setattr(trial._Trial, "step", one_step)
    _, budget, choice = measured(corpus, 600, model=model)
    for member in choice.plan.members:
        assert budget.is_timed(member.kind, Size.of(member.model, member.training))
    assert len(budget.timed) <= trial.ROUNDS * 2


def test_a_faster_machine_gets_a_larger_model() -> None:
    weights = []
    for gflops in (1, 10, 100, 1000):
        timed = StepTime(
            kind="no-prior", size=SIZES[2], threads=1, precision="fp32", seconds=SIZES[2].gflop / gflops
        )
        budget = Budget(seconds=600, timed=(timed,))
        choice = choose(budget, 10**8, ModelConfig(prior=False), TrainingConfig())
        weights.append(Size.of(choice.model, choice.training).weights)
    assert weights == sorted(weights) and len(set(weights)) > 2


def test_what_was_timed_is_written_down_and_with_steps_nothing_is(charlm: Callable[..., Result]) -> None:
    # Without --patience a fast machine may find that the short text is memorised: then no forecast is made.
    toy = ("--n-layer=1", "--n-head=2", "--n-embd=16", "--block-size=16", "--threads=1", "--patience=0")
    timed_run = charlm("train", "ducks.txt", "--time", "5s", "--run", "timed", "--json", *toy)
    assert timed_run.code == 0, timed_run.err
    result = json.loads(timed_run.out.splitlines()[-1])
    assert result["forecast"]["seconds"] == 50
    assert 0 < result["forecast"]["bits_per_char"] <= result["bits_per_char"]
    first = json.loads(Path("checkpoints/timed/plan.json").read_text())["decisions"][0]
    (timed,) = first["timed"]
    assert timed["seconds"] > 0 and timed["threads"] == 1
    assert (timed["size"]["n_layer"], timed["size"]["n_embd"], timed["size"]["block_size"]) == (1, 16, 16)
    assert charlm("train", "ducks.txt", "--steps", "3", "--run", "steps", *toy).code == 0
    first = json.loads(Path("checkpoints/steps/plan.json").read_text())["decisions"][0]
    assert first["timed"] == [] and first["seconds"] is None and first["forecast"] is None


def test_more_time_is_expected_to_end_lower_and_the_end_of_a_run_says_how_much(
    charlm: Callable[..., Result],
) -> None:
    def choose_for(budget: Budget) -> Choice:
        return choose(budget, 10**6, ModelConfig(), TrainingConfig())

    budget = Budget(seconds=20.0)
    forecast = forecast_of(20.0, budget, choose_for, 10**6)
    assert forecast.seconds == 200 and 0.5 < forecast.ratio < 1
    assert expected_end(choose_for(budget), 10**6) > expected_end(choose_for(Budget(seconds=200.0)), 10**6)
    toy = ("--n-layer=1", "--n-head=2", "--n-embd=16", "--block-size=16", "--threads=1", "--patience=0")
    shown = charlm("train", "ducks.txt", "--time", "5s", *toy).out
    assert "more time" in shown and "50s is expected to end" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("ratio", "nats", "finished", "lower"),
    [
        (0.9, 1.0, "done", 0.1),
        (1.1, 1.0, "done", 0.0),
        (0.9, 2.95, "done", None),
        (0.9, 1.0, "early", None),
        (0.9, 1.0, None, None),
    ],
)
def test_no_more_is_promised_than_the_law_can_know(
    ratio: float, nats: float, finished: Literal["done", "early"] | None, lower: float | None
) -> None:
    """Nothing where the text was not learned, or the run ended early; and never that more time makes it worse."""
    plan = Plan(schedule=Schedule.parse("0:0,9:1"), eval_every=1, eval_chars=1)
    plan = plan.record(forecast={"seconds": 50.0, "ratio": ratio}, at_step=0)
    state = RunState(Divergence(unigram_nats=3.0), finished=finished)
    figures = dict.fromkeys(("standard_error", "baseline_nats_per_char", "difference", "difference_error"))
    state.last_evaluation = HeldOutLoss(step=9, nats_per_char=nats, chars=9, blocks=1, whole=True, **figures)
    found = forecast(plan, state)
    assert (None if found is None else found.bits_lower(nats)) == (lower and pytest.approx(lower))


def test_a_model_whose_steps_take_minutes_is_tried_once(
    machine: Callable[..., Machine], corpus: Corpus
) -> None:
    made = machine({(4, "fp32"): 1e-6, (2, "fp32"): 1e-6})
    threads, budget, _ = measured(corpus)
    assert made.steps == 1 and threads == 4
    assert budget.timed[0].seconds == pytest.approx(budget.timed[0].size.gflop / 1e-6)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("timed", lambda decision: decision["timed"][0].update(seconds=0)),
        ("timed", lambda decision: decision["timed"][0]["size"].update(n_layer=0)),
        ("timed", lambda decision: decision["timed"][0]["size"].update(n_embd=10**400)),
        ("forecast", lambda decision: decision["forecast"].update(seconds=1e300)),
        ("forecast", lambda decision: decision.update(forecast=3)),
    ],
)
def test_damaged_figures_in_a_plan_are_refused(name: str, damage: Callable[[dict[str, Any]], None]) -> None:
    size = {"n_layer": 1, "n_embd": 8, "n_head": 1, "block_size": 8, "batch_size": 1, "learning_rate": 0.1}
    timed = {"kind": "prior", "size": size, "threads": 1, "precision": "fp32", "seconds": 1.0}
    decision: dict[str, Any] = {"timed": [timed], "forecast": {"seconds": 10.0, "ratio": 0.9}}
    kinds = {"timed": tuple[StepTime, ...], "forecast": Forecast}
    from_json(kinds[name], decision[name])
    damage(decision)
    with pytest.raises(ValueError):
        from_json(kinds[name], decision[name])
