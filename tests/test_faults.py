"""Every call that changes the disk fails once, and is once the last: nothing that was whole is lost."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from charlm import files
from charlm.checkpoint.manifest import CHECKPOINT_FILES, COUNTS, RUN_FILES, read_vouched
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.snapshot import Snapshot, read_newest
from charlm.cli.compress import write as write_compressed
from charlm.config import TextConfig
from charlm.errors import ResourceError
from charlm.listeners import log, report
from charlm.text import cache, codes, corpus, known
from charlm.text.corpus import Corpus, prepare
from charlm.training.loop import Trainer
from charlm.training.plan_file import read_plan, write_plan
from charlm.training.session import Session
from tests.conftest import TEXT, Never, toy_run
from tests.disk import LOSSES, Disk, tree_of
from tests.forks import forked

ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


@dataclass
class Case:
    """Something that writes below a folder, and what must hold whatever became of it."""

    act: Callable[[], object]
    check: Callable[[], object]  # says which of the allowed states was found
    after: Callable[[], object] = lambda: None  # what must hold once it has been done in the end


@dataclass
class Run:
    """A toy run with three checkpoints, and a moment that is still to be saved."""

    path: Path
    session: Session
    next: Snapshot


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[bool, Run]]:
    """Such runs, without counts and with them."""
    text = prepare(TEXT, TextConfig())
    found = {}
    for counts in (False, True):
        root = tmp_path_factory.mktemp("made")
        model = {"counts": True, "counts_order": 2} if counts else {}
        run, session = toy_run(root, text, 3, model=model, eval_every=2, save_every=0.0, patience=0)
        to_log = log.MetricsLog(run.path, 0)
        events = list(Trainer(session, run).run(Never()))
        run.unlock()
        (run.path / ".lock").unlink(missing_ok=True)
        for event in events:
            to_log(event)
        found[counts] = Run(run.path, session, replace(session.snapshot(), step=4))
    yield found


def saving(root: Path, run: Run, step: int, *, best: bool) -> Case:
    """A checkpoint, of a new step or of one that has been saved already."""
    shutil.copytree(run.path, root / "toy")
    folder = RunFolder(root / "toy")
    moment = replace(run.next, step=step, state={**run.next.state, "seconds": 0.5})
    names = (*CHECKPOINT_FILES, *RUN_FILES)
    old = {s: read_vouched(folder.folder(s), names) for s in folder.steps()}
    new = {**moment.files(), **moment.run_files()}

    def act() -> None:
        folder.save(step, moment.files(), moment.run_files(), best=best)

    def check() -> str:
        again = RunFolder(root / "toy")
        again.lock()
        again.unlock()
        assert not list(again.path.glob(files.TEMPORARY + "*"))
        newest = read_newest(again, pytest.fail)
        assert newest.step in (3, step)
        is_new = same(read_vouched(again.folder(newest.step), names), new) and newest.step == step
        assert is_new or same(read_vouched(again.folder(3), names), old[3])
        for pointer in ("latest", "best"):
            read_vouched(again.folder(again.resolve(pointer)), names)
        return "new" if is_new else "old"

    return Case(act, check)


def same(found: dict[str, bytes], wanted: dict[str, bytes]) -> bool:
    return all(found[name] == wanted[name] for name in found)


def beginning(root: Path, run: Run) -> Case:
    """A run's first files, up to its first checkpoint: afterwards it is there, or its name is free."""
    moment = replace(run.next, step=0)
    plan = run.session.plan

    def act() -> None:
        if list(root.glob("toy/step-*")):
            return  # what was refused did not matter
        folder = RunFolder.create(root, "toy")
        try:
            folder.write_run_files(moment.run_files())
            write_plan(folder, plan)
            folder.save(0, moment.files(), moment.run_files(), best=False)
        finally:
            folder.unlock()

    def check() -> str:
        folder = RunFolder(root / "toy")
        if folder.path.is_dir() and folder.steps():
            assert read_newest(folder, pytest.fail).step == 0
            assert read_plan(folder) == plan
            shutil.rmtree(folder.path)  # so that it can be begun again
            return "new"
        RunFolder.create(root, "toy").unlock()
        return "old"

    return Case(act, check)


def one_file(path: Path, write: Callable[[bytes], object], read: Callable[[], object]) -> Case:
    """A file that is replaced."""
    write(b"1")
    old = read()

    def check() -> str:
        now = read()
        files.remove_temporaries(path.parent)
        assert [p for p in path.parent.iterdir() if p.name.startswith(".tmp")] == []
        return "old" if now == old else "new"

    def after() -> None:
        assert read() != old

    return Case(lambda: write(b"2"), check, after)


def planning(root: Path, run: Run) -> Case:
    folder, plan = RunFolder(root), run.session.plan
    return one_file(
        root / "plan.json",
        lambda data: write_plan(folder, plan.decided(decided=data.decode())),
        lambda: read_plan(folder).decisions[-1]["decided"],
    )


def compressed(root: Path, run: Run) -> Case:
    path = root / "text.charlm"
    return one_file(path, lambda data: write_compressed(path, data * 9000), path.read_bytes)


def in_pieces(root: Path, run: Run) -> Case:
    path = root / "bits.jsonl"

    def write(data: bytes) -> None:
        with files.replacing(path) as file:
            for _ in range(3):
                file.write(data * 5000)

    return one_file(path, write, path.read_bytes)


