"""What a comparison found, as a table and sentences, or as data."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from charlm import files
from charlm.checkpoint.run_folder import RunFolder
from charlm.cli.compare_page import page_of
from charlm.cli.console import print_json, say, table, warn
from charlm.config import FEWEST_HELD_OUT
from charlm.data.corpus import Corpus
from charlm.data.tokenizer import WORDS
from charlm.evaluation.baselines import KNESER_NEY, Baseline, kneser_ney_by_order, measure_baselines
from charlm.experiments.comparison import Comparison
from charlm.experiments.results import MOST_CHARS
from charlm.experiments.statistics import SCHEMA, Row, Verdict, verdict
from charlm.reporting.comparison_page import render
from charlm.terminal import command_line, one_line

NAME = "comparison.html"
MOST_FOR_XZ = 5_000_000  # characters of the training part
MOST_COUNTED = 5_000_000  # symbols of it


def show(folder: RunFolder, comparison: Comparison, corpus: Corpus | None, *, as_json: bool) -> None:
    """Print what is known, and write the page; without the text no yardsticks are there.

    Raises CheckpointError for damaged results.
    """
    found = verdict(folder, comparison, corpus)
    orders = _by_order(comparison, corpus, found.chars) if corpus is not None else []
    sticks = _yardsticks(corpus, found.chars) if corpus is not None else {}
    if orders:
        sticks[KNESER_NEY] = orders[-1]
        found = replace(found, says=(*found.says, *_beaten(found, orders[-1], WORDS[comparison.text.units])))
    if as_json:
        print_json(_data(comparison, found, sticks, orders))
    else:
        _print(comparison, found, sticks)
    lines = [(stick.order, stick.bits_per_char) for stick in orders if stick.order]
    page = page_of(folder, comparison, found, header(comparison), cells(found), lines)
    try:
        files.replace(folder.path / NAME, render(page).encode())
        say(f"page: {one_line(str(folder.path / NAME))}")
    except OSError as error:
        warn(f"the page could not be written: {error.strerror}")
    place = command_line([str(folder.path)])
    say("text from one of them:", f"charlm sample --checkpoints {place} --run NAME")


def _data(
    comparison: Comparison, found: Verdict, sticks: dict[str, Baseline], orders: Sequence[Baseline]
) -> dict[str, Any]:
    """The stable form, of schema 1."""
    return {
        "schema": SCHEMA,
        "kind": "comparison",
        "comparison": comparison.name,
        "text_sha256": comparison.corpus_sha256,
        "chars": found.chars,
        "units": comparison.text.units,
        "seconds": comparison.budget.seconds,
        "steps": comparison.budget.steps,
        "seeds": list(comparison.seeds),
        "baselines": {name: asdict(stick) for name, stick in sticks.items()},
        "counts_by_order": {str(stick.order): stick.bits_per_char for stick in orders},
        "rows": [row.to_json() for row in found.rows],
        "says": list(found.says),
    }


def _print(comparison: Comparison, found: Verdict, sticks: dict[str, Baseline]) -> None:
    table(cells(found), header=header(comparison), numbers=range(1, 8))
    beside = ", ".join(
        f"{name} {stick.bits_per_char:.4f}{_said(stick, WORDS[comparison.text.units])}"
        for name, stick in sticks.items()
    )
    print(f"\nfor comparison: {beside}" if sticks else "")
    for sentence in found.says:
        print(one_line(sentence, 2000))


def header(comparison: Comparison) -> tuple[str, ...]:
    """The titles of the table's columns."""
    named = comparison.axes[0] if len(comparison.axes) == 1 else "variant"
    return named, "bits/char", "95 %", "difference", "95 %", "weights", "chars/s", "reach"


def cells(found: Verdict) -> list[tuple[str, ...]]:
    """The table's rows, the best first."""
    return [_row(row) for row in found.rows]


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


def _yardsticks(corpus: Corpus, chars: int) -> dict[str, Baseline]:
    """What simpler things make of the text that was scored; xz only where it takes no time to speak of."""
    if not chars:  # which are those of MOST_CHARS
        return {}
    quick = corpus.train_chars <= MOST_FOR_XZ
    sticks = measure_baselines(
        corpus.vocabulary, corpus.training_text if quick else None, corpus.held_out_text()[:MOST_CHARS]
    )
    return {name: stick for name, stick in sticks.items() if isinstance(stick, Baseline)}


def _by_order(comparison: Comparison, corpus: Corpus, chars: int) -> list[Baseline]:
    """What counts of 1, 2, ... characters make of that text, up to as many as predict best."""
    if not chars:
        return []
    memory = comparison.variants[0].training.prior_memory << 20
    text = corpus.held_out_text()[:MOST_CHARS]
    return kneser_ney_by_order(corpus.vocabulary, corpus.train, text, memory=memory, most=MOST_COUNTED)


def _beaten(found: Verdict, counts: Baseline, word: str) -> list[str]:
    """A sentence where no variant does better than the counts, counts alone left out."""
    trained = [row.bits for row in found.rows if row.bits is not None and not row.variant.model.is_ngram]
    if not trained or min(trained) < counts.bits_per_char or found.chars < FEWEST_HELD_OUT:
        return []
    return [
        f"{counts.order} {word}s of counts do better than all that was trained, at {counts.bits_per_char:.4f} "
        "bits per character: train longer, or on more text."
    ]


def _said(stick: Baseline, word: str) -> str:
    """What is to be known of a yardstick beside its figure."""
    if stick.order is None:
        return " (adapts to the text)" * stick.adaptive
    limits = f"; {stick.limits}" if stick.limits else ""
    return f" (counts of {stick.order} {word}{'s' * (stick.order != 1)}{limits})"
