"""Show training, for `train`, `resume` and `compare`: the progress bar, warnings, and the table or JSON at the end."""

from collections.abc import Callable
from contextlib import suppress
from math import log
from typing import Any

import typer
from tqdm import tqdm

from charlm.checkpoint.run_folder import RunFolder, run_command
from charlm.cli.console import print_json, say, table, warn
from charlm.errors import RankError
from charlm.job import TrainingJob
from charlm.reporting.commands import text_words
from charlm.reporting.log import row_of
from charlm.reporting.progress import Progress, show_evaluation
from charlm.reporting.run_page import NAME as REPORT
from charlm.reporting.run_summary import calibration_sentence, forgetting_sentence, planned_at_first
from charlm.strict_json import to_json
from charlm.terminal import one_line
from charlm.training.describe import kinds_of, other_threads, resized
from charlm.training.events import (
    Calibrated,
    Compiled,
    Counted,
    Evaluated,
    Event,
    Finished,
    LeftDevice,
    Planned,
    Remembered,
    SaveFailed,
    Skipped,
    WentBack,
)
from charlm.training.plan import read_plan
from charlm.training.signals import EXIT_CODES, StopSignals
from charlm.training.state import forecast, overview, saved_state

SCHEMA = 1
"""Version of the rows that `train --json` and `resume --json` print."""


def follow(training: TrainingJob, *, as_json: bool) -> None:
    """Train to the end or until a signal, and show it; exits with the code of the signal.

    For a finished run only the report is written. With `as_json` standard output gets the events instead of
    the table at the end.
    """
    run, session = training.folder, training.session
    if not training.ranks.is_first:
        _follow_first(training)
        return
    hurry = False
    if training.last is not None:
        warn_of(training.last)
    else:
        say(f"run {run.name}, in {one_line(str(run.path))}")
        if training.ranks.shards:
            say("evaluations show no samples with --shard; `charlm sample` writes them from any checkpoint")
        hurry = _train(training, as_json)
    assert training.last is not None
    reason = training.last.reason
    try:
        rows = training.close(hurry=hurry)  # after a signal, what takes time is left out
    except KeyboardInterrupt:
        say("\nthe run is saved; to finish it and write its report:", _resume_command(training))
        raise
    if as_json:
        print_result(run, reason)
    else:
        with suppress(OSError):  # the reader of a pipe may be gone; what follows still counts
            table(rows)
    training.ranks.agree()  # the others wait for this one
    if reason in EXIT_CODES:
        say(f"stopped by {reason} after step {training.last.step}; resume with:", _resume_command(training))
        raise typer.Exit(EXIT_CODES[reason])
    next_commands(training, resumable=not session.model_config.is_ngram and not training.in_comparison)


def _follow_first(training: TrainingJob) -> None:
    """Train in step with rank 0, which shows it; exits with the code of a signal that any rank received."""
    if training.last is None:
        with StopSignals(lambda name: None) as stop:
            for _ in training.events(stop):
                pass
    assert training.last is not None
    training.ranks.agree()  # else the watching launcher would end rank 0 before its report is written
    reason = training.last.reason
    if reason in EXIT_CODES:
        raise typer.Exit(EXIT_CODES[reason])


def _train(training: TrainingJob, as_json: bool) -> bool:
    """Train and show each event. Return whether a signal ended it."""
    session = training.session
    bar = Progress(
        session.plan,
        session.state.step,
        session.chars_read,
        units=session.corpus.vocabulary.units,
    )
    listeners: list[Callable[[Event], None]] = [bar, _Display(training)]
    if as_json:
        _print_row(_begun(training))
        listeners.append(lambda event: _print_row(row_of(event)))
    try:
        with StopSignals(lambda name: _announce(training, name)) as stop:
            for event in training.events(stop):
                for listener in listeners:
                    listener(event)
    except RankError:
        bar.close()
        say("the last checkpoint is intact; resume with:", _resume_command(training))
        raise
    finally:
        bar.close()
    return stop.is_set() or (training.last is not None and training.last.reason in EXIT_CODES)


