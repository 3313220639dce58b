"""Running a session with its listeners, for `train` and `resume`: progress, log, report, and the summary at the end."""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import log
from statistics import fmean
from time import perf_counter
from typing import Any

from tqdm import tqdm

from charlm import files
from charlm.checkpoint.run_folder import RunFolder, overview
from charlm.cli.console import count, print_json, say, table, text_of, warn, warn_of_slow_parts
from charlm.cli.repeat import repeat_command, run_command, why_not_repeatable
from charlm.cli.summaries import several
from charlm.config import FEWEST_HELD_OUT, SamplingConfig, TextConfig
from charlm.data.corpus import Corpus
from charlm.data.documents import separator_of
from charlm.errors import CharlmError
from charlm.evaluation.baselines import (
    CHOSEN,
    KNESER_NEY,
    Baseline,
    Yardstick,
    count_training_part,
    stick_of_ids,
)
from charlm.evaluation.bootstrap import plus_minus, too_few
from charlm.inference.generate import default_prompt, sample_text
from charlm.native.library import has_failures
from charlm.reporting.log import MetricsLog, row_of
from charlm.reporting.progress import Preview, Progress
from charlm.reporting.run_page import NAME as REPORT
from charlm.reporting.run_page import training_note, write_report
from charlm.terminal import one_line
from charlm.training.deadline import Pace
from charlm.training.events import (
    Compiled,
    Counted,
    Event,
    Finished,
    Planned,
    Remembered,
    SaveFailed,
    Skipped,
    WentBack,
)
from charlm.training.planner import Plan
from charlm.training.session import Session
from charlm.training.signals import EXIT_CODES, StopSignals
from charlm.training.start import AnySession, trainer_of

SHARE = 0.1  # of a run's time, at most
SECONDS = 10.0  # the same for a run that has no time to keep to
SYMBOLS_PER_SECOND = 0.8e6  # choosing the order, counting; the held-out part is scored at half of it


def counts_line(session: AnySession, budget: float | None) -> Baseline | None:
    """Count and score, and say the figure; None where nothing is held out, or too much for the time.

    `budget` in seconds. A long text is counted in parts. Where the model begins from counts, those are
    what it is held against, and how long they are is the plan's choice; else it is chosen as `charlm
    eval` does. Counts alone are held against nothing.
    """
    corpus = session.corpus
    seconds = (SECONDS if budget is None else SHARE * budget) - 2 * len(corpus.held_out) / SYMBOLS_PER_SECOND
    if session.model_config.is_ngram or not len(corpus.held_out) or seconds <= 0:
        return None
    built, source = session.built, "those that it begins from"
    if built is None:
        most, source = int(seconds * SYMBOLS_PER_SECOND), CHOSEN
        memory = session.training_config.prior_memory << 20
        built = count_training_part(corpus.vocabulary, corpus.train, memory=memory, most=most)
    started = perf_counter()
    stick = stick_of_ids(built, corpus.vocabulary, corpus.held_out, corpus.held_out_chars)
    seconds = perf_counter() - started
    limits = f"; {stick.limits}" if stick.limits else ""
    say(
        f"baseline: {stick.bits_per_char:.3f} bits/char on all held-out text, by "
        f"{several(stick.order or 0, corpus.vocabulary.word)} of counts, {source} ({KNESER_NEY}){limits}"
        f"{too_few(corpus.held_out_chars)}. Each evaluation scores it on its own windows"
    )
    return Baseline(stick, built.model, seconds)


def say_remembered(event: Event) -> None:
    """Say it when it was measured."""
    if isinstance(event, Remembered):
        before, after = event.before / log(2), event.nats_per_char / log(2)
        said = f", {_change(event.forgotten, event.standard_error)}" if event.final else " as this run begins"
        say(
            f"held-out text of {one_line(event.run)}: {before:.4f} bits/char before, {after:.4f}"
            f"{' now' if event.final else ''}{said}; on {count(event.chars)} of {count(event.of_chars)} characters{too_few(event.chars)}"
        )


