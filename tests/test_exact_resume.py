"""Exact resume: whatever a run is made of and wherever it is cut, it ends as one that was never cut."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charlm.checkpoint.run_folder import RunFolder
from charlm.data.corpus import Corpus
from charlm.data.prepare import prepare
from charlm.data.text_config import TextConfig
from charlm.training.events import Event, Finished
from charlm.training.launch import resume_run
from charlm.training.ngram_session import NgramSession
from charlm.training.schedule import Schedule
from charlm.training.session import TransformerSession
from charlm.training.trainer import Trainer
from tests.conftest import TEXT, After, Never, toy_run
from tests.test_counts_alone import counted
from tests.test_loop import assert_same

IN_CI, THOROUGH = 12, 200


@st.composite
def makings(draw: st.DrawFn) -> dict[str, Any]:
    """All that decides a run: what the weights must not forget."""
    parts = draw(st.sampled_from([1, 2, 3]))
    model: dict[str, Any] = {"dropout": draw(st.sampled_from([0.0, 0.3]))}
    if draw(st.booleans()):
        model |= {
            "ngram_embeddings": 2,
            "ngram_embedding_rows": 64,
            "ngram_embedding_dropout": draw(st.sampled_from([0.0, 0.2])),
        }
    if draw(st.booleans()):
        model |= {"prior": True, "prior_order": 2, "prior_dropout": draw(st.sampled_from([0.0, 0.3]))}
    mixer = draw(st.sampled_from(["attention", "recurrent", "attention,convolution"]))
    if mixer == "recurrent":
        model |= {"mixer": mixer, "n_head": None}
    elif mixer != "attention":
        model |= {"mixer": mixer, "n_layer": 2}
    else:
        model |= {"mixer": mixer, "position": draw(st.sampled_from(["rotary", "learned", "none"]))}
    return {
        "seed": draw(st.integers(0, 99)),
        "grad_accum": parts,
        "batch_size": parts * draw(st.integers(1, 2)),
        "optimizer": draw(st.sampled_from(["adamw", "muon"])),
        "model": model,
        "patience": 0,
    }


def schedules(steps: int) -> st.SearchStrategy[Schedule]:
    """The usual one, and corners of its own."""
    usual = Schedule.warmup_cooldown(steps)
    bent = Schedule.parse(f"0:1,{steps - 1}:0.3,{steps}:0") if steps > 1 else usual
    return st.sampled_from([usual, bent])


def cut_off(trainer: Trainer, at: int, *, killed: bool) -> list[Event]:
    """Train up to a step; stopped there it saves, killed it does not."""
    events: Iterator[Event] = trainer.run(Never() if killed else After(lambda: trainer.step, at))
    seen = []
    for event in events:
        seen.append(event)
        if killed and trainer.step >= at:
            break
    return seen


def again(run: RunFolder) -> TransformerSession:
    run.unlock()
    return resume_run(RunFolder(run.path), pytest.fail)


def check(root: Path, corpora: list[Corpus], data: st.DataObject) -> None:
    shutil.rmtree(root, ignore_errors=True)
    corpus = data.draw(st.sampled_from(corpora), "text")
    steps = data.draw(st.integers(1, 10), "steps")
    made, schedule = data.draw(makings(), "made of"), data.draw(schedules(steps), "schedule")
    often = st.sampled_from([1, 2, 5, 100])
    run, whole = toy_run(
        root, corpus, steps, "whole", **{**made, "model": dict(made["model"])}, save_every=1e6
    )
    whole.plan = replace(whole.plan, schedule=schedule, eval_every=data.draw(often, "evaluations, whole"))
    list(Trainer(whole, run).run(Never()))

    save_every = data.draw(st.sampled_from([0.0, 1e6]), "seconds between saves")
    run, part = toy_run(
        root, corpus, steps, "part", **{**made, "model": dict(made["model"])}, save_every=save_every
    )
    plan = replace(part.plan, schedule=schedule, eval_every=data.draw(often, "evaluations, part"))
    part.plan = plan
    for cut in sorted(data.draw(st.lists(st.integers(0, steps), max_size=3), "cuts")):
        if cut >= part.state.step:
            cut_off(Trainer(part, run), cut, killed=data.draw(st.booleans(), "killed"))
            part = again(run)
            part.plan = plan
    events = list(Trainer(part, run).run(Never()))
    assert isinstance(events[-1], Finished) and events[-1].step == steps
    assert_same(whole, part, evaluated_alike=whole.plan.eval_every == part.plan.eval_every)
    run.unlock()


def test_resume_is_exact(tmp_path: Path, thorough: bool) -> None:
    """Also where one side evaluates or saves more often than the other, and where it is cut more than once."""
    corpora = [prepare(TEXT, TextConfig()), prepare(TEXT, TextConfig(documents="line"))]

    @settings(max_examples=THOROUGH if thorough else IN_CI, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def attempt(data: st.DataObject) -> None:
        check(tmp_path / "runs", corpora, data)

    attempt()


def test_counts_alone_stopped_before_their_figure_end_the_same(tmp_path: Path) -> None:
    """Their one step is the counting: what can be cut off is the scoring."""
    corpus = prepare(TEXT, TextConfig())
    run, whole = counted(tmp_path, corpus, "whole", prior_order=3)
    list(Trainer(whole, run).run(Never()))
    run, part = counted(tmp_path, corpus, "part", prior_order=3)
    for _ in range(2):
        list(Trainer(part, run).run(After(lambda: 0, 0)))
        run.unlock()
        session = resume_run(RunFolder(run.path), pytest.fail)
        assert isinstance(session, NgramSession)
        part = session
    list(Trainer(part, run).run(Never()))
    assert part.ngram == whole.ngram
    assert part.state.last_evaluation == whole.state.last_evaluation and part.state.finished == "done"
