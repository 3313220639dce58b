"""The law of the loss behind the plan: a sweep of sizes, lengths of text and steps, and the fit of its constants.

    python -m benchmarks.scaling run TEXT... --out rows.jsonl [--kinds no-prior] [--sizes 3x64/128x16,...] [--steps 250,1000]
                                     [--chars 100000,1000000] [--jobs 2]
    python -m benchmarks.scaling fit benchmarks/scaling.jsonl

A size is layers x width / block x batch; without --sizes, every row of the plan's table of at most 5 layers.

`run` trains each size on the beginning of each text for each number of steps, one thread each, and appends a line of
JSON per training: nats per character of a held-out part of 50,000 characters that follows the beginning, with the
temperature that the run fitted, without recent n-grams. Rows that are there already are not trained again. Nothing is timed, so other work may
run beside it. benchmarks/scaling.jsonl holds the rows behind the plan. `fit` prints the constants for charlm/training/scaling.py, and how far they are off for each text.
"""

import argparse
import json
import os
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from math import log, sqrt
from pathlib import Path
from statistics import fmean, mode
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from benchmarks.machine import charlm, line
from charlm.training.scaling import ScalingLaw
from charlm.training.sizes import Size, sizes_of

HELD_OUT = 50_000
START = (0.6, 2.0, 0.3, 20.0, 0.4, 0.1, 0.5, 0.5, 8.0, 0.3)
"""Where the fit begins: the constants in their order."""
ERROR = 0.01
"""What a row may be off by, as a share of the loss: about what another seed changes."""
FLOOR_SPREAD, EXCESS_SPREAD = 0.1, 0.5
"""How far the factors of texts are expected to lie from 1, as logarithms."""
ITERATIONS = 300
Numbers = NDArray[np.float64]
SIZE = re.compile(r"(\d+)x(\d+)/(\d+)x(\d+)")
NAMES = ("--n-layer", "--n-embd", "--block-size", "--batch-size", "--learning-rate")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One training."""

    text: str
    chars: int  # of the training part
    kind: str
    symbols: int  # of the vocabulary
    size: str
    weights: int  # of the blocks
    read: int  # characters that were read
    steps: int
    kneser_ney: float  # nats per character of the n-gram baseline
    nats: float

    @property
    def key(self) -> tuple[str, int, str, str, int]:
        """What makes it one row and not another."""
        return self.text, self.chars, self.kind, self.size, self.steps

    @property
    def part(self) -> str:
        """The text, and how much of it was trained on."""
        return f"{self.text}, {self.chars:,}"

    @property
    def block_size(self) -> int:
        return shape(self.size)[2]

    @property
    def share(self) -> float:
        """The loss as a share of the n-grams'."""
        return self.nats / self.kneser_ney


def shape(size: str) -> tuple[int, ...]:
    """Layers, width, block, batch."""
    match = SIZE.fullmatch(size)
    if match is None:
        raise SystemExit(f"{size} is no size; write it like 3x64/128x16")
    return tuple(map(int, match.groups()))


def in_words(size: Size) -> str:
    """The same as the command takes it."""
    return f"{size.n_layer}x{size.n_embd}/{size.block_size}x{size.batch_size}"


