"""Damaged records through every command that reads them: a sentence and its code, or the record is skipped and counted."""

import json
import os
import random
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from charlm.checkpoint import safe_io
from charlm.checkpoint.run_folder import RunFolder
from tests.commands import Command, Done
from tests.conftest import TEXT, Result
from tests.forks import permissions_bind
from tests.hostile import JSON

TOY = (
    *("--n-embd", "16", "--n-head", "2", "--block-size", "8", "--batch-size", "2", "--threads", "1"),
    *("--eval-every", "2", "--eval-chars", "200"),
)
RECORDS = ("metrics.jsonl", "samples.jsonl")
VALUES: tuple[Any, ...] = (
    None, "", "x", "1", "\x00", "\ud800", "\x1b[2J", "a" * 5000, "../..", [], [0], [[]], {}, {"a": 1}, True, False,
    0, -1, 1, 0.5, 1e308, 2**31, 2**63, 2**64, 10**400, -(10**400),
)  # fmt: skip
RAW = (
    *(b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 5000, b"[" * 100_000, b'{"a":1,"a":2}', b"0x10", b"\x00"),
    *(b'"\xff\xfe"', b"[" * 600 + b"]" * 600, b'{"a":' * 600 + b"1" + b"}" * 600, b""),
)  # fmt: skip
OF_RUN = (
    *("runs", "runs --json", "info toy", "info toy --json", "sample --run toy --length 3", "eval --run toy"),
    *("doctor toy", "resume toy", "compare toy twin", "compress t.txt --run toy -o t.clm"),
    "train more.txt --from toy --run new --steps 1",
)
OF_COMPARISON = ("compare cp", "compare cp --json", "resume cp", "runs", "doctor cp", "sample --run cp")
OF_CACHE = ("cache", "cache --json", "eval --run toy", "train t.txt --dry-run", "compare cp")


class Place:
    """A folder with a run, a comparison and a cache, as they were made."""

    def __init__(self, made: Path, here: Path, run: Callable[..., Result]) -> None:
        self.made, self.here, self.run = made, here, run

    def charlm(self, words: str, *more: str, bound: bool = False) -> Result:
        """A command in it; permissions may bind it."""
        with permissions_bind() if bound else nullcontext():
            return self.run(*words.split(), *more)

    def child(self, words: str) -> Done:
        """A command in a child, which is ended after some seconds: it may train on and on, since a record says so."""
        place = {"CHARLM_CACHE": str(self.here / "cache")}
        return Command(tuple(words.split()), self.here, place, seconds=3).run()

    def restore(self) -> None:
        """All as it was made."""
        shutil.rmtree(self.here, ignore_errors=True)
        shutil.copytree(self.made, self.here, symlinks=True)
        os.chdir(self.here)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    (folder / "t.txt").write_text(TEXT * 2)
    (folder / "more.txt").write_text(TEXT[:2000].replace("duck", "goose"))
    for words in (
        f"train t.txt --run toy --steps 4 --n-layer 1 --prior --prior-order 2 {' '.join(TOY)}",
        f"compare t.txt --run cp --vary n_layer=1,2 --steps 3 {' '.join(TOY)}",
    ):
        done = Command(tuple(words.split()), folder, {"CHARLM_CACHE": str(folder / "cache")}).run()
        assert done.code == 0, done.err
    for left in (".out", ".err"):
        (folder / left).unlink()
    shutil.copytree(folder / "checkpoints/toy", folder / "checkpoints/twin")
    return folder


