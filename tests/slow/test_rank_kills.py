"""Either of two ranks, killed at random moments and resumed; and eight ranks."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from charlm import files
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.snapshot import read_newest
from charlm.training import checkpointer, distributed
from charlm.training.session import TransformerSession
from tests.conftest import TEXT
from tests.ranks import Started, together
from tests.test_ranks import TRAIN, curve, distance, snapshot, succeeded

pytestmark = pytest.mark.slow
KILLS = {False: 6, True: 40}


@pytest.fixture(autouse=True)
def _text(elsewhere: Path) -> None:
    Path("ducks.txt").write_text(TEXT)


def impatient(rank: int) -> None:
    """Without torchrun nobody ends a rank whose other one was killed before they met."""
    distributed.MEETING_SECONDS = 20.0


@pytest.mark.parametrize("shard", [(), ("--shard",)])
def test_killed_at_random_and_resumed_it_ends_with_the_same_weights(
    shard: tuple[str, ...], thorough: bool
) -> None:
    rng = random.Random(1)
    words = [*TRAIN, "--steps", "400", "--save-every", "0.1", *shard]
    succeeded(together(2, *words, "--name", "whole"))
    for _ in range(KILLS[thorough]):
        started = Started(2, *words, "--name", "cut", "--resume-if-exists", prepare=impatient)
        time.sleep(rng.uniform(0.5, 4))
        started.kill(rng.randrange(2), signal.SIGKILL)
        codes = {result.code for result in started.results()}
        assert codes in ({-9, 7}, {0}, {-9, 0}, {-9, 143}), codes
    last = together(2, *words, "--name", "cut", "--resume-if-exists")
    assert [result.code for result in last] == [0, 0], last  # it may have ended before
    assert distance("whole", "cut") == 0


def dies_inside_a_save(mortal: int, step: int, call: int) -> Callable[[int], None]:
    """In one of the ranks: SIGKILL at that call of the save of that step, before it is made."""

    def arrange(rank: int) -> None:
        impatient(rank)
        real, inside, calls = checkpointer.save_rows, False, 0

        def saving(session: TransformerSession, *given: object, **named: object) -> dict[str, str]:
            nonlocal inside
            inside = rank == mortal and session.state.step == step
            return real(session, *given, **named)  # type: ignore[arg-type]

        def counted(function: Callable[..., object]) -> Callable[..., object]:
            def called(*args: object, **named: object) -> object:
                nonlocal calls
                calls += inside
                if calls == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*args, **named)

            return called

        checkpointer.save_rows = saving
        for name in ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir"):
            setattr(os, name, counted(getattr(os, name)))
        files.open = counted(open)  # type: ignore[attr-defined]

    return arrange


@pytest.mark.parametrize(("rank", "calls"), [(0, 40), (1, 6)])
def test_a_rank_killed_at_any_call_of_a_save_of_divided_weights_leaves_a_whole_checkpoint(
    rank: int, calls: int, thorough: bool
) -> None:
    words = [*TRAIN, "--plain", "--steps", "12", "--shard", "--save-every", "0"]
    succeeded(together(2, *words, "--name", "whole"))
    killed = 0
    for call in range(1, calls + 1, 1 if thorough or rank else 5):
        name = f"cut-{call}"
        codes = {
            r.code for r in together(2, *words, "--name", name, prepare=dies_inside_a_save(rank, 6, call))
        }
        assert codes in ({-9, 7}, {0}), codes
        killed += -9 in codes
        found = read_newest(RunFolder(Path("checkpoints", name)), pytest.fail)
        assert found.step >= 5
        resumed = together(2, "resume", name, "--shard")
        assert codes == {0} or [result.code for result in resumed] == [0, 0], resumed
        assert distance("whole", name) == 0
        assert not list(Path("checkpoints", name).glob(files.TEMPORARY + "*"))
    assert killed >= 4


def test_eight_ranks_have_the_curve_of_one() -> None:
    for n in (1, 4, 8):
        succeeded(together(n, *TRAIN, "--steps", "20", "--name", f"of-{n}"))
    for n in (4, 8):
        for (_, loss, _), (_, other, _) in zip(curve("of-1"), curve(f"of-{n}"), strict=True):
            assert abs(loss - other) < 1e-5
        assert distance("of-1", f"of-{n}") < 1e-4 and snapshot(f"of-{n}").state["ranks"] == n


def test_a_time_is_kept_by_all() -> None:
    """What rank 0's clock decides, all do: else they would wait for each other for ever."""
    succeeded(together(2, "train", "ducks.txt", "--time", "8s", "--threads", "1", "--name", "timed"))
    succeeded(together(2, "resume", "timed", "--time", "5s", "--threads", "1"))
