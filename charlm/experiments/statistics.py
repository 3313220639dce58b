"""The findings of a comparison: a row per variant, the best first, and which differences exceed noise."""

from dataclasses import dataclass, replace
from math import log
from statistics import fmean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.checkpoint.run_folder import RunFolder
from charlm.config import FEWEST_HELD_OUT
from charlm.errors import CheckpointError
from charlm.evaluation.bootstrap import BLOCK, FEWEST_BLOCKS, FEWEST_SEEDS, confidence_interval
from charlm.experiments.comparison import Comparison, Task, check_run, refuse_links, run_of
from charlm.experiments.results import Result, find_result, read_nats
from charlm.experiments.variants import Variant

SCHEMA = 1
Interval = tuple[float, float]
Results = tuple[tuple[Task, Result], ...]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A variant over its seeds. Figures in bits per character; differences are from the first row."""

    variant: Variant
    results: Results
    bits: float | None = None
    interval: Interval | None = None
    difference: float | None = None
    difference_interval: Interval | None = None
    larger_than_noise: bool | None = None  # None: unknown
    problem: str | None = None

    @property
    def chars_per_second(self) -> float:
        """The speed of training, the median over seeds."""
        return median(result.chars_per_second for _, result in self.results)

    @property
    def chars_read(self) -> float:
        """Characters read in training, the mean over seeds."""
        return fmean(result.chars_read for _, result in self.results)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        first = self.results[0][1] if self.results else None
        return {
            "values": self.variant.values,
            "bits_per_char": self.bits,
            "ci95_bits_per_char": self.interval,
            "difference_from_first": self.difference,
            "ci95_difference": self.difference_interval,
            "larger_than_noise": self.larger_than_noise,
            "problem": self.problem,
            "weights": first.weights if first else None,
            "reach": first.reach if first else None,
            "chars_per_second": self.chars_per_second if first else None,
            "chars_read": self.chars_read if first else None,
            "seeds": {
                str(task.seed): {"bits_per_char": result.nats_per_char / log(2), "checkpoint": result.which}
                for task, result in self.results
            },
        }


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """All rows, and the sentences that say what they mean."""

    rows: tuple[Row, ...]
    says: tuple[str, ...]
    chars: int  # scored, for each run


def verdict(folder: RunFolder, comparison: Comparison) -> Verdict:
    """Compare the finished runs. Raises CheckpointError for runs and results that do not belong to their folders."""
    refuse_links(folder.path, "the comparison")
    whole: list[tuple[Variant, Results]] = []
    lacking: list[Row] = []
    for variant in comparison.variants:
        tasks = [Task(variant, seed) for seed in comparison.seeds]
        for task in tasks:
            check_run(run_of(folder, task), comparison, task)
        there = [
            (task, result)
            for task in tasks
            if (result := find_result(run_of(folder, task), comparison.fingerprint(task))) is not None
        ]
        problems = [result.problem for _, result in there if result.problem is not None]
        if len(there) == len(tasks) and not problems:
            whole.append((variant, tuple(there)))
        else:
            missing = f"{len(there)} of {len(tasks)} runs are done"
            lacking.append(Row(variant=variant, results=(), problem=problems[0] if problems else missing))
    if len({result.chars for _, results in whole for _, result in results}) > 1:
        raise CheckpointError(f"the runs of {folder.name} were not scored on the same text")
    whole.sort(key=lambda item: fmean(result.nats_per_char for _, result in item[1]))
    first = _bits(folder, whole[0][1]) if whole else None
    rows = [
        _row(folder, variant, results, first if i else None) for i, (variant, results) in enumerate(whole)
    ]
    chars = whole[0][1][0][1].chars if whole else 0
    return Verdict(rows=(*rows, *lacking), says=tuple(_says(comparison, rows, chars)), chars=chars)


def _bits(folder: RunFolder, results: Results) -> NDArray[np.float64]:
    """Read the bits of each seed and character: (S, N)."""
    return np.stack([read_nats(run_of(folder, task), result) for task, result in results]) / log(2)


def _row(folder: RunFolder, variant: Variant, results: Results, first: NDArray[np.float64] | None) -> Row:
    """Return a variant's row, with its difference from the `first`, by seed and character."""
    bits = _bits(folder, results)
    row = Row(variant=variant, results=results, bits=float(bits.mean()), interval=confidence_interval(bits))
    if first is None:
        return row
    differences = bits - first
    around = confidence_interval(differences)
    enough = around is not None and len(results) >= FEWEST_SEEDS
    return replace(
        row,
        difference=float(differences.mean()),
        difference_interval=around,
        larger_than_noise=(around[0] > 0 or around[1] < 0) if around and enough else None,
    )


def _says(comparison: Comparison, rows: list[Row], chars: int) -> list[str]:
    """Say which differences are larger than noise, and what the noise includes."""
    if len(rows) < 2:
        return []
    said, first = [], rows[0].variant.label
    larger = [row for row in rows if row.larger_than_noise]
    within = [row for row in rows[1:] if row.larger_than_noise is False]
    if larger:
        named = ", ".join(f"{row.variant.label} by {row.difference:.3f}" for row in larger)
        said.append(f"Larger than noise: {first} beats {named} bits per character.")
    if within:
        named = ", ".join(row.variant.label for row in within)
        said.append(f"Within noise: the difference between {first} and {named}.")
    if len(rows) > 2 and (larger or within):
        said.append(
            f"Each difference from the best of {len(rows)} variants is tested at 95 % on its own; the same "
            "scores chose the best."
        )
    if len(comparison.seeds) < FEWEST_SEEDS:
        n = len(comparison.seeds)
        said.append(
            f"Seed noise is unknown: an estimate needs {FEWEST_SEEDS} seeds, but there "
            f"{'is' if n == 1 else 'are'} {n}. "
            "charlm therefore calls no difference larger than noise."
        )
    if chars < FEWEST_HELD_OUT:
        said.append(f"{chars:,} held-out characters are too few for reliable scores.")
    if chars < BLOCK * FEWEST_BLOCKS:
        said.append(
            f"No intervals: they need {BLOCK * FEWEST_BLOCKS:,} held-out characters, but there are "
            f"{chars:,}. "
            "charlm therefore calls no difference larger than noise."
        )
    early = {t.variant.label for row in rows for t, result in row.results if result.which == "best"}
    if early:
        said.append(
            "Stopped early (overfitting), and scored with the checkpoint that did best on this text: "
            f"{', '.join(sorted(early))}."
        )
    return said