@pytest.fixture
def place(
    made: Path, tmp_path: Path, charlm: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> Place:
    found = Place(made, tmp_path / "here", charlm)
    monkeypatch.setenv("CHARLM_CACHE", str(found.here / "cache"))
    found.restore()  # `charlm` goes back from there
    return found


def judge(done: Done | Result, words: str, what: object = "") -> None:
    """A result, or one sentence and its code; never a bug of ours."""
    if done.code == -signal.SIGALRM:
        return
    assert done.code in (0, 2, 3, 4, 6), (what, words, done.code, done.err)
    assert "a bug in charlm" not in done.err and "Traceback" not in done.err, (what, words, done.err)
    errors = done.err.count("error: ")
    assert errors == (done.code != 0) or (words.startswith("doctor") and not errors), (what, words, done.err)
    assert "\x1b[2J" not in done.err, what


# --- mutations of every file ---------------------------------------------------------------------


def files_of(place: Place) -> list[Path]:
    """Every file with records or facts, of the run, the comparison and the cache."""
    kinds = (".json", ".jsonl")
    found = [p for p in place.here.rglob("*") if p.suffix in kinds or p.name in ("latest", "best")]
    return sorted(found)


def mutated(data: bytes, name: str, rng: random.Random) -> bytes:
    """The file with one value, or some bytes, another."""
    if name in ("latest", "best") or rng.random() < 0.1:
        at = rng.randrange(len(data))
        return data[:at] + rng.choice(RAW) + data[at + rng.randrange(3) :]
    lines = data.splitlines() if name.endswith(".jsonl") else [data]
    at = rng.randrange(len(lines))
    if rng.random() < 0.1:
        lines[at] = rng.choice(RAW)
    else:
        lines[at] = _another(json.loads(lines[at]), rng)
    return b"\n".join(lines) + b"\n"


def _another(value: Any, rng: random.Random) -> bytes:
    if rng.random() < 0.4:
        rng.choice(list(JSON.values()))(value, rng)
        return json.dumps(value).encode()
    holder: Any = value
    key: Any = rng.choice(list(value))
    while isinstance(holder[key], dict | list) and holder[key] and rng.random() < 0.8:
        holder = holder[key]
        key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
    raw = rng.random() < 0.3
    holder[key] = "here" if raw else rng.choice(VALUES)
    text = json.dumps(value).encode()
    return text.replace(b'"here"', rng.choice(RAW), 1) if raw else text


def vouch_again(run: Path) -> None:
    """Make the manifests fit what lies there, so that what stands behind their hashes is tried."""
    for folder in run.glob("step-*"):
        own = {name: (folder / name).read_bytes() for name in safe_io.CHECKPOINT_FILES}
        names = (*safe_io.RUN_FILES, safe_io.NGRAM_FILE)
        shared = {name: (run / name).read_bytes() for name in names if (run / name).is_file()}
        (folder / safe_io.MANIFEST).write_bytes(safe_io.make_manifest(own, shared))


def attempt(place: Place, number: int) -> None:
    """Mutation `number`, and two of the commands that read what was changed."""
    rng = random.Random(number)
    files = files_of(place)
    path = files[number % len(files)]
    parts = path.relative_to(place.here).parts
    path.write_bytes(mutated(path.read_bytes(), path.name, rng))
    of = OF_CACHE if parts[0] == "cache" else OF_COMPARISON if parts[1] == "cp" else OF_RUN
    run = place.here.joinpath(*parts[: 2 if of is OF_RUN else 3])
    if of is not OF_CACHE and run.is_dir() and path.name != safe_io.MANIFEST and rng.random() < 0.7:
        vouch_again(run)
    commands = ["resume toy", "runs"] if path.name in RECORDS and of is OF_RUN else rng.sample(of, 2)
    if rng.random() < 0.5:
        (place.here / "checkpoints" / "toy" / "report.html").unlink()  # so that resume makes it
    for words in commands:
        judge(place.child(words), words, (number, "/".join(parts)))
    place.restore()


FEW, MANY, THOROUGH = 15, 60, 3_000


def test_a_few_mutations_of_every_kind_of_file(place: Place) -> None:
    for words in ("runs", "info toy", "eval --run toy", "doctor toy", "compare cp", "cache"):
        assert place.charlm(words).code == 0, "what was not changed is read"
    place.restore()
    for number in range(FEW):
        attempt(place, number)


@pytest.mark.slow
def test_many_mutations(place: Place, rng: random.Random, thorough: bool) -> None:
    first = rng.randrange(10**9)
    for number in range(first, first + (THOROUGH if thorough else MANY)):
        attempt(place, number)


# --- damaged lines are counted -------------------------------------------------------------------


def damaged_lines() -> Iterator[bytes]:
    """Lines that say nothing."""
    good = {"event": "Stepped", "step": 1, "loss": 1.0, "learning_rate": 0.1}
    for name in ("step", "loss", "learning_rate"):
        for value in ("x", None, [], {}, True, 10**400, "9" * 5000):
            yield json.dumps({**good, name: value}).encode()
        yield json.dumps({**good, name: "here"}).replace('"here"', "[" * 100_000).encode()
        yield json.dumps({k: v for k, v in good.items() if k != name}).encode()
    yield from (b"{", b"[]", b"1", b"null", b"\xff", b"\x00", b'{"event": "Stepped"', b"[" * 100_000)
    yield b'{"step": 1, "step": 2, "event": "Saved"}'


def test_damaged_lines_are_skipped_and_counted(place: Place) -> None:
    run = place.here / "checkpoints" / "toy"
    bad = list(damaged_lines())
    metrics = (run / "metrics.jsonl").read_bytes()
    (run / "metrics.jsonl").write_bytes(metrics + b"\n".join(bad) + b"\n")
    samples = [b'{"step": 1, "text": 3}', b'{"text": "x"}', b'{"step": "1", "text": "x"}', b"{}", b"x"]
    with open(run / "samples.jsonl", "ab") as file:
        file.write(b"\n".join(samples) + b"\n")
    (run / "report.html").unlink()
    done = place.charlm("resume toy")
    assert done.code == 0, done.err
    said = (
        f"{len(bad)} damaged lines of metrics.jsonl, skipped",
        "5 damaged lines of samples.jsonl, skipped",
    )
    page = (run / "report.html").read_text()
    for words in said:
        assert words in done.err and words in page
    (run / "metrics.jsonl").write_bytes(metrics)
    (run / "samples.jsonl").unlink()
    (run / "report.html").unlink()
    done = place.charlm("resume toy")
    assert done.code == 0 and "damaged" not in done.err + (run / "report.html").read_text()


def test_damaged_lines_of_a_comparison_s_run_are_said(place: Place) -> None:
    with open(place.here / "checkpoints/cp/n_layer-2.seed-1/metrics.jsonl", "ab") as file:
        file.write(b'{"event": "Stepped", "step": 4, "loss": "low", "learning_rate": 1}\n')
    done = place.charlm("compare cp")
    assert done.code == 0 and "run n_layer-2.seed-1: 1 damaged line of metrics.jsonl, skipped" in done.err


def test_a_resumed_log_keeps_its_damaged_lines_for_the_report(place: Place) -> None:
    run = place.here / "checkpoints" / "toy"
    path = run / "metrics.jsonl"
    path.write_bytes(b"{torn\n" + path.read_bytes())
    done = place.charlm("resume toy --steps 2")
    assert done.code == 0 and "1 damaged line of metrics.jsonl" in done.err
    assert path.read_bytes().startswith(b"{torn\n") and path.read_bytes().count(b'"Finished"') >= 1


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["é" * 128, "x" * 5000, "..", "/", "../toy", "\x1b[2J", "\udcff", "-x"])
def test_names_that_no_run_has(place: Place, name: str) -> None:
    for words in (
        "sample --length 1 --run",
        "eval --run",
        "train t.txt --steps 1 --run",
        "train t.txt --from",
    ):
        done = place.charlm(words, name)
        assert done.code in (2, 4) and done.err.count("error: ") == 1, (words, done.err)
        assert "\x1b[2J" not in done.err
    for words in ("info", "resume", "doctor", "compare toy", "compare", "runs --remove --yes"):
        done = place.charlm(words, "--", name)
        assert done.code in (2, 4) and done.err.count("error: ") == 1, (words, done.err)


