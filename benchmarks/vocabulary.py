"""What a vocabulary of thousands costs: a step of training, scoring and sampling, by the number of symbols.

    python -m benchmarks.vocabulary [--symbols 65 1000 10000]

The texts are made on the spot: so many characters drawn by Zipf's law, a million in all. One thread, a
small model of the same shape each time, with counts and without; medians of steps.
"""

import argparse
import os
import tempfile
from statistics import median
from time import perf_counter

import numpy as np
import torch

from benchmarks.machine import line
from benchmarks.train import our_step, session_of
from charlm.config import ModelConfig, TrainingConfig
from charlm.data.corpus import Corpus
from charlm.data.prepare import prepare
from charlm.data.text_config import TextConfig
from charlm.inference.generate import draw
from charlm.inference.predictor import TransformerPredictor
from charlm.inference.sampling_config import SamplingConfig
from charlm.training.planner import choose
from charlm.training.sizes import Budget

CHARS, STEPS, WARM, SCORED, SAMPLED = 1_000_000, 60, 10, 20_000, 300
FIRST = 0x4E00  # Chinese characters, as many as are wanted


def made(n_symbols: int) -> Corpus:
    """A text of that many different characters."""
    weights = 1 / np.arange(1, n_symbols + 1)
    drawn = np.random.default_rng(0).choice(n_symbols, CHARS, p=weights / weights.sum())
    drawn[:n_symbols] = np.arange(n_symbols)
    text = (drawn + FIRST).astype("<u4").tobytes().decode("utf-32-le")
    return prepare(text, TextConfig(min_count=1))


def measured(corpus: Corpus, counts: bool) -> tuple[float, float, float]:
    """Milliseconds a step of 2,048 characters; characters per second scored, and sampled as one stream."""
    shape = ModelConfig(n_layer=3, n_head=3, n_embd=96, block_size=128, ngram_embeddings=1, prior=counts)
    choice = choose(
        Budget(steps=10**4), len(corpus.train), shape, TrainingConfig(batch_size=16, device="cpu")
    )
    session = session_of(corpus, choice)
    times = [our_step(session, native=True) for _ in range(STEPS)]
    predictor = TransformerPredictor(session.model.eval(), corpus.vocabulary, prior=session.kneser_ney)
    started = perf_counter()
    predictor.score(corpus.held_out[:SCORED])
    scored = SCORED / (perf_counter() - started)
    drawn = draw(predictor, [np.zeros(1, np.int64)], SamplingConfig(seed=1), 1)
    next(drawn)
    started = perf_counter()
    for _ in range(SAMPLED):
        next(drawn)
    return 1000 * median(times[WARM:]), scored, SAMPLED / (perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--symbols", type=int, nargs="+", default=[65, 1000, 10_000])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(line())
    print(f"{'symbols':>8} {'counts':>7} {'step':>9} {'scored/s':>9} {'sampled/s':>10}")
    for n_symbols in options.symbols:
        with tempfile.TemporaryDirectory() as cache:
            os.environ["CHARLM_CACHE"] = cache
            corpus = made(n_symbols)
            for counts in (False, True):
                step, scored, sampled = measured(corpus, counts)
                word = "yes" if counts else "no"
                print(f"{n_symbols:8,} {word:>7} {step:6.1f} ms {scored:9,.0f} {sampled:10,.0f}", flush=True)


if __name__ == "__main__":
    main()
