"""A size that proves wrong: chosen again from the speed of the first steps, on a clock that the test turns."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from math import log
from pathlib import Path

import pytest
import torch

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.safe_io import read_json, write_json
from charlm.checkpoint.snapshot import read_snapshot
from charlm.config import ModelConfig, TrainingConfig
from charlm.data.corpus import Corpus
from charlm.data.load import Loaded
from charlm.data.prepare import prepare
from charlm.data.text_config import TextConfig
from charlm.errors import CheckpointError
from charlm.reporting.log import MetricsLog
from charlm.reporting.run_page import write_report
from charlm.training import planner, replanner, sizes, trainer
from charlm.training.deadline import FIRST_PLAN_STEPS, Deadline
from charlm.training.describe import resized
from charlm.training.events import Evaluated, Event, Planned, Saved, Stepped, WentBack
from charlm.training.launch import extend_by_steps, resume_run, start_run
from charlm.training.plan import PLAN_FILE, RESIZED, Plan, read_plan, write_plan
from charlm.training.planner import Choice, choose
from charlm.training.session import TransformerSession
from charlm.training.sizes import Budget, Size, StepTime
from charlm.training.step import train_step
from charlm.training.trainer import Trainer
from tests.cli.models import prose
from tests.conftest import Never, Result, repeat_words
from tests.test_exact_resume import again, cut_off
from tests.test_loop import assert_same, everything, poison

SECONDS, EXPECTED = 100.0, 1.0
WIDTHS = (8, 16, 24)
Charlm = Callable[..., Result]


TABLE = tuple(
    Size(n_layer=1, n_embd=width, n_head=2, block_size=16, batch_size=4, learning_rate=width / 1000)
    for width in WIDTHS
)
MIDDLE = TABLE[1]
GFLOPS = MIDDLE.gflop / EXPECTED
SUITS = {8: 0.3 * SECONDS * GFLOPS, 16: 0.9 * SECONDS * GFLOPS, 24: 2.5 * SECONDS * GFLOPS}
"""The operations that each width is best for, in 10^9."""


def expected_loss(kind: str, size: Size, chars: float, n_train: int) -> float:
    """By a law of these tests."""
    return abs(log(chars / size.chars * size.gflop / SUITS[size.n_embd]))


def at_speed(gflops: float) -> Budget:
    """SECONDS on a machine of that speed."""
    timed = StepTime(kind="no-prior", size=MIDDLE, threads=1, precision="fp32", seconds=MIDDLE.gflop / gflops)
    return Budget(seconds=SECONDS, timed=(timed,))


class Machine:
    """A machine whose clock goes on with each step, by what a step of that session takes."""

    def __init__(self, takes: Callable[[TransformerSession], float]) -> None:
        self.now, self.takes, self.seconds = 0.0, takes, SECONDS
        self.threads: dict[int, int] = {}  # of each step

    def step(self, session: TransformerSession, *rest: object) -> tuple[float, float]:
        self.threads[session.state.step] = torch.get_num_threads()
        self.now += self.takes(session)
        return train_step(session, *rest)  # type: ignore[arg-type]

    @property
    def deadline(self) -> Deadline:
        return Deadline(budget=self.seconds, at=self.seconds, clock=lambda: self.now)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Three times as slow as expected, and the smaller the model the faster."""
    found = Machine(lambda session: 3 * EXPECTED * (session.model_config.n_embd or 0) ** 2 / 16**2)
    monkeypatch.setattr(sizes, "SIZES", TABLE)
    monkeypatch.setattr(sizes, "SIZES_WITH_PRIOR", TABLE)
    monkeypatch.setattr(sizes, "expected_loss", expected_loss)
    monkeypatch.setattr(trainer, "train_step", found.step)
    return found


def chosen(
    corpus: Corpus,
    model: ModelConfig | None = None,
    gflops: float = GFLOPS,
    expected: float | None = EXPECTED,
    use: int | None = None,
    **training: object,
) -> Choice:
    """The choice for a time, each step of which is `expected` to take so long; `use`: so many threads."""
    model = model or ModelConfig(ngram_embeddings=1)
    settings = TrainingConfig(**{"eval_chars": 100, **training})  # type: ignore[arg-type]
    choice = choose(at_speed(gflops), len(corpus.train), model, settings)
    choice = choice if use is None else choice.with_threads(use)
    members = tuple(replace(member, step_seconds=expected) for member in choice.plan.members)
    plan = replace(choice.plan, members=members).record(decided="size", at_step=0, threads=use)
    return replace(choice, plan=plan)


