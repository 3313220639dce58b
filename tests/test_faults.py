"""Every call that changes the disk fails once, and is once the last: nothing that was whole is lost."""

import errno
import os
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from charlm import files
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.safe_io import NGRAM_FILE
from charlm.checkpoint.snapshot import read_newest
from charlm.data import encode, shards
from charlm.errors import ResourceError
from tests.disk import LOSSES, Disk, tree_of
from tests.forks import forked
from tests.writers import CASES, COVERED, FEWEST, FLEETING, ONE_STATE, Run, toy_runs

NEVER = 1 << 30
SHARE = 0.35
ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Run]:
    return toy_runs(tmp_path_factory.mktemp("made"))


@pytest.fixture
def anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[[], Path]:
    """Folders to write below, each for one case; the cache is there, and checks few ids."""
    monkeypatch.setattr(shards, "CHECKED_WHOLE", 64)
    monkeypatch.setattr(shards, "_SAMPLES", 1)
    monkeypatch.setattr(shards, "_SAMPLE", 4)
    monkeypatch.setattr(encode, "IN_MEMORY", 100)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # the disk of these tests is imagined
    number = 0

    def folder() -> Path:
        nonlocal number
        shutil.rmtree(tmp_path / str(number), ignore_errors=True)
        number += 1
        made = tmp_path / str(number)
        made.mkdir()
        monkeypatch.setenv("CHARLM_CACHE", str(made))
        return made

    return folder


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["one", "every"])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in COVERED else ()) for n in CASES]
)
def test_a_crash_after_any_call_leaves_the_old_or_the_new(
    name: str,
    every: bool,
    made: dict[bool, Run],
    anew: Callable[[], Path],
    monkeypatch: pytest.MonkeyPatch,
    rng: random.Random,
    thorough: bool,
) -> None:
    """With every loss at every call, or one for each in turn; and with each once it was done.

    Unless it is thorough, every one is tried at the first call and at some others, drawn each time.
    """
    case = CASES[name](root := anew(), made)
    disk = Disk(root, NEVER)
    with disk.watching(monkeypatch):
        case.act()
    disk.close()
    found, boots = set(), 0
    for k in range(1, disk.calls + 2):
        is_done = k > disk.calls
        if every and not thorough and 1 < k <= disk.calls and rng.random() > SHARE:
            continue
        for how in LOSSES if every or is_done else (LOSSES[k % len(LOSSES)],):
            root = anew()
            case = CASES[name](root, made)
            crashing = Disk(root, k)
            with crashing.watching(monkeypatch):
                case.act()
            assert (crashing.calls < k) == is_done, "each time the same calls"
            crashing.crash(how)
            boots += how != "kept"
            monkeypatch.setattr(files, "boot", lambda boots=boots: f"start {boots}")
            state = case.check()
            assert state == "new" or not is_done or name in FLEETING, f"what is done stays: {how}"
            found.add(state)
            if how == "dropped":
                case.act()
                case.after()
    assert disk.calls >= FEWEST.get(name, 4), disk.log
    assert found == {"old", "new"} or not every or name in ONE_STATE, "both sides of the moment it is done"


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["one", "every"])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in COVERED else ()) for n in CASES]
)
def test_an_error_at_any_call_leaves_the_old_or_the_new(
    name: str,
    every: bool,
    made: dict[bool, Run],
    anew: Callable[[], Path],
    monkeypatch: pytest.MonkeyPatch,
    rng: random.Random,
    thorough: bool,
) -> None:
    """Any OSError, once or from then on, at every call; no other error comes of it."""
    k = 0
    while True:
        k += 1
        if every and not thorough and k > 1 and rng.random() > SHARE:
            continue
        both = [(ERRORS[k % len(ERRORS)], False), (errno.ENOSPC, True)]
        for number, lasting in both if every else (both[k % 2],):
            root = anew()
            case = CASES[name](root, made)
            disk = Disk(root, k, number, lasting=lasting)
            with disk.watching(monkeypatch), suppress(OSError, ResourceError):
                case.act()
            disk.close()
            if disk.calls < k:
                break
            if not lasting:
                case.act()  # the next attempt succeeds, without a new start
            case.check()
            case.act()
            case.after()
        if disk.calls < k:
            break
    assert k >= FEWEST.get(name, 4), disk.log


@pytest.mark.parametrize("name", ["a checkpoint", "a best checkpoint with counts", "a checkpoint again"])
def test_an_error_leaves_the_checkpoints_before_as_they_were_to_the_byte(
    name: str, made: dict[bool, Run], anew: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    k = 0
    while True:
        k += 1
        root = anew()
        case = CASES[name](root, made)
        before = tree_of(root / "toy" / "step-00000002")
        disk = Disk(root, k, errno.EIO)
        failed = False
        with disk.watching(monkeypatch):
            try:
                case.act()
            except OSError:
                failed = True
        disk.close()
        if failed:
            assert tree_of(root / "toy" / "step-00000002") == before
            left = [path.name for path in (root / "toy").glob(files.TEMPORARY + "*")]
            assert set(left) <= {files.ASIDE + "step-00000003"}, (
                "only what the disk may not have in place yet"
            )
        if disk.calls < k:
            break


def test_counts_of_a_run_are_vouched_for(made: dict[bool, Run]) -> None:
    """The battery above has them: without, it would prove nothing of tables."""
    assert made[True].next.ngram and (made[True].path / NGRAM_FILE).is_file()


@pytest.mark.skipif(os.name == "nt", reason="limits of POSIX")
def test_a_real_limit_on_the_size_of_files_is_said_and_takes_nothing(
    made: dict[bool, Run], tmp_path: Path
) -> None:
    """RLIMIT_FSIZE, in a process of its own: the save fails, the checkpoint before stays."""
    import resource
    import signal

    shutil.copytree(made[False].path, tmp_path / "toy")
    moment = replace(made[False].next, step=4)

    def limited() -> str:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            RunFolder(tmp_path / "toy").save(4, moment.files(), moment.run_files(), best=False)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "saved"

    assert forked(limited) == "EFBIG"
    assert read_newest(RunFolder(tmp_path / "toy"), pytest.fail).step == 3
    assert not list((tmp_path / "toy").glob(files.TEMPORARY + "*"))
