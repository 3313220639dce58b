"""A text whose entropy is known: how close does a training come to the best that can be learned from it?

    python -m benchmarks.known_source [--chars 4000000] [--order 8] [--time 60s] [-- OPTIONS]

Four letters, each drawn from a distribution that belongs to the letters before it and was itself drawn from a
Dirichlet distribution. Nats per character on the last tenth: of the source itself; of the best predictor that knows the
order and the Dirichlet distribution, but not the 4^order drawn from it (the mean of their posterior after the first nine
tenths), below which nothing that learns from this text can be expected to come; of a run, and of its n-gram baseline.
"""

import argparse
import tempfile
from math import log
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import line
from benchmarks.quality import ended

LETTERS = np.frombuffer(b"ACGT", np.uint8)
CONCENTRATION = 0.21  # with which order 8 has about 0.59 nats per character
STREAMS, WARM_UP = 500, 200
"""The text is so many pieces, drawn side by side, each from a random beginning that is left out."""

Table = NDArray[np.float64]  # (contexts, letters)


def drawn(n: int, order: int, seed: int) -> tuple[NDArray[np.int64], Table]:
    """About n letters, as numbers, and the distribution after each context."""
    V = len(LETTERS)
    rng = np.random.default_rng(seed)
    table = rng.dirichlet([CONCENTRATION] * V, V**order)
    cumulated = table.cumsum(axis=1)
    context = rng.integers(0, V**order, STREAMS)
    letters = np.empty((STREAMS, WARM_UP + n // STREAMS), np.int64)
    for t in range(letters.shape[1]):
        letters[:, t] = (cumulated[context] < rng.random((STREAMS, 1))).sum(axis=1).clip(max=V - 1)
        context = (context * V + letters[:, t]) % V**order
    return letters[:, WARM_UP:].reshape(-1), table


def limits(letters: NDArray[np.int64], table: Table, order: int) -> tuple[float, float]:
    """Nats per character of the source, and of the mean of the posterior, on the last tenth."""
    V, n = len(LETTERS), len(letters)
    context = sum(letters[order - k : n - k] * V ** (k - 1) for k in range(1, order + 1))
    following, cut = letters[order:], n * 9 // 10 - order
    counts = np.full_like(table, CONCENTRATION)
    np.add.at(counts, (context[:cut], following[:cut]), 1)
    at = (context[cut:], following[cut:])
    learned = counts / counts.sum(axis=1, keepdims=True)
    return -float(np.log(table[at]).mean()), -float(np.log(learned[at]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chars", type=int, default=4_000_000)
    parser.add_argument("--order", type=int, default=8)
    parser.add_argument("--time", default="60s")
    parser.add_argument("more", nargs="*")
    options = parser.parse_args()
    letters, table = drawn(options.chars, options.order, seed=1)
    own, best = limits(letters, table, options.order)
    print(line())
    print(f"{len(letters):,} characters, order {options.order}, nats per character on the last tenth")
    print(f"the source {own:.4f}, the best that can be learned {best:.4f}, four letters alike {log(4):.4f}")
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "source.txt")
        text.write_bytes(LETTERS[letters].tobytes())
        run = ended(str(text), options.time, 1, options.more)
    print(f"--time {options.time}: {run.nats:.4f}, its baseline {run.counts:.4f}; {run.wall:.1f} s")


if __name__ == "__main__":
    main()
