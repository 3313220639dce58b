"""How fast text is sampled: one stream and many, beside a plain sampler and what memory allows.

    python -m benchmarks.sample [--run RUN] [--length 400]

Without a run, a model of the plan's size for 60 seconds on two cores with untrained weights, which
cost the same. Prints characters per second and the seconds to the first character; the plain
sampler recomputes a block for each character. The bound is what one stream could reach if reading
the weights once a character, at the speed of copying memory, were all there is to do.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as the command has it

import argparse
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from benchmarks.plain_gpt import PlainTrainer, Shape
from benchmarks.train import trainer
from charlm.checkpoint.run_folder import find
from charlm.checkpoint.snapshot import TABLE, read
from charlm.config import SamplingConfig
from charlm.predictor import TransformerPredictor
from charlm.sampling.generate import Piece, generate
from charlm.training.device import machine
from charlm.training.plan import SIZES

STREAMS = (1, 8, 64, 512)
COPIED = 64 << 20


def measure(predictor: TransformerPredictor, streams: int, length: int) -> tuple[float, float]:
    """Characters a second, and seconds to the first one."""
    started, first, chars = perf_counter(), 0.0, 0
    for piece in generate(predictor, "0", SamplingConfig(), n=streams, length=length):
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
    return bandwidth / sum(w.numel() * w.element_size() for w in weights.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", help="a run in checkpoints/")
    parser.add_argument("--length", type=int, default=400)
    options = parser.parse_args()
    if options.run:
        predictor = TransformerPredictor.of(read(find(Path("checkpoints"), options.run), "latest"))
    else:
        predictor = trainer(SIZES[2]).predictor
        predictor.model.eval()
    config = predictor.model.config
    assert config.n_layer and config.n_embd and config.block_size
    shape = Shape(config.n_layer, max(1, config.n_embd // 32), config.n_embd, config.block_size)
    plain = PlainTrainer(torch.zeros(1000, dtype=torch.int16), predictor.model.n_symbols, shape, 1)
    threads = torch.get_num_threads()
    print(machine(threads))
    print(f"{config.n_layer} layers of width {config.n_embd}, block {config.block_size}")
    print(f"{'streams':>7} {'chars/s':>9} {'first':>9} {'plain':>9} {'ratio':>6}")
    measure(predictor, 1, 20)
    for streams in STREAMS:
        length = max(20, options.length // max(1, streams // 16))
        torch.set_num_threads(1)  # as the command has it
        with torch.inference_mode():
            speed, first = measure(predictor, streams, length)
        torch.set_num_threads(threads)
        usual = plain.sample(streams, max(10, length // 8))
        print(
            f"{streams:7} {speed:9,.0f} {1000 * first:6.1f} ms {usual:9,.0f} {speed / usual:5.1f}x",
            flush=True,
        )
    print(f"bound for one stream: {bound(predictor):,.0f} characters/s")


if __name__ == "__main__":
    main()
