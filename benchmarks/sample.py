"""How fast text is sampled: one stream and many, beside a plain sampler and what memory allows.

    python -m benchmarks.sample [--run RUN] [--length 4000]
    python -m benchmarks.sample --run RUN --beside PLAIN

With --beside, only how many times as long a character of RUN takes as one of another run, and a score.

Without a run, a model of the plan's size for 60 seconds on two cores with untrained weights, which
cost the same. Prints characters per second and the seconds to the first character; the plain
sampler recomputes a block for each character. "NumPy" is what is reached without the compiled
kernels. At the end a long prompt is read. The bound is what one stream could reach if reading
the weights once a character, at the speed of copying memory, were all there is to do.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command has it

import argparse
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch

from benchmarks.machine import line
from benchmarks.plain_gpt import PlainTrainer, Shape
from benchmarks.train import untrained
from charlm.checkpoint.run_folder import find_run
from charlm.checkpoint.snapshot import TABLE, read_snapshot
from charlm.config import SamplingConfig
from charlm.inference.generate import Piece, draw, generate
from charlm.inference.predictor import TransformerPredictor
from charlm.training.planner import SIZES

STREAMS = (1, 8, 64, 512)
BESIDE, ROUNDS, SCORED = (1, 16, 64), 7, 40_000
COPIED = 64 << 20


PROMPT = 100_000


def measure(
    predictor: TransformerPredictor, streams: int, length: int, prompt: str = "0"
) -> tuple[float, float]:
    """Characters a second, and seconds to the first one."""
    started, first, chars = perf_counter(), 0.0, 0
    for piece in generate(predictor, prompt, SamplingConfig(seed=1), n=streams, length=length):
        if isinstance(piece, Piece):
            first = first or perf_counter() - started
            chars += len(piece.text)
    return chars / (perf_counter() - started), first


def bound(predictor: TransformerPredictor) -> float:
    """Characters a second if each cost one reading of the weights (of the n-grams, only some rows)."""
    weights = {n: w for n, w in predictor.model.state_dict().items() if n != TABLE}
    source = np.ones(COPIED, dtype=np.uint8)
    target = np.empty_like(source)
    times = []
    for _ in range(5):
        started = perf_counter()
        np.copyto(target, source)
        times.append(perf_counter() - started)
    bandwidth = 2 * COPIED / min(times)
    return bandwidth / float(sum(w.numel() * w.element_size() for w in weights.values()))


def beside(names: tuple[str, str]) -> None:
    """Microseconds a step, and seconds to score, of two runs in turns: what counts cost, if one has them."""
    both = [
        TransformerPredictor.of(read_snapshot(find_run(Path("checkpoints"), name), "latest"))
        for name in names
    ]
    ids = np.random.default_rng(0).integers(0, both[0].model.n_symbols, SCORED)
    torch.set_num_threads(1)
    for streams in BESIDE:
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(ROUNDS):
            for predictor, found in zip(both, times, strict=True):
                drawn = draw(predictor, np.zeros(1, np.int64), SamplingConfig(seed=1), streams)
                next(drawn)
                started, n = perf_counter(), 600 // (1 + streams // 16)
                for _ in range(n):
                    next(drawn)
                found.append((perf_counter() - started) / n * 1e6)
        first, second = map(median, times)
        print(f"{streams:3} streams: {first:6.0f} and {second:6.0f} us a character, {first / second:.2f}x")
    times = ([], [])
    for _ in range(ROUNDS):
        for predictor, found in zip(both, times, strict=True):
            started = perf_counter()
            predictor.score(ids)
            found.append(perf_counter() - started)
    first, second = map(median, times)
    print(f"scored: {len(ids) / first:,.0f} and {len(ids) / second:,.0f} characters/s, {first / second:.2f}x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", help="a run in checkpoints/")
    parser.add_argument("--length", type=int, default=4000)
    parser.add_argument("--beside", metavar="RUN", help="another run")
    options = parser.parse_args()
    if options.beside:
        beside((options.run, options.beside))
        return
    if options.run:
        predictor = TransformerPredictor.of(
            read_snapshot(find_run(Path("checkpoints"), options.run), "latest")
        )
    else:
        session = untrained(SIZES[2])
        predictor = TransformerPredictor(session.model.eval(), session.corpus.vocabulary)
    without = TransformerPredictor(predictor.model, predictor.vocabulary, predictor.prior, native=False)
    config = predictor.model.config
    assert config.n_layer and config.n_embd and config.block_size
    shape = Shape(config.n_layer, max(1, config.n_embd // 32), config.n_embd, config.block_size)
    plain = PlainTrainer(torch.zeros(1000, dtype=torch.int16), predictor.model.n_symbols, shape, 1)
    threads = torch.get_num_threads()
    print(line())
    print(f"{config.n_layer} layers of width {config.n_embd}, block {config.block_size}")
    print(f"{'streams':>7} {'chars/s':>9} {'first':>9} {'NumPy':>9} {'plain':>9} {'ratio':>6}")
    measure(predictor, 1, 20)
    measure(without, 1, 20)
    for streams in STREAMS:
        length = max(64, options.length // max(1, streams // 2))
        torch.set_num_threads(1)  # as the command has it
        speed, first = measure(predictor, streams, length)
        numpy_speed, _ = measure(without, streams, length)
        torch.set_num_threads(threads)
        usual = plain.sample(streams, max(10, length // 40))
        print(
            f"{streams:7} {speed:9,.0f} {1000 * first:6.1f} ms {numpy_speed:9,.0f} {usual:9,.0f} {speed / usual:5.1f}x",
            flush=True,
        )
    for n in (PROMPT // 10, PROMPT):
        _, first = measure(predictor, 1, 1, "0 1 " * (n // 4))
        print(f"first character after a prompt of {n:,} characters: {1000 * first:.1f} ms")
    print(f"bound for one stream: {bound(predictor):,.0f} characters/s")


if __name__ == "__main__":
    main()
