"""Real processes: killed at any moment, gone on with, ending with the same weights."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.kept import within
from tests.conftest import TEXT

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="sends POSIX signals")]

TRAIN = [
    *("train", "ducks.txt", "--steps", "1000", "--n-layer", "1", "--n-embd", "16", "--n-head", "2"),
    *("--block-size", "16", "--batch-size", "4", "--threads", "1", "--save-every", "0.05"),
    *("--dropout", "0.1", "--patience", "0", "--eval-every", "400"),
]
KILLS = {False: 4, True: 20}


def start(folder: Path, *args: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, "-m", "charlm", *args],
        cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", **within(),
    )  # fmt: skip


def finish(folder: Path, *args: str) -> tuple[int, str, str]:
    process = start(folder, *args)
    out, err = process.communicate()
    return process.returncode, out, err


def weights(folder: Path, run: str) -> str:
    return str(json.loads(finish(folder, "info", run, "--json")[1])["weights_sha256"])


def wait_for(process: subprocess.Popen[str], there: Callable[[], object]) -> None:
    """Until that is so; an error, with what it said, where the process ends before, which it does in the end."""
    while not there():
        assert process.poll() is None or there(), (process.returncode, process.communicate())
        time.sleep(0.01)


def wait_for_steps(process: subprocess.Popen[str], folder: Path, run: str, steps: int) -> None:
    log = folder / "checkpoints" / run / "metrics.jsonl"
    wait_for(process, lambda: log.exists() and log.read_text().count('"Stepped"') >= steps)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a text, and the run `whole` that was never interrupted."""
    folder = tmp_path_factory.mktemp("kill")
    (folder / "ducks.txt").write_text(TEXT)
    code, _, err = finish(folder, *TRAIN, "--run", "whole")
    assert code == 0, err
    return folder


def test_killed_at_random_and_resumed_it_ends_the_same(
    folder: Path, rng: random.Random, thorough: bool
) -> None:
    process = start(folder, *TRAIN, "--run", "killed")
    for _ in range(KILLS[thorough]):
        wait_for_steps(process, folder, "killed", 1)
        time.sleep(rng.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        process = start(folder, "resume", "killed")
        time.sleep(rng.uniform(1.5, 3.0))
        if process.poll() is not None:
            break
    process.communicate()
    if process.returncode != 0:
        assert finish(folder, "resume", "killed")[0] == 0
    assert weights(folder, "killed") == weights(folder, "whole")
    assert not list((folder / "checkpoints" / "killed").glob(".tmp-*"))


def test_a_comparison_killed_at_random_and_resumed_ends_the_same(
    folder: Path, rng: random.Random, thorough: bool
) -> None:
    compare = ["compare", "ducks.txt", "--vary", "position=none,rotary", "--steps", "300", *TRAIN[4:]]
    code, _, err = finish(folder, *compare, "--run", "whole-comparison")
    assert code == 0, err
    process = start(folder, *compare, "--run", "killed-comparison")
    root = folder / "checkpoints" / "killed-comparison"
    for _ in range(KILLS[thorough]):
        wait_for(process, (root / "comparison.json").exists)
        time.sleep(rng.uniform(0, 2.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        process = start(folder, "resume", "killed-comparison")
    assert process.communicate()[0].startswith("position")
    for run in ("position-none.seed-1", "position-rotary.seed-1"):
        hashes = [
            json.loads(finish(folder, "info", run, "--json", "--checkpoints", f"checkpoints/{name}")[1])[
                "weights_sha256"
            ]
            for name in ("whole-comparison", "killed-comparison")
        ]
        assert hashes[0] == hashes[1]
