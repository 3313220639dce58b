"""How fast a training step is, for each size of the plan, beside a plain matrix product.

    python -m benchmarks.train [--seconds 5] [--rows 5]

Prints characters per second and GFLOP/s of whole steps (forward, backward, clipping, AdamW), and
their share of what a plain fp32 matrix product reaches in the same process, measured before and
after each size, since machines change their speed. Counted: 6 operations a weight and 12 C T a
layer for each character, the head included.
"""

import argparse
from dataclasses import replace
from statistics import median
from time import perf_counter

import numpy as np
import torch

from charlm.config import ModelConfig, TrainingConfig
from charlm.text.corpus import Corpus
from charlm.text.vocabulary import Vocabulary
from charlm.training.device import machine, measure_gflops
from charlm.training.events import Stepped
from charlm.training.loop import Trainer
from charlm.training.plan import SIZES, Budget, Size, choose
from charlm.training.session import Session

SYMBOLS = 65


def trainer(size: Size) -> Trainer:
    """One whose text is noise: the speed of a step does not depend on it."""
    ids = np.random.default_rng(0).integers(0, SYMBOLS, 1_000_000).astype(np.uint8)
    chars = "".join(map(chr, range(48, 48 + SYMBOLS)))
    corpus = Corpus("noise", "", Vocabulary(chars, b"", (1,) * SYMBOLS), ids, ids[:0], len(ids), 0)
    model = ModelConfig(
        n_layer=size.n_layer, n_head=size.n_head, n_embd=size.n_embd, block_size=size.block_size, dropout=0.0
    )
    config = TrainingConfig(batch_size=size.batch_size, learning_rate=1e-4, device="cpu")
    choice = choose(Budget(steps=10**6), len(ids), model, config)
    return Trainer(Session(corpus, choice.model, choice.training, replace(choice.plan), {}), None)  # type: ignore[arg-type]


def step_seconds(size: Size, seconds: float) -> float:
    """The median of the steps made in that time, the first three left out."""
    training, times, started = trainer(size), [], perf_counter()
    while len(times) < 8 or perf_counter() - started < seconds:
        times += [event.seconds for event in training._step() if isinstance(event, Stepped)]
    return median(times[3:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each size")
    parser.add_argument("--rows", type=int, default=5, help="sizes of the plan, from the smallest")
    options = parser.parse_args()
    print(machine(torch.get_num_threads()))
    print(f"{'layers x width, block x batch':32} {'chars/s':>9} {'GFLOP/s':>8} {'product':>8} {'share':>6}")
    for size in SIZES[: options.rows]:
        before = measure_gflops(torch.device("cpu"))
        took = step_seconds(size, options.seconds)
        product = (before + measure_gflops(torch.device("cpu"))) / 2
        head = 6 * SYMBOLS * size.n_embd * size.block_size * size.batch_size / 1e9
        gflops = (size.step_gflop + head) / took
        name = f"{size.n_layer} x {size.n_embd}, {size.block_size} x {size.batch_size}"
        chars = size.block_size * size.batch_size / took
        print(
            f"{name:32} {chars:9,.0f} {gflops:8.1f} {product:8.1f} {100 * gflops / product:5.0f} %",
            flush=True,
        )


if __name__ == "__main__":
    main()