def remembered_rows(old_text: dict[str, Any] | None) -> list[tuple[str, str]]:
    """The same as rows of a table, from what a run's state keeps of it."""
    if old_text is None:
        return []
    now, begun = old_text["nats_per_char"] / log(2), old_text["begun"] / log(2)
    before = plus_minus(old_text["before"], old_text["before_error"])
    change = _change(old_text["forgotten"], old_text["standard_error"])
    after = (
        f"{now:.4f} after step {count(old_text['step'])}: {change}" if old_text["step"] else "not yet after"
    )
    return [
        (
            f"held-out text of {one_line(old_text['run'])}",
            f"{before} bits/char before, {begun:.4f} when this run began, {after}; on "
            f"{count(old_text['chars'])} of {count(old_text['of_chars'])} characters{too_few(old_text['chars'])}",
        )
    ]


def _change(nats: float, error: float | None) -> str:
    """The difference, positive where the figure is worse than it was."""
    return f"{plus_minus(abs(nats), error)} bits/char {'forgotten' if nats >= 0 else 'gained'}"


PREVIEW_CHARS = 120
EVENTS_SCHEMA = 1
"""Of the rows that `train --json` and `resume --json` print."""
BASELINE_SHARE = 0.02  # of a run's time, at most, for scoring the baseline at the end


def follow(
    run: RunFolder,
    session: AnySession,
    pace: Pace | None,
    counts: Baseline | None,
    *,
    as_json: bool = False,
) -> int:
    """Train to the end or until a signal; show it; the exit code that the signal asks for, or 0.

    `counts`: the n-gram baseline, if there was time to count it. With `as_json` standard output gets
    the events instead of the table at the end.
    """
    trainer = trainer_of(session, run, pace, counts.model if counts else None)
    if pace is not None and counts is not None:  # the closing evaluation scores the baseline, too
        pace.afterwards += min(counts.seconds, BASELINE_SHARE * pace.budget)
    # The page there may be is of another step. Should this be killed, `resume` makes that of the last one.
    with suppress(OSError):
        files.remove_file(run.path / REPORT)
    say(f"run {run.name}, in {one_line(str(run.path))}")
    bar = Progress(
        session.plan.total_steps,
        session.state.step,
        session.chars_per_step,
        units=session.corpus.vocabulary.units,
    )
    listeners: list[Callable[[Event], None]] = [
        bar,
        MetricsLog(run.path, session.state.step),
        Preview(run.path, session.state.step, lambda: _sample(session)),
        tell,
        _Slower(session),
        _say_remembered,
        _warn_of_slow_parts,
    ]
    if as_json:
        _print_row(_begun(run, session, counts))
        listeners.append(lambda event: _print_row(row_of(event)))
    last: Event | None = None
    try:
        with StopSignals(lambda name: _announce(session, name)) as stop:
            for event in trainer.run(stop):
                for listener in listeners:
                    listener(event)
                last = event
    finally:
        bar.close()
        run.unlock()
    assert isinstance(last, Finished)
    budget = pace.budget if pace is not None else None
    if stop.is_set():
        budget = 0.0  # whoever sent a signal does not wait for what takes time
    _summary(run, session, last, budget, counts.stick if counts else None, as_json)
    return EXIT_CODES.get(last.reason, 0)


def close_finished(
    run: RunFolder, session: AnySession, counts: Baseline | None, *, as_json: bool = False
) -> None:
    """Show and write what comes at the end of a run, for one that was killed between that and its last save."""
    run.unlock()
    state = session.state
    assert state.finished is not None
    best, total = state.memorising.best_step, session.plan.total_steps
    last = Finished(step=state.step, reason=state.finished, best_step=best, total_steps=total)
    tell(last)
    _summary(run, session, last, None, counts.stick if counts else None, as_json)


def _begun(run: RunFolder, session: AnySession, counts: Baseline | None) -> dict[str, Any]:
    """The first of the rows that `--json` prints: what is trained, on what, from which step to which."""
    return {
        "type": "begun",
        "schema": EVENTS_SCHEMA,
        "run": run.path.name,
        "path": str(run.path),
        "step": session.state.step,
        "total_steps": session.plan.total_steps,
        "corpus": dict(session.run["corpus"]),
        "model": session.model_config.to_json(),
        "training": session.training_config.to_json(),
        "counts_bits_per_char": counts.stick.bits_per_char if counts else None,
    }