def test_unfinished_folders_are_no_runs_and_block_nothing(place: Place) -> None:
    run = place.here / "checkpoints" / "toy"
    for name in (".tmp-aside-", ".tmp-aside-..", ".tmp-aside-x", ".tmp-"):
        (run / name).mkdir()
    shutil.copytree(run, run.with_name(".tmp-gone-old"))
    assert "old" not in place.charlm("runs").out
    assert place.charlm("resume toy --steps 1").code == 0
    assert place.charlm("sample --length 1").code == 0


# --- what cannot be read -------------------------------------------------------------------------

NAMED = ("sample --run toy --length 3", "eval --run toy", "info toy", "resume toy --steps 1", "doctor toy", "compare toy twin")  # fmt: skip
NEWEST = ("runs", "runs --json", "sample --length 3", "eval", "info", "resume --steps 1")


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_a_folder_of_another_user_is_skipped_and_said(place: Place) -> None:
    other = place.here / "checkpoints" / "other"
    shutil.copytree(place.here / "checkpoints" / "toy", other)
    (place.here / "cache" / "corpora" / "abc").mkdir(mode=0)
    other.chmod(0)
    for words in NAMED:
        done = place.charlm(words, bound=True)
        assert done.code == 0 and "other" not in done.err, (words, done.err)
    for words in NEWEST:
        done = place.charlm(words, bound=True)
        assert done.code == 0 and "unreadable: other (Permission denied)" in done.err, (words, done.err)
    done = place.charlm("cache", bound=True)
    assert done.code == 0 and "abc" in done.err and "Permission denied" in done.err
    for words, code in (
        *((words.replace("toy", "other"), 4) for words in (*NAMED, "train t.txt --from toy --run y")),
        *(("train t.txt --run other --steps 1", 6), ("runs --remove other --yes", 4), ("compare other", 4)),
    ):
        done = place.charlm(words, bound=True)
        assert done.code == code and "Permission denied" in done.err, (words, done.err)
        assert done.err.count("error: ") == 1
    other.chmod(0o700)


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
@pytest.mark.parametrize(
    ("hidden", "mode"),
    [
        ("checkpoints", 0),
        ("checkpoints", 0o400),
        ("checkpoints", 0o100),
        ("checkpoints/toy", 0o400),
        ("checkpoints/toy", 0o100),
        ("checkpoints/toy/run.json", 0),
        ("checkpoints/toy/step-00000004", 0o400),
        ("cache", 0),
    ],
)
def test_what_cannot_be_read_is_one_sentence(place: Place, hidden: str, mode: int) -> None:
    path = place.here / hidden
    path.chmod(mode)
    words = ("runs", "sample --run toy --length 3", "eval", "info toy", "resume toy", "doctor toy", "cache")
    for each in (*words, "compare cp", "runs --remove toy --yes"):
        judge(place.charlm(each, bound=True), each, (hidden, oct(mode)))
    if path.exists():
        path.chmod(0o700)


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_reading_needs_no_permission_to_write(place: Place) -> None:
    folders = [p for p in (place.here / "checkpoints", place.here / "cache") for p in (p, *p.rglob("*"))]
    for path in folders:
        path.chmod(0o500 if path.is_dir() else 0o400)
    for words in ("runs", "info toy", "sample --run toy --length 3", "eval --run toy", "compare toy twin", "compare cp", "doctor toy", "cache"):  # fmt: skip
        done = place.charlm(words, bound=True)
        assert done.code == 0, (words, done.err)
    done = place.charlm("resume toy --steps 1", bound=True)
    assert done.code == 6 and re.search("cannot be locked: Permission denied", done.err)
    for path in folders:
        path.chmod(0o700)


