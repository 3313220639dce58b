"""The Python API: `charlm.train`, `train_events`, `resume`, and `load` with its `Run`. The command line is built on it."""

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import log
from time import perf_counter
from typing import Any

import torch

from charlm.data.addresses import without_secrets
from charlm.data.text_config import TextConfig
from charlm.errors import UsageError
from charlm.job import TrainingJob, begin, reopen
from charlm.reporting.trackers import chosen_trackers
from charlm.run import Run, find_run, load, runs_root
from charlm.threads import threads_restored
from charlm.training.describe import several
from charlm.training.events import Evaluated, Event, Stepped
from charlm.training.request import Messages, Prepared, TrainRequest, budget_seconds, prepare
from charlm.training.request_text import moved_text
from charlm.training.signals import stop_on_interrupt

__all__ = ["Run", "load", "resume", "train", "train_events"]


def train(
    *paths: str | os.PathLike[str],
    texts: Iterable[str] | None = None,
    time: str | float | None = None,
    steps: int | None = None,
    run: str | None = None,
    plan_from: str | os.PathLike[str] | None = None,
    from_run: str | None = None,
    teacher: str | None = None,
    checkpoint: str | None = None,
    checkpoints: str | os.PathLike[str] | None = None,
    report_to: str | Sequence[str] | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> Run:
    """Train a model on files, folders, globs or addresses, or on `texts` in memory; by default on the bundled manual.

    `texts` is any iterable of strings, each read like a file: a list, a generator, a column of pandas or polars. Of a
    table of `datasets`, pandas or polars, `field` names the column, and its rows are read like records.

    `time` ("90s", "10m", or seconds; default "2m") or `steps` is the budget; what is not given is planned.
    `settings` are those of `charlm train`, with underscores: `n_layer=4`, `seed=3`, `val=0.2`. `run` names the
    run, `from_run` fine-tunes another (or a folder that `charlm export --to hf` wrote), and `teacher` is a run from which a
    `plain` one is distilled; `checkpoint` is one of theirs. Runs lie in `checkpoints`, by default in
    $CHARLM_CHECKPOINTS or `checkpoints/`. `report_to` names trackers, as `charlm train --report-to` does, or lists them.
    `progress`: show a bar, by default in notebooks only.

    Returns the run at its last checkpoint, or at its best one after early stopping. An interrupt (Ctrl-C, or
    "interrupt the kernel") finishes the step, saves the run, and then raises KeyboardInterrupt;
    `charlm.resume()` trains it on, and `charlm.load()` returns it.

    Raises UsageError, TextError, CheckpointError, DivergedError and ResourceError, as the command does.
    """
    job = _begin(
        "train",
        paths,
        settings,
        texts,
        time,
        steps,
        run,
        plan_from,
        from_run,
        teacher,
        checkpoint,
        checkpoints,
        report_to,
    )
    return _train_to_end(job, progress)


def train_events(
    *paths: str | os.PathLike[str],
    texts: Iterable[str] | None = None,
    time: str | float | None = None,
    steps: int | None = None,
    run: str | None = None,
    plan_from: str | os.PathLike[str] | None = None,
    from_run: str | None = None,
    teacher: str | None = None,
    checkpoint: str | None = None,
    checkpoints: str | os.PathLike[str] | None = None,
    report_to: str | Sequence[str] | None = None,
    **settings: Any,
) -> Iterator[Event]:
    """Train as `train` does, and yield each event of `charlm.training.events`: frozen dataclasses of plain numbers.

    The last one is Finished. An interrupt ends the loop after the step: the run is saved, and the reason of
    Finished is "SIGINT". Leaving the loop by `break` does the same, but yields nothing more. Invalid
    arguments raise at the call, before the first event.
    """
    return _events(
        _begin(
            "train_events",
            paths,
            settings,
            texts,
            time,
            steps,
            run,
            plan_from,
            from_run,
            teacher,
            checkpoint,
            checkpoints,
            report_to,
        )
    )


def resume(
    run: str | os.PathLike[str] | None = None,
    *,
    time: str | float | None = None,
    steps: int | None = None,
    text: str | os.PathLike[str] | Sequence[str] | None = None,
    threads: int | None = None,
    checkpoints: str | os.PathLike[str] | None = None,
    report_to: str | Sequence[str] | None = None,
    progress: bool | None = None,
) -> Run:
    """Train a run to the end of its plan, or for a `time` or number of `steps` more; interrupts as in `train`.

    `run` is a name, a path, or None for the newest; `text` says where its text is now, if it was moved; `report_to` names
    other trackers than before. A finished run without `time` and `steps` is returned as it is. Raises CheckpointError, UsageError,
    DivergedError, ResourceError.
    """
    if time is not None and steps is not None:
        raise UsageError("give either time or steps, not both")
    started, messages, trackers = perf_counter(), Messages(), chosen_trackers(report_to)
    folder = find_run(run, checkpoints)
    paths = [text] if isinstance(text, str | os.PathLike) else list(text or [])
    with threads_restored():
        job = reopen(
            folder,
            messages,
            started=started,
            time=None if time is None else budget_seconds(_time_text(time) or ""),
            steps=steps,
            threads=threads,
            moved=moved_text([os.fspath(path) for path in paths]),
            report_to=trackers,
        )
    if job.complete:
        folder.unlock()
        return Run(folder)
    return _train_to_end(job, progress)


def _begin(
    function: str,
    paths: Sequence[str | os.PathLike[str]],
    settings: dict[str, Any],
    texts: Iterable[str] | None,
    time: str | float | None,
    steps: int | None,
    run: str | None,
    plan_from: str | os.PathLike[str] | None,
    from_run: str | None,
    teacher: str | None,
    checkpoint: str | None,
    checkpoints: str | os.PathLike[str] | None,
    report_to: str | Sequence[str] | None,
) -> TrainingJob:
    """Begin the run of a call to `function`. Raises UsageError, TextError, CheckpointError, ResourceError."""
    _check_source(paths, texts, settings)
    if time is not None and steps is not None:
        raise UsageError("give either time or steps, not both")
    if steps is not None and (type(steps) is not int or steps < 1):
        raise UsageError(f"steps is {steps!r}; it must be a whole number, at least 1")
    words = [repr(without_secrets(os.fspath(path), is_word=True)) for path in paths] + ["texts=[...]"] * (
        texts is not None
    )
    given = {
        "time": time,
        "steps": steps,
        "run": run,
        "plan_from": plan_from,
        "from_run": from_run,
        "teacher": teacher,
        "checkpoint": checkpoint,
        **settings,
    }
    words += [f"{name}={without_secrets(repr(value))}" for name, value in given.items() if value is not None]
    if settings.get("val_file") is not None:
        settings["val_file"] = os.path.expanduser(os.fspath(settings["val_file"]))
    request = TrainRequest.of(
        settings,
        paths=tuple(os.path.expanduser(os.fspath(path)) for path in paths),
        time=_time_text(time),
        steps=steps,
        run=run,
        plan_from=None if plan_from is None else os.fspath(plan_from),
        root=runs_root(checkpoints),
        from_run=from_run,
        teacher=teacher,
        checkpoint=checkpoint,
        report_to=chosen_trackers(report_to),
        command=f"charlm.{function}({', '.join(words)})",
    )
    messages = Messages()
    with threads_restored():
        prepared = prepare(request, messages) if texts is None else _prepare_texts(request, texts, messages)
        return begin(prepared, messages)


def _check_source(
    paths: Sequence[str | os.PathLike[str]], texts: Iterable[str] | None, settings: dict[str, Any]
) -> None:
    """Raise UsageError for paths together with texts, for what is no path, and for settings that only files have."""
    if texts is not None and paths:
        raise UsageError("give either paths or texts, not both")
    for name in ("encoding", "include", "exclude"):
        if texts is not None and settings.get(name) is not None:
            raise UsageError(f"{name} has no effect on texts in memory; leave it out")
    for path in paths:
        if not isinstance(path, str | os.PathLike):
            raise UsageError(f"a {type(path).__name__} is no path; pass texts in memory with texts=")


def _prepare_texts(request: TrainRequest, texts: Iterable[str], messages: Messages) -> Prepared:
    """Prepare a run on texts in memory, as `prepare` does one on files."""
    from charlm.data.text_rows import TextRows  # here: not needed for files

    read = list[TextRows]()

    def rows(config: TextConfig) -> TextRows:
        read.append(TextRows(texts, config))
        return read[0]

    prepared = prepare(replace(request, paths=("-",)), messages, texts=rows)
    loaded = replace(prepared.loaded, label=several(read[0].count, "text"))
    request = replace(request, paths=("texts",))  # which names the run
    return replace(prepared, loaded=loaded, request=request)


def _time_text(time: str | float | None) -> str | None:
    """Convert a time to what `charlm train --time` takes."""
    return time if time is None or isinstance(time, str) else f"{time:f}"


def _events(job: TrainingJob) -> Iterator[Event]:
    """Train to the end or an interrupt, and write the report, also when the caller leaves the loop."""
    with threads_restored(), stop_on_interrupt() as stop:
        torch.set_num_threads(job.threads)
        events = job.events(stop)
        for event in events:
            try:
                yield event
            except GeneratorExit:
                stop.reason = "SIGINT"
                for _ in events:
                    pass
                if job.last is not None:
                    job.close(hurry=True)
                raise
        job.close(hurry=stop.is_set())


def _train_to_end(job: TrainingJob, progress: bool | None) -> Run:
    """Train, with a progress bar if wanted. Raises KeyboardInterrupt once the run is saved after an interrupt."""
    if job.last is not None:  # only its report is missing
        job.close()
        return Run(job.folder)
    with _bar(job, progress) as show:
        for event in _events(job):
            show(event)
    assert job.last is not None
    if job.last.reason == "SIGINT":
        name = job.folder.path.name
        raise KeyboardInterrupt(
            f"training stopped after step {job.last.step}; the run is saved: charlm.resume({name!r}) continues it, "
            f"charlm.load({name!r}) returns it"
        )
    return Run(job.folder)


@contextmanager
def _bar(job: TrainingJob, progress: bool | None) -> Iterator[Callable[[Event], None]]:
    """Show tqdm's progress bar, in a notebook or if wanted; yield a function that shows an event."""
    if not (_in_notebook() if progress is None else progress):
        yield lambda event: None
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about widgets that are not installed
        from tqdm.auto import tqdm
    bar = tqdm(total=job.session.plan.total_steps, initial=job.session.state.step, unit="step")
    shown: dict[str, str] = {}

    def show(event: Event) -> None:
        if isinstance(event, Evaluated):
            shown["held_out"] = f"{event.nats_per_char / log(2):.3f} bits/char"
        if isinstance(event, Stepped):
            shown["loss"] = f"{event.loss / log(2):.3f}"
            bar.total = job.session.plan.total_steps
            bar.set_postfix(shown, refresh=False)
            bar.update(event.step - bar.n)

    try:
        yield show
    finally:
        bar.close()


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython")
    instance = shell.get_ipython() if shell is not None else None
    return instance is not None and hasattr(instance, "kernel")