def train(text: Path, chars: int, kind: str, size: str, steps: int) -> Row:
    """Train one size on the beginning of a text, and score it on what follows."""
    n_layer, n_embd, block, batch = shape(size)
    like = min(sizes_of(kind), key=lambda s: abs(log(s.weights / (12 * n_layer * n_embd**2))))
    values = (n_layer, n_embd, block, batch, like.learning_rate)
    with tempfile.TemporaryDirectory() as folder:
        held_out = min(HELD_OUT, chars // 5)
        whole = text.read_text("utf-8")[: chars + held_out]
        Path(folder, "text.txt").write_text(whole, "utf-8")
        words = [str(word) for pair in zip(NAMES, values, strict=True) for word in pair]
        val = ("--val", str(held_out / len(whole)), "--members", kind, "--threads", "1")
        alone = ("--recent-chars", "0", "--patience", "0")
        charlm("train", "text.txt", "--steps", str(steps), "--run", "r", *alone, *val, *words, folder=folder)
        out = charlm("eval", "--run", "r", "--json", "--threads", "1", folder=folder).out
    data = json.loads(out[out.index("{") :])
    return Row(
        text=text.stem,
        chars=len(whole) - held_out,
        kind=kind,
        symbols=len(set(whole)),
        size=size,
        weights=12 * n_layer * n_embd**2,
        read=steps * block * batch,
        steps=steps,
        kneser_ney=data["baselines"]["kneser-ney"]["bits_per_char"] * log(2),
        nats=data["nats_per_char"],
    )


def sweep(options: argparse.Namespace) -> None:
    """Train what is not there yet, and append each row when it is done."""
    out, lock = Path(options.out), Lock()
    there = {row.key for row in read(out)} if out.exists() else set()
    os.environ["OMP_NUM_THREADS"] = "1"

    def one(text: str, chars: int, kind: str, size: str, steps: int) -> None:
        if (Path(text).stem, chars, kind, size, steps) in there:
            return
        row = train(Path(text), chars, kind, size, steps)
        with lock, out.open("a") as file:
            file.write(json.dumps(asdict(row)) + "\n")
        print(
            f"{row.text:12}{row.chars:12,}  {row.kind:10}{row.size:14}{row.steps:7}{row.nats:9.4f}",
            flush=True,
        )

    print(line())
    with ThreadPoolExecutor(options.jobs) as pool:
        wanted = [
            (text, chars, kind, size, steps)
            for text, chars, kind in product(options.texts, options.chars, options.kinds)
            for size in options.sizes or [in_words(size) for size in sizes_of(kind) if size.n_layer <= 5]
            for steps in options.steps
        ]
        for done in [pool.submit(one, *each) for each in wanted]:
            done.result()


def read(path: Path) -> list[Row]:
    """The rows of a file."""
    return [Row(**json.loads(text)) for text in path.read_text().splitlines()]


def fit(options: argparse.Namespace) -> None:
    """Fit a law to the rows of each kind, and print it beside what it gets wrong."""
    rows = [row for path in options.files for row in read(Path(path))]
    for kind in sorted({row.kind for row in rows}):
        of_kind = [row for row in rows if row.kind == kind]
        law, texts = fitted(of_kind)
        constants = ", ".join(f"{name}={value:.4g}" for name, value in asdict(law).items())
        print(f"{kind}: ScalingLaw({constants})")
        for part, text in texts.items():
            here = [row for row in of_kind if row.part == part]
            errors = [log(row.share / text.expected(law, row)) for row in here]
            spread = sqrt(fmean(error**2 for error in errors))
            print(
                f"  {part:24}{len(here):4} rows, floor times {text.floor:.3f}, what is above it times {text.excess:.3f}, "
                f"off by {100 * spread:.2f} %"
            )
            if options.rows:
                for row, error in zip(here, errors, strict=True):
                    print(f"      {row.size:14}{row.steps:7}{row.share:9.4f}{100 * error:+7.1f} %")


@dataclass(frozen=True)
class TextFactors:
    """How the loss on one text differs from the law; neither factor changes which size ends lowest."""

    floor: float  # of E
    excess: float  # of what is above it

    def expected(self, law: ScalingLaw, row: Row) -> float:
        """The share that the law expects of a training on this text."""
        share = law.loss(weights=row.weights, block_size=row.block_size, chars=row.read, n_train=row.chars)
        return self.floor * law.E + self.excess * (share - law.E)


def fitted(rows: list[Row]) -> tuple[ScalingLaw, dict[str, TextFactors]]:
    """The law that fits best, and the factors of each text and length; those of the one with most rows are 1.

    Least squares of logarithms by the method of Levenberg and Marquardt.
    """
    names = [f.name for f in fields(ScalingLaw)]
    texts = sorted({row.part for row in rows})
    start = np.log(START)

    def law_of(x: Numbers) -> ScalingLaw:
        return ScalingLaw(**dict(zip(names, np.exp(x[: len(names)]).tolist(), strict=True)))

    def factors_of(x: Numbers) -> dict[str, TextFactors]:
        floors, excesses = np.exp(x[len(names) :]).reshape(2, -1).tolist()
        return dict(zip(texts, map(TextFactors, floors, excesses), strict=True))

    def residuals(x: Numbers) -> Numbers:
        law, factors = law_of(x), factors_of(x)
        errors = [log(factors[row.part].expected(law, row) / row.share) / ERROR for row in rows]
        # Few rows must not push a constant or a factor far away that they say little about.
        near = 0.3 * (x[: len(names)] - start)
        floors, excesses = x[len(names) :].reshape(2, -1)
        return np.concatenate((errors, near, floors / FLOOR_SPREAD, excesses / EXCESS_SPREAD))

    x, damping = np.concatenate((start, np.zeros(2 * len(texts)))), 1.0
    for _ in range(ITERATIONS):
        now = residuals(x)
        slopes = np.stack([(residuals(x + step) - now) / 1e-6 for step in 1e-6 * np.eye(len(x))], axis=1)
        curve = slopes.T @ slopes
        after = x - np.linalg.solve(curve + damping * np.diag(np.diag(curve)), slopes.T @ now)
        better = np.square(residuals(after)).sum() < np.square(now).sum()
        x, damping = (after, damping / 3) if better else (x, damping * 3)
    return relative_to(mode(row.part for row in rows), law_of(x), factors_of(x))


def relative_to(
    part: str, law: ScalingLaw, factors: dict[str, TextFactors]
) -> tuple[ScalingLaw, dict[str, TextFactors]]:
    """The same law with the factors of one text in its constants, so that it stands for this text."""
    own = factors[part]
    moved = replace(
        law, E=law.E * own.floor, A=law.A * own.excess, B=law.B * own.excess, C=law.C * own.excess
    )
    others = {
        name: TextFactors(each.floor / own.floor, each.excess / own.excess) for name, each in factors.items()
    }
    return moved, others


def numbers(text: str) -> list[int]:
    """Whole numbers, separated by commas."""
    return [int(float(word)) for word in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run")
    run.add_argument("texts", nargs="+")
    run.add_argument("--out", required=True)
    run.add_argument("--chars", type=numbers, default=[1_000_000])
    run.add_argument("--kinds", type=lambda text: text.split(","), default=["no-prior"])
    run.add_argument("--sizes", type=lambda text: text.split(","))
    run.add_argument("--steps", type=numbers, default=[250, 1000])
    run.add_argument("--jobs", type=int, default=2)
    run.set_defaults(do=sweep)
    fitting = commands.add_parser("fit")
    fitting.add_argument("files", nargs="+")
    fitting.add_argument("--rows", action="store_true", help="show each row")
    fitting.set_defaults(do=fit)
    options = parser.parse_args()
    options.do(options)


if __name__ == "__main__":
    main()