def test_a_lock_that_is_a_link_empties_nothing(place: Place) -> None:
    other, lock = place.here / "precious", place.here / "checkpoints" / "toy" / ".lock"
    other.write_text("mine")
    lock.unlink(missing_ok=True)
    lock.symlink_to(other)
    done = place.charlm("resume toy --steps 1")
    assert done.code == 4 and "symbolic link" in done.err and other.read_text() == "mine"
    assert RunFolder(lock.parent).steps()


# --- what is no file or folder where one belongs ---------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="pipes and links of POSIX")
@pytest.mark.parametrize(
    ("name", "words", "code"),
    [
        ("checkpoints/toy/step-00000005", "resume toy --steps 1", 0),
        ("checkpoints/cp/n_layer-1.seed-1/result.json", "resume cp", 0),
        ("cache/corpora/{key}/corpus.json", "cache", 0),
        ("cache/corpora/{key}/train.npy", "eval --run toy", 0),
    ],
)
def test_a_pipe_is_not_waited_for(place: Place, name: str, words: str, code: int) -> None:
    key = next(p for p in (place.here / "cache" / "corpora").iterdir()).name
    path = place.here / name.format(key=key)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    done = place.charlm(words)
    assert done.code == code, done.err


def test_a_folder_in_the_place_of_a_result_is_one_sentence(place: Place) -> None:
    path = place.here / "checkpoints/cp/n_layer-1.seed-1/result.json"
    path.unlink()
    path.mkdir()
    done = place.charlm("resume cp")
    assert done.code == 6 and "the result of n_layer-1.seed-1 cannot be written" in done.err, done.err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("last_evaluation", "x"), ("last_evaluation", {"a": 1}), ("divergence.recent", [[]]), ("divergence.recent", True),
        ("updates", "x"), ("updates", True), ("updates", -1), ("seconds", {"a": 1}), ("seconds", 10**200),
        ("early_stopping.rises", [[]]), ("early_stopping.best_blocks", []), ("early_stopping.best_blocks", ["x"]),
        ("skipped", "12"), ("parent_loss", {"run": "x"}), ("unknown", 1),
    ],
)  # fmt: skip
def test_a_state_of_wrong_kinds_is_one_sentence(place: Place, name: str, value: Any) -> None:
    run = place.here / "checkpoints" / "toy"
    for path in run.glob("step-*/state.json"):
        state = json.loads(path.read_bytes())
        *parts, last = name.split(".")
        inner = state[parts[0]] if parts else state
        assert last in inner or last == "unknown"
        inner[last] = value
        path.write_text(json.dumps(state))
    vouch_again(run)
    done = place.charlm("resume toy --steps 1")
    assert done.code == 4 and "state.json is damaged" in done.err, done.err