def print_result(run: RunFolder, reason: str, exit_code: int) -> None:
    """The last of the rows that `--json` prints: the run as `charlm runs --json` has it, and how it ended."""
    row = {"type": "result", "reason": reason, "exit_code": exit_code, **overview(run)}
    nats, report = row.get("nats_per_char"), run.path / REPORT
    row["bits_per_char"] = None if nats is None else nats / log(2)
    row["report"] = str(report) if report.exists() else None
    _print_row({**row, "schema": EVENTS_SCHEMA})


def _print_row(row: dict[str, Any]) -> None:
    with suppress(OSError):  # whoever read it may be gone; training goes on
        print_json(row)


def tell(event: Event) -> None:
    """Say the unusual when it happens: what went wrong, and what was done about it."""
    words = _words(event)
    if words is not None:
        with tqdm.external_write_mode():
            warn(words)


def _say_remembered(event: Event) -> None:
    with tqdm.external_write_mode():
        say_remembered(event)


def _warn_of_slow_parts(event: Event) -> None:
    if has_failures():
        with tqdm.external_write_mode():
            warn_of_slow_parts()


class _Slower:
    """Says it once where far fewer steps fit in the time than were planned at first."""

    def __init__(self, session: AnySession) -> None:
        self._session, self._said = session, False

    def __call__(self, event: Event) -> None:
        plan = self._session.plan
        if isinstance(event, Planned) and not self._said and plan.fell_short:
            self._said = True
            warn(
                f"{_planned(plan)}: {count(plan.total_steps)} steps fit in the time. The machine is slower than it "
                "was measured to be, perhaps busy with something else"
            )


def _planned(plan: Plan) -> str:
    return f"{count(plan.first_total_steps)} steps were planned at first"


def _words(event: Event) -> str | None:
    if isinstance(event, Compiled):
        if event.failure is None:
            return None
        return f"the blocks could not be compiled ({event.failure}); training goes on without"
    if isinstance(event, Counted):
        return event.limits or None
    if isinstance(event, Skipped):
        return f"step {event.step}: the loss was not finite; the batch was left out"
    if isinstance(event, WentBack):
        return (
            f"step {event.step}: {event.reason}; back to step {event.to_step}, past that text, with the "
            f"learning rate at {event.rate_factor:g} of what it was"
        )
    if isinstance(event, SaveFailed):
        return f"step {event.step} could not be saved ({event.reason}); training goes on, and tries again"
    if isinstance(event, Finished) and event.reason == "early":
        return (
            "the model has begun to memorise: it still gets better on the text it learns from, and worse on "
            f"the text held out. Stopped; its best moment, step {event.best_step}, is kept and will be used"
        )
    return None


def _sample(session: AnySession) -> str:
    predictor, text = session.predictor, TextConfig.from_json(session.run["text"])
    with session.predicting():
        return sample_text(
            predictor, default_prompt(predictor), SamplingConfig(seed=1), PREVIEW_CHARS, separator_of(text)
        )


def _announce(session: AnySession, name: str) -> None:
    step = min(session.state.step + 1, session.plan.total_steps)
    if name == "SIGINT":
        say(f"\nfinishing step {step}, saving; Ctrl-C again to quit now")
    else:
        say(f"\n{name}: finishing step {step}, saving")


