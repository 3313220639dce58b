"""How fast n-grams are counted, what they predict, and what they take in memory, order by order.

    python -m benchmarks.counts FILE [--orders 3-8] [--folds 10] [--repeat 3]

The first 90 % of the text are counted, the rest is scored. MB/s is of the text's UTF-8, on one core,
from ids to the finished table; `folds` the same with the shares of the folds; `held out` the nats per
character that the rest costs; `disk` the size of the saved table; `batch` milliseconds for the rows of
8 x 128 positions, each without its own fold, by NumPy, and `in C` by the compiled function, the same to
the last bit; `step` microseconds for one position.
"""

import argparse
from copy import copy
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch

from benchmarks import machine
from charlm.data.corpus import BatchSampler, Corpus
from charlm.data.prepare import prepare
from charlm.data.text_config import TextConfig
from charlm.evaluation.score import score_text
from charlm.inference.ngram_predictor import NgramPredictor
from charlm.ngram.build import Built, TrainingPrior, build, fold_edges
from charlm.ngram.table import Index

MEMORY = 4 << 30
B, T, BATCHES = 8, 128, 100


def built(corpus: Corpus, order: int, folds: Index | None, repeat: int) -> tuple[Built, float]:
    """The counts, and the least seconds of several times."""
    seconds = []
    for _ in range(repeat):
        started = perf_counter()
        found = build(corpus.train, corpus.vocabulary.n_symbols, order, memory=MEMORY, folds=folds)
        seconds.append(perf_counter() - started)
    return found, min(seconds)


def batch_seconds(prior: TrainingPrior) -> tuple[float, float]:
    """The rows of a training batch, each without its own fold, by NumPy and in C; medians, in turns."""
    plain = replace(prior, model=copy(prior.model))
    plain.model.kernel = None
    sampler = BatchSampler(len(prior.train), T, B, 1)
    seconds: tuple[list[float], list[float]] = ([], [])
    for step in range(BATCHES):
        found = []
        for each, times in zip((plain, prior), seconds, strict=True):
            started = perf_counter()
            found.append(each.log_rows(sampler.starts(step), T))
            times.append(perf_counter() - started)
        assert found[0].tobytes() == found[1].tobytes()
    return median(seconds[0]), median(seconds[1])


def step_seconds(predictor: NgramPredictor, corpus: Corpus, steps: int = 500) -> float:
    """One character more of one text."""
    state = predictor.start(1)
    ids = torch.from_numpy(corpus.held_out[:steps].astype(np.int64))[None]
    started = perf_counter()
    for t in range(ids.shape[1]):
        state, _ = predictor.step(state, ids[:, t : t + 1])
    return (perf_counter() - started) / ids.shape[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--orders", default="3-8")
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    low, high = map(int, options.orders.split("-"))
    torch.set_num_threads(1)
    print(machine.line())
    corpus = prepare(options.file.read_text("utf-8"), TextConfig())
    megabytes = len(corpus.training_text().encode()) / 1e6
    print(f"{options.file.name}: {megabytes:.2f} MB, {corpus.vocabulary.n_symbols} symbols")
    titles = ("order", "MB/s", "folds", "held out", "MB", "with folds", "disk", "batch", "in C", "step")
    print("".join(f"{title:>11}" for title in titles))
    for order in range(low, high + 1):
        whole, seconds = built(corpus, order, None, options.repeat)
        edges = fold_edges(len(corpus.train), options.folds)
        folds, fold_seconds = built(corpus, order, edges, options.repeat)
        predictor = NgramPredictor(whole.model, corpus.vocabulary)
        nats = score_text(predictor, "", corpus.held_out_text()).nats.mean()
        figures = (
            megabytes / seconds,
            megabytes / fold_seconds,
            nats,
            whole.model.nbytes / 1e6,
            folds.model.nbytes / 1e6,
            len(whole.model.to_bytes()) / 1e6,
            *(seconds * 1e3 for seconds in batch_seconds(TrainingPrior(folds.model, corpus.train, edges))),
            step_seconds(predictor, corpus) * 1e6,
        )
        shown = (f"{figure:11.{4 if i == 2 else 1}f}" for i, figure in enumerate(figures))
        print(f"{whole.model.order:11d}" + "".join(shown), flush=True)


if __name__ == "__main__":
    main()
