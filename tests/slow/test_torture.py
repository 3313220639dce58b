"""Real processes, killed and signalled at any moment: none unresumable, all ending with the same weights."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

if os.name == "nt":
    pytest.skip("forks, and sends POSIX signals", allow_module_level=True)

from charlm import files
from charlm.checkpoint.run_folder import RunFolder
from charlm.training import step as one_step
from tests.commands import Command
from tests.conftest import TEXT

pytestmark = pytest.mark.slow

KILLS, THOROUGH_KILLS = 24, 500
SHAPE = ("--n-layer", "1", "--n-embd", "16", "--n-head", "2", "--block-size", "16", "--batch-size", "4")
TOY = (
    *SHAPE,
    *("--threads", "1", "--dropout", "0.1", "--patience", "0", "--eval-every", "10"),
    *("--ngram-embeddings", "1"),
)
TRAIN = ("train", "ducks.txt", *TOY, "--no-prior", "--save-every", "0", "--steps", "30")
KINDS = {
    "plain": TRAIN,
    "counts": (*TRAIN[: 2 + len(TOY)], "--prior-order", "2", "--save-every", "0", "--steps", "30"),
    "documents": (*TRAIN, "--documents", "line", "--optimizer", "muon"),
    "alone": ("train", "ducks.txt", "--model", "ngram", "--prior-order", "4"),
}
TURNS = ("plain", "counts", "plain", "documents", "plain", "alone")
"""What is killed: a plain toy every other time."""
CODES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a text, and a run of each kind that was never interrupted."""
    folder = tmp_path_factory.mktemp("torture")
    (folder / "ducks.txt").write_text(TEXT)
    for kind, train in KINDS.items():
        done = Command((*train, "--run", f"whole-{kind}"), folder).run()
        assert done.code == 0, done.err
    return folder


def run_of(folder: Path, name: str) -> RunFolder:
    return RunFolder(folder / "checkpoints" / name)


def weights(folder: Path, name: str) -> str:
    """SHA-256 of the last weights, and of the counts where there are any, as the manifest has it."""
    run = run_of(folder, name)
    manifest = json.loads((run.folder(run.resolve("latest")) / "MANIFEST.json").read_text())
    entries = (manifest["files"]["model.safetensors"], manifest["run_files"].get("ngram.safetensors", {}))
    return " ".join(str(entry.get("sha256")) for entry in entries)


def dies_inside_a_save(save: int, call: int) -> Callable[[], None]:
    """In the child: SIGKILL at that call of that save, before it is made."""

    def arrange() -> None:
        real, saves, calls = RunFolder.save, 0, 0

        def saving(*args: object, **named: object) -> Path:
            nonlocal saves, calls
            saves, calls = saves + 1, 0
            return real(*args, **named)  # type: ignore[arg-type]

        def counted(function: Callable[..., object]) -> Callable[..., object]:
            def called(*args: object, **named: object) -> object:
                nonlocal calls
                calls += 1
                if saves == save and calls == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **named)

            return called

        RunFolder.save = saving  # type: ignore[assignment,method-assign]
        for name in ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir"):
            setattr(os, name, counted(getattr(os, name)))
        files.open = counted(open)  # type: ignore[attr-defined]

    return arrange


def killed_once(
    command: Command, rng: random.Random, *, inside: bool, seconds: float, kind: str
) -> int | None:
    """Run it until it is killed: at a call of a save, or at any time; its code, None where it was."""
    if inside:
        saves = 1 if kind == "alone" else 6
        command.before = dies_inside_a_save(rng.randint(1, saves), rng.randint(1, 34 if saves > 1 else 20))
    with open(os.devnull, "wb") as nowhere, open(command.folder / ".err", "wb") as err:
        child = command.begin(nowhere.fileno(), err.fileno())
    ends = time.monotonic() + (60 if inside else rng.uniform(0, seconds))
    while time.monotonic() < ends:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            return None if code == -signal.SIGKILL else code
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return None if code == -signal.SIGKILL else code


