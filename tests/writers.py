"""All that charlm writes, each as a case of the fault batteries: how it is written, and what must hold then."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

from charlm import files
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.safe_io import CHECKPOINT_FILES, RUN_FILES, read_verified
from charlm.checkpoint.snapshot import Snapshot, read_newest
from charlm.cli.console import Output
from charlm.config import ModelConfig, TrainingConfig
from charlm.data import corpus, shards
from charlm.data import corpus_cache as known
from charlm.data.corpus import Corpus
from charlm.data.load import load
from charlm.data.prepare import prepare
from charlm.data.text_config import TextConfig
from charlm.experiments import results as result
from charlm.inspection.health import machine
from charlm.reporting import log
from charlm.reporting import run_page as report
from charlm.training.events import Skipped
from charlm.training.launch import resume_run, start_run
from charlm.training.ngram_session import NgramSession
from charlm.training.plan import read_plan, write_plan
from charlm.training.planner import choose
from charlm.training.session import TransformerSession
from charlm.training.sizes import Budget
from charlm.training.trainer import Trainer
from tests.conftest import TEXT, Never, toy_run
from tests.disk import tree_of


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
    session: TransformerSession
    next: Snapshot


def unexpected(said: str) -> None:
    """Nothing is damaged here, so nothing is passed over."""
    raise AssertionError(said)


def toy_runs(root: Path) -> dict[bool, Run]:
    """Such runs, without counts and with them."""
    text, found = prepare(TEXT, TextConfig()), {}
    for counts in (False, True):
        model = {"prior": True, "prior_order": 2} if counts else {}
        name = f"made-{counts}"
        run, session = toy_run(root, text, 3, name, model=model, eval_every=2, save_every=0.0, patience=0)
        to_log = log.MetricsLog(run.path, 0)
        events = list(Trainer(session, run).run(Never()))
        run.unlock()
        (run.path / ".lock").unlink(missing_ok=True)
        for event in events:
            to_log(event)
        found[counts] = Run(run.path, session, replace(session.snapshot(), step=4))
    return found


def saving(root: Path, run: Run, step: int, *, best: bool) -> Case:
    """A checkpoint, of a new step or of one that has been saved already."""
    shutil.copytree(run.path, root / "toy")
    folder = RunFolder(root / "toy")
    moment = replace(run.next, step=step, state={**run.next.state, "step": step, "seconds": 0.5})
    names = (*CHECKPOINT_FILES, *RUN_FILES)
    old = {s: read_verified(folder.folder(s), names) for s in folder.steps()}
    new = {**moment.files(), **moment.run_files()}

    def act() -> None:
        folder.save(step, moment.files(), moment.run_files(), best=best)

    def check() -> str:
        again = RunFolder(root / "toy")
        again.lock()
        again.unlock()
        assert not list(again.path.glob(files.TEMPORARY + "*"))
        newest = read_newest(again, unexpected)
        assert newest.step in (3, step)
        is_new = same(read_verified(again.folder(newest.step), names), new) and newest.step == step
        assert is_new or same(read_verified(again.folder(3), names), old[3])
        for pointer in ("latest", "best"):
            read_verified(again.folder(again.resolve(pointer)), names)
        return "new" if is_new else "old"

    return Case(act, check)


def same(found: dict[str, bytes], wanted: dict[str, bytes]) -> bool:
    return all(found[name] == wanted[name] for name in found)


def beginning(root: Path, run: Run) -> Case:
    """A run's first files, up to its first checkpoint: afterwards it is there, or its name is free."""
    moment = replace(run.next, step=0, state={**run.next.state, "step": 0})
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
            assert read_newest(folder, unexpected).step == 0
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
        lambda data: write_plan(folder, plan.record(decided=data.decode())),
        lambda: read_plan(folder).decisions[-1]["decided"],
    )


def compressed(root: Path, run: Run) -> Case:
    path = root / "text.charlm"
    return one_file(path, lambda data: Output("-o", str(path)).write([data * 9000]), path.read_bytes)


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
    path = root / log.METRICS
    shutil.copy(run.path / log.METRICS, root)
    rows, more = log.read_log(path), Skipped(step=3)
    kept = [row for row in rows if row.step <= 2]

    def act() -> None:
        log.MetricsLog(root, 2)(more)

    def check() -> str:
        files.remove_temporaries(root)
        found = log.read_log(path)
        assert found[: len(kept)] == kept
        assert found[len(kept) :] in (rows[len(kept) :], [], [more])
        return "old" if found == rows else "new"

    return Case(act, check)


def caching(root: Path, config: TextConfig, shard_chars: int = shards.SHARD_CHARS) -> Case:
    """A text, of which only samples are checked unless it has one shard and the machine was started since."""
    text = TEXT[::-1] * 3

    def act() -> Corpus:
        with patch.object(shards, "SHARD_CHARS", shard_chars):
            return prepare(text, config)

    shutil.rmtree(root / "corpora", ignore_errors=True)
    expected = act()
    shutil.rmtree(root / "corpora")

    def check() -> str:
        there = corpus.reopen(expected.key)
        found = act()  # whatever is there is used only if it is whole
        for part in ("train", "held_out", "test"):
            assert np.array_equal(getattr(found, part)[:], getattr(expected, part)[:])
            assert there is None or np.array_equal(getattr(there, part)[:], getattr(expected, part)[:])
        assert found.ends == expected.ends and (there is None or there.ends == expected.ends)
        shutil.rmtree(root / "corpora")
        return "old" if there is None else "new"

    return Case(act, check)


