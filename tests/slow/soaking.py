"""A run that saves every two seconds, and a second process that watches what it holds."""

import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from charlm import files
from tests.commands import Command
from tests.conftest import TEXT
from tests.forks import start

SECONDS, THOROUGH_SECONDS = 50, 1800
TRAIN = ("train", "ducks.txt", "--n-layer", "1", "--n-embd", "16", "--n-head", "2", "--block-size", "16")
TRAIN += (
    *("--batch-size", "4", "--threads", "1", "--patience", "0", "--ngram-embeddings", "1"),
    *("--no-prior", "--run", "soak"),
)
TRAIN += ("--save-every", "2", "--steps", "10000000", "--eval-every", "5000")
TRAIN += ("--compile", "off")  # as so many steps would have it: a compiler at work is no leak


@dataclass
class Soak:
    """The two processes."""

    folder: Path
    seconds: int
    child: int
    watcher: int
    finished: bool = False

    @classmethod
    def begin(cls, folder: Path, *, thorough: bool) -> "Soak":
        """Start both."""
        (folder / "ducks.txt").write_text(TEXT)
        seconds = THOROUGH_SECONDS if thorough else SECONDS
        with open(folder / "out", "wb") as out, open(folder / "err", "wb") as err:
            command = Command(
                TRAIN, folder, {"CHARLM_CACHE": str(folder / "cache")}, seconds=4 * seconds + 300
            )
            child = command.begin(out.fileno(), err.fileno())
        return cls(folder, seconds, child, start(lambda: _watch(child, folder, seconds)))

    @property
    def run(self) -> Path:
        """The run's folder."""
        return self.folder / "checkpoints" / "soak"

    def finish(self) -> tuple[int, list[tuple[int, int, int, int]]]:
        """Wait for the end: the run's exit code, and what it held at each look."""
        os.waitpid(self.watcher, 0)
        status = os.waitpid(self.child, 0)[1]
        self.finished = True
        found = json.loads((self.folder / "held.json").read_text())
        return os.waitstatus_to_exitcode(status), [tuple(row) for row in found]

    def end(self) -> None:
        """Both are gone, whatever happened."""
        for process in () if self.finished else (self.watcher, self.child):
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)


def _watch(child: int, folder: Path, seconds: int) -> int:
    run = folder / "checkpoints" / "soak"
    ends = time.monotonic() + 300
    while not list(run.glob("step-*")):
        assert time.monotonic() < ends, (folder / "err").read_text()
        time.sleep(0.05)
    found, begun = [], time.monotonic()
    while (passed := time.monotonic() - begun) < seconds or (
        saves(run) < seconds / 4 and passed < 3 * seconds  # on a busy machine
    ):
        found.append(_held(child, run))
        time.sleep(0.5)
    (folder / "held.json").write_text(json.dumps(found))
    os.kill(child, signal.SIGTERM)
    return 0


def saves(run: Path) -> int:
    """How often it was saved."""
    return (run / "metrics.jsonl").read_bytes().count(b'"Saved"')


def _held(child: int, run: Path) -> tuple[int, int, int, int]:
    """Bytes in memory, descriptors, temporaries and checkpoints."""
    pages = int(Path(f"/proc/{child}/statm").read_text().split()[1])
    return (
        pages * os.sysconf("SC_PAGE_SIZE"),
        len(os.listdir(f"/proc/{child}/fd")),
        len(list(run.glob(files.TEMPORARY + "*"))),
        len(list(run.glob("step-*"))),
    )
