"""How long one waits at the beginning: help, version, the first line and the first step of training.

    python -m benchmarks.startup TEXT [--times 5]

Medians of whole processes, caches empty; the first step is there when it stands in the run's log, with the counts it
begins from and without.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from subprocess import DEVNULL, Popen
from time import perf_counter, sleep

from benchmarks.machine import charlm, line

POLL = 0.02


def first_step(text: str, *words: str) -> float:
    """Seconds from the start of the process until its first step is in the log."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "CHARLM_CACHE": cache}
        command = [sys.executable, "-m", "charlm", "train", text, "--time", "8s", "--run", "first", *words]
        started = perf_counter()
        with Popen(command, cwd=folder, env=environment, stdout=DEVNULL, stderr=DEVNULL) as process:
            log = Path(folder, "checkpoints", "first", "metrics.jsonl")
            while not (log.exists() and "Stepped" in log.read_text()):
                sleep(POLL)
            seconds = perf_counter() - started
            process.kill()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text")
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    text = str(Path(options.text).absolute())
    print(line())
    with tempfile.TemporaryDirectory() as folder:
        for words in (["--version"], ["--help"], ["train", "--help"]):
            seconds = median(charlm(*words, folder=folder).seconds for _ in range(options.times))
            print(f"charlm {' '.join(words):24} {seconds:6.2f} s")
        lines = [
            charlm("train", text, "--steps", "1", "--run", f"r{i}", folder=folder).first_line_seconds
            for i in range(options.times)
        ]
    print(f"first line of charlm train     {median(lines):6.2f} s")
    for words in ([], ["--no-prior"]):
        steps = [first_step(text, *words) for _ in range(options.times)]
        print(
            f"first step of charlm train {' '.join(words):11} {median(steps):6.2f} s, at most {max(steps):.2f}"
        )


if __name__ == "__main__":
    main()
