"""`report.html`: a run as one page, made when it ends from what was logged."""

from collections.abc import Callable
from functools import partial
from math import log
from typing import Any

from charlm import files
from charlm.checkpoint.run_folder import RunFolder
from charlm.counts.folds import FOLDS
from charlm.evaluation.intervals import too_few
from charlm.evaluation.yardsticks import KNESER_NEY, LAST_BYTES, Yardstick, compressors, simplest
from charlm.listeners.log import NAME as LOG
from charlm.listeners.log import SAMPLE, read_log
from charlm.listeners.preview import NAME as SAMPLES
from charlm.listeners.report_page import Evaluation, Page, render
from charlm.refusals import acts
from charlm.terminal import one_line
from charlm.text.corpus import Corpus
from charlm.text.vocabulary import without_ends
from charlm.training.kinds import AnySession

NAME = "report.html"
TEXT_FACTS = ("label", "sha256", "train_chars", "held_out_chars")
XZ_CHARS_PER_SECOND = 1.5e6
XZ_SHARE = 0.03  # of a run's time, at most, for a yardstick that `charlm eval` shows too
XZ_SECONDS = 5.0  # the same for a run that has no time to keep to
LEAST_SECONDS = 0.5  # for the page itself, the table, and leaving Python
LINES_PER_SECOND = 50_000


def report_seconds(corpus: Corpus, budget: float, steps: int) -> float:
    """About how long the report of a run will take, so that its time can be kept."""
    xz = _xz_seconds(corpus)
    return LEAST_SECONDS + steps / LINES_PER_SECOND + (xz if _has_time_for_xz(corpus, budget) else 0.0)


def write_report(
    run: RunFolder,
    session: AnySession,
    facts: list[tuple[str, str]],
    budget: float | None,
    counts: Yardstick | None = None,
    warn: Callable[[str], None] = lambda said: None,
) -> list[tuple[str, str]]:
    """Write the page; the yardsticks and its path as further rows for the table. Raises OSError.

    `counts` is Kneser-Ney, if it was measured; those that take time are left out where it would be
    too much of the `budget`. `warn` is told of damaged lines in the run's records, as the page is.
    """
    sticks = [] if counts is None else [(KNESER_NEY, counts.bits_per_char)]
    sticks += _yardsticks(session.corpus, with_xz=_has_time_for_xz(session.corpus, budget))
    order = f", {counts.order} {session.corpus.vocabulary.word}s of context" if counts is not None else ""
    few = too_few(session.corpus.held_out_chars)
    rows = [
        (
            f"{name}, for comparison",
            f"{figure:.4f} bits/char on all held-out text{order * (name == KNESER_NEY)}{few}",
        )
        for name, figure in sticks
    ]
    damaged: list[str] = []
    events, samples = (read_log(run.path, name, damaged.append) for name in (LOG, SAMPLES))
    for said in damaged:
        warn(f"run {run.name}: {said}")
    rows += [("damaged records", ", ".join(damaged))] * bool(damaged)
    steps = [e for e in events if e.get("event") == "Stepped" and {"loss", "learning_rate"} <= set(e)]
    corpus = session.corpus
    mixer = session.model_config.mixer
    bits = len(corpus.train) / corpus.train_chars / log(2)  # from nats a symbol to bits a character
    page = Page(
        title=run.name,
        facts=[*facts, *rows],
        train=[(e["step"], e["loss"] * bits) for e in steps],
        rates=[(e["step"], e["learning_rate"]) for e in steps],
        evaluations=[
            _evaluation(e) for e in events if e.get("event") == "Evaluated" and "nats_per_char" in e
        ],
        training_note=f"Training loss is {note}." if (note := training_note(session)) else "",
        yardsticks=sticks,
        settings=[
            ("model", _words(session.model_config.to_json(), mixer)),
            ("training", _words(session.training_config.to_json(), mixer)),
            ("text", _words({name: session.run["corpus"][name] for name in TEXT_FACTS})),
            ("versions", _words(session.run["versions"])),
        ],
        samples=[(line["step"], line["text"]) for line in samples if SAMPLE.keys() <= line.keys()],
    )
    path = run.path / NAME
    files.replace(path, render(page).encode())
    return [*rows, ("report", one_line(str(path)))]


def _evaluation(event: dict[str, Any]) -> Evaluation:
    """A logged evaluation in bits; logs of older versions lack the comparison with the baseline."""
    bits = {
        name: None if event.get(name) is None else event[name] / log(2)
        for name in (
            "standard_error",
            "compared_nats_per_char",
            "baseline_nats_per_char",
            "difference",
            "difference_error",
        )
    }
    closing = bool(event.get("final"))
    compared = event["nats_per_char"] / log(2) if not closing else bits["compared_nats_per_char"]
    return Evaluation(
        step=event["step"],
        bits=event["nats_per_char"] / log(2),
        error=None if event.get("blocks") == 1 else bits["standard_error"],  # older versions logged 0
        compared_bits=compared,
        baseline_bits=bits["baseline_nats_per_char"],
        difference=bits["difference"],
        difference_error=bits["difference_error"],
        chars=event.get("chars"),
        closing=closing,
    )


def training_note(session: AnySession) -> str:
    """Why the training loss of this model can lie above its held-out loss; empty for counts alone."""
    model = session.model_config
    if model.counts_alone:
        return ""
    reasons = ["before the weights learn from the batch"]
    if any((model.dropout, model.ngram_dropout, model.counts_dropout)):
        reasons.append("with dropout")
    if model.counts:
        reasons.append(f"by n-gram counts without the batch's own part of the text (one of {FOLDS})")
    return f"measured {', '.join(reasons)}, so it can lie above held-out"


def _xz_seconds(corpus: Corpus) -> float:
    """Twice through the training part, at most 32 MB of it, and once through what is held out."""
    return (2 * min(corpus.train_chars, LAST_BYTES) + corpus.held_out_chars) / XZ_CHARS_PER_SECOND


def _has_time_for_xz(corpus: Corpus, budget: float | None) -> bool:
    """And room: a held-out part that is longer than what is read of the training part is let be."""
    fits = corpus.held_out_chars <= LAST_BYTES
    return fits and _xz_seconds(corpus) <= (XZ_SECONDS if budget is None else XZ_SHARE * budget)


def _yardsticks(corpus: Corpus, *, with_xz: bool) -> list[tuple[str, float]]:
    """Those there is time for; `charlm eval` shows all."""
    if not corpus.held_out_chars:
        return []
    found: dict[str, Yardstick | str] = {
        **simplest(corpus.vocabulary, corpus.held_out, corpus.held_out_chars)
    }
    if with_xz:
        found.update(
            compressors(partial(corpus.training_text, LAST_BYTES), without_ends(corpus.held_out_text()))
        )
    return [(name, stick.bits_per_char) for name, stick in found.items() if isinstance(stick, Yardstick)]


def _words(values: dict[str, Any], mixer: str = "") -> list[tuple[str, str]]:
    """Names and values, but for settings that act on nothing in a model of that mixer."""
    return [(name, str(value)) for name, value in values.items() if value is not None and acts(mixer, name)]