def begun(
    root: Path, corpus: Corpus, name: str, plan: Plan | None = None, **settings: object
) -> tuple[RunFolder, TransformerSession]:
    """A run at step 0, by default under a plan for a time."""
    choice = chosen(corpus, **settings)
    choice = choice if plan is None else replace(choice, plan=plan)
    run = RunFolder.create(root, name)
    loaded = Loaded(corpus=corpus, notes=(), sources=("ducks.txt",), label="ducks.txt")
    session = start_run(run, loaded, TextConfig(), choice, "charlm train")
    assert isinstance(session, TransformerSession)
    return run, session


def resizings(plan: Plan) -> list[dict[str, object]]:
    return [decision for decision in plan.decisions if decision["decided"] == RESIZED]


def trained(
    root: Path, corpus: Corpus, machine: Machine, name: str = "whole", **settings: object
) -> tuple[RunFolder, TransformerSession, list[Event]]:
    run, session = begun(root, corpus, name, **settings)
    events = list(Trainer(session, run, machine.deadline).run(Never()))
    return run, session, events


def test_steps_that_are_far_slower_than_expected_get_a_smaller_model(
    tmp_path: Path, corpus: Corpus, machine: Machine
) -> None:
    run, session, events = trained(tmp_path, corpus, machine)
    (decision,) = resizings(read_plan(run))
    at = decision["at_step"]
    assert isinstance(at, int) and 0.1 * SECONDS <= 3 * EXPECTED * at < 0.5 * SECONDS
    assert (decision["step_seconds"], decision["expected_step_seconds"]) == (3 * EXPECTED, EXPECTED)
    plan = session.plan
    assert [plan.member_at(0, step).model.n_embd for step in (0, at - 1, at)] == [16, 16, 8]
    assert plan.schedule.factor(at) < plan.schedule.factor(at + 5), "a new warmup, from zero"
    assert session.model_config.n_embd == read_snapshot(run, "latest").model_config.n_embd == 8
    assert session.state.member_start == at and session.state.updates == session.state.step - at
    assert abs(machine.now - SECONDS) < 0.05 * SECONDS
    (planned,) = [e for e in events if isinstance(e, Planned) and e.begins_again]
    saved = events[events.index(planned) + 1]
    assert isinstance(saved, Saved) and saved.step == at, "it is on the disk before a step depends on it"
    chars = [event.chars for event in events if isinstance(event, Stepped)]
    assert chars == sorted(chars) and chars[-1] == session.chars_read
    first = events[events.index(saved) + 1]
    assert isinstance(first, Stepped) and first.step == at + 1
    assert any(isinstance(event, Planned) for event in events[events.index(saved) :]), (
        "planned from its speed"
    )
    said = resized(planned, ModelConfig(n_layer=1, n_embd=16), plan, 0)
    assert "3.0 times as long" in said and "smaller model, 1 layer x 8" in said


def test_steps_that_are_far_faster_get_a_larger_one(tmp_path: Path, corpus: Corpus, machine: Machine) -> None:
    machine.takes = lambda session: 0.3
    _, session, events = trained(tmp_path, corpus, machine)
    (planned,) = [e for e in events if isinstance(e, Planned) and e.begins_again]
    assert session.model_config.n_embd == 24 and not session.plan.fell_short
    assert "3.3 times as fast" in resized(planned, ModelConfig(n_layer=1, n_embd=16), session.plan, 0)


@pytest.mark.parametrize(
    ("takes", "settings"),
    [
        (1.9, {}),
        (0.6, {}),
        (3.0, {"model": ModelConfig(ngram_embeddings=1, n_layer=1)}),
        (3.0, {"batch_size": 4}),
    ],
    ids=["a little slower", "a little faster", "a shape that was given", "a batch that was given"],
)
def test_a_size_that_fits_or_was_given_stays(
    tmp_path: Path, corpus: Corpus, machine: Machine, takes: float, settings: dict[str, object]
) -> None:
    machine.takes = lambda session: takes
    _, session, _ = trained(tmp_path, corpus, machine, **settings)
    assert not resizings(session.plan) and session.model_config.n_embd == 16


