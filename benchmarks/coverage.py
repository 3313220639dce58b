"""How often 95 % intervals cover the mean they are of: in simulations, and on real texts.

    python -m benchmarks.coverage [TEXT]... [--trials 4000]

Simulated are means of blocks: normal, skewed (exponential, log-normal), correlated with their neighbours
(AR(1), with coefficient 0.3 and 0.5), and both. Beside the coverage stands the median width, as a multiple
of the width that the true error would give. On a text, Kneser-Ney counts of every tenth block of 1,000
characters score the others, which make disjoint held-out parts; each part's interval is to cover the mean
of all of them, and that of the paired difference from lower-order counts. Without TEXT that is the manual
inside Python.
"""

import argparse
from collections.abc import Callable
from math import exp, sqrt
from pathlib import Path

import numpy as np

from benchmarks.machine import line
from charlm.config import TrainingConfig
from charlm.data.prepare import prepare
from charlm.data.sources import manual_name, read_manual
from charlm.data.text_config import TextConfig
from charlm.evaluation.bootstrap import BLOCK, Numbers, confidence_interval, long_run_variance, t_quantile
from charlm.evaluation.score import score_text
from charlm.inference.ngram_predictor import NgramPredictor
from charlm.ngram.build import build, fit

Interval = tuple[float, float]
Method = Callable[[Numbers], Interval]
LENGTHS = (20, 50, 100, 500)
RESAMPLES = 1_000
SLOW_TRIALS = 500  # of the methods that resample
RANDOM = np.random.default_rng(0)


def percentile(blocks: Numbers) -> Interval:
    """The percentile bootstrap of independent blocks: what was used until now."""
    drawn = blocks[RANDOM.integers(0, len(blocks), (RESAMPLES, len(blocks)))].mean(axis=1)
    return float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))


def student(blocks: Numbers) -> Interval:
    """Student's t with n - 1 degrees of freedom."""
    half = t_quantile(len(blocks) - 1) * blocks.std(ddof=1) / sqrt(len(blocks))
    return float(blocks.mean() - half), float(blocks.mean() + half)


def studentised(blocks: Numbers, length: int = 1) -> Interval:
    """The studentised bootstrap of overlapping stretches of so many blocks, joined in a circle."""
    n, mean = len(blocks), blocks.mean()
    sums = np.cumsum(np.concatenate(([0.0], blocks, blocks[:length])))
    stretches = (sums[length : length + n] - sums[:n]) / length
    k = n // length
    drawn = stretches[RANDOM.integers(0, n, (RESAMPLES, k))]
    errors = np.maximum(drawn.std(axis=1, ddof=1) / sqrt(k), 1e-12)
    low, high = np.quantile((drawn.mean(axis=1) - mean) / errors, (0.025, 0.975))
    error = blocks[: k * length].reshape(k, length).mean(axis=1).std(ddof=1) / sqrt(k)
    return float(mean - high * error), float(mean - low * error)


def studentised_stretches(blocks: Numbers) -> Interval:
    """The same of stretches of about the cube root of n blocks."""
    return studentised(blocks, max(2, round(len(blocks) ** (1 / 3))))


def batches(blocks: Numbers) -> Interval:
    """Student's t of the means of fewer, longer batches: twice the cube root of n."""
    return student(
        np.array([part.mean() for part in np.array_split(blocks, round(2 * len(blocks) ** (1 / 3)))])
    )


def cosines(blocks: Numbers) -> Interval:
    """The cosine series alone, without what allows for skewness."""
    variance, dof = long_run_variance(blocks)
    half = t_quantile(dof) * sqrt(variance / len(blocks))
    return float(blocks.mean() - half), float(blocks.mean() + half)


def kept(blocks: Numbers) -> Interval:
    """What charlm uses."""
    found = confidence_interval(np.repeat(blocks, BLOCK))
    assert found is not None
    return found


METHODS: dict[str, tuple[Method, bool]] = {
    "percentile bootstrap": (percentile, True),
    "Student's t, n - 1": (student, False),
    "studentised bootstrap": (studentised, True),
    "  of stretches": (studentised_stretches, True),
    "Student's t of batches": (batches, False),
    "cosine series": (cosines, False),
    "  with Hall (charlm)": (kept, False),
}


def autoregressive(noise: Numbers, coefficient: float) -> Numbers:
    """AR(1) of so many blocks, after a run-in."""
    out = np.zeros_like(noise)
    for t in range(1, noise.shape[1]):
        out[:, t] = coefficient * out[:, t - 1] + noise[:, t]
    return out[:, 100:]


