"""Show the results of a comparison: as a table and sentences, as JSON, and as a page."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from math import log
from statistics import fmean
from typing import Any

import numpy as np

from charlm import files
from charlm.checkpoint.run_folder import RunFolder
from charlm.cli.console import print_json, say, table, warn
from charlm.config import FEWEST_HELD_OUT
from charlm.data.corpus import Corpus
from charlm.data.tokenizer import UNIT_NOUNS
from charlm.evaluation.baselines import KNESER_NEY, Baseline, kneser_ney_by_order, measure_baselines
from charlm.experiments.comparison import Comparison, Task, run_of
from charlm.experiments.results import MOST_CHARS, Curve
from charlm.experiments.results import NAME as RESULT
from charlm.experiments.statistics import SCHEMA, Row, Verdict, verdict
from charlm.reporting.comparison_page import Chart, ComparisonPage, Line, render
from charlm.reporting.log import METRICS, read_log
from charlm.terminal import command_line, one_line
from charlm.training.device import describe_machine
from charlm.training.events import Counted, Evaluated, Stepped

GRID = 12  # points of the curve that is the mean over seeds
Points = list[tuple[float, float]]


def _facts(comparison: Comparison, found: Verdict) -> list[tuple[str, str]]:
    n, budget, units = len(comparison.seeds), comparison.budget, comparison.text.units
    each = f"{budget.seconds:g} s of training" if budget.seconds else f"{budget.steps} steps"
    return [
        ("text", f"{comparison.corpus.label}, SHA-256 {comparison.corpus.sha256[:16]}"),
        ("scored", f"{found.chars:,} held-out characters, each once, for every run"),
        *([("symbols", f"{units}, the unit of context and text read")] * (units != "chars")),
        ("budget", f"{each} for each of {len(comparison.variants)} variants, {n} seed{'s' * (n > 1)}"),
        ("machine", describe_machine(comparison.threads)),
        ("begun", comparison.created),
        ("command", comparison.command),
    ]


def _loss_charts(folder: RunFolder, rows: Sequence[Row]) -> list[Chart]:
    note = (
        "The lines show each run's evaluations on the same sample of held-out windows. A separate diamond "
        "marks its "
        "closing evaluation, on more held-out text. The table scores all runs on the same text."
    )
    logs = [(row, [_evaluations(folder, task) for task, _ in row.results]) for row in rows]

    def chart(title: str, x_title: str, axis: int) -> Chart:
        lines = [
            line
            for row, runs in logs
            for line in _lines(
                row.variant.label,
                [[(point[axis], point[2]) for point in points] for points, _ in runs],
                [[(point[axis], point[2]) for point in closing] for _, closing in runs],
            )
        ]
        return Chart(title=title, x_title=x_title, log_x=False, lines=lines, note=note)

    return [
        chart("Held-out loss against time", "seconds of training", 0),
        chart("Held-out loss against text read", "characters read", 1),
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
            title="Loss by position in the context",
            x_title="characters before the predicted one",
            log_x=True,
            lines=before,
            marks=[(block, "block") for block in blocks],
            note="Loss by the number of characters before the predicted one, all read in one pass, ± 1 standard "
            "error; the n-gram prior sees the same characters. Points with few characters are left out. All variants are "
            "scored on the same text, so their differences are more certain than the bars suggest. The "
            "mark is the block size in training: no position to its right occurred in training.",
        ),
        Chart(
            title="Loss by context length",
            x_title="characters of context",
            log_x=True,
            lines=seen,
            note="The same characters, each predicted from the last 1, 2, 4, ... before it, ± 1 standard error. The "
            "n-gram prior is limited to the same context.",
        ),
    ]


Evaluations = list[tuple[float, float, float]]
"""Seconds and characters read before each evaluation, and its held-out bits per character."""


def _evaluations(folder: RunFolder, task: Task) -> tuple[Evaluations, Evaluations]:
    """Read a run's evaluations on the same windows, and its closing evaluation, on more of the text."""
    points: Evaluations = []
    closing: Evaluations = []
    seconds, chars = 0.0, 0.0
    run = task.run_name
    for event in read_log(folder.path / run / METRICS, lambda said: warn(f"run {run}: {said}")):
        if isinstance(event, Stepped | Counted):
            seconds, chars = seconds + event.seconds, float(event.chars)
        elif isinstance(event, Evaluated):
            points.append((seconds, chars, event.compared_nats_per_char / log(2)))
            if event.final:
                closing.append((seconds, chars, event.nats_per_char / log(2)))
    return points, closing