def test_it_is_judged_once(
    tmp_path: Path, corpus: Corpus, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the steps of the second size are as fast as those of the first were to be."""

    def timed_again(plan: Plan, number: int, *rest: float) -> Plan | None:
        found = planner.choose_again(plan, number, *rest)  # type: ignore[arg-type]
        assert found is not None
        return replace(found, members=(replace(found.members[0], step_seconds=9 * EXPECTED),))

    monkeypatch.setattr(replanner, "choose_again", timed_again)
    _, session, _ = trained(tmp_path, corpus, machine)
    assert len(resizings(session.plan)) == 1


@pytest.mark.parametrize("killed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_it_is_resumed_and_repeated_exactly_wherever_it_is_cut(
    tmp_path: Path, corpus: Corpus, machine: Machine, *, killed: bool
) -> None:
    """Before the decision, between it and the first step, right after, later; under the same plan."""
    _, whole, _ = trained(tmp_path, corpus, machine, save_every=0.0 if killed else 1e6)
    at = whole.state.member_start
    for cuts in ([at, at + 30], [at + 1], [3, at - 1, at, at + 1, at + 2]):
        run, part = begun(tmp_path, corpus, f"part-{cuts[0]}-{len(cuts)}", whole.plan)
        for cut in cuts:
            cut_off(Trainer(part, run), cut, killed=killed)
            part = again(run)
            assert part.model_config.n_embd == (8 if part.state.member_start else 16)
        list(Trainer(part, run).run(Never()))
        assert_same(whole, part, evaluated_alike=False)


def test_killed_between_the_decision_and_the_new_beginning(
    tmp_path: Path, corpus: Corpus, machine: Machine
) -> None:
    run, part = begun(tmp_path, corpus, "part")
    for event in Trainer(part, run, machine.deadline).run(Never()):
        if isinstance(event, Planned) and event.begins_again:
            break
    plan, at = read_plan(run), part.state.step
    part = again(run)
    assert part.state.step < at and part.model_config.n_embd == 16
    list(Trainer(part, run).run(Never()))
    other, whole = begun(tmp_path, corpus, "whole", plan)
    list(Trainer(whole, other).run(Never()))
    assert part.state.member_start == at
    assert_same(whole, part)


def test_a_roll_back_to_before_the_new_beginning_begins_again_there(
    tmp_path: Path, corpus: Corpus, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, session = begun(tmp_path, corpus, "toy")
    events, at = list[Event](), 0
    for event in Trainer(session, run, machine.deadline).run(Never()):
        events.append(event)
        if not at and isinstance(event, Saved) and session.state.member_start == event.step > 0:
            shutil.rmtree(run.folder(event.step))  # as if the disk had refused it
            at = event.step
            poison(monkeypatch, {2, 3, 4})
    (back,) = [event for event in events if isinstance(event, WentBack)]
    assert back.to_step < at < back.step
    assert session.state.member_start == at and session.model_config.n_embd == 8
    assert session.state.rate_factor == 0.5, "the reduced rate stays"
    assert len(resizings(session.plan)) == 1 and session.state.finished == "done"
    assert abs(machine.now - SECONDS) < 0.05 * SECONDS


def test_checkpoints_of_the_two_models_are_never_mixed(
    tmp_path: Path, corpus: Corpus, machine: Machine
) -> None:
    """A better loss before the new beginning is nothing to return to."""
    run, session = begun(tmp_path, corpus, "toy", eval_every=11, eval_chars=100, save_every=0.0)
    best: set[int | None] = set()
    for event in Trainer(session, run, machine.deadline).run(Never()):
        stepped = isinstance(event, Stepped) and event.step > session.state.member_start > 0
        if stepped and run.pointed("best") is not None:
            best.add(read_snapshot(run, "best").model_config.n_embd)
            assert run.pointed("best") == session.state.early_stopping.best_step
        if isinstance(event, Evaluated) and session.state.member_start and not best:
            assert event.is_best or event.step > session.state.early_stopping.best_step  # type: ignore[operator]
    assert best == {8}
    assert all(read_snapshot(run, str(step)).model_config.n_embd == 8 for step in run.steps())


def test_a_later_member_begins_again_too(tmp_path: Path, machine: Machine) -> None:
    """The first one fits; of the mixture each member keeps to its share of the time."""
    corpus = prepare(prose(6000), TextConfig())
    machine.takes = lambda session: (
        EXPECTED if session.number == 0 else 3 * EXPECTED * (session.model_config.n_embd or 0) ** 2 / 16**2
    )
    settings = {"members": "no-prior,prior,ngram", "reserved_chars": 600, "gflops": 2 * GFLOPS}
    whole_run, whole, events = trained(tmp_path, corpus, machine, **settings)
    (decision,) = resizings(whole.plan)
    at, first_end = decision["at_step"], whole.plan.members[0].end
    assert isinstance(at, int) and first_end < at == whole.state.member_start
    assert [model["n_embd"] for model in (config["model"] for config in whole.configs)][1] == 8
    assert abs(machine.now - SECONDS) < 0.1 * SECONDS
    run, part = begun(tmp_path, corpus, "part", whole.plan, **settings)
    for cut in (first_end, at, at + 3):
        cut_off(Trainer(part, run), cut, killed=False)
        part = again(run)
    list(Trainer(part, run).run(Never()))
    assert all(torch.equal(tensor, everything(part)[name]) for name, tensor in everything(whole).items())
    assert part.state.mixture == whole.state.mixture
    log = MetricsLog(whole_run.path, 0)
    for event in events:
        log(event)
    write_report(whole_run, whole, [], None)
    page = (whole_run.path / "report.html").read_text()
    assert len(re.findall(r'<path class="member"', page)) == 2, "where each training begins"


def test_a_finished_run_is_extended(tmp_path: Path, corpus: Corpus, machine: Machine) -> None:
    """Slow as its further steps may be, what it has learned is not given up."""
    machine.takes = lambda session: EXPECTED
    run, session, _ = trained(tmp_path, corpus, machine)
    was = session.state.step
    run.unlock()
    resumed = resume_run(run, pytest.fail)
    assert isinstance(resumed, TransformerSession)
    extend_by_steps(resumed, run, 5)
    machine.now = 0.0
    late = replace(machine.deadline, first_step=was, keeps_chunks=True)
    machine.takes = lambda session: 3 * EXPECTED
    list(Trainer(resumed, run, late).run(Never()))
    assert resumed.state.member_start == 0 and resumed.state.step > was + FIRST_PLAN_STEPS


@pytest.mark.parametrize("damage", ["a size that was never trained", "a speed that cannot be"])
def test_a_damaged_plan_is_refused(tmp_path: Path, corpus: Corpus, machine: Machine, damage: str) -> None:
    run, session, _ = trained(tmp_path, corpus, machine)
    data = read_json(run.path / PLAN_FILE)
    for decision in data["decisions"]:
        if damage.startswith("a size") and decision["at_step"] >= session.state.member_start:
            decision["members"][0]["model"]["n_embd"] = 24
        if damage.startswith("a speed"):
            decision["members"][0]["step_seconds"] = 0
    write_json(run.path / PLAN_FILE, data)
    run.unlock()
    with pytest.raises(CheckpointError, match=r"plan\.json.* is damaged"):
        resume_run(run, pytest.fail)


def test_the_command_that_info_shows_repeats_it(charlm: Charlm, machine: Machine) -> None:
    corpus = prepare(Path("ducks.txt").read_text(), TextConfig())
    run, session, _ = trained(Path("checkpoints"), corpus, machine, "first")
    run.unlock()
    assert "n_embd 8" in charlm("info", "first").out
    words = repeat_words(charlm, "first")
    assert "--plan-from" in words
    made = charlm(*words, "--run", "second")
    assert made.code == 0, made.err
    first, second = (
        read_snapshot(RunFolder(Path("checkpoints", name)), "latest") for name in ("first", "second")
    )
    assert second.state["member_start"] == session.state.member_start
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)
    assert charlm("resume", "second", "--steps", "3").code == 0


def test_a_plan_that_is_begun_anew_forgets_what_came_later(
    tmp_path: Path, corpus: Corpus, machine: Machine
) -> None:
    """For a run that was killed before its first save, and has its whole time again."""
    run, session, _ = trained(tmp_path, corpus, machine)
    plan = session.plan.as_begun()
    assert plan.members[0].model.n_embd == 16 and len(plan.decisions) == 1
    write_plan(run, plan)
    assert read_plan(run) == plan
