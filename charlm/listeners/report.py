"""`report.html`: a run as one page, made when it ends from what was logged."""

from math import log
from typing import Any

from charlm import files
from charlm.checkpoint.run_folder import RunFolder
from charlm.evaluation.yardsticks import Yardstick, yardsticks
from charlm.listeners.log import read_log
from charlm.listeners.report_page import Page, render
from charlm.terminal import one_line
from charlm.training.session import Session

NAME = "report.html"
XZ_CHARS_PER_SECOND = 1.5e6
XZ_MOST_SECONDS = 2.0


def write_report(run: RunFolder, session: Session, facts: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Write the page; the yardsticks and its path as further rows for the table. Raises OSError."""
    sticks = _yardsticks(session)
    rows = [(f"{name}, for comparison", f"{bits:.4f} bits/char") for name, bits in sticks]
    events = read_log(run.path)
    steps = [e for e in events if e.get("event") == "Stepped"]
    page = Page(
        title=run.name,
        facts=[*facts, *rows],
        train=[(e["step"], e["loss"] / log(2)) for e in steps],
        rates=[(e["step"], e["learning_rate"]) for e in steps],
        held_out=[
            (e["step"], e["nats_per_char"] / log(2), e["standard_error"] / log(2))
            for e in events
            if e.get("event") == "Evaluated"
        ],
        yardsticks=sticks,
        settings=[
            ("model", _words(session.model_config.to_json())),
            ("training", _words(session.training_config.to_json())),
            ("text", _words(session.run["corpus"])),
            ("versions", _words(session.run["versions"])),
        ],
        samples=[
            (line["step"], line["text"]) for line in read_log(run.path, "samples.jsonl") if "text" in line
        ],
    )
    path = run.path / NAME
    files.replace(path, render(page).encode())
    return [*rows, ("report", one_line(str(path)))]


def _yardsticks(session: Session) -> list[tuple[str, float]]:
    """Those that take no time worth mentioning; `charlm eval` shows all."""
    corpus = session.corpus
    text = corpus.held_out_text()
    if not text:
        return []
    quick = 2 * corpus.train_chars / XZ_CHARS_PER_SECOND <= XZ_MOST_SECONDS
    found = yardsticks(corpus.vocabulary, corpus.training_text if quick else None, text)
    return [(name, stick.bits_per_char) for name, stick in found.items() if isinstance(stick, Yardstick)]


def _words(values: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in values.items() if value is not None]
