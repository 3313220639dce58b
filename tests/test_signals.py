"""Signals: answered in a thread, obeyed at the end of a step; ignored where they were ignored before."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

if os.name == "nt":
    pytest.skip("sends POSIX signals", allow_module_level=True)

from charlm.training.signals import EXIT_CODES, StopSignals
from tests.cli.kept import within
from tests.commands import Command, Done
from tests.conftest import TEXT


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_sets_the_flag_and_is_announced(name: str) -> None:
    announced: list[str] = []
    before = signal.getsignal(getattr(signal, name))
    with StopSignals(announced.append) as stop:
        assert not stop.is_set()
        os.kill(os.getpid(), getattr(signal, name))
        while not announced:
            time.sleep(0.01)
        assert stop.is_set() and stop.reason == name
    assert announced == [name]
    assert signal.getsignal(getattr(signal, name)) == before


BUSY = """
import hashlib, time
from charlm.training.signals import StopSignals
with StopSignals(lambda name: print(name, flush=True)) as stop:
    print("ready", flush=True)
    # One long call that, like a backward pass, lets other threads run, but no handler of Python's.
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
    print("end", stop.reason, flush=True)
    time.sleep(60)
"""


def test_it_is_answered_while_the_main_thread_is_busy_and_twice_leaves_at_once() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True, **within()
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "SIGINT\n"
        process.send_signal(signal.SIGINT)
        assert "end" not in process.stdout.read(), "both were answered before the long call had ended"
        assert process.wait() == 130


SHAPE = {
    "n-layer": 1,
    "n-embd": 16,
    "n-head": 2,
    "block-size": 16,
    "batch-size": 4,
    "threads": 1,
    "patience": 0,
    "compile": "off",  # which so many steps would repay
}
TOY = [f"--{name}={value}" for name, value in SHAPE.items()]
LONG = ["train", "ducks.txt", "--steps", "1000000", *TOY]


class Running:
    """A command at work in a child, to which signals can be sent."""

    def __init__(self, folder: Path, *args: str, before: Callable[[], object] = lambda: None) -> None:
        (folder / "ducks.txt").write_text(TEXT)
        self.folder = folder
        with open(folder / ".out", "wb") as out, open(folder / ".err", "wb") as err:
            self.child = Command(args, folder, before=before).begin(out.fileno(), err.fileno())

    def wait_for(self, text: str, name: str = ".err") -> None:
        """Wait until a file, by a pattern below the folder, holds that text."""
        while not any(text in path.read_text("utf-8") for path in self.folder.glob(name)):
            assert os.waitpid(self.child, os.WNOHANG) == (0, 0), (self.folder / ".err").read_text()
            time.sleep(0.01)

    def trains(self) -> None:
        """Wait for the first steps of a run."""
        self.wait_for('"Stepped"', "checkpoints/**/metrics.jsonl")

    def send(self, name: str) -> None:
        os.kill(self.child, getattr(signal, name))

    def end(self) -> Done:
        status = os.waitpid(self.child, 0)[1]
        code = os.waitstatus_to_exitcode(status)
        return Done(code, (self.folder / ".out").read_bytes(), (self.folder / ".err").read_text())


@pytest.mark.parametrize(
    "args",
    [LONG, ["compare", *LONG[1:], "--vary", "position=none,rotary", "--run", "ducks"]],
    ids=["train", "compare"],
)
def test_a_signal_that_was_ignored_when_the_command_began_stays_ignored(
    tmp_path: Path, args: list[str]
) -> None:
    """As `nohup` ignores SIGHUP, and a shell without a terminal SIGINT for what runs in its background."""
    ignored = ("SIGHUP", "SIGINT", "SIGTERM")
    running = Running(
        tmp_path, *args, before=lambda: [signal.signal(getattr(signal, n), signal.SIG_IGN) for n in ignored]
    )
    running.wait_for("ducks")  # before training too
    for name in ignored:
        running.send(name)
    running.trains()
    for name in ignored:
        running.send(name)
    running.send("SIGUSR1")
    done = running.end()
    assert done.code == EXIT_CODES["SIGUSR1"] == 128 + signal.SIGUSR1, done.err
    assert "stopped by SIGUSR1" in done.err and "charlm resume ducks" in done.err
    assert not any(name in done.err for name in ignored)


@pytest.mark.parametrize("name", ["SIGUSR2", "SIGXCPU"])
def test_an_early_warning_saves_the_run_and_says_how_to_go_on(tmp_path: Path, name: str) -> None:
    running = Running(tmp_path, *LONG)
    running.trains()
    running.send(name)
    done = running.end()
    assert done.code == 128 + getattr(signal, name), done.err
    assert f"stopped by {name}" in done.err and "resume with: charlm resume ducks" in done.err
    assert (tmp_path / "checkpoints/ducks/latest").read_text().strip() != "step-00000000"


def test_a_signal_while_the_text_is_read_ends_the_command_and_leaves_nothing(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"some text\n" * 100)
    running = Running(tmp_path, "train", "-", *LONG[2:], before=lambda: os.dup2(reader, 0))
    running.wait_for("reading standard input")
    running.send("SIGUSR1")
    done = running.end()
    os.close(writer), os.close(reader)
    assert (done.code, done.err.splitlines()[1:]) == (138, ["error: stopped by SIGUSR1"])
    assert not (tmp_path / "checkpoints").exists()


def _signal_in(module: str, function: str, name: str) -> Callable[[], None]:
    """For `before`: the signal comes in the middle of that function."""

    def before() -> None:
        from importlib import import_module

        def stopped(*args: object, **values: object) -> None:
            signal.raise_signal(getattr(signal, name))
            time.sleep(60)

        setattr(import_module(module), function, stopped)

    return before


def test_a_signal_while_the_report_is_written_leaves_a_run_that_resume_completes(tmp_path: Path) -> None:
    train = ["train", "ducks.txt", "--steps", "3", *TOY]
    done = Running(tmp_path, *train, before=_signal_in("charlm.job", "write_report", "SIGUSR1")).end()
    assert done.code == 138 and "charlm resume ducks" in done.err and "Traceback" not in done.err
    report = tmp_path / "checkpoints/ducks/report.html"
    assert not report.exists()
    assert Running(tmp_path, "resume", "ducks").end().code == 0
    assert report.exists()


@pytest.mark.parametrize(
    ("where", "args"),
    [
        (("charlm.training.ngram_session", "fit"), ["train", "ducks.txt", "--model", "ngram"]),
        (("charlm.evaluation.report", "evaluate"), ["eval", "ducks.txt"]),
        (("charlm.run", "generate"), ["sample"]),
    ],
    ids=["counting", "eval", "sample"],
)
def test_a_signal_outside_of_training_ends_the_command_with_its_code(
    tmp_path: Path, where: tuple[str, str], args: list[str]
) -> None:
    if args[0] != "train":
        assert Running(tmp_path, "train", "ducks.txt", "--steps", "2", *TOY).end().code == 0
    done = Running(tmp_path, *args, before=_signal_in(*where, "SIGTERM")).end()
    assert done.code == 143, done.err
    assert "error: stopped by SIGTERM" in done.err and "Traceback" not in done.err


HIDING = """
import os, signal, sys, types
from charlm.cli import main
from charlm.training.signals import raising_signals
def command(started):
    def work(standalone_mode):
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
        except BaseException:
            raise AttributeError("module has no attribute") from None  # as libraries do that are being imported
    return work
main.make_app = command
sys.exit(main.run(0.0))
"""
IMPORTING = """
import os, signal, sys, time, types
from charlm.training.signals import raising_signals
torch = sys.modules["torch"] = types.ModuleType("torch")
torch.__spec__ = types.SimpleNamespace(_initializing=True)
with raising_signals():
    os.kill(os.getpid(), getattr(signal, sys.argv[1]))
    os.kill(os.getpid(), getattr(signal, sys.argv[1]))
    print("not interrupted", flush=True)
    torch.__spec__._initializing = False
    try:
        time.sleep(60)
    except KeyboardInterrupt as error:
        print("ended", type(error).__name__)
"""


def test_a_signal_that_a_library_hides_behind_another_exception_is_no_bug_of_ours() -> None:
    done = subprocess.run([sys.executable, "-c", HIDING], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (128 + signal.SIGUSR1, "error: stopped by SIGUSR1\n")


@pytest.mark.parametrize(("name", "raised"), [("SIGUSR1", "Signalled"), ("SIGINT", "KeyboardInterrupt")])
def test_a_signal_waits_while_torch_is_imported(name: str, raised: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING, name], capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stdout) == (0, f"not interrupted\nended {raised}\n"), done.stderr
