"""The number of threads, judged again on the way: a moment in which the machine is busy does not halve a run."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.safe_io import read_json, write_json
from charlm.checkpoint.snapshot import read_snapshot
from charlm.data.corpus import Corpus
from charlm.data.prepare import prepare
from charlm.data.text_config import TextConfig
from charlm.errors import CheckpointError
from charlm.native.block_kernels import Kernels
from charlm.training import replanner
from charlm.training.describe import other_threads
from charlm.training.events import ON_TRIAL, TRIED, Planned
from charlm.training.launch import resume_run
from charlm.training.plan import PLAN_FILE, Plan, read_plan
from charlm.training.session import TransformerSession
from charlm.training.trainer import Trainer
from charlm.training.trial import step_time
from tests.conftest import Never, Result, repeat_words
from tests.test_exact_resume import again, cut_off
from tests.test_loop import assert_same
from tests.test_size_again import SECONDS, Machine, begun, machine, trained  # noqa: F401, a fixture

Charlm = Callable[..., Result]


@pytest.fixture
def threaded(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:  # noqa: F811
    """A machine of two threads; in truth one computes, which is much faster beside other tests."""
    used, buffer = [1], Kernels._buffer
    monkeypatch.setattr(replanner, "most_threads", lambda: 2)
    monkeypatch.setattr(Kernels, "_buffer", lambda kernels, shape: (buffer(kernels, shape)[0], 1))
    monkeypatch.setattr(torch, "get_num_threads", lambda: used[-1])
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    return machine


def busy(machine: Machine, seconds: tuple[float, float], quiet: float = 0.5) -> None:  # noqa: F811
    """While the machine is busy, both threads wait for each other; else they take half the time of one."""

    def takes(session: TransformerSession) -> float:
        both = 4.0 if seconds[0] <= machine.now < seconds[1] else quiet
        return both if torch.get_num_threads() == 2 else 1.0

    machine.takes = takes


def of_threads(plan: Plan) -> list[dict[str, object]]:
    return [decision for decision in plan.decisions if decision["decided"] in (ON_TRIAL, TRIED)]


def test_a_machine_that_was_busy_at_first_gets_all_threads_back(
    tmp_path: Path, corpus: Corpus, threaded: Machine
) -> None:
    busy(threaded, (0, 14))
    run, session, events = trained(tmp_path, corpus, threaded, expected=None, use=1)
    on_trial, *_, tried = of_threads(read_plan(run))
    assert (on_trial["threads"], on_trial["threads_before"], tried["threads"]) == (2, 1, 2)
    changed = [event for event in events if isinstance(event, Planned) and event.changes_threads]
    decisions = session.plan.decisions
    assert on_trial["at_step"] == decisions[1]["at_step"], "at the first plan"
    replanned = decisions[decisions.index(tried) + 1]
    assert replanned["at_step"] == tried["at_step"] and replanned["step_seconds"] == 0.5
    assert len(changed) == 1 and "2 threads instead of 1: steps are 2.0 times" in other_threads(changed[0])
    assert threaded.threads[changed[0].step - 8] == 1
    assert {threaded.threads[step] for step in range(changed[0].step, session.state.step)} == {2}
    assert abs(threaded.now - SECONDS) < 0.05 * SECONDS
    assert session.plan.members[0].end == session.state.step > 130


def test_one_that_becomes_busy_goes_on_with_half_and_later_with_all_again(
    tmp_path: Path, corpus: Corpus, threaded: Machine
) -> None:
    busy(threaded, (30, 60))
    threaded.seconds = 2 * SECONDS
    _, _, events = trained(tmp_path, corpus, threaded, expected=None, use=2, eval_every=10)
    changed = [
        event.decision["threads"] for event in events if isinstance(event, Planned) and event.changes_threads
    ]
    assert changed == [1, 2]
    assert list(threaded.threads.values()).count(1) > 10
    assert abs(threaded.now - 2 * SECONDS) < 0.05 * SECONDS


def test_on_a_quiet_machine_nothing_is_tried(tmp_path: Path, corpus: Corpus, threaded: Machine) -> None:
    busy(threaded, (0, 0))
    _, session, _ = trained(tmp_path, corpus, threaded, expected=None, use=2)
    assert not of_threads(session.plan) and set(threaded.threads.values()) == {2}


def test_threads_that_were_given_stay(tmp_path: Path, corpus: Corpus, threaded: Machine) -> None:
    busy(threaded, (30, 60))
    for given in (1, 2):
        threaded.now = 0.0
        torch.set_num_threads(given)
        _, session, _ = trained(
            tmp_path, corpus, threaded, f"with-{given}", expected=None, use=given, threads=given
        )
        assert not of_threads(session.plan) and set(threaded.threads.values()) == {given}
        threaded.threads.clear()


def test_trials_on_a_machine_that_stays_busy_cost_little(
    tmp_path: Path, corpus: Corpus, threaded: Machine
) -> None:
    busy(threaded, (0, 1e9))
    _, session, _ = trained(tmp_path, corpus, threaded, expected=None, use=1, eval_every=3)
    steps = [decision["at_step"] for decision in of_threads(session.plan) if decision["decided"] == ON_TRIAL]
    lost = sum(3.0 for threads in threaded.threads.values() if threads == 2)
    assert len(steps) == 1 and lost <= 0.06 * SECONDS, "each step costs 3 % of these 100 seconds"
    quiet = 0.95  # too little to change, at no cost: tried again at growing distances
    threaded.now, threaded.threads = 0.0, {}
    busy(threaded, (0, 0), quiet)
    _, session, _ = trained(tmp_path, corpus, threaded, "other", expected=None, use=1, eval_every=3)
    steps = [decision["at_step"] for decision in of_threads(session.plan) if decision["decided"] == ON_TRIAL]
    assert len(steps) >= 1 and session.plan.members[0].training.threads == 1
    gaps = [later - step for step, later in pairwise(steps)]
    assert gaps == sorted(gaps)


def test_killed_in_a_trial_it_goes_on_as_one_that_was_not(
    tmp_path: Path, corpus: Corpus, threaded: Machine
) -> None:
    """A trial that is cut off has no outcome, so the number before it stays, as here without the cut."""
    busy(threaded, (0, 0), quiet=1.0)
    _, whole, _ = trained(tmp_path, corpus, threaded, "whole", expected=None, use=1)
    trial = of_threads(whole.plan)[0]
    begin = trial["at_step"]
    assert isinstance(begin, int)
    expected = dict(threaded.threads)
    for name, at, killed in (
        ("killed", begin + 2, True),
        ("stopped", begin + 2, False),
        ("at its beginning", begin, False),
    ):
        threaded.now, threaded.threads = 0.0, {}
        run, part = begun(tmp_path, corpus, name.replace(" ", "-"), expected=None, use=1, save_every=0.0)
        for _ in Trainer(part, run, threaded.deadline).run(Never() if killed else stop_at(part, at)):
            if killed and part.state.step >= at:
                break
        part = again(run)
        assert 0 < part.state.step <= at
        list(Trainer(part, run).run(Never()))
        assert {threads for step, threads in threaded.threads.items() if step >= begin + 4} == {1}
        found, threaded.threads = threaded.threads, {}
        assert all(found[step] == expected[step] for step in range(begin + 4)), name
        torch.set_num_threads(1)
        other, same = begun(
            tmp_path, corpus, f"{run.path.name}-not", read_plan(run), expected=None, use=1, save_every=0.0
        )
        list(Trainer(same, other).run(Never()))
        assert threaded.threads == found, name
        assert_same(same, part, evaluated_alike=False)


def stop_at(session: TransformerSession, step: int) -> "StopAt":
    return StopAt(session, step)


class StopAt:
    """A stop that comes at a step."""

    reason: str | None = "SIGINT"

    def __init__(self, session: TransformerSession, step: int) -> None:
        self._session, self._step = session, step

    def is_set(self) -> bool:
        return self._session.state.step >= self._step


@pytest.mark.parametrize("killed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_under_the_same_plan_each_step_has_the_same_threads_wherever_it_is_cut(
    tmp_path: Path, corpus: Corpus, threaded: Machine, *, killed: bool
) -> None:
    busy(threaded, (0, 12))
    often = 0.0 if killed else 1e6
    _, whole, _ = trained(tmp_path, corpus, threaded, "whole", expected=None, use=1, save_every=often)
    begin, end = (decision["at_step"] for decision in of_threads(whole.plan)[-2:])
    assert isinstance(begin, int) and isinstance(end, int)
    expected = dict(threaded.threads)
    for cuts in ([begin - 1, begin, begin + 2, end + 1], [begin + 1, end, end + 9]):
        torch.set_num_threads(1)
        threaded.threads = {}
        run, part = begun(tmp_path, corpus, f"part-{cuts[0]}", whole.plan, expected=None, use=1)
        for cut in cuts:
            cut_off(Trainer(part, run), cut, killed=killed)
            torch.set_num_threads(1)
            part = again(run)
        list(Trainer(part, run).run(Never()))
        assert threaded.threads == expected
        assert_same(whole, part, evaluated_alike=False)


def test_who_resumes_with_threads_gets_these_to_the_end(
    tmp_path: Path, corpus: Corpus, threaded: Machine
) -> None:
    busy(threaded, (0, 12))
    _, whole, _ = trained(tmp_path, corpus, threaded, "whole", expected=None, use=1)
    run, part = begun(tmp_path, corpus, "part", whole.plan, expected=None, use=1)
    cut_off(Trainer(part, run), 3, killed=False)
    run.unlock()
    threaded.threads = {}
    part = resume_run(run, pytest.fail, threads=1)  # type: ignore[assignment]
    step_time(part)
    assert torch.get_num_threads() == 1, "timed with as many, too"
    list(Trainer(part, run).run(Never()))
    assert set(threaded.threads.values()) == {1}


def test_the_command_that_info_shows_repeats_the_trials(charlm: Charlm, threaded: Machine) -> None:
    corpus = prepare(Path("ducks.txt").read_text(), TextConfig())
    busy(threaded, (0, 0), quiet=1.0)
    run, session, _ = trained(Path("checkpoints"), corpus, threaded, "first", expected=None, use=1)
    run.unlock()
    assert of_threads(session.plan) and session.plan.members[0].training.threads == 1
    words = repeat_words(charlm, "first")
    assert words[words.index("--threads") + 1] == "2"
    expected, threaded.threads = threaded.threads, {}
    made = charlm(*words, "--run", "second")
    assert made.code == 0, made.err
    assert threaded.threads == expected and {1, 2} == set(expected.values())
    first, second = (
        read_snapshot(RunFolder(Path("checkpoints", name)), "latest") for name in ("first", "second")
    )
    assert all(torch.equal(first.weights[name], second.weights[name]) for name in first.weights)


@pytest.mark.parametrize("threads", [0, 10**6, "two", None])
def test_a_damaged_trial_is_refused(
    tmp_path: Path, corpus: Corpus, threaded: Machine, threads: object
) -> None:
    busy(threaded, (0, 12))
    run, part = begun(tmp_path, corpus, "part", expected=None, use=1, save_every=0.0)
    for event in Trainer(part, run, threaded.deadline).run(Never()):
        if isinstance(event, Planned) and event.decision["decided"] == ON_TRIAL:
            at = event.step
        if of_threads(part.plan) and part.state.step == at + 2:
            break
    data = read_json(run.path / PLAN_FILE)
    data["decisions"][-1]["threads"] = threads
    write_json(run.path / PLAN_FILE, data)
    run.unlock()
    with pytest.raises(CheckpointError, match=r"plan\.json is damaged"):
        resume_run(RunFolder(run.path), pytest.fail)