def _lines(name: str, several: Sequence[Points], apart: Sequence[Points]) -> list[Line]:
    """Return the lines of one variant: the mean over seeds, and each seed behind it."""
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
    """Return such lines for curves with errors; these come from the text, so the mean over seeds has errors as large."""
    there = [curve for curve in several if curve]
    lines = _lines(name, [[(x, y) for x, y, _ in curve] for curve in there], [[]] * len(there))
    columns = zip(*([error for _, _, error in curve] for curve in there), strict=False)
    errors = [None if None in column else fmean(e for e in column if e is not None) for column in columns]
    return [replace(line, errors=() if line.faint else errors[: len(line.points)]) for line in lines]


def _mean(several: Sequence[Points]) -> Points:
    """Return the mean of curves over their common range, at the points of the first if they agree, else interpolated."""
    low, high = max(points[0][0] for points in several), min(points[-1][0] for points in several)
    same = all([x for x, _ in points] == [x for x, _ in several[0]] for points in several)
    grid = [x for x, _ in several[0]] if same else np.linspace(low, high, GRID).tolist()
    columns = [np.interp(grid, [x for x, _ in points], [y for _, y in points]) for points in several]
    return [(x, fmean(float(column[i]) for column in columns)) for i, x in enumerate(grid)]


NAME = "comparison.html"
MOST_FOR_XZ = 5_000_000  # characters of the training part
MOST_COUNTED = 5_000_000  # symbols of it


def is_shown(folder: RunFolder, comparison: Comparison) -> bool:
    """Whether the page is newer than every result."""
    try:
        made = (folder.path / NAME).stat().st_mtime_ns
        results = [run_of(folder, task).path / RESULT for task in comparison.tasks()]
        return all(result.stat().st_mtime_ns <= made for result in results)
    except OSError:
        return False


def show(folder: RunFolder, comparison: Comparison, corpus: Corpus | None, *, as_json: bool) -> None:
    """Print the results so far, and write the page; without the text there are no baselines.

    Raises CheckpointError for damaged results.
    """
    found = verdict(folder, comparison)
    word = UNIT_NOUNS[comparison.text.units]
    baselines: dict[str, Baseline] = {}
    orders: list[Baseline] = []
    if corpus is not None and found.chars:
        baselines, orders = _baselines(comparison, corpus)
    if orders:
        baselines[KNESER_NEY] = orders[-1]
        found = replace(found, says=(*found.says, *_beaten(found, orders[-1], word)))
    named = comparison.axes[0] if len(comparison.axes) == 1 else "variant"
    header = (named, "bits/char", "95 %", "difference", "95 %", "weights", "chars/s", "max. context")
    cells = [_row(row) for row in found.rows]
    if as_json:
        print_json(_data(comparison, found, baselines, orders))
    else:
        table(cells, header=header, numbers=range(1, 8))
        beside = [f"{name} {each.bits_per_char:.4f}{_said(each, word)}" for name, each in baselines.items()]
        print(f"\nbaselines: {', '.join(beside)}" if baselines else "")
        for sentence in found.says:
            print(one_line(sentence, 2000))
    rows = [row for row in found.rows if row.results]
    lines = [(baseline.order, baseline.bits_per_char) for baseline in orders if baseline.order]
    page = ComparisonPage(
        title=comparison.name,
        facts=_facts(comparison, found),
        header=header,
        rows=cells,
        says=found.says,
        charts=[
            replace(chart, orders=lines) for chart in (*_loss_charts(folder, rows), *_context_charts(rows))
        ],
        names=[row.variant.label for row in rows],
    )
    try:
        files.replace(folder.path / NAME, render(page).encode())
        say(f"page: {one_line(str(folder.path / NAME))}")
    except OSError as error:
        warn(f"the page could not be written: {error.strerror}")
    place = command_line([str(folder.path)])
    say("sample from one of them:", f"charlm sample --checkpoints {place} --run NAME")