def test_killed_at_any_moment_and_resumed_it_ends_with_the_same_weights(folder: Path, thorough: bool) -> None:
    """Half of them at a call inside a save, the others at random times, from the first moment on."""
    seconds = {}
    for kind in KINDS:
        began = time.monotonic()
        assert Command((*KINDS[kind], "--run", f"timed-{kind}"), folder).run().code == 0
        seconds[kind] = time.monotonic() - began
    kills = attempt = 0
    while kills < (THOROUGH_KILLS if thorough else KILLS):
        rng, name, kind = random.Random(attempt), f"killed-{attempt}", TURNS[attempt % len(TURNS)]
        attempt += 1
        for sitting in range(100):
            begun = run_of(folder, name)
            resuming = begun.path.is_dir() and bool(begun.steps() or list(begun.path.glob(files.ASIDE + "*")))
            args = ("resume", name) if resuming else (*KINDS[kind], "--run", name)
            if sitting < 4:
                inside = kills % 2 == 0
                code = killed_once(
                    Command(args, folder), rng, inside=inside, seconds=seconds[kind], kind=kind
                )
                said = (folder / ".err").read_text("utf-8", "replace")
            else:
                done = Command(args, folder).run()
                code, said = done.code, done.err
            kills += code is None
            if code is not None:
                killed_after_its_report = resuming and code == 2 and "is finished, after 30 steps" in said
                assert code == 0 or killed_after_its_report, (attempt, sitting, said)
                break
        assert weights(folder, name) == weights(folder, f"whole-{kind}"), attempt
        assert not list(begun.path.glob(files.TEMPORARY + "*")), "gone after the next start"
        assert (begun.path / "report.html").is_file()
    print(f"{kills} kills over {attempt} runs")


def decided(folder: Path, name: str) -> list[dict[str, Any]]:
    """What the plan of a run says was decided; nothing before its first save."""
    run = run_of(folder, name)
    if not (run.path.is_dir() and run.steps()):
        return []
    decisions: list[dict[str, Any]] = json.loads((run.path / "plan.json").read_text())["decisions"]
    return decisions


def test_killed_with_a_time_to_keep_the_plan_survives_and_the_run_ends(folder: Path) -> None:
    """What was decided stays decided: each later plan begins with the one before."""
    rng = random.Random(7)
    train = (
        "train",
        "ducks.txt",
        *TOY,
        *("--no-prior", "--save-every", "0.05", "--time", "5s", "--run", "by-time"),
    )
    command, decisions = Command(train, folder), []
    for _ in range(5):
        with open(os.devnull, "wb") as nowhere, open(folder / ".err", "wb") as err:
            child = command.begin(nowhere.fileno(), err.fileno())
        while not (ended := os.waitpid(child, os.WNOHANG)[0]) and len(decided(folder, "by-time")) < 2:
            time.sleep(0.01)
        assert not ended, (folder / ".err").read_text()
        time.sleep(rng.uniform(0.2, 1.2))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        now = decided(folder, "by-time")
        assert now[0]["decided"] == "size" and now[: len(decisions)] == decisions
        decisions, command = now, Command(("resume", "by-time"), folder)
    done = command.run()
    ended_before_the_last_kill = done.code == 2 and "is finished, after" in done.err
    assert done.code == 0 or ended_before_the_last_kill, done.err
    assert decided(folder, "by-time") == decisions


LONG = (*TRAIN[:-1], "100000", "--save-every", "0.2")


def waiting_for(folder: Path, name: str, steps: int, child: int) -> None:
    log = run_of(folder, name).path / "metrics.jsonl"
    while not log.exists() or log.read_bytes().count(b'"Stepped"') < steps:
        assert os.waitpid(child, os.WNOHANG)[0] == 0, "it ended too early: " + (folder / "err").read_text()
        time.sleep(0.01)


