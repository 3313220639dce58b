"""A run that saves again and again takes no more memory, descriptors or names than at its beginning."""

import os
import signal
import time
from pathlib import Path

import pytest

if not Path("/proc/self/fd").is_dir():
    pytest.skip("counts what a process holds by /proc", allow_module_level=True)

from charlm import files
from tests.commands import Command
from tests.conftest import TEXT
from tests.slow.test_torture import TOY

pytestmark = pytest.mark.slow

SECONDS, THOROUGH_SECONDS = 120, 1800
GROWTH = 8 << 20


def held(child: int, run: Path) -> tuple[int, int, int, int]:
    """Bytes in memory, descriptors, temporaries and checkpoints."""
    pages = int(Path(f"/proc/{child}/statm").read_text().split()[1])
    temporaries = list(run.glob(files.TEMPORARY + "*"))
    return (
        pages * os.sysconf("SC_PAGE_SIZE"),
        len(os.listdir(f"/proc/{child}/fd")),
        len(temporaries),
        len(list(run.glob("step-*"))),
    )


def test_saving_every_two_seconds_nothing_grows(tmp_path: Path, thorough: bool) -> None:
    (tmp_path / "ducks.txt").write_text(TEXT)
    train = (
        "train",
        "ducks.txt",
        *TOY,
        "--no-counts",
        "--save-every",
        "2",
        "--steps",
        "10000000",
        "--run",
        "soak",
    )
    with open(tmp_path / "out", "wb") as out, open(tmp_path / "err", "wb") as err:
        child = Command((*train, "--eval-every", "5000"), tmp_path).begin(out.fileno(), err.fileno())
    run = tmp_path / "checkpoints" / "soak"
    while not list(run.glob("step-*")):
        time.sleep(0.05)
    found = []
    ends = time.monotonic() + (THOROUGH_SECONDS if thorough else SECONDS)
    while time.monotonic() < ends:
        found.append(held(child, run))
        time.sleep(0.5)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143, (tmp_path / "err").read_text()
    quarter = len(found) // 4
    early, late = found[quarter : 2 * quarter], found[-quarter:]
    memory, descriptors, temporaries, checkpoints = zip(*found[quarter:], strict=True)
    print(f"memory {min(memory) / 1e6:.1f} to {max(memory) / 1e6:.1f} MB, descriptors {set(descriptors)}")
    assert max(row[0] for row in late) <= max(row[0] for row in early) + GROWTH
    assert max(row[1] for row in late) <= max(row[1] for row in early)
    assert max(temporaries) <= 2 and max(checkpoints) <= 5
    assert not list(run.glob(files.TEMPORARY + "*"))
    saves = (run / "metrics.jsonl").read_bytes().count(b'"Saved"')
    assert saves >= (THOROUGH_SECONDS if thorough else SECONDS) / 2 * 0.5
