"""`charlm train --run X --resume-if-exists`, for jobs that are requeued, and the events of `--json`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from charlm.checkpoint.run_folder import RunFolder
from charlm.training.trainer import Trainer
from tests.cli.kept import TOY
from tests.conftest import TEXT, After, Result

Charlm = Callable[..., Result]
TRAIN = ["train", "ducks.txt", *TOY, "--no-prior", "--eval-every", "4"]
JOB = [*TRAIN, "--steps", "12", "--run", "job", "--resume-if-exists"]


def rows(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.out.splitlines()]


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """SIGTERM for the first training, at that step."""
    plain, stopped = Trainer.run, []

    def run(self: Trainer, stop: Any) -> Any:
        if stopped:
            return plain(self, stop)
        stopped.append(step)
        early = After(lambda: self.step, step)
        early.reason = "SIGTERM"
        return plain(self, early)

    monkeypatch.setattr(Trainer, "run", run)


def weights(charlm: Charlm, name: str) -> str:
    return str(json.loads(charlm("info", name, "--json").out)["weights_sha256"])


def test_what_was_killed_before_its_first_save_begins_again(charlm: Charlm) -> None:
    assert charlm(*JOB).code == 0
    run = Path("checkpoints/job")
    for folder in run.glob("step-*"):
        shutil.rmtree(folder)
    assert charlm(*JOB).code == 0
    (run / "run.json").unlink()
    for folder in run.glob("step-*"):
        shutil.rmtree(folder)
    assert charlm(*JOB).code == 0 and RunFolder(run).steps()


def test_a_first_guess_is_not_what_a_time_is_spent_by(
    charlm: Charlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = [*TRAIN, "--time", "5s", "--run", "job", "--resume-if-exists"]
    stop_after(monkeypatch, 1)
    assert charlm(*job).code == 143
    shutil.rmtree("checkpoints/job/step-00000001")
    for pointer in ("latest", "best"):
        Path("checkpoints/job", pointer).unlink(missing_ok=True)
    assert charlm(*job).code == 0
    plan = json.loads(Path("checkpoints/job/plan.json").read_text())
    assert any("seconds_left" in decision for decision in plan["decisions"])


def test_other_settings_are_refused_by_name(charlm: Charlm) -> None:
    assert charlm(*JOB).code == 0
    before = weights(charlm, "job")
    for change, named in (
        (["--steps", "13"], "--steps was 12 and is now 13"),
        (["--time", "30s"], "--time was not given and is now 30"),
        (["--seed", "7"], "--seed was not given and is now 7"),
        (["--n-embd", "32"], "--n-embd was 16 and is now 32"),
        (["--lowercase"], "--lowercase was not given and is now True"),
        (["--val", "0.2"], "--val was not given and is now 0.2"),
        (["--from", "job"], "--from was not given and is now job"),
    ):
        job = JOB if change[0] != "--time" else [word for word in JOB if word not in ("--steps", "12")]
        result = charlm(*job, *change)
        assert result.code == 2 and named in result.err, result.err
    assert weights(charlm, "job") == before


def test_a_setting_that_is_left_out_is_named_and_a_default_is_none(
    charlm: Charlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert charlm(*JOB, "--dropout", "0.1").code == 0
    result = charlm(*JOB)
    assert result.code == 2 and "--dropout was 0.1 and is now not given" in result.err
    assert charlm(*JOB, "--dropout", "0.1", "--seed", "1").code == 0
    monkeypatch.setenv("CHARLM_DROPOUT", "0.1")
    assert charlm(*JOB).code == 0


def test_another_text_is_refused_and_a_moved_one_is_not(charlm: Charlm) -> None:
    assert charlm(*JOB).code == 0
    Path("moved.txt").write_text(TEXT)
    assert charlm(*JOB[:1], "moved.txt", *JOB[2:]).code == 0
    Path("ducks.txt").write_text(TEXT + "one more line\n")
    result = charlm(*JOB)
    assert result.code == 4 and "another text" in result.err and "SHA-256" in result.err


def test_a_run_that_no_request_is_kept_of_is_compared_with_what_was_chosen(charlm: Charlm) -> None:
    from charlm import job

    plain = job.start_run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "start_run", lambda *args: plain(*args[:-1]))
        assert charlm(*JOB).code == 0
    assert json.loads(Path("checkpoints/job/run.json").read_text()).get("asked") is None
    assert charlm(*JOB).code == 0
    result = charlm(*JOB, "--n-embd", "32")
    assert result.code == 2 and "--n-embd was 16 and is now 32" in result.err


@pytest.mark.parametrize("begun", [True, False])
def test_the_second_of_two_at_once_is_refused(charlm: Charlm, begun: bool) -> None:
    if begun:
        assert charlm(*JOB).code == 0
    folder = Path("checkpoints/job")
    folder.mkdir(parents=True, exist_ok=True)
    other = RunFolder(folder)
    other.lock()
    try:
        result = charlm(*JOB)
    finally:
        other.unlock()
    assert result.code == 4 and "being trained by another process" in result.err
    assert charlm(*JOB).code == 0


def test_a_run_that_another_began_and_ended_meanwhile_is_for_the_next_call(
    charlm: Charlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    from charlm.cli import train

    assert charlm(*JOB).code == 0
    plain, calls = train.begun_run, []

    def first_none(root: Path, name: str | None) -> Any:
        calls.append(name)
        return None if len(calls) == 1 else plain(root, name)

    monkeypatch.setattr(train, "begun_run", first_none)
    monkeypatch.setattr("charlm.checkpoint.run_folder.check_free", lambda root, name: None)
    result = charlm(*JOB)
    assert result.code == 4 and "repeat the command" in result.err
    assert charlm(*JOB).code == 0


def test_a_dry_run_changes_nothing(charlm: Charlm, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(monkeypatch, 5)
    assert charlm(*JOB).code == 143
    result = charlm(*JOB, "--dry-run")
    assert result.code == 0 and "step 5" in result.err
    assert RunFolder(Path("checkpoints/job")).steps()[-1] == 5


def test_every_end_has_a_result(charlm: Charlm, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(monkeypatch, 5)
    stopped = charlm(*JOB, "--json")
    last = rows(stopped)[-1]
    assert stopped.code == 143 == last["exit_code"] and last["reason"] == "SIGTERM" and last["step"] == 5
    assert rows(charlm(*JOB, "--json"))[-1]["reason"] == "done"
    finished = charlm(*JOB, "--json")
    assert [row["type"] for row in rows(finished)] == ["result"]
    Path("checkpoints/job/report.html").unlink()
    assert [row["type"] for row in rows(charlm("resume", "job", "--json"))] == ["result"]
    counts = rows(charlm("train", "ducks.txt", "--model", "ngram", "--run", "counts", "--json"))
    assert [counts[0]["type"], counts[-1]["type"]] == ["begun", "result"]
    assert "counted" in [row["type"] for row in counts]
    assert rows(charlm("resume", "counts", "--json"))[-1]["type"] == "result"


def test_numbers_that_json_lacks_are_null(charlm: Charlm, monkeypatch: pytest.MonkeyPatch) -> None:
    from charlm.training import events

    plain = events.Stepped
    monkeypatch.setattr(events, "Stepped", lambda **values: plain(**{**values, "grad_norm": float("inf")}))
    for line in charlm(*TRAIN, "--steps", "2", "--json").out.splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(name))


def test_a_reader_that_leaves_does_not_end_the_run(charlm: Charlm, monkeypatch: pytest.MonkeyPatch) -> None:
    from charlm.cli import follow

    def gone(row: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(follow, "print_json", gone)
    assert charlm(*TRAIN, "--steps", "12", "--json").code == 0
    assert RunFolder(Path("checkpoints/ducks")).steps()[-1] == 12
