"""Toys that every test can train in a moment: width 16, one layer, one thread."""

import os
import random
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from inspect import unwrap
from pathlib import Path
from threading import RLock
from time import perf_counter

# Before torch is imported: pytest's workers use all CPUs already, so threads do not keep one busy while they wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
import typer.main
from hypothesis import settings
from tqdm import tqdm
from typer.models import CommandInfo

from charlm.checkpoint.run_folder import RunFolder
from charlm.cli.main import run as main
from charlm.config import ModelConfig, TrainingConfig
from charlm.data import downloads
from charlm.data.corpus import Corpus
from charlm.data.load import Loaded
from charlm.data.prepare import prepare
from charlm.data.text_config import TextConfig
from charlm.native.library import CLONES, VARIABLE, library, status, supported_clones
from charlm.training.launch import start_run
from charlm.training.planner import choose
from charlm.training.session import TransformerSession
from charlm.training.sizes import Budget

settings.register_profile("charlm", deadline=None)  # nothing is asserted about seconds
settings.register_profile("quick", deadline=None, max_examples=30)  # others each time
tqdm.monitor_interval = 0  # no thread that could hold a lock while tests/forks.py forks
tqdm.set_lock(RLock())  # its own is shared with forked processes: one that is killed would hold it for ever

WAITS = downloads.WAITS
TEXT = "".join(
    f"{i} little ducks went swimming one day, {'over the hills' * (i % 3)} and far away.\n" for i in range(60)
)


class Never:
    """A stop that never comes."""

    reason: str | None = None

    def is_set(self) -> bool:
        return False


class After:
    """A stop that comes when it has been asked for often enough: after about that many steps."""

    def __init__(self, trainer_step, step: int) -> None:  # type: ignore[no-untyped-def]
        self._step, self._at = trainer_step, step
        self.reason: str | None = "SIGINT"

    def is_set(self) -> bool:
        return bool(self._step() >= self._at)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="the larger numbers of the slow tests")
    parser.addoption(
        "--seed", type=int, help="draw again what a test that failed drew, by the seed that it shows"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Without the slow tests, fewer examples of each property."""
    settings.load_profile("quick" if config.getoption("markexpr") == "not slow" else "charlm")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The thorough run takes its time."""
    if config.getoption("--thorough"):
        for item in items:
            item.add_marker(pytest.mark.timeout(0))


@pytest.fixture(scope="session")
def thorough(request: pytest.FixtureRequest) -> bool:
    """Are the larger numbers wanted?"""
    return bool(request.config.getoption("--thorough"))


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Draws others each time; a failure shows the option that draws the same again."""
    given = request.config.getoption("--seed")
    seed = random.randrange(10**9) if given is None else given
    print(f"--seed {seed}")
    return random.Random(seed)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARLM_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    for name in ("CHARLM_CHECKPOINTS", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session", autouse=True)
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Where nothing but a process is killed, what was written is there; tests/test_faults.py imagines the rest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def _options_made_once() -> Iterator[None]:
    """Typer makes the options of all commands anew for every command line; of thousands here, once."""
    make, made = typer.main.get_command_from_info, dict[object, object]()

    def once(command_info: CommandInfo, **how: object) -> object:
        key = (command_info.name, unwrap(command_info.callback))  # type: ignore[arg-type]
        if key not in made:
            made[key] = make(command_info, **how)  # type: ignore[arg-type]
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command_from_info", once)
        yield


@pytest.fixture(autouse=True)
def _no_waiting_for_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that fails is tried again at once."""
    monkeypatch.setattr(downloads, "WAITS", (0.0,) * len(WAITS))


@pytest.fixture
def kernels() -> None:
    """The compiled kernels are used: only where charlm was installed without a compiler may a test do without."""
    if library() is None:
        pytest.skip(str(status()))


def clones() -> list[str]:
    """The clones to test: the one that CHARLM_NATIVE names, or all that this processor can run."""
    asked = os.environ.get(VARIABLE)
    return [clone for clone in supported_clones() if clone == asked or asked not in CLONES]


@pytest.fixture(params=clones())
def clone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each instruction set whose kernels are tested, in use."""
    monkeypatch.setenv("CHARLM_NATIVE", request.param)
    return str(request.param)


@pytest.fixture(scope="session", autouse=True)
def _no_ignored_signals() -> None:
    """Handle signals as if started from a terminal: what `nohup` or a script's `&` ignores stays ignored in children."""
    for name in ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Whatever a command before it has set."""
    torch.set_num_threads(1)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder of one's own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def corpus() -> Corpus:
    return prepare(TEXT, TextConfig())


def toy_choice(corpus: Corpus, steps: int = 12, **training: object):  # type: ignore[no-untyped-def]
    """A plan for the smallest model."""
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 16}
    shape |= {"ngram_embeddings": 1, "dropout": training.pop("dropout", 0.0), **training.pop("model", {})}  # type: ignore[dict-item]
    model = ModelConfig(**shape)  # type: ignore[arg-type]
    config = TrainingConfig(
        **{"batch_size": 4, "learning_rate": 1e-2, "eval_every": 5, "eval_chars": 100, **training}
    )  # type: ignore[arg-type]
    choice = choose(Budget(steps=steps), len(corpus.train), model, config)
    return replace(choice, plan=choice.plan.record(decided="size", at_step=0))


def toy_run(
    root: Path, corpus: Corpus, steps: int = 12, name: str = "toy", **training: object
) -> tuple[RunFolder, TransformerSession]:
    """A run at step 0."""
    loaded = Loaded(corpus=corpus, notes=(), sources=(), label="a toy")
    run = RunFolder.create(root, name)
    return run, start_run(run, loaded, TextConfig(), toy_choice(corpus, steps, **training), "charlm train")


@dataclass
class Result:
    """What a command gave."""

    code: int
    out: str
    err: str


def repeat_words(charlm: Callable[..., "Result"], *run: str) -> list[str]:
    """The words, after `charlm`, of the command that `charlm info` gives to make a run again."""
    shown = re.search(r"^reproduce this run:  charlm (.*)$", charlm("info", *run).out, re.M)
    assert shown
    return shlex.split(shown[1])


@pytest.fixture
def charlm(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Result]:
    """The command in a folder of its own, beside a text."""
    Path("ducks.txt").write_text(TEXT)

    def run(*words: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["charlm", *words])
        code = main(perf_counter())
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run