def _summary(
    run: RunFolder,
    session: AnySession,
    last: Finished,
    budget: float | None,
    counts: Yardstick | None,
    as_json: bool,
) -> None:
    """The still table at the end, or the result as JSON, and the report beside it."""
    state = session.state
    steps = f"{count(last.step)} of {count(last.total_steps)}"
    if isinstance(session, Session) and session.plan.fell_short:
        steps += f"; {_planned(session.plan)}, and the machine was slower than measured, perhaps busy"
    rows = [("run", run.name), ("steps", steps)]
    rows += session.learned
    rows.append(("text", text_of(session.run)))
    rows += figure_rows(session) + remembered_rows(state.old_text)
    if last.reason == "early":
        corpus = session.corpus
        nats_per_symbol = fmean(state.memorising.best_blocks)
        best = nats_per_symbol * len(corpus.held_out) / corpus.held_out_chars / log(2)
        rows.append(("best, and used", f"{best:.4f} bits/char, step {last.best_step}"))
    try:
        rows += write_report(run, session, [*rows, *repeat_row(run, session)], budget, counts, warn)
    except (OSError, CharlmError) as error:
        warn(f"the report could not be written: {error}")
    except KeyboardInterrupt:
        say("\nthe run is saved; this finishes it and writes its report:", _resume_command(run, session))
        raise
    if as_json:
        print_result(run, last.reason, EXIT_CODES.get(last.reason, 0))
    else:
        with suppress(OSError):  # whoever read the table may be gone; what is said below still counts
            table(rows)
    if last.reason in EXIT_CODES:
        say(f"stopped by {last.reason} after step {last.step}; go on with:", _resume_command(run, session))


def next_commands(run: RunFolder, session: AnySession) -> None:
    """What one may want to do with a finished run."""
    more = text_words(session.run["corpus"]["sources"], session.corpus)
    say("more text from it:  ", run_command("sample", run, "--prompt", "TEXT"))
    say("its full figure:    ", run_command("eval", run, *more))
    if isinstance(session, Session) and not of_comparison(run):
        say("train it further:   ", run_command("resume", run, *more, "--time", "2m"))
    say("how to repeat it:   ", run_command("info", run))


def _resume_command(run: RunFolder, session: AnySession) -> str:
    return run_command("resume", run, *text_words(session.run["corpus"]["sources"], session.corpus))


def of_comparison(run: RunFolder) -> bool:
    """Is it one of the runs of a comparison?"""
    return (run.path.parent / "comparison.json").is_file()


def repeat_row(run: RunFolder, session: AnySession) -> list[tuple[str, str]]:
    """The command that makes the run again, as a row of its report; none where no command does."""
    if why_not_repeatable(session.state.finished, session.state.returns, session.plan) is not None:
        return []
    command = repeat_command(run, session.run, session.model_config, session.training_config, session.plan)
    return [("the same run again", command)]


def text_words(sources: Sequence[str], corpus: Corpus) -> list[str]:
    """The option that names the text of a run, where it is neither in the cache nor where it was read."""
    if corpus.uncached is None or all(source != "-" and os.path.exists(source) for source in sources):
        return []
    return ["--text", "FILE"]


def figure_rows(session: AnySession) -> list[tuple[str, str]]:
    """The last evaluation, with what it was measured on."""
    figure, corpus = session.state.last_figure, session.corpus
    if figure is None:
        return []
    nats = figure["nats_per_char"]
    part = "from its beginning" if session.model_config.carries_state else "spread evenly"
    spread = "the whole held-out part" if figure["whole"] else part
    said = f"{plus_minus(nats, figure['standard_error'])} bits/char ({nats:.4f} nats), step {figure['step']}"
    spread += "; too few to mean much" if figure["chars"] < FEWEST_HELD_OUT else ""
    spread += "; the error of a single block is unknown" if figure["standard_error"] is None else ""
    measured = f"{count(figure['chars'])} of {count(corpus.held_out_chars)} characters, {several(figure['blocks'], 'block')}, {spread}"
    rows = [("held-out", said)]
    if figure["difference"] is not None:
        change = plus_minus(figure["difference"], figure["difference_error"], sign="+")
        baseline = figure["baseline_nats_per_char"] / log(2)
        rows.append(("n-gram baseline", f"{baseline:.4f} bits/char there; difference {change}"))
    rows.append(("measured on", measured))
    if session.state.divergence.recent:
        # from nats a symbol to bits a character
        bits = len(corpus.train) / max(1, corpus.train_chars) / log(2)
        loss = fmean(session.state.divergence.recent) * bits
        rows.append(("training loss", f"{loss:.4f} bits/char; {training_note(session)}"))
    return rows
