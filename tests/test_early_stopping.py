"""Early stopping where a run has several members, is stopped at the same moment, resumed, repeated or trained further."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from charlm.checkpoint.run_folder import RunFolder
from charlm.config import TrainingConfig
from charlm.data.corpus import Corpus
from charlm.data.load import Loaded
from charlm.data.prepare import prepare
from charlm.data.text_config import TextConfig
from charlm.training.events import Evaluated, Event, Planned, Stepped
from charlm.training.guards import COOLDOWN_GAIN
from charlm.training.launch import extend_by_steps, start_run
from charlm.training.plan import ENDED_EARLY
from charlm.training.plan_from import take_plan
from charlm.training.session import TransformerSession
from charlm.training.sizes import Budget
from charlm.training.trainer import Trainer
from tests.cli.models import prose
from tests.conftest import Never
from tests.test_exact_resume import again
from tests.test_loop import assert_same
from tests.test_members import members_run

OVERFITS = {"patience": 1, "learning_rate": 0.3, "reserved_chars": 300}
STEPS = 120


class Switch:
    """A stop that is set by hand."""

    reason = "SIGINT"

    def __init__(self) -> None:
        self.on = False

    def is_set(self) -> bool:
        return self.on


def text() -> Corpus:
    return prepare(prose(2000), TextConfig())


def finished(session: TransformerSession, run: RunFolder) -> list[Event]:
    return list(Trainer(session, run).run(Never()))


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_stop_where_a_member_has_just_ended_early_leaves_the_rest_to_do(tmp_path: Path, when: str) -> None:
    """Stopped before it is calibrated, or after: the run is not finished, and ends as one that was not stopped."""
    corpus = text()
    run, whole = members_run(tmp_path, corpus, STEPS, "whole", **OVERFITS)
    end = next(e.step for e in finished(whole, run) if isinstance(e, Planned))
    run, part = members_run(tmp_path, corpus, STEPS, "part", **OVERFITS)
    stop = Switch()
    for event in Trainer(part, run).run(stop):
        if isinstance(event, Evaluated) and event.step == end and bool(event.mixed) == (when == "after"):
            stop.on = True
    assert part.state.step == end and part.state.finished is None
    part = again(run)
    finished(part, run)
    assert_same(whole, part)
    assert part.state.mixture == whole.state.mixture and part.state.finished == whole.state.finished


def test_killed_between_the_early_end_of_a_member_and_the_next_save(tmp_path: Path) -> None:
    corpus = text()
    run, whole = members_run(tmp_path, corpus, STEPS, "whole", **OVERFITS)
    finished(whole, run)
    run, part = members_run(tmp_path, corpus, STEPS, "part", **OVERFITS)
    for event in Trainer(part, run).run(Never()):
        if isinstance(event, Planned) and event.decision["decided"] == ENDED_EARLY:
            break
    part = again(run)
    finished(part, run)
    assert_same(whole, part)
    assert part.state.mixture == whole.state.mixture


def test_more_training_of_a_finished_run_is_compared_with_itself(tmp_path: Path) -> None:
    """What a member predicts alone is worse than calibrated and with recent n-grams: that is no overfitting."""
    corpus = text()
    run, session = members_run(
        tmp_path, corpus, 30, members="no-prior", patience=0, recent_chars=1024, reserved_chars=300
    )
    closing = [event for event in finished(session, run) if isinstance(event, Evaluated)][-1]
    session = again(run)
    extend_by_steps(session, run, 10)
    first = next(event for event in finished(session, run) if isinstance(event, Evaluated))
    assert first.compared_nats_per_char > closing.compared_nats_per_char + COOLDOWN_GAIN
    assert first.is_best and first.rises == 0


def test_the_plan_of_a_run_whose_member_ended_early_gives_the_same_again(tmp_path: Path) -> None:
    """Though the next member was evaluated at other steps."""
    corpus = text()
    run, whole = members_run(tmp_path, corpus, STEPS, "whole", **OVERFITS)
    for event in Trainer(whole, run).run(Never()):
        if isinstance(event, Planned):
            end = event.step
        if isinstance(event, Stepped) and whole.number:
            whole.plan = replace(whole.plan, eval_every=7).record(decided="schedule", at_step=end + 1)
            break
    taken = take_plan(
        whole.plan, "whole", TrainingConfig(patience=1), Budget(precision="fp32"), len(corpus.train)
    )
    loaded = Loaded(corpus=corpus, notes=(), sources=(), label="a toy")
    run = RunFolder.create(tmp_path, "again")
    repeated = start_run(run, loaded, TextConfig(), taken, "charlm train")
    assert isinstance(repeated, TransformerSession)
    next(
        event
        for event in Trainer(repeated, run).run(Never())
        if isinstance(event, Stepped) and event.member == 2
    )
    ours, theirs = (session.earlier[0].weights for session in (whole, repeated))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert repeated.state.member_start == end


def test_steps_that_members_did_not_need_are_not_said_to_be_a_slow_machines(tmp_path: Path) -> None:
    members = "no-prior,no-prior,no-prior,ngram"
    _, session = members_run(tmp_path, text(), 300, members=members, reserved_chars=300)
    plan = session.plan
    for number, step in enumerate((5, 10)):
        plan = plan.ended(number, step).record(decided=ENDED_EARLY, at_step=step)
    assert plan.total_steps == 110 and plan.first_total_steps == 300 and not plan.fell_short
