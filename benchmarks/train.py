"""How fast a training step is, beside a plain GPT trainer of the same shape and a plain matrix product.

    python -m benchmarks.train [--first 0] [--rows 7] [--rounds 6] [--compiled] [--precision bf16] [--plain]

For each size of the plan: characters per second and GFLOP/s of whole steps (forward, backward,
clipping, update), their share of what a plain matrix product reaches in the same process (in the
precision used, measured in every round, since machines change their speed), and how many times as
fast as the plain trainer's they are. Ours and the plain trainer's steps take turns. Counted: 6
operations a weight and 12 C T a layer for each character, the head included. With --compiled both are
compiled, by an empty cache; with --plain ours computes only what a plain decoder does.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from functools import partial
from statistics import median
from time import perf_counter

import numpy as np
import torch

from benchmarks.plain_gpt import PlainTrainer, Shape
from charlm.checkpoint.run_folder import CorpusFacts, RunFacts
from charlm.config import ModelConfig, TextConfig, TrainingConfig
from charlm.data.corpus import Corpus
from charlm.data.tokenizer import Vocabulary
from charlm.training.device import describe_machine, keep_memory, measure_gflops
from charlm.training.planner import SIZES, Budget, Choice, Size, choose
from charlm.training.session import TransformerSession
from charlm.training.trainer import compile_model, train_step

SYMBOLS = 65


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
    return TransformerSession(corpus, choice.model, choice.training, choice.plan, run)


def plain_trainer(size: Size, *, compiled: bool) -> PlainTrainer:
    """The plain trainer of the same layers, width, heads, block and characters a step."""
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, SYMBOLS, 1_000_000).astype(np.int16))
    shape = Shape(size.n_layer, size.n_head, size.n_embd, size.block_size, size.batch_size)
    return PlainTrainer(ids, SYMBOLS, shape, 10**6, compiled=compiled)


def our_step(session: TransformerSession) -> float:
    """The seconds of one step."""
    started = perf_counter()
    train_step(session, session.learning_rates())
    session.state.step += 1
    return perf_counter() - started


def in_turns(steps: list[Callable[[], float]], rounds: int, product: Callable[[], float]) -> list[float]:
    """The median seconds of each kind of step, and at last that of the products' GFLOP/s, all in turns."""
    times: list[list[float]] = [[] for _ in steps]
    products = []
    for _ in range(rounds):
        products.append(product())
        for step, found in zip(steps, times, strict=True):
            found += [step() for _ in range(6)][2:]
    return [median(found) for found in (*times, products)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=0, help="the first row of the plan's table, from 0")
    parser.add_argument("--rows", type=int, default=7, help="how many")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--compiled", action="store_true")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    options = parser.parse_args()
    keep_memory()
    kind = torch.bfloat16 if options.precision == "bf16" else torch.float32
    print(
        describe_machine(torch.get_num_threads()),
        options.precision,
        "compiled" if options.compiled else "eager",
    )
    header = ("chars/s", "GFLOP/s", "product", "share", "plain", "ratio")
    print(f"{'layers x width, block x batch':32}" + "".join(f"{name:>9}" for name in header))
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        for size in SIZES[options.first :][: options.rows]:
            session = untrained(size, plain=options.plain, precision=options.precision)
            if options.compiled:
                failure = compile_model(session)
                assert failure is None, failure
            plain = plain_trainer(size, compiled=options.compiled)
            steps: list[Callable[[], float]] = [partial(our_step, session), plain.step]
            ours, theirs, product = in_turns(
                steps, options.rounds, lambda: measure_gflops(torch.device("cpu"), kind)
            )
            head = 6 * SYMBOLS * size.n_embd * size.block_size * size.batch_size / 1e9
            gflops, chars = (size.step_gflop + head) / ours, size.block_size * size.batch_size
            name = f"{size.n_layer} x {size.n_embd}, {size.block_size} x {size.batch_size}"
            print(
                f"{name:32}{chars / ours:9,.0f}{gflops:9.1f}{product:9.1f}{100 * gflops / product:7.0f} %"
                f"{chars / theirs:9,.0f}{theirs / ours:8.2f}x",
                flush=True,
            )


if __name__ == "__main__":
    main()
