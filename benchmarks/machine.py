"""What a figure was measured on, and commands run as a user runs them: with empty caches."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter

import torch

from charlm.training.device import describe_machine


def line() -> str:
    """The machine, and which compiled kernels it uses, for the first line of a table."""
    return describe_machine(torch.get_num_threads())


@dataclass(frozen=True)
class Ran:
    """A finished command."""

    seconds: float
    first_line_seconds: float  # until the first line of standard error or output
    out: str


def charlm(*words: str, folder: str) -> Ran:
    """Run `charlm` in a folder, its cache empty."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "CHARLM_CACHE": cache, "PYTHONUNBUFFERED": "1"}
        return run([sys.executable, "-m", "charlm", *words], folder, environment)


def run(command: Sequence[str], folder: str, environment: dict[str, str]) -> Ran:
    """Run a command to its end. Standard error goes with standard output until the first line is there."""
    started = perf_counter()
    with subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        first_seconds = perf_counter() - started
        rest = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{first}{rest}")
    return Ran(perf_counter() - started, first_seconds, first + rest)
