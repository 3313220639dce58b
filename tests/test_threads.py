"""Another number of threads: it is said, the data is the same, and the losses agree to the last bits."""

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from charlm import __main__
from charlm.checkpoint.run_folder import RunFolder
from charlm.data.corpus import Corpus
from charlm.native.library import status
from charlm.threads import SPINS, use_threads
from charlm.training.events import Stepped
from charlm.training.launch import resume_run
from charlm.training.session import TransformerSession
from charlm.training.trainer import Trainer
from tests.conftest import After, Never, toy_run

AGREE = 1e-5


@pytest.fixture
def threads() -> Iterator[None]:
    """Put back, whatever the test does."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


WIDE = {"n_embd": 64, "n_layer": 2, "block_size": 64}


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("made", [{"optimizer": "adamw"}, {"optimizer": "muon"}], ids=["adamw", "muon"])
def test_a_resume_with_more_threads_says_so_and_agrees(
    tmp_path: Path, corpus: Corpus, made: dict[str, object]
) -> None:
    losses: dict[int, list[float]] = {}
    for n in (1, 2):
        run, session = toy_run(tmp_path, corpus, 14, f"run-{n}", model=dict(WIDE), batch_size=8, **made)
        assert session.state.step == 0
        trainer = Trainer(session, run)
        list(trainer.run(After(lambda trainer=trainer: trainer.step, 4)))
        run.unlock()
        said: list[str] = []
        session = resume_run(RunFolder(run.path), said.append, threads=n)
        assert torch.get_num_threads() == n
        assert bool(said) == (n != 1), said
        assert all("threads" in line and "not be bit-identical" in line for line in said)
        assert isinstance(session, TransformerSession)
        events = Trainer(session, run).run(Never())
        losses[n] = [event.loss for event in events if isinstance(event, Stepped)]
        use_threads(1)
    assert len(losses[1]) == 10
    assert losses[1] == pytest.approx(losses[2], rel=AGREE)


@pytest.mark.usefixtures("threads")
def test_from_the_first_step_on_they_agree(tmp_path: Path, corpus: Corpus) -> None:
    losses = {}
    for n in (1, 3):
        torch.set_num_threads(n)
        run, session = toy_run(tmp_path, corpus, 10, f"run-{n}", model=dict(WIDE), batch_size=8, dropout=0.2)
        session.training_config = replace(session.training_config, threads=n)
        events = Trainer(session, run).run(Never())
        losses[n] = [event.loss for event in events if isinstance(event, Stepped)]
    assert losses[1] == pytest.approx(losses[3], rel=AGREE)


@pytest.mark.usefixtures("threads", "kernels")
def test_a_resume_with_other_kernels_says_so(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, session = toy_run(tmp_path, corpus, 6)
    trainer, clone = Trainer(session, run), status().clone
    list(trainer.run(After(lambda: trainer.step, 2)))
    run.unlock()
    said: list[str] = []
    resume_run(RunFolder(run.path), said.append)
    assert not said
    run.unlock()
    monkeypatch.setenv("CHARLM_NATIVE", "0")
    resume_run(RunFolder(run.path), said.append)
    assert len(said) == 1 and f"with kernels {clone}, but resumes with none" in said[0]


WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


@pytest.mark.parametrize("given", [None, "ACTIVE"])
def test_threads_that_wait_soon_sleep_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, given: str | None
) -> None:
    """Awake, they take the processor from what they wait for, beside any other program."""
    monkeypatch.setattr(os, "environ", {k: v for k, v in os.environ.items() if k not in WAITING})
    monkeypatch.setattr(sys, "argv", ["charlm", "--help"])
    if given:
        os.environ["OMP_WAIT_POLICY"] = given
    with pytest.raises(SystemExit):
        __main__.main()
    found = [os.environ.get(name) for name in WAITING]
    assert found == ([given, None] if given else ["PASSIVE", str(SPINS)])


def test_a_forked_child_computes_with_several_threads_where_its_parent_did() -> None:
    """What many tests rest on: GNU's OpenMP would wait in the child for threads that a fork does not take along."""
    from tests.forks import forked  # which Windows has not

    def computed(n: int) -> int:
        torch.set_num_threads(n)
        values = torch.ones(600, 600)
        return n + int(0 * ((values @ values).sum() + values.double().cos().sum()))

    assert computed(2) == 2
    assert [forked(lambda n=n: computed(n), seconds=60) for n in (1, 2, 7)] == [1, 2, 7]  # type: ignore[misc]