def reporting(root: Path, run: Run) -> Case:
    folder = RunFolder(root)
    path = root / report.NAME
    return one_file(
        path,
        lambda data: report.write_report(folder, run.session, [("try", data.decode())], None),
        path.read_bytes,
    )


def logging(root: Path, run: Run) -> Case:
    """The log is cut back to a step and goes on: whole lines of before, or those that were kept."""
    shutil.copy(run.path / log.NAME, root)
    lines = log.read_log(root)
    kept = [line for line in lines if line["step"] <= 2]

    def act() -> None:
        log.cut_log(root, log.NAME, 2)
        files.append(root / log.NAME, b'{"step": 3, "event": "Again"}\n')

    def check() -> str:
        files.remove_temporaries(root)
        found = log.read_log(root)
        assert found[: len(kept)] == kept
        assert found[len(kept) :] in (lines[len(kept) :], [], [{"step": 3, "event": "Again"}])
        return "old" if found == lines else "new"

    return Case(act, check)


def caching(root: Path, run: Run) -> Case:
    """A text, of which only samples are checked unless the machine was started since."""
    text, config = TEXT[::-1] * 3, TextConfig()

    def act() -> Corpus:
        return prepare(text, config)

    shutil.rmtree(root / "corpora", ignore_errors=True)
    expected = act()
    shutil.rmtree(root / "corpora")

    def check() -> str:
        there = corpus.reopen(expected.key)
        found = act()  # whatever is there is used only if it is whole
        for part in ("train", "held_out"):
            assert np.array_equal(getattr(found, part), getattr(expected, part))
            assert there is None or np.array_equal(getattr(there, part), getattr(expected, part))
        shutil.rmtree(root / "corpora")
        return "old" if there is None else "new"

    return Case(act, check)


def knowing(root: Path, run: Run) -> Case:
    (root / "text.txt").write_text(TEXT)

    def remembered(data: bytes) -> None:
        known.Known([str(root / "text.txt")], TextConfig()).remember(data.decode(), [])

    recall = lambda: known.Known([str(root / "text.txt")], TextConfig()).recall()  # noqa: E731
    case = one_file(next_place(root, remembered), remembered, recall)
    return replace(case, after=lambda: None)  # where it cannot be written it is done without


def next_place(root: Path, write: Callable[[bytes], object]) -> Path:
    write(b"0")
    return next((root / "files").iterdir())


CASES: dict[str, Callable[[Path, dict[bool, Run]], Case]] = {
    "a checkpoint": lambda root, made: saving(root, made[False], 4, best=False),
    "a checkpoint again": lambda root, made: saving(root, made[False], 3, best=False),
    "a best checkpoint with counts": lambda root, made: saving(root, made[True], 4, best=True),
    "a new run": lambda root, made: beginning(root, made[False]),
    "a new run with counts": lambda root, made: beginning(root, made[True]),
    "a plan": lambda root, made: planning(root, made[False]),
    "a report": lambda root, made: reporting(root, made[False]),
    "a compressed file": lambda root, made: compressed(root, made[False]),
    "a file in pieces": lambda root, made: in_pieces(root, made[False]),
    "a log": lambda root, made: logging(root, made[False]),
    "a text in the cache": lambda root, made: caching(root, made[False]),
    "a text that is known": lambda root, made: knowing(root, made[False]),
}
COVERED = ("a checkpoint",)
"""What the others show too, and may wait for the slow tests."""
FEWEST = {"a checkpoint": 24, "a best checkpoint with counts": 36, "a new run": 40}
"""Calls that there are at least: the battery must not become empty unseen."""


@pytest.fixture
def anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[[], Path]:
    """Folders to write below, each for one case; the cache is there, and checks few ids."""
    monkeypatch.setattr(cache, "CHECKED_WHOLE", 64)
    monkeypatch.setattr(cache, "_SAMPLES", 1)
    monkeypatch.setattr(cache, "_SAMPLE", 4)
    monkeypatch.setattr(codes, "IN_MEMORY", 100)
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
    name: str, every: bool, made: dict[bool, Run], anew: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every loss at every call, or one for each in turn."""
    k, found, boots = 0, set(), 0
    while True:
        k += 1
        for how in LOSSES if every else (LOSSES[k % len(LOSSES)],):
            root = anew()
            case = CASES[name](root, made)
            disk = Disk(root, k)
            with disk.watching(monkeypatch):
                case.act()
            ended = disk.calls < k
            if ended:
                disk.close()
                break
            disk.crash(how)
            boots += how != "kept"
            monkeypatch.setattr(files, "boot", lambda boots=boots: f"start {boots}")
            found.add(case.check())
            if how == "dropped":
                case.act()
                case.after()
        if ended:
            break
    assert k > FEWEST.get(name, 4), disk.log
    assert found == {"old", "new"} or not every or name == "a text that is known", (
        "both sides of the moment it is done"
    )


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["one", "every"])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in COVERED else ()) for n in CASES]
)
def test_an_error_at_any_call_leaves_the_old_or_the_new(
    name: str, every: bool, made: dict[bool, Run], anew: Callable[[], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any OSError, once or from then on, at every call; no other error comes of it."""
    k = 0
    while True:
        k += 1
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
    assert k > FEWEST.get(name, 4), disk.log


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
    assert made[True].next.counts and (made[True].path / COUNTS).is_file()


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