class _Display:
    """Prints what stays on the screen: evaluations with a sample, and everything unusual."""

    def __init__(self, training: TrainingJob) -> None:
        self._training, self._said_slower = training, False

    def __call__(self, event: Event) -> None:
        """Show one event."""
        session = self._training.session
        if isinstance(event, Evaluated) and self._training.samples is not None:
            show_evaluation(event, self._training.samples.text, session.plan)
        warn_of(event)
        with tqdm.external_write_mode():
            if isinstance(event, Remembered):
                say(forgetting_sentence(event))
            elif isinstance(event, Calibrated):
                say(calibration_sentence(event, session.corpus.vocabulary))
            elif isinstance(event, Planned) and event.begins_again:
                say(
                    f"step {event.step}: {resized(event, session.model_config, session.plan, session.number)}"
                )
            elif isinstance(event, Planned) and event.splits_batches:
                parts = event.decision["grad_accum"]
                say(
                    f"step {event.step}: the device's memory is full; batches are computed in {parts} parts from now on"
                )
            elif isinstance(event, Planned) and event.changes_threads:
                say(f"step {event.step}: {other_threads(event)}")
        plan = session.plan
        if isinstance(event, Planned) and plan.fell_short and not self._said_slower:
            self._said_slower = True
            warn(
                f"{planned_at_first(plan)}; {plan.total_steps:,} fit in the time now. The machine is slower "
                "than "
                "measured, perhaps because it is busy"
            )


def warn_of(event: Event) -> None:
    """Warn when something went wrong, and say what was done about it."""
    sentence = None
    if isinstance(event, Compiled) and event.failure is not None:
        sentence = (
            f"the blocks could not be compiled ({event.failure}); training continues without compilation"
        )
    elif isinstance(event, LeftDevice):
        sentence = (
            f"the GPU ({event.device}) cannot compute a step: {event.reason}; training continues on the CPU"
        )
    elif isinstance(event, Counted):
        sentence = event.limits
    elif isinstance(event, Skipped):
        sentence = f"step {event.step}: the loss was not finite; charlm skipped the batch"
    elif isinstance(event, WentBack):
        sentence = (
            f"step {event.step}: {event.reason}; restored the checkpoint of step {event.to_step}; training "
            "skips that text and continues with "
            f"{event.rate_factor:g} times the learning rate"
        )
    elif isinstance(event, SaveFailed):
        sentence = (
            f"step {event.step} could not be saved ({event.reason}); training continues and will try again"
        )
    elif isinstance(event, Finished) and event.reason == "early":
        sentence = (
            f"Early stopping: held-out loss is rising (overfitting). Best checkpoint: step {event.best_step}"
        )
    if sentence:
        with tqdm.external_write_mode():
            warn(sentence)


def _announce(training: TrainingJob, name: str) -> None:
    step = min(training.session.state.step + 1, training.session.plan.total_steps)
    if name == "SIGINT":
        say(f"\nfinishing step {step}, saving; Ctrl-C again to quit now")
    else:
        say(f"\n{name}: finishing step {step}, saving")


def _begun(training: TrainingJob) -> dict[str, Any]:
    """Return the first row that `--json` prints: what is trained, on what, from which step to which."""
    run, session, baseline = training.folder, training.session, training.baseline
    return {
        "type": "begun",
        "schema": SCHEMA,
        "run": run.path.name,
        "path": str(run.path),
        "step": session.state.step,
        "total_steps": session.plan.total_steps,
        "corpus": to_json(session.run.corpus),
        "model": session.model_config.to_json(),
        "training": session.training_config.to_json(),
        "members": kinds_of(session.plan),
        "ngram_bits_per_char": baseline.baseline.bits_per_char if baseline else None,
    }


def print_result(run: RunFolder, reason: str) -> None:
    """Print the last row of `--json`: the run as in `charlm runs --json`, and how it ended."""
    row = {"type": "result", "reason": reason, "exit_code": EXIT_CODES.get(reason, 0), **overview(run)}
    nats, report = row.get("nats_per_char"), run.path / REPORT
    row["bits_per_char"] = None if nats is None else nats / log(2)
    row["report"] = str(report) if report.exists() else None
    row["forecast"] = None
    if nats is not None and (more := forecast(read_plan(run), saved_state(run, row["step"]))) is not None:
        bits = nats / log(2)
        row["forecast"] = {"seconds": more.seconds, "bits_per_char": bits - more.bits_lower(bits)}
    _print_row({**row, "schema": SCHEMA})


def _print_row(row: dict[str, Any]) -> None:
    with suppress(OSError):  # the reader of a pipe may be gone; training goes on
        print_json(row)


def next_commands(training: TrainingJob, *, resumable: bool) -> None:
    """Suggest what to do with a finished run."""
    run, session = training.folder, training.session
    text = text_words(session.run.corpus.sources, session.corpus)
    say("sample more text:   ", run_command("sample", run, "--prompt", "TEXT"))
    say("evaluate it fully:  ", run_command("eval", run, *text))
    if resumable:
        say("train it further:   ", run_command("resume", run, *text, "--time", "2m"))
    say("show all details:   ", run_command("info", run))


def _resume_command(training: TrainingJob) -> str:
    text = text_words(training.session.run.corpus.sources, training.session.corpus)
    return run_command("resume", training.folder, *text)
