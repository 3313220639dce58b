"""The page of a comparison: its facts and its four charts, in plain numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import log
from statistics import fmean

import numpy as np

from charlm.checkpoint.run_folder import RunFolder
from charlm.cli.console import warn
from charlm.experiments.comparison import Comparison, Task
from charlm.experiments.curves import Curve
from charlm.experiments.statistics import Row, Verdict
from charlm.reporting.charts import Order
from charlm.reporting.comparison_page import Chart, ComparisonPage, Line
from charlm.reporting.log import read_log
from charlm.training.device import machine

GRID = 12  # points of a mean over seeds
Points = list[tuple[float, float]]
Cells = tuple[str, ...]


def page_of(
    folder: RunFolder,
    comparison: Comparison,
    found: Verdict,
    header: Cells,
    cells: Sequence[Cells],
    orders: Sequence[Order] = (),
) -> ComparisonPage:
    """All that the page shows; `orders`: what counts of so many characters come to."""
    rows = [row for row in found.rows if row.results]
    return ComparisonPage(
        title=comparison.name,
        facts=_facts(comparison, found),
        header=header,
        rows=cells,
        says=found.says,
        charts=[
            replace(chart, orders=orders) for chart in (*_loss_charts(folder, rows), *_context_charts(rows))
        ],
        names=[row.variant.label for row in rows],
    )


def _facts(comparison: Comparison, found: Verdict) -> list[tuple[str, str]]:
    n, budget, units = len(comparison.seeds), comparison.budget, comparison.text.units
    each = f"{budget.seconds:g} s of training" if budget.seconds else f"{budget.steps} steps"
    return [
        ("text", f"{comparison.label}, SHA-256 {comparison.corpus_sha256[:16]}"),
        ("scored", f"{found.chars:,} held-out characters, each once, for every run"),
        *(
            [("symbols", f"{units}: what is said of context and of text read counts those")]
            * (units != "chars")
        ),
        ("budget", f"{each} for each of {len(comparison.variants)} variants, {n} seed{'s' * (n > 1)}"),
        ("machine", machine(comparison.threads)),
        ("begun", comparison.created),
        ("command", comparison.command),
    ]


def _loss_charts(folder: RunFolder, rows: Sequence[Row]) -> list[Chart]:
    note = (
        "Each run's evaluations on a sample of the held-out text, the same windows each time; its closing evaluation, "
        "on more of it, is a diamond by itself. The table scores all runs on the same text."
    )
    by_time: list[Line] = []
    by_chars: list[Line] = []
    for row in rows:
        logs = [_loss_curves(folder, task) for task, _ in row.results]
        by_time += _lines(
            row.variant.label, [found.by_time for found in logs], [found.closing_time for found in logs]
        )
        by_chars += _lines(
            row.variant.label, [found.by_chars for found in logs], [found.closing_chars for found in logs]
        )
    return [
        Chart(
            title="Held-out loss against time",
            x_title="seconds of training",
            log_x=False,
            lines=by_time,
            note=note,
        ),
        Chart(
            title="Held-out loss against text read",
            x_title="characters read",
            log_x=False,
            lines=by_chars,
            note=note,
        ),
    ]


def _context_charts(rows: Sequence[Row]) -> list[Chart]:
    before: list[Line] = []
    seen: list[Line] = []
    for row in rows:
        before += _with_errors(row.variant.label, [result.before for _, result in row.results])
        seen += _with_errors(row.variant.label, [result.seen for _, result in row.results])
    reading = {row.variant.label for row in rows if not row.variant.model.is_ngram}
    blocks = sorted({line.points[-1][0] for line in seen if line.points and line.name in reading})
    return [
        Chart(
            title="Who uses far context",
            x_title="characters before it",
            log_x=True,
            lines=before,
            marks=[(block, "block") for block in blocks],
            note="By how many characters stand before the one predicted, all read in one go, ± 1 standard "
            "error; n-gram counts, too, see nothing else. Points of few characters are left out. All variants are scored "
            "on the same text, so their differences are surer than the bars. To the right of the mark are positions beyond the block length of training.",
        ),
        Chart(
            title="What a little context is worth",
            x_title="characters that may be seen",
            log_x=True,
            lines=seen,
            note="The same characters, each predicted from the last 1, 2, 4, ... before it, ± 1 standard error. The "
            "n-gram counts that a model starts from see no more than that either.",
        ),
    ]


@dataclass
class _Curves:
    """The held-out bits of a run's evaluations, against seconds and against characters read."""

    by_time: Points
    by_chars: Points
    closing_time: Points  # of the closing evaluation, which is of more text
    closing_chars: Points


def _loss_curves(folder: RunFolder, task: Task) -> _Curves:
    found = _Curves([], [], [], [])
    seconds, chars = 0.0, 0.0
    run = task.run_name
    for event in read_log(folder.path / run, damaged=lambda said: warn(f"run {run}: {said}")):
        kind, numbers = event.get("event"), {k: v for k, v in event.items() if isinstance(v, int | float)}
        if kind in ("Stepped", "Counted") and {"seconds", "chars"} <= set(numbers):
            seconds, chars = seconds + numbers["seconds"], float(numbers["chars"])
        elif kind == "Evaluated" and "nats_per_char" in numbers:
            if event.get("final") is True:
                found.closing_time.append((seconds, numbers["nats_per_char"] / log(2)))
                found.closing_chars.append((chars, numbers["nats_per_char"] / log(2)))
            same = "nats_per_char" if event.get("final") is not True else "compared_nats_per_char"
            if same in numbers:  # older logs lack it for the closing evaluation
                found.by_time.append((seconds, numbers[same] / log(2)))
                found.by_chars.append((chars, numbers[same] / log(2)))
    return found


def _lines(name: str, several: Sequence[Points], apart: Sequence[Points]) -> list[Line]:
    """The mean over seeds, and each seed behind it."""
    pairs = [
        (points or alone, alone) for points, alone in zip(several, apart, strict=True) if points or alone
    ]
    if len(pairs) < 2:
        return [Line(name=name, points=points, apart=alone) for points, alone in pairs]
    return [
        *(Line(name=name, points=points, faint=True) for points, _ in pairs),
        Line(
            name=name,
            points=_mean([points for points, _ in pairs]),
            apart=[point for _, alone in pairs for point in alone],
        ),
    ]


def _with_errors(name: str, several: Sequence[Curve]) -> list[Line]:
    """The same of curves whose points have errors: by the text, so the mean over seeds has as large ones."""
    there = [curve for curve in several if curve]
    lines = _lines(name, [[(x, y) for x, y, _ in curve] for curve in there], [[]] * len(there))
    columns = zip(*([error for _, _, error in curve] for curve in there), strict=False)
    errors = [None if None in column else fmean(e for e in column if e is not None) for column in columns]
    return [replace(line, errors=() if line.faint else errors[: len(line.points)]) for line in lines]


def _mean(several: Sequence[Points]) -> Points:
    """The mean of curves where all of them are, at the points of the first or between."""
    low, high = max(points[0][0] for points in several), min(points[-1][0] for points in several)
    same = all([x for x, _ in points] == [x for x, _ in several[0]] for points in several)
    grid = [x for x, _ in several[0]] if same else np.linspace(low, high, GRID).tolist()
    columns = [np.interp(grid, [x for x, _ in points], [y for _, y in points]) for points in several]
    return [(x, fmean(float(column[i]) for column in columns)) for i, x in enumerate(grid)]
