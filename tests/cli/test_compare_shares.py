"""A comparison that several processes make: the same figures, planned once, and shown once by the last to finish."""

import json
import os
import re
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest

from charlm.checkpoint.run_folder import RunFolder
from charlm.experiments import comparison as on_disk
from charlm.experiments.share import Share
from tests.cli.kept import TEXT, TOY, Charlm, bring, data, refused
from tests.cli.test_compare import VARIED, figures
from tests.ranks import stopped_at, together

FOUR = (*VARIED, "--seeds", "2")
LONG = ("compare", "ducks.txt", "--vary", "position=none,rotary", "--steps", "60", *TOY)
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def whole(charlm: Charlm, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What one process finds, of four runs; its comparison is `both`."""
    bring(charlm, tmp_path_factory, (*FOUR, "--run", "both"))
    return figures(data(charlm("compare", "both", "--json")))


@pytest.mark.parametrize("n", [1, 2, 3, 7])
def test_every_run_is_in_one_share_and_no_share_has_more_than_one_run_more(n: int) -> None:
    shares = [Share(number, n).part("abcd") for number in range(1, n + 1)]
    assert sorted(run for share in shares for run in share) == list(enumerate("abcd", 1))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_shares_one_after_the_other_are_one_comparison_that_the_last_shows(
    charlm: Charlm, whole: dict[str, Any]
) -> None:
    words = (*FOUR, "--run", "shared", "--json")
    first = charlm(*words, "--share", "1/2")
    assert (first.code, first.out) == (0, "") and "unfinished: 2 runs of 4" in first.err
    assert "charlm resume shared" in first.err and not Path("checkpoints/shared/comparison.html").exists()
    assert figures(data(charlm(*words, "--share", "2/2"))) == whole
    assert Path("checkpoints/shared/comparison.html").is_file()
    again = charlm(*words, "--share", "1/2")
    assert (again.code, again.out) == (0, "") and "charlm compare shared" in again.err
    idle = charlm(*words, "--share", "9/9")
    assert (idle.code, idle.out) == (0, "") and "share 9 of 9: no run" in idle.err


def test_ranks_that_begin_at_once_are_one_comparison_that_one_of_them_shows(whole: dict[str, Any]) -> None:
    results = together(3, *FOUR, "--name", "ranks", "--json")
    assert [result.code for result in results] == [0] * 3, results
    [shown] = [result.out for result in results if result.out]
    assert figures(json.loads(shown)) == whole
    assert "share 1 of 3: 2 runs" in results[0].err
    assert not any("share" in result.err for result in results[1:])


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_share_that_was_cut_off_is_resumed(
    charlm: Charlm, tmp_path_factory: pytest.TempPathFactory, number: signal.Signals
) -> None:
    bring(charlm, tmp_path_factory, (*LONG, "--run", "whole"))
    second = on_disk.read(RunFolder(Path("checkpoints/whole"))).tasks()[1]
    [ended] = together(1, *LONG, "--run", "cut", "--share", "2/2", prepare=stopped_at(6, number))
    assert ended.code == (-9 if number == signal.SIGKILL else 130) and not ended.out
    assert ("charlm resume cut" in ended.err) == (number == signal.SIGINT)
    assert [path.name for path in Path("checkpoints/cut").glob("*.seed-1")] == [second.run_name]
    assert figures(data(charlm("resume", "cut", "--json"))) == figures(
        data(charlm("compare", "whole", "--json"))
    )


def test_a_run_that_another_process_trains_is_left_to_it(charlm: Charlm, whole: dict[str, Any]) -> None:
    run = RunFolder(Path("checkpoints/both/position-none.seed-2"))
    (run.path / "result.json").unlink()
    run.lock()
    before = sorted(path.name for path in run.path.iterdir())
    helped = charlm("resume", "both", "--json")
    assert (helped.code, helped.out) == (0, "") and "unfinished: 1 run of 4" in helped.err
    assert "position-none.seed-2 is being trained by another process" in helped.err
    assert sorted(path.name for path in run.path.iterdir()) == before
    run.unlock()
    assert figures(data(charlm("resume", "both", "--json"))) == whole


@pytest.mark.parametrize("share", ["0/2", "3/2", "1/0", "/", "2", "1/2/3", "-1/2", "1/99999", "x"])
def test_a_share_that_cannot_be_is_one_sentence(charlm: Charlm, share: str) -> None:
    Path("ducks.txt").write_text(TEXT)
    refused(charlm(*FOUR, "--run", "x", f"--share={share}"), 2, f"--share is {share!r}", "--array=1-8")
    assert not Path("checkpoints").exists()


def test_what_shares_cannot_do_is_one_sentence(charlm: Charlm, whole: dict[str, Any]) -> None:
    refused(charlm(*FOUR, "--share", "1/2"), 2, "--run NAME")
    refused(charlm(*FOUR, "--ranks", "2"), 2, "--run NAME")
    refused(charlm(*FOUR, "--share", "1/2", "--ranks", "2", "--run", "x"), 2, "--share or --ranks")
    refused(charlm("compare", "both", "--share", "1/2"), 2, "--share has no effect without --vary")
    refused(charlm("compare", "both", "--ranks", "2"), 2, "--ranks has no effect without --vary")
    for words, unlike in (
        ((*VARIED, "--steps", "5", "--seeds", "2"), "time or steps"),
        ((*VARIED, "--seeds", "3"), "seeds"),
        ((*FOUR, "--dropout", "0.3"), "variants or settings"),
        ((*FOUR, "--lowercase"), "text"),
    ):
        refused(charlm(*words, "--run", "both", "--share", "1/2"), 2, "both", f"other {unlike}")
    assert charlm("train", "ducks.txt", "--steps", "1", "--run", "one", *TOY).code == 0
    refused(charlm(*FOUR, "--run", "one", "--share", "1/2"), 2, "one exists already")


def test_the_line_for_a_job_array_runs_as_it_stands(charlm: Charlm, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for few steps and a small model, as two tasks one after the other."""
    Path("corpus.txt").write_text(TEXT)
    [line] = re.findall(r"^charlm (.*SLURM_ARRAY.*)$", (DOCS / "comparing.md").read_text("utf-8"), re.M)
    line = re.sub(r"--steps \d+", "--steps 2", line)
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    shown = []
    for task in ("1", "2"):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
        words = shlex.split(os.path.expandvars(line.replace("--seeds 4", "--seeds 1")))
        result = charlm(*words, *TOY)
        assert result.code == 0, result.err
        shown.append(result.out)
    assert shown[0] == "" and all(name in shown[1] for name in ("none", "learned", "rotary", "alibi"))
