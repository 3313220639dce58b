"""Whole commands, with every call that changes the disk refused once, and being once the last."""

import errno
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

import pytest

from charlm import files
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.snapshot import read_snapshot
from charlm.cli.main import run as main
from charlm.data import encode
from tests.conftest import TEXT
from tests.disk import LOSSES, Disk
from tests.test_faults import ERRORS

pytestmark = pytest.mark.slow

SHAPE = ("--n-layer", "1", "--n-embd", "16", "--n-head", "2", "--block-size", "16", "--batch-size", "4")
TOY = (
    *SHAPE,
    *("--threads", "1", "--ngram-embeddings", "1", "--no-prior", "--compile", "off"),
    *("--save-every", "0"),
)
COMMANDS = {
    "a transformer": ("train", "ducks.txt", *TOY, "--steps", "1", "--documents", "line"),
    "counts alone": ("train", "ducks.txt", "--model", "ngram", "--prior-order", "2"),
}
STRIDE = 3


def charlm(*words: str) -> int:
    sys.argv = ["charlm", *words]
    return main(perf_counter())


@pytest.fixture
def anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Path]]:
    """A folder to work in with a text and a cache of its own, always in the same place."""
    words, place, here = sys.argv, tmp_path / "here", Path.cwd()
    monkeypatch.setattr(encode, "IN_MEMORY", 100)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # the disk of these tests is imagined
    monkeypatch.setenv("CHARLM_CACHE", str(place / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))

    def folder() -> Path:
        os.chdir(tmp_path)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        os.chdir(place)
        (place / "ducks.txt").write_text(TEXT)
        return place

    yield folder
    os.chdir(here)
    sys.argv = words


def outcome() -> tuple[str, dict[str, object]]:
    """What a run has come to: how it ended, and every number that it learned."""
    snapshot = read_snapshot(RunFolder(Path("checkpoints/toy")), "latest", training=True)
    learned = {**snapshot.weights, **snapshot.optimizer}
    numbers: dict[str, object] = {name: tensor.numpy().tobytes() for name, tensor in learned.items()}
    return str(snapshot.finished), {**numbers, "counts": snapshot.ngram}


def carried_on(train: tuple[str, ...]) -> None:
    """Do what the messages say: resume what was saved, begin again what was not, until it is done."""
    for _ in range(3):
        begun = bool(list(Path("checkpoints").glob("toy/step-*")))
        if begun and outcome()[0] == "done":
            return
        assert charlm(*(("resume", "toy") if begun else train)) == 0
    raise AssertionError("it never ends")


@pytest.mark.parametrize("how", ["crash", "error"])
@pytest.mark.parametrize("name", COMMANDS)
def test_it_ends_with_the_same_weights(
    name: str,
    how: str,
    anew: Callable[[], Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    thorough: bool,
) -> None:
    """At every call, or at every third one, other ones each time; a failure says at which."""
    train = (*COMMANDS[name], "--run", "toy")
    anew()
    assert charlm(*train) == 0
    stride = 1 if thorough else STRIDE
    expected, k = outcome(), random.randrange(stride) + 1 - stride
    while True:
        k += stride
        place = anew()
        number, lasting = (ERRORS[k // 2 % len(ERRORS)], False) if k % 2 else (errno.ENOSPC, True)
        disk = Disk(place, k, number if how == "error" else None, lasting=lasting)
        code = None
        capfd.readouterr()
        with disk.watching(monkeypatch):
            code = charlm(*train)
        said = capfd.readouterr().err
        assert "Traceback" not in said and "a bug in charlm" not in said, (k, disk.log[-3:], said)
        ended = disk.calls < k
        if how == "error" or ended:
            disk.close()
            assert code in (0, 6), (k, disk.log[-3:], said)
            assert code == 6 or outcome() == expected, "whoever is told nothing has it"
        else:
            disk.crash(LOSSES[k % len(LOSSES)])
            monkeypatch.setattr(files, "boot", lambda k=k: f"start {k}")
        carried_on(train)
        assert outcome() == expected, k
        run = RunFolder(place / "checkpoints" / "toy")
        run.lock()  # the next start
        run.unlock()
        assert not list(run.path.glob(files.TEMPORARY + "*"))
        if ended:
            break
    assert k > 60, disk.log
    print(f"{name}, {how}: {k - 1} calls")
