"""How fast text is sampled, alone and for 64 streams.

    python -m benchmarks.sample [--run RUN] [--length 400]

Without a run, a model of the plan's size for 60 seconds on two cores with untrained weights, which
cost the same. Prints characters per second, and the seconds to the first character.
"""

import argparse
from pathlib import Path
from time import perf_counter

import torch

from benchmarks.train import machine, trainer
from charlm.checkpoint.run_folder import find
from charlm.checkpoint.snapshot import read
from charlm.config import SamplingConfig
from charlm.predictor import TransformerPredictor
from charlm.sampling.generate import Piece, generate
from charlm.training.plan import SIZES


def measure(predictor: TransformerPredictor, streams: int, length: int) -> tuple[float, float]:
    """Characters a second, and seconds to the first one."""
    started, first, chars = perf_counter(), 0.0, 0
    for piece in generate(predictor, "0", SamplingConfig(), n=streams, length=length):
        if isinstance(piece, Piece):
            first = first or perf_counter() - started
            chars += len(piece.text)
    return chars / (perf_counter() - started), first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", help="a run in checkpoints/")
    parser.add_argument("--length", type=int, default=400)
    options = parser.parse_args()
    if options.run:
        predictor = TransformerPredictor.of(read(find(Path("checkpoints"), options.run), "latest"))
    else:
        predictor = trainer(SIZES[1]).predictor
        predictor.model.eval()
    model = predictor.model
    print(machine())
    print(f"{len(model.blocks)} layers of width {model.embedding.embedding_dim}, block {model.block_size}")
    measure(predictor, 1, 20)
    with torch.inference_mode():
        for streams in (1, 64):
            speed, first = measure(predictor, streams, options.length)
            print(
                f"{streams:3} streams: {speed:9,.0f} characters/s, the first after {1000 * first:.1f} ms",
                flush=True,
            )


if __name__ == "__main__":
    main()