def knowing(root: Path, run: Run) -> Case:
    (root / "text.txt").write_text(TEXT)

    def remembered(data: bytes) -> None:
        known.Fingerprints([str(root / "text.txt")], TextConfig()).remember(data.decode(), [])

    recall = lambda: known.Fingerprints([str(root / "text.txt")], TextConfig()).recall()  # noqa: E731
    case = one_file(next_place(root, remembered), remembered, recall)
    return replace(case, after=lambda: None)  # where it cannot be written it is done without


def next_place(root: Path, write: Callable[[bytes], object]) -> Path:
    write(b"0")
    return next((root / "files").iterdir())


def counting_alone(root: Path) -> Case:
    """A run of counts alone, begun, counted, scored and saved: it is complete then, or can be begun again."""
    (root / "ducks.txt").write_text(TEXT)
    sources = [str(root / "ducks.txt")]
    choice = choose(
        Budget(), len(TEXT), ModelConfig(model="ngram", prior_order=2), TrainingConfig(prior_chars=999)
    )
    choice = replace(choice, plan=choice.plan.record(decided="size", at_step=0))
    loaded = load(sources, TextConfig())
    shutil.rmtree(root / "files")  # so that nothing but the run is written
    expected = NgramSession(loaded.corpus, choice.model, choice.training, choice.plan, {}).ngram

    def act() -> None:
        if list(root.glob("toy/step-*")):
            return
        folder = RunFolder.create(root, "toy")
        try:
            session = start_run(folder, loaded, TextConfig(), choice, "charlm train --model ngram")
            list(Trainer(session, folder).run(Never()))
        finally:
            folder.unlock()

    def check() -> str:
        folder = RunFolder(root / "toy")
        begun = folder.path.is_dir() and bool(folder.steps())
        if begun:
            session = resume_run(folder, unexpected)
            assert isinstance(session, NgramSession) and session.ngram == expected
            assert session.state.finished == "done"
            assert not list(folder.path.glob(files.TEMPORARY + "*"))
            folder.unlock()
        else:
            RunFolder.create(root, "toy").unlock()
        shutil.rmtree(folder.path)
        return "new" if begun else "old"

    return Case(act, check)


def resulting(root: Path, run: Run) -> Case:
    """What a run of a comparison came to: both of its files, or as good as none."""
    folder, whole = RunFolder(root), run.session
    assert isinstance(whole, TransformerSession)
    snapshot: Snapshot = whole.snapshot()
    saved = RunFolder(run.path).folder(snapshot.step)
    shutil.copytree(saved, root / saved.name)  # whose weights the result is bound to

    def act() -> None:
        result.score(folder, snapshot, "latest", whole, Never(), "toy")

    act()
    expected = result.read_nats(folder, result.read_result(folder))
    for name in (result.NAME, result.NATS):
        (root / name).unlink()

    def check() -> str:
        files.remove_temporaries(root)
        assert not [p for p in root.iterdir() if p.name.startswith(".tmp")]
        there = result.find_result(folder, "toy") is not None
        if there:
            assert np.array_equal(result.read_nats(folder, result.read_result(folder)), expected)
            (root / result.NAME).unlink()
        return "new" if there else "old"

    return Case(act, check)


def probing(root: Path) -> Case:
    """The doctor's look at a place: whatever fails, nothing stays there, or the next start clears it up."""
    (root / "kept").write_bytes(b"1")

    def act() -> None:
        for place in machine(root).places:
            if place.problem is not None:
                raise OSError(place.problem)

    def check() -> str:
        left = bool(list(root.glob(files.TEMPORARY + "*")))
        files.remove_temporaries(root)
        assert tree_of(root) == {"kept": b"1"}
        return "new" if left else "old"

    def after() -> None:
        assert tree_of(root) == {"kept": b"1"}, "where nothing is refused nothing is left"

    return Case(act, check, after)


APART = TextConfig(documents="line", split="documents", val=0.2, test=0.2)


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
    "a text in the cache": lambda root, made: caching(root, TextConfig()),
    "a text in shards": lambda root, made: caching(root, TextConfig(), 4_000),
    "documents in the cache": lambda root, made: caching(root, APART),
    "counts alone": lambda root, made: counting_alone(root),
    "a result": lambda root, made: resulting(root, made[False]),
    "the doctor's probe": lambda root, made: probing(root),
    "a text that is known": lambda root, made: knowing(root, made[False]),
}
COVERED = ("a checkpoint", "a new run", "a text in the cache", "documents in the cache")
"""What the others show too, and may wait for the slow tests."""
FEWEST = {"a checkpoint": 24, "a best checkpoint with counts": 36, "a new run": 40, "counts alone": 40}
"""Calls that there are at least: the battery must not become empty unseen."""
ONE_STATE = ("a text that is known", "the doctor's probe")
"""What is not always found in both states: it may be done without."""
FLEETING = ("a log", "a text in the cache", "documents in the cache", "the doctor's probe")
"""What the disk is not waited for: it may be gone after a crash, or whole."""
