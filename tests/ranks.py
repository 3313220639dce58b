"""Ranks as forks of this process, which has torch already: the variables that torchrun sets, and the command."""

import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter, sleep

from charlm.cli.main import run as main
from charlm.training import trainer
from tests.conftest import Result
from tests.forks import end_after, start

SECONDS = 240


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Started:
    """A command that several ranks run."""

    def __init__(
        self,
        n: int,
        *words: str,
        prepare: Callable[[int], None] = lambda rank: None,
        restarts: int = 0,
        only: tuple[int, ...] | None = None,
        port: int | None = None,
    ) -> None:
        """`prepare` is called in each with its number. `only`: of all ranks that should be there."""
        self._folder = Path(f".ranks-{perf_counter()}")
        self._folder.mkdir()
        port = port or free_port()
        self.ranks = range(n) if only is None else only
        self.pids = [
            start(lambda rank=rank: self._be(rank, n, port, restarts, words, prepare))  # type: ignore[misc]
            for rank in self.ranks
        ]

    def results(self, only: Sequence[int] | None = None) -> list[Result]:
        """How each ended, or `only` some."""
        found = []
        for rank, pid in zip(self.ranks, self.pids, strict=True):
            if only is None or rank in only:
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                said = [(self._folder / f"{rank}.{kind}").read_text("utf-8") for kind in ("out", "err")]
                found.append(Result(code, *said))
        return found

    def signal_at(self, step: int, run: str, rank: int, number: int = signal.SIGTERM) -> None:
        """Send a signal to one rank once the run has taken so many steps."""
        log = Path("checkpoints", run, "metrics.jsonl")
        until = perf_counter() + SECONDS
        while perf_counter() < until and (not log.exists() or log.read_text().count('"Stepped"') < step):
            sleep(0.005)
        self.kill(rank, number)

    def kill(self, rank: int, number: int) -> None:
        """Send a signal to one rank, which is a child that was not waited for yet."""
        os.kill(self.pids[list(self.ranks).index(rank)], number)

    def _be(
        self,
        rank: int,
        n: int,
        port: int,
        restarts: int,
        words: tuple[str, ...],
        prepare: Callable[[int], None],
    ) -> int:
        end_after(SECONDS, 2)
        place = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": n,
            "LOCAL_WORLD_SIZE": n,
            "MASTER_PORT": port,
        }
        place["TORCHELASTIC_RESTART_COUNT"] = restarts
        os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
        for number, name in ((1, "out"), (2, "err")):
            descriptor = os.open(self._folder / f"{rank}.{name}", os.O_CREAT | os.O_WRONLY)
            os.dup2(descriptor, number)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  pytest has its own there
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        prepare(rank)
        sys.argv = ["charlm", *words]
        return main(perf_counter())


def stopped_at(step: int, number: int = signal.SIGTERM) -> Callable[[int], None]:
    """For `prepare`: rank 0 gets a signal when it begins that step, counted over all runs that it trains.

    It may hear of it a step later.
    """

    def prepare(rank: int) -> None:
        real, n_steps = trainer.train_step, 0

        def train_step(*given: object) -> object:
            nonlocal n_steps
            n_steps += 1
            if n_steps == step and rank == 0:
                signal.raise_signal(number)  # to this thread, before it goes on
            return real(*given)  # type: ignore[arg-type]

        trainer.train_step = train_step  # type: ignore[assignment]  # in a fork

    return prepare


def together(n: int, *words: str, prepare: Callable[[int], None] = lambda rank: None) -> list[Result]:
    """Run a command on n ranks to its end."""
    return Started(n, *words, prepare=prepare).results()
