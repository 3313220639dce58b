"""How fast a training step is: ours, ours without the compiled kernels, and a plain trainer's.

    python -m benchmarks.train [--first 0] [--rows 7] [--rounds 6] [--precision bf16] [--compiled] [--plain]

For each size of the plan, five things take turns: our step, the same by torch alone (CHARLM_NATIVE=0), the steps of a plain
GPT trainer of the same shape in fp32 and under bf16 autocast, and plain matrix products in both. A step is everything:
forward, backward, clipping, update. Printed: characters and GFLOP per second of ours, its share of the product in its
precision, and how many times as fast as each other trainer it is: the median of the rounds' ratios. Counted: 6 operations
a weight and 12 C T a layer for each character, the head included. With --compiled, torch.compile makes the three others
faster, by an empty cache; with --plain ours computes only what a plain decoder does.
"""

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from statistics import median
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.machine import line
from benchmarks.plain_gpt import PlainTrainer, Shape
from charlm.checkpoint.run_folder import CorpusFacts, RunFacts
from charlm.config import ModelConfig, TrainingConfig
from charlm.data.corpus import Corpus
from charlm.data.text_config import TextConfig
from charlm.data.tokenizer import Vocabulary
from charlm.native.library import VARIABLE
from charlm.training.device import keep_memory, pick_precision
from charlm.training.planner import Choice, choose
from charlm.training.session import TransformerSession
from charlm.training.sizes import SIZES, Budget, Size
from charlm.training.step import compile_model, train_step

SYMBOLS = 65
PRODUCT = 768
"""The side of the matrices whose product is timed."""


def untrained(size: Size, *, plain: bool = False, precision: str = "fp32") -> TransformerSession:
    """A model before its first step. Its text is noise: the speed of a step hardly depends on it."""
    ids = np.random.default_rng(0).integers(0, SYMBOLS, 1_000_000).astype(np.uint8)
    chars = "".join(map(chr, range(48, 48 + SYMBOLS)))
    corpus = Corpus(
        key="noise", sha256="", vocabulary=Vocabulary(chars, b"", (1,) * SYMBOLS),
        train=ids, held_out=ids[:0], test=ids[:0], train_chars=len(ids), held_out_chars=0,
    )  # fmt: skip
    model = ModelConfig(
        n_layer=size.n_layer,
        n_head=size.n_head,
        n_embd=size.n_embd,
        block_size=size.block_size,
        dropout=0.0,
        plain=plain,
        prior=False,
    )
    config = TrainingConfig(
        batch_size=size.batch_size, learning_rate=1e-4, device="cpu", precision=precision, compile="off"
    )
    choice = choose(Budget(steps=10**6), len(ids), model, config)
    return session_of(corpus, choice)


def session_of(corpus: Corpus, choice: Choice) -> TransformerSession:
    """One that belongs to no run."""
    facts = CorpusFacts(label="", sources=(), key=corpus.key, sha256=corpus.sha256)
    run = RunFacts(name="", command="", created="", corpus=facts, text=TextConfig())
    return TransformerSession(corpus, choice.plan, run)


def plain_trainer(size: Size, *, compiled: bool, bf16: bool = False) -> PlainTrainer:
    """The plain trainer of the same layers, width, heads, block and characters a step."""
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, SYMBOLS, 1_000_000).astype(np.int16))
    shape = Shape(size.n_layer, size.n_head, size.n_embd, size.block_size, size.batch_size)
    return PlainTrainer(ids, SYMBOLS, shape, 10**6, compiled=compiled, bf16=bf16)


@contextmanager
def kernels(*, used: bool) -> Iterator[None]:
    """Compute with the compiled kernels, or without."""
    before = os.environ.get(VARIABLE, "")
    os.environ[VARIABLE] = before if used else "0"
    yield
    os.environ[VARIABLE] = before


def our_step(session: TransformerSession, *, native: bool) -> float:
    """The seconds of one step."""
    with kernels(used=native):
        started = perf_counter()
        train_step(session, session.learning_rates())
        session.state.step += 1
        return perf_counter() - started


def in_turns(steps: Sequence[Callable[[], float]], rounds: int) -> NDArray[np.float64]:
    """The median seconds of each kind of step in each round, (rounds, kinds)."""
    return np.array([[median([step() for _ in range(6)][2:]) for step in steps] for _ in range(rounds)])


def product(kind: torch.dtype) -> float:
    """The seconds of a GFLOP of plain matrix product."""
    a = torch.ones(PRODUCT, PRODUCT, dtype=kind)
    times = []
    for _ in range(12):
        started = perf_counter()
        a @ a
        times.append(perf_counter() - started)
    return 1e9 * median(times[2:]) / (2 * PRODUCT**3)


def steps_of(size: Size, options: argparse.Namespace) -> list[Callable[[], float]]:
    """What takes turns, in the order of the table."""
    found: list[Callable[[], float]] = []
    for native in (True, False):
        with kernels(used=native):
            session = untrained(size, plain=options.plain, precision=options.precision)
            failure = compile_model(session) if options.compiled and not native else None
            assert failure is None, failure
        found.append(partial(our_step, session, native=native))
    plain = [plain_trainer(size, compiled=options.compiled, bf16=bf16).step for bf16 in (False, True)]
    return [*found, *plain, partial(product, torch.float32), partial(product, torch.bfloat16)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=0, help="the first row of the plan's table, from 0")
    parser.add_argument("--rows", type=int, default=7, help="how many")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--plain", action="store_true")
    default = pick_precision(torch.device("cpu"))
    parser.add_argument("--precision", choices=("fp32", "bf16"), default=default)
    options = parser.parse_args()
    keep_memory()
    print(f"{line()}; ours in {options.precision}" + ", the others compiled" * options.compiled)
    header = ("chars/s", "GFLOP/s", "fp32", "bf16", "share", "torch", "plain", "bf16")
    print(f"{'':32}{'ours':>9}{'':>9}{'product':>18}{'':>9}{'times as fast as':>27}")
    print(f"{'layers x width, block x batch':32}" + "".join(f"{name:>9}" for name in header))
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        for size in SIZES[options.first :][: options.rows]:
            seconds = in_turns(steps_of(size, options), options.rounds)
            ours, *_, fp32, bf16 = np.median(seconds, axis=0)
            ratios = np.median(seconds[:, 1:4] / seconds[:, :1], axis=0)
            chars = size.block_size * size.batch_size
            gflop = size.gflop + 6 * SYMBOLS * size.n_embd * chars / 1e9
            used = bf16 if options.precision == "bf16" else fp32
            name = f"{size.n_layer} x {size.n_embd}, {size.block_size} x {size.batch_size}"
            print(
                f"{name:32}{chars / ours:9,.0f}{gflop / ours:9.1f}{1 / fp32:9.1f}{1 / bf16:9.1f}"
                f"{100 * gflop / ours * used:7.0f} %" + "".join(f"{ratio:8.2f}x" for ratio in ratios),
                flush=True,
            )


if __name__ == "__main__":
    main()