@pytest.mark.parametrize("number", range(8))
def test_a_signal_at_a_random_time_saves_and_gives_its_code(folder: Path, number: int) -> None:
    rng, name = random.Random(number), f"signalled-{number}"
    sent = rng.choice(["SIGINT", "SIGINT twice", "SIGTERM", "SIGHUP"])
    with open(folder / "out", "wb") as out, open(folder / "err", "wb") as err:
        child = Command((*LONG, "--run", name), folder).begin(out.fileno(), err.fileno())
    waiting_for(folder, name, rng.randint(1, 20), child)
    time.sleep(rng.uniform(0, 0.3))
    os.kill(child, getattr(signal, sent.split()[0]))
    if sent.endswith("twice"):
        time.sleep(rng.uniform(0, 0.02))
        os.kill(child, signal.SIGINT)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    said, results = (folder / "err").read_text(), (folder / "out").read_text()
    assert code == CODES[sent.split()[0]] and "Traceback" not in said
    assert "finishing step" in said or sent.endswith("twice")
    assert all(re_result(line) for line in results.splitlines()), results
    done = Command(("resume", name, "--steps", "1"), folder, before=ends_at_once).run()
    assert done.code in (0, 130), done.err
    assert not list(run_of(folder, name).path.glob(files.TEMPORARY + "*"))


def re_result(line: str) -> bool:
    """A row of the table: a name and a value; nothing of what is told on the way."""
    return not line or (line[:1] != " " and "saving" not in line and "note:" not in line)


def ends_at_once() -> None:
    """In the child: as if Ctrl-C came in the first step."""
    from charlm.training.trainer import Trainer

    real = Trainer._guarded_steps

    def step(self, stop):  # type: ignore[no-untyped-def]
        yield from real(self, stop)
        os.kill(os.getpid(), signal.SIGINT)

    Trainer._guarded_steps = step  # type: ignore[method-assign]


def slow_backward(seconds: float) -> Callable[[], None]:
    """In the child: backward passes that take so long in one call of C, and say when they begin and end."""

    def arrange() -> None:
        import hashlib

        import torch

        began = time.perf_counter()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 200_000)
        rounds = int(200_000 * seconds / (time.perf_counter() - began))

        class Slow(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):  # type: ignore[no-untyped-def]
                return x.clone()

            @staticmethod
            def backward(ctx, grad):  # type: ignore[no-untyped-def]
                os.write(2, f"backward begins {time.time()}\n".encode())
                hashlib.pbkdf2_hmac("sha256", b"", b"", rounds)
                os.write(2, f"backward ends {time.time()}\n".encode())
                return grad

        real = one_step.batch_loss
        one_step.batch_loss = lambda *args: Slow.apply(real(*args))  # type: ignore[assignment]

    return arrange


@pytest.mark.parametrize("sent", ["SIGINT", "SIGINT twice", "SIGTERM", "SIGHUP"])
def test_a_backward_pass_of_two_seconds_does_not_keep_the_answer_waiting(folder: Path, sent: str) -> None:
    """The answer comes long before the pass ends; a second Ctrl-C does not wait for that either."""
    reader, writer = os.pipe()
    name, twice = f"slow-{sent.replace(' ', '-')}", sent.endswith("twice")
    command = Command((*LONG, "--run", name), folder, before=slow_backward(2.0))
    with open(folder / "out", "wb") as out:
        child = command.begin(out.fileno(), writer)
    os.close(writer)
    lines, at, answered, ended = os.fdopen(reader, "r", errors="replace"), 0.0, 0.0, 0.0
    said = ""
    for line in lines:
        said += line
        if "backward begins" in line and not at:
            time.sleep(0.3)
            at = time.time()
            os.kill(child, getattr(signal, sent.split()[0]))
        if "finishing step" in line:
            answered = time.time()
            if twice:
                os.kill(child, signal.SIGINT)
        if "backward ends" in line and at and not ended:
            ended = float(line.split()[-1])
            if not answered:
                os.kill(child, signal.SIGKILL)
    lines.close()
    code, gone = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), time.time()
    assert answered and code == CODES[sent.split()[0]] and "Traceback" not in said, said
    assert all(re_result(line) for line in (folder / "out").read_text().splitlines())
    if twice:
        assert not ended, "at once, in the middle of the pass"
    else:
        assert at < answered < ended
    print(f"{sent}: answered after {answered - at:.4f} s, gone after {gone - at:.1f} s")
    done = Command(("resume", name, "--steps", "1"), folder, before=ends_at_once).run()
    assert done.code in (0, 130), done.err
    assert not list(run_of(folder, name).path.glob(files.TEMPORARY + "*"))
