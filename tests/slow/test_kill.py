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
    *("train", "ducks.txt", "--steps", "1500", "--n-layer", "1", "--n-embd", "16", "--n-head", "2"),
    *(
        "--block-size",
        "16",
        "--batch-size",
        "4",
        "--threads",
        "1",
        "--save-every",
        "0.05",
        "--dropout",
        "0.1",
    ),
    *("--patience", "0", "--eval-every", "400"),
]


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


def test_killed_at_random_and_resumed_it_ends_the_same(folder: Path) -> None:
    rng = random.Random(1)
    process = start(folder, *TRAIN, "--run", "killed")
    for _ in range(8):
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


def test_a_comparison_killed_at_random_and_resumed_ends_the_same(folder: Path) -> None:
    compare = ["compare", "ducks.txt", "--vary", "position=none,rotary", "--steps", "400", *TRAIN[4:]]
    code, _, err = finish(folder, *compare, "--run", "whole-comparison")
    assert code == 0, err
    rng = random.Random(2)
    process = start(folder, *compare, "--run", "killed-comparison")
    root = folder / "checkpoints" / "killed-comparison"
    for _ in range(6):
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


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_saves_says_how_to_go_on_and_gives_its_code(folder: Path, name: str, code: int) -> None:
    run = name.lower()
    process = start(folder, *TRAIN, "--run", run)
    wait_for_steps(process, folder, run, 50)
    process.send_signal(getattr(signal, name))
    out, err = process.communicate()
    assert process.returncode == code
    assert "finishing step" in err and f"charlm resume {run}" in err
    assert "Traceback" not in err
    assert out.splitlines()[0].split() == ["run", run], "results only on standard output"
    assert finish(folder, "resume", run)[0] == 0
    assert weights(folder, run) == weights(folder, "whole")


def test_a_signal_ends_a_comparison_with_its_code_and_the_way_to_go_on(folder: Path) -> None:
    compare = [
        "compare",
        "ducks.txt",
        "--vary",
        "position=none,rotary",
        *TRAIN[2:],
        "--checkpoints",
        "elsewhere",
    ]
    process = start(folder, *compare, "--run", "stopped")
    wait_for(process, lambda: list((folder / "elsewhere").glob("stopped/*/metrics.jsonl")))
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130 and out == ""
    assert "resume with: charlm resume stopped --checkpoints elsewhere" in err and "Traceback" not in err


@pytest.mark.parametrize("closed", ["0", "1", "2"])
def test_closed_streams_end_nothing(folder: Path, closed: str) -> None:
    command = f"{sys.executable} -m charlm sample --run whole --length 20 {closed}>&-"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == 0
