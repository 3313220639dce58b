"""The targets, driven by Hypothesis always, and for a few seconds each by atheris where it is installed."""

import importlib.util
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, seeds

SECONDS, THOROUGH_SECONDS = 2, 600
NATIVE = ("ngrams", "weights")  # what reaches compiled kernels
WITH_MARKS = [pytest.param(name, marks=pytest.mark.native) if name in NATIVE else name for name in TARGETS]


@pytest.mark.parametrize("name", WITH_MARKS)
def test_any_bytes(name: str) -> None:
    @settings(max_examples=50)
    @given(st.binary(max_size=200))
    def attempt(data: bytes) -> None:
        TARGETS[name](data)

    attempt()


@pytest.mark.parametrize("name", WITH_MARKS)
def test_bytes_near_good_ones(name: str) -> None:
    """Good inputs pass, and so do those with a few bytes changed, left out or doubled."""
    rng = random.Random(1)
    for good in seeds(name):
        TARGETS[name](good)
        for _ in range(60):
            data = bytearray(good)
            for _ in range(rng.randint(1, 3)):
                at, length = rng.randrange(len(data) + 1), rng.randint(0, 2)
                data[at : at + length] = rng.choice(
                    [b"", rng.randbytes(1), b'"', b"0", b"{", bytes(data[:9]), *[rng.randbytes(length)] * 6]
                )
            TARGETS[name](bytes(data))


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is not for this Python or system"
)
@pytest.mark.parametrize("name", TARGETS)
def test_under_atheris(name: str, thorough: bool, tmp_path: Path) -> None:
    seconds = THOROUGH_SECONDS if thorough else SECONDS
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.fuzz",
            name,
            f"-max_total_time={seconds}",
            "-timeout=10",
            "-rss_limit_mb=2048",
        ],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "DONE" in done.stderr or "Done" in done.stderr