def _data(
    comparison: Comparison, found: Verdict, baselines: dict[str, Baseline], orders: Sequence[Baseline]
) -> dict[str, Any]:
    """Return the stable JSON form, of schema 1."""
    return {
        "schema": SCHEMA,
        "kind": "comparison",
        "comparison": comparison.name,
        "text_sha256": comparison.corpus.sha256,
        "chars": found.chars,
        "units": comparison.text.units,
        "seconds": comparison.budget.seconds,
        "steps": comparison.budget.steps,
        "seeds": list(comparison.seeds),
        "baselines": {name: asdict(baseline) for name, baseline in baselines.items()},
        "ngram_by_order": {str(baseline.order): baseline.bits_per_char for baseline in orders},
        "rows": [row.to_json() for row in found.rows],
        "says": list(found.says),
    }


def _row(row: Row) -> tuple[str, ...]:
    label = row.variant.label
    if row.bits is None:
        return label, "-", one_line(row.problem or ""), "", "", "", "", ""
    first = row.results[0][1]
    return (
        label,
        f"{row.bits:.4f}",
        f"{row.interval[0]:.3f} to {row.interval[1]:.3f}" if row.interval else "",
        f"{row.difference:+.4f}" if row.difference is not None else "",
        f"{row.difference_interval[0]:+.3f} to {row.difference_interval[1]:+.3f}"
        if row.difference_interval
        else "",
        f"{first.weights:,}",
        f"{row.chars_per_second:,.0f}",
        "no limit" if first.reach is None else f"{first.reach:,}",
    )


def _baselines(comparison: Comparison, corpus: Corpus) -> tuple[dict[str, Baseline], list[Baseline]]:
    """Compute baselines on the text that was scored, and Kneser-Ney of orders 1, 2, ... up to the best; xz only if quick."""
    text, quick = corpus.held_out_text()[:MOST_CHARS], corpus.train_chars <= MOST_FOR_XZ
    found = measure_baselines(corpus.vocabulary, corpus.training_text if quick else None, text)
    memory = comparison.variants[0].training.prior_memory << 20
    orders = kneser_ney_by_order(corpus.vocabulary, corpus.train, text, memory=memory, most=MOST_COUNTED)
    return {name: each for name, each in found.items() if isinstance(each, Baseline)}, orders


def _beaten(found: Verdict, ngram: Baseline, word: str) -> list[str]:
    """Return a sentence if no trained variant beats the n-gram baseline."""
    trained = [row.bits for row in found.rows if row.bits is not None and not row.variant.model.is_ngram]
    if not trained or min(trained) < ngram.bits_per_char or found.chars < FEWEST_HELD_OUT:
        return []
    return [
        f"No trained variant beats the n-gram baseline ({ngram.order} {word}s of context, {ngram.bits_per_char:.4f} bits "
        "per character): train longer, or on more text."
    ]


def _said(baseline: Baseline, word: str) -> str:
    """Return what to know about a baseline, besides its figure."""
    if baseline.order is None:
        return " (adapts to the text)" * baseline.adaptive
    limits = f"; {baseline.limits}" if baseline.limits else ""
    return f" ({baseline.order} {word}{'s' * (baseline.order != 1)} of context{limits})"
