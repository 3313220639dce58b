"""Either of two ranks, killed at random moments and resumed; and eight ranks."""

import random
import signal
import time
from pathlib import Path

import pytest

from charlm.training import distributed
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


def test_killed_at_random_and_resumed_it_ends_with_the_same_weights(thorough: bool) -> None:
    rng = random.Random(1)
    words = [*TRAIN, "--steps", "400", "--save-every", "0.1"]
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
