"""The published benchmarks: the protocol's split, the whole test part, and only the published text."""

import random
import subprocess
import sys
from pathlib import Path

import pytest


def published(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.published", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "unit"), [("text8", "character"), ("enwik8", "byte")])
def test_the_protocol_on_a_text_of_the_same_form(tmp_path: Path, name: str, unit: str) -> None:
    words, rng = ["the", "of", "duck", "geese", "nine", "swam", "pond"], random.Random(1)
    text = tmp_path / name
    text.write_text(" ".join(rng.choice(words) for _ in range(40_000)))
    done = published(name, "--file", str(text), "--share", "0.001", "--time", "5s")
    assert done.returncode == 0, done.stderr
    assert f"bits per {unit}" in done.stdout and f"scoring the 5,000 {unit}s of the test part" in done.stdout
    assert "comparable with nothing" in done.stdout and "arXiv:1808.04444" in done.stdout
    refused = published(name, "--file", str(text))
    assert refused.returncode == 1 and f"is not the published {name}" in refused.stderr
