"""What of the command line depends on its insides, or on files that only some systems have."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from charlm.errors import UsageError
from charlm.training.request import parse_time
from tests.cli.kept import TOY
from tests.conftest import TEXT, Result

Charlm = Callable[..., Result]


@pytest.fixture
def trained(charlm: Charlm) -> Charlm:
    """The command beside a run of 5 steps."""
    assert charlm("train", "ducks.txt", "--steps", "5", *TOY).code == 0
    return charlm


def test_any_prompt_will_do(trained: Charlm) -> None:
    for prompt in ("", "日本語 🦆", "-5 apples", "x" * 100, "a\tb\n"):
        result = trained("sample", "--prompt", prompt, "--length", "8")
        assert result.code == 0 and result.out.startswith(prompt)


def test_a_report_of_an_earlier_step_is_none(trained: Charlm, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on, and is killed between its last save and the report, lacks that."""
    with monkeypatch.context() as patched:
        patched.setattr("charlm.job.write_report", lambda *args: [])
        assert trained("resume", "ducks", "--steps", "2").code == 0
    assert not Path("checkpoints/ducks/report.html").exists()
    resumed = trained("resume", "ducks")
    assert resumed.code == 0 and "only its report is missing" in resumed.err
    assert Path("checkpoints/ducks/report.html").exists()


def test_a_run_that_was_never_begun_leaves_its_name_free(charlm: Charlm) -> None:
    Path("checkpoints/ducks").mkdir(parents=True)  # as a kill between two calls leaves it
    assert charlm("train", "ducks.txt", "--steps", "3", *TOY, "--run", "ducks").code == 0


def test_surprisal_replaces_no_device(trained: Charlm) -> None:
    Path("link.jsonl").symlink_to("real.jsonl")
    assert trained("surprisal", "-o", "link.jsonl").code == 0
    assert Path("link.jsonl").is_symlink() and Path("real.jsonl").read_text()
    if Path("/dev/null").is_char_device():
        assert trained("surprisal", "-o", "/dev/null").code == 0
        assert Path("/dev/null").is_char_device()


def test_fifty_characters_train_and_say_that_they_are_few(charlm: Charlm) -> None:
    Path("tiny.txt").write_text("To be, or not to be, that is the question: whether")
    result = charlm("train", "tiny.txt", "--steps", "5")
    assert result.code == 0 and "too little held-out text" in result.err
    assert charlm("sample", "--length", "20").code == 0
    assert "too few" in charlm("eval").err


def test_times() -> None:
    found = [parse_time(t) for t in ("90", "60s", "10m", "2h", "1h30m", "1.5m")]
    assert found == [90, 60, 600, 7200, 5400, 90]
    for wrong in ("", "x", "-5", "5 m", "1m1h", "nan"):
        with pytest.raises(UsageError):
            parse_time(wrong)


@pytest.mark.parametrize("name", ["/dev/zero", "long.toml"])
def test_a_config_without_end_is_refused(charlm: Charlm, name: str) -> None:
    Path("long.toml").write_text("a." * 100_000 + "a = 1")
    result = charlm("train", "ducks.txt", "--config", name, "--dry-run")
    assert result.code == 2 and f"--config {name} has more than" in result.err


def test_more_steps_than_can_be_counted_are_refused_by_their_option(charlm: Charlm) -> None:
    done = charlm("train", "ducks.txt", "--steps", "9" * 20, "--dry-run")
    assert done.code == 2 and "--steps is 99999999999999999999; allowed: 1 to 1000000000000" in done.err


@pytest.mark.skipif(os.name == "nt", reason="named pipes of POSIX")
def test_a_named_pipe_which_may_wait_without_end_is_no_config(charlm: Charlm) -> None:
    os.mkfifo("pipe")
    done = charlm("train", "ducks.txt", "--dry-run", "--config", "pipe")
    assert done.code == 2 and "is a named pipe" in done.err, done.err


def test_a_tilde_is_the_home_folder_in_files_and_variables(
    charlm: Charlm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "held.txt").write_text(TEXT[:900])
    (home / "c.toml").write_text('val_file = "~/held.txt"\ncheckpoints = "~/runs"\nrun = "a"\n')
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.setenv("CHARLM_CACHE", "~/cache")
    done = charlm("train", "ducks.txt", "--steps=1", *TOY, "--config", "~/c.toml")
    assert done.code == 0 and "900 held out" in done.err, done.err
    assert (home / "runs" / "a" / "run.json").exists() and (home / "cache" / "corpora").is_dir()
    monkeypatch.setenv("CHARLM_CHECKPOINTS", "~/runs")
    assert "ducks.txt" in charlm("runs").out
    assert not Path("~").exists()