KINDS: dict[str, tuple[Callable[[int, int], Numbers], float, float]] = {
    # how trials of n blocks are made, their mean, and the long-run standard deviation
    "normal": (lambda m, n: RANDOM.normal(size=(m, n)), 0.0, 1.0),
    "exponential": (lambda m, n: RANDOM.exponential(size=(m, n)), 1.0, 1.0),
    "log-normal": (
        lambda m, n: np.exp(RANDOM.normal(size=(m, n))),
        exp(0.5),
        sqrt((exp(1) - 1) * exp(1)),
    ),
    "AR 0.3": (lambda m, n: autoregressive(RANDOM.normal(size=(m, n + 100)), 0.3), 0.0, 1 / 0.7),
    "AR 0.5": (lambda m, n: autoregressive(RANDOM.normal(size=(m, n + 100)), 0.5), 0.0, 2.0),
    "skewed AR 0.3": (
        lambda m, n: autoregressive(RANDOM.exponential(size=(m, n + 100)), 0.3),
        1 / 0.7,
        1 / 0.7,
    ),
}


def coverage(method: Method, trials: Numbers, mean: float) -> tuple[float, float]:
    """Of trials (M, N): the share that is covered, and the median width."""
    found = np.array([method(blocks) for blocks in trials])
    return float(((found[:, 0] <= mean) & (mean <= found[:, 1])).mean()), float(
        np.median(found[:, 1] - found[:, 0])
    )


def simulate(trials: int) -> None:
    """The table of all methods, kinds and lengths."""
    print(f"{'blocks':>6} {'method':24}" + "".join(f"{kind:>18}" for kind in KINDS))
    for n in LENGTHS:
        for name, (method, slow) in METHODS.items():
            cells = []
            for make, mean, deviation in KINDS.values():
                share, width = coverage(method, make(min(trials, SLOW_TRIALS) if slow else trials, n), mean)
                cells.append(f"{100 * share:9.1f} % {width / (2 * 1.96 * deviation / sqrt(n)):4.2f} x")
            print(f"{n:6} {name:24}" + "".join(f"{cell:>18}" for cell in cells), flush=True)


def scored(text: str) -> tuple[Numbers, Numbers]:
    """Of nine in ten blocks of a text, block by block: bits per character by counts of the rest.

    By the order that charlm chooses, and the difference from half that order.
    """
    pieces = [text[i : i + BLOCK] for i in range(0, len(text) - BLOCK + 1, BLOCK)]
    corpus = prepare("".join(pieces[5::10]), TextConfig(val=0))
    memory, vocabulary = TrainingConfig().prior_memory << 20, corpus.vocabulary
    whole = fit(corpus.train, vocabulary.n_symbols, memory=memory, end=vocabulary.end).model
    half = build(corpus.train, vocabulary.n_symbols, max(1, whole.order // 2), memory=memory, most=None).model
    found = []
    for model in (whole, half):
        predictor = NgramPredictor(model, vocabulary)
        bits = [score_text(predictor, "", piece).bits.mean() for i, piece in enumerate(pieces) if i % 10 != 5]
        found.append(np.array(bits))
    return found[0], found[0] - found[1]


def on_text(name: str, text: str) -> None:
    """How often the intervals of disjoint held-out parts cover the mean of all.

    Parts are stretches of the text, or of as many blocks drawn from all over it.
    """
    figures, differences = scored(text)
    print(f"\n{name}: {len(figures)} blocks, {figures.mean():.3f} bits per character")
    for what, blocks in (("figure", figures), ("difference of two orders", differences)):
        for drawn, values in (("stretches", blocks), ("drawn", RANDOM.permutation(blocks))):
            for n in LENGTHS[:3]:
                parts = len(values) // n
                if parts < 4:
                    continue
                trials = values[: parts * n].reshape(parts, n)
                said = []
                for title, (method, _) in METHODS.items():
                    share, width = coverage(method, trials, float(blocks.mean()))
                    said.append(f"{title.strip()} {share * parts:.0f} ({width:.3f} wide)")
                print(f"  {what}, {parts} parts of {n} blocks, {drawn}: {', '.join(said)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", nargs="*", metavar="TEXT")
    parser.add_argument("--trials", type=int, default=4_000)
    options = parser.parse_args()
    print(line())
    if options.trials:
        simulate(options.trials)
    for name in options.texts:
        on_text(Path(name).name, Path(name).read_text("utf-8"))
    if not options.texts:
        on_text(manual_name(), read_manual())


if __name__ == "__main__":
    main()
