"""How fast and how small a file is compressed with a trained run, beside what eval says of it and xz.

    python -m benchmarks.compress RUN FILE [--checkpoints DIR] [--chars N]

Characters per second both ways, in one thread; bytes; what the score of the whole text is in bytes, and
how much more the file has than that.
"""

import argparse
import lzma
from collections.abc import Generator
from math import log
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import torch

from benchmarks import machine
from charlm.checkpoint.run_folder import find_run
from charlm.checkpoint.snapshot import read_snapshot
from charlm.compression.codec import Progress, compressing, decompressing
from charlm.evaluation.score import score_text
from charlm.inference.members import predictor_of

T = TypeVar("T")


def timed(work: Generator[Progress, None, T]) -> tuple[T, float]:
    started = perf_counter()
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value, perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("file", type=Path)
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"))
    parser.add_argument("--chars", type=int, help="only the last so many characters")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine.line())
    snapshot = read_snapshot(find_run(options.checkpoints, options.run), "latest")
    text = options.file.read_bytes().decode()
    text = text[-options.chars :] if options.chars else text
    data = text.encode()
    done, seconds = timed(compressing(data, snapshot))
    original, seconds_back = timed(decompressing(done.data, str(options.file), snapshot))
    assert original == data
    scored = score_text(predictor_of(snapshot), "", text).nats.sum() / log(2) / 8
    allowed = scored * 1.01 + 64
    print(f"{len(text):,} characters, {len(data):,} bytes, {done.header.streams} streams")
    print(f"compress    {len(text) / seconds:10,.0f} characters/s")
    print(f"decompress  {len(text) / seconds_back:10,.0f} characters/s")
    print(f"compressed  {len(done.data):10,} bytes, {8 * len(done.data) / len(text):.4f} bits/char")
    print(f"eval says   {scored:10,.0f} bytes; with 1 % and 64 bytes {allowed:,.0f}")
    print(f"xz          {len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)):10,} bytes")


if __name__ == "__main__":
    main()
