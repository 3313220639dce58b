"""What a comparison found: a row for each variant, the best first, and what is larger than noise."""

from dataclasses import dataclass
from math import log
from statistics import fmean, median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charlm.checkpoint.run_folder import RunFolder
from charlm.evaluation.intervals import BLOCK, FEWEST_BLOCKS, FEWEST_SEEDS, bootstrap_interval
from charlm.studies.comparison import Comparison, Task
from charlm.studies.result import Result, is_there, read_nats, read_result
from charlm.studies.variants import Variant

SCHEMA = 1
Interval = tuple[float, float]
Scored = tuple[Task, Result, NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A variant over its seeds. Figures in bits per character; differences are from the first row."""

    variant: Variant
    results: tuple[tuple[Task, Result], ...]
    bits: float | None = None
    interval: Interval | None = None
    difference: float | None = None
    difference_interval: Interval | None = None
    larger_than_noise: bool | None = None  # None: cannot be said
    problem: str | None = None

    @property
    def chars_per_second(self) -> float:
        """In training, the median over seeds."""
        return median(result.chars_per_second for _, result in self.results)

    @property
    def chars_read(self) -> float:
        """In training, the mean over seeds."""
        return fmean(result.chars_read for _, result in self.results)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
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
    """What the runs that are done say. Raises CheckpointError for damaged results."""
    done = [task for task in comparison.tasks() if is_there(_run(folder, task))]
    results = {task.run_name: read_result(_run(folder, task)) for task in done}
    rows, problems = [], []
    for variant in comparison.variants:
        scored: list[Scored] = []
        for task in sorted(done, key=lambda task: task.seed):
            result = results[task.run_name]
            if task.variant == variant and result.problem is None:
                scored.append((task, result, read_nats(_run(folder, task), result.chars)))
        failures = [r.problem for t in done if t.variant == variant and (r := results[t.run_name]).problem]
        if len(scored) == len(comparison.seeds):
            rows.append((variant, scored))
        else:
            missing = failures[0] if failures else "not trained yet"
            problems.append(Row(variant=variant, results=(), problem=missing))
    rows.sort(key=lambda row: fmean(result.nats_per_char for _, result, _ in row[1]))
    made = [_row(variant, scored, rows[0][1]) for variant, scored in rows]
    chars = min((result.chars for _, scored in rows for _, result, _ in scored), default=0)
    return Verdict(rows=(*made, *problems), says=tuple(_says(comparison, made, chars)), chars=chars)


def _run(folder: RunFolder, task: Task) -> RunFolder:
    return RunFolder(folder.path / task.run_name)


def _row(variant: Variant, scored: list[Scored], first: list[Scored]) -> Row:
    bits = np.stack([nats for _, _, nats in scored]) / log(2)  # (seeds, characters)
    interval, results = bootstrap_interval(bits), tuple((task, result) for task, result, _ in scored)
    if scored is first:
        return Row(variant=variant, results=results, bits=float(bits.mean()), interval=interval)
    differences = bits - np.stack([nats for _, _, nats in first]) / log(
        2
    )  # of the same seed, on the same character
    around = bootstrap_interval(differences)
    larger = None
    if around is not None and len(scored) >= FEWEST_SEEDS:
        larger = around[0] > 0 or around[1] < 0
    return Row(
        variant=variant,
        results=results,
        bits=float(bits.mean()),
        interval=interval,
        difference=float(differences.mean()),
        difference_interval=around,
        larger_than_noise=larger,
    )


def _says(comparison: Comparison, rows: list[Row], chars: int) -> list[str]:
    """In words: which differences are larger than noise, and what the noise includes."""
    if len(rows) < 2:
        return []
    said, first = [], rows[0].variant.label
    larger = [row for row in rows if row.larger_than_noise]
    within = [row for row in rows[1:] if row.larger_than_noise is False]
    if larger:
        named = ", ".join(f"{row.variant.label} (by {row.difference:.3f})" for row in larger)
        said.append(f"Larger than noise: {first} is better than {named} bits per character.")
    if within:
        named = ", ".join(row.variant.label for row in within)
        said.append(f"Not larger than noise: the difference of {first} from {named}.")
    if len(comparison.seeds) < FEWEST_SEEDS:
        n = len(comparison.seeds)
        said.append(
            f"Seed noise is not included: that takes {FEWEST_SEEDS} seeds, and there {'is' if n == 1 else 'are'} "
            f"{n}. So no difference is called larger than noise."
        )
    if chars < BLOCK * FEWEST_BLOCKS:
        said.append(
            f"No intervals: that takes {BLOCK * FEWEST_BLOCKS:,} held-out characters, and there are {chars:,}. "
            "So no difference is called larger than noise."
        )
    early = {t.variant.label for row in rows for t, result in row.results if result.which == "best"}
    if early:
        said.append(
            f"Stopped early, and scored by the checkpoint that did best on this very text: {', '.join(sorted(early))}."
        )
    return said
