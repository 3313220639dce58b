"""A disk that is really full: a small file system in memory where it may be mounted, else a limit on files."""

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from charlm.training import trainer as loop
from tests.commands import Command
from tests.slow.test_torture import TRAIN, run_of, weights

pytestmark = pytest.mark.slow


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path | None]:
    """A file system of 8 MB; None where none may be mounted."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = (
        shutil.which("mount")
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True
        ).returncode
    )
    yield place if mounted else None
    if mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def full_from(step: int, fill: Callable[[], None]) -> Callable[[], None]:
    """In the child: from that step on nothing more can be written."""

    def arrange() -> None:
        real = loop.train_step

        def train_step(session, rates):  # type: ignore[no-untyped-def]
            if session.state.step == step:
                fill()
            return real(session, rates)

        loop.train_step = train_step

    return arrange


def fill_up(folder: Path) -> None:
    with open(folder / "ballast", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def limit_files() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))


def test_training_goes_on_says_so_and_can_be_gone_on_with(tmp_path: Path, small: Path | None) -> None:
    folder = small or tmp_path
    (folder / "ducks.txt").write_text("over the hills and far away, the little ducks\n" * 100)
    assert Command((*TRAIN, "--run", "whole"), folder).run().code == 0
    hash_of_whole = weights(folder, "whole")
    shutil.rmtree(folder / "checkpoints")
    fill = (lambda: fill_up(folder)) if small else limit_files
    command = Command((*TRAIN, "--run", "full"), folder, before=full_from(10, fill))
    with open(tmp_path / "err", "wb") as err, open(os.devnull, "wb") as nowhere:
        child = command.begin(nowhere.fileno(), err.fileno())
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said = (tmp_path / "err").read_text()
    assert code == 6 and "Traceback" not in said, said
    assert said.count("could not be saved") == 1, "it is said once"
    run = run_of(folder, "full")
    assert 0 < run.steps()[-1] <= 11 and not list(run.path.glob(".tmp-*"))
    (folder / "ballast").unlink(missing_ok=True)
    done = Command(("resume", "full"), folder).run()
    assert done.code == 0, done.err
    assert weights(folder, "full") == hash_of_whole
