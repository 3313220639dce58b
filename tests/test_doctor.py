"""The doctor: whole is said of what is whole, and of each damage what can still be done."""

from dataclasses import replace
from pathlib import Path

import pytest

from charlm import files
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.safe_io import CHECKPOINT_FILES, MANIFEST, NGRAM_FILE, RUN_FILES
from charlm.config import ModelConfig, TextConfig, TrainingConfig
from charlm.data.load import load
from charlm.inspection.health import examine, machine
from charlm.training.launch import make_trainer, resume_run, start_run
from charlm.training.planner import Budget, choose
from charlm.training.trainer import Trainer
from tests.conftest import TEXT, Never, toy_choice
from tests.disk import tree_of


@pytest.fixture
def run(elsewhere: Path) -> RunFolder:
    """A run with two checkpoints, whose text can be read again."""
    Path("ducks.txt").write_text(TEXT)
    loaded = load(["ducks.txt"], TextConfig())
    folder = RunFolder.create(Path("checkpoints"), "toy")
    choice = toy_choice(loaded.corpus, 6, save_every=0.0, eval_every=100)
    session = start_run(folder, loaded, TextConfig(), choice, "charlm train")
    list(Trainer(session, folder).run(Never()))
    folder.unlock()
    return RunFolder(folder.path)


def test_a_whole_run_is_whole_and_examining_it_writes_nothing(run: RunFolder) -> None:
    before = tree_of(run.path)
    found = examine(run)
    assert found.healthy and found.resumes_from == 6 and found.usable == (5, 6)
    named = {(file.step, file.name) for file in found.files}
    assert named == {(s, name) for s in (5, 6) for name in (MANIFEST, *CHECKPOINT_FILES, *RUN_FILES)}
    assert tree_of(run.path) == before


@pytest.mark.parametrize("name", [*CHECKPOINT_FILES, MANIFEST])
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_gone_on_from(run: RunFolder, name: str) -> None:
    path = run.folder(6) / name
    path.write_bytes(path.read_bytes()[:-2])
    found = examine(run)
    assert [(f.step, f.name) for f in found.files if f.problem] == [(6, name)]
    assert not found.healthy and found.resumes_from == 5
    assert resume_run(run, lambda _: None).state.step == 5, "it promises what resume does"


@pytest.mark.parametrize("name", [*RUN_FILES, "plan.json"])
def test_what_all_checkpoints_share_keeps_a_run_from_going_on(run: RunFolder, name: str) -> None:
    (run.path / name).write_bytes(b"{}")
    found = examine(run)
    assert not found.healthy and found.resumes_from is None


def test_counts_alone_are_examined_too(elsewhere: Path) -> None:
    Path("ducks.txt").write_text(TEXT)
    loaded = load(["ducks.txt"], TextConfig())
    choice = choose(Budget(), len(loaded.corpus.train), ModelConfig(model="ngram"), TrainingConfig())
    choice = replace(choice, plan=choice.plan.record(decided="size", at_step=0))
    run = RunFolder.create(Path("checkpoints"), "counted")
    session = start_run(run, loaded, TextConfig(), choice, "charlm train --model ngram")
    list(make_trainer(session, run).run(Never()))
    run.unlock()
    found = examine(run)
    assert found.healthy and found.resumes_from == 1
    assert NGRAM_FILE in {file.name for file in found.files}
    path = run.path / NGRAM_FILE
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    found = examine(run)
    assert [file.name for file in found.files if file.problem] == [NGRAM_FILE] and found.resumes_from is None


def test_what_a_crash_left_and_pointers_to_nothing_are_said(run: RunFolder) -> None:
    (run.path / ".tmp-step-00000007").mkdir()
    (run.path / "latest").write_text("step-00000099\n")
    said = " ".join(examine(run).problems)
    assert "1 unfinished" in said and "latest points to a checkpoint that is gone" in said


def test_a_run_that_never_saved(elsewhere: Path) -> None:
    (elsewhere / "toy").mkdir()
    found = examine(RunFolder(elsewhere / "toy"))
    assert found.resumes_from is None and "no checkpoint" in found.problems[0]


def test_a_place_that_cannot_be_written_is_said_and_nothing_is_left(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(place.problem is None for place in machine(elsewhere / "a" / "b").places)
    assert list(elsewhere.iterdir()) == []

    def refused(path: Path, data: bytes) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(files, "write_synced", refused)
    assert {place.problem for place in machine(elsewhere).places} == {"Read-only file system"}
