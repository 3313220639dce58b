"""Run a comparison: train each variant with each seed, then score them on the same text."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from charlm import files
from charlm.checkpoint.run_folder import LOCK, LockedError, RunFolder
from charlm.checkpoint.snapshot import read_snapshot
from charlm.data.load import Loaded
from charlm.errors import CheckpointError, DivergedError, ResourceError, UsageError, is_out_of_memory
from charlm.experiments.comparison import Comparison, Task, check_run, refuse_links, run_of
from charlm.experiments.results import Result, find_result, keep, score
from charlm.experiments.share import WHOLE, Share
from charlm.settings import settings_of
from charlm.training.deadline import Deadline
from charlm.training.events import Event
from charlm.training.launch import resume_run, start_run
from charlm.training.planner import Choice, choose, single_kind
from charlm.training.session import Session
from charlm.training.signals import Stop
from charlm.training.trainer import Trainer

AFTERWARDS = 0.1  # seconds that a run leaves for what follows it


@dataclass(frozen=True, kw_only=True)
class Began:
    """A run begins, or is resumed."""

    task: Task
    number: int
    of: int
    run: RunFolder
    session: Session


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """A run's training has ended, and its scoring begins."""

    task: Task


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A run is done."""

    task: Task
    result: Result


def plan_of(comparison: Comparison, task: Task, n_train: int) -> Choice:
    """Plan a run. Raises UsageError if its settings conflict."""
    variant = task.variant
    try:
        training = replace(variant.training, seed=task.seed)
        if training.members is None and not variant.model.is_ngram:  # one model is compared with another
            training = replace(training, members=single_kind(variant.model, n_train))
        choice = choose(comparison.budget, n_train, variant.model, training)
        choice = replace(choice, plan=choice.plan.closed())  # fixed, so that what is compared stays equal
        return choice.record(comparison.budget, comparison.threads)
    except ValueError as error:
        raise UsageError(f"{variant.label}: {error}") from None


def unintended(comparison: Comparison, choices: Sequence[Choice]) -> list[str]:
    """Return settings that differ between runs without being varied, like `n_embd: 96, 100`."""
    follow = {"seed", *comparison.axes}
    trained = [choice for choice in choices if not choice.model.is_ngram]
    if "model" in follow and trained:
        choices = trained  # an n-gram model has few of the settings that a transformer has
    if "mixer" in follow:
        follow |= {"position", "n_head"}  # these depend on the mixer
    if "prior" in follow:
        follow |= {"prior_order", "prior_dropout", "prior_chars"}
    found = []
    for kind in ("model", "training"):
        for setting in settings_of(type(getattr(choices[0], kind))):
            values = {str(getattr(getattr(choice, kind), setting.name)) for choice in choices}
            if len(values) > 1 and setting.name not in follow:
                found.append(
                    f"{setting.name}: {', '.join(sorted(values))}; set {setting.option} to give all variants "
                    "the same value"
                )
    return found


Events = Iterator[Began | Event | Scoring | Scored]


def compare(
    folder: RunFolder,
    comparison: Comparison,
    loaded: Loaded,
    stop: Stop,
    warn: Callable[[str], None],
    share: Share = WHOLE,
) -> Events:
    """Train and score the missing runs of a share until `stop`. Yields each run's events, between Began and Scored.

    An interrupted run resumes from its last checkpoint under its own plan. A run that another process trains is left
    to it.
    """
    tasks = share.part(comparison.tasks())
    refuse_links(folder.path, "the comparison")
    for _, task in tasks:
        check_run(run_of(folder, task), comparison, task)
    for number, task in tasks:
        run, fingerprint = run_of(folder, task), comparison.fingerprint(task)
        if find_result(run, fingerprint) is not None:
            continue
        if stop.is_set():
            return
        check_run(run, comparison, task)  # again, since the runs before it took time
        files.make_folder(run.path)
        try:
            run.lock()
            if find_result(run, fingerprint) is None:  # another process may have just finished it
                yield from _train(number, run, comparison, task, loaded, stop, warn)
        except LockedError:
            warn(f"{run.name} is being trained by another process, which finishes it")
        finally:
            run.unlock()


def unfinished(folder: RunFolder, comparison: Comparison) -> list[RunFolder]:
    """Return the runs that have no result yet. Raises AlteredError for a result of other runs or weights."""
    runs = [(run_of(folder, task), comparison.fingerprint(task)) for task in comparison.tasks()]
    return [run for run, fingerprint in runs if find_result(run, fingerprint) is None]


def _train(
    number: int,
    run: RunFolder,
    comparison: Comparison,
    task: Task,
    loaded: Loaded,
    stop: Stop,
    warn: Callable[[str], None],
) -> Events:
    """Train and score one run, which is locked."""
    fingerprint = comparison.fingerprint(task)
    session, deadline = _session(run, comparison, task, loaded, warn)
    yield Began(task=task, number=number, of=len(comparison.tasks()), run=run, session=session)
    try:
        if session.state.finished is None:
            yield from Trainer(session, run, deadline).run(stop)
        if session.state.finished is None:
            return  # stopped in the middle
        yield Scoring(task=task)
        refuse_links(run.path, f"the run {run.name} of {comparison.name}")
        which = "best" if session.state.finished == "early" else "latest"
        result = score(run, read_snapshot(run, which), which, session, stop, fingerprint)
    except DivergedError as error:
        result = keep(run, Result(problem=str(error), fingerprint=fingerprint))
    except OSError as error:
        raise ResourceError(f"the result of {run.name} cannot be written: {error.strerror}") from None
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        result = keep(run, Result(problem="it does not fit into memory", fingerprint=fingerprint))
    if result is not None:
        yield Scored(task=task, result=result)


def _session(
    run: RunFolder, comparison: Comparison, task: Task, loaded: Loaded, warn: Callable[[str], None]
) -> tuple[Session, Deadline | None]:
    """Return the session of an interrupted run to resume, or of a new one; the run is locked."""
    seconds = comparison.budget.seconds
    if (run.path / "run.json").is_file() and run.steps():
        try:
            session = resume_run(run, warn, find_corpus=lambda snapshot: loaded.corpus)
            if seconds is None or len(session.plan.decisions) > 1:
                return session, None  # its speed was measured: it finishes its plan
        except CheckpointError as error:
            warn(f"{run.name} starts again from step 0: {error}")
    for path in sorted(
        run.path.iterdir(), key=lambda path: path.name != "run.json"
    ):  # first, since without it there is no run
        if path.name != LOCK:  # whoever waits for the lock must find this one
            files.remove_tree(path)
    started = perf_counter()  # counting the text is part of a run's time
    choice = plan_of(comparison, task, len(loaded.corpus.train))
    session = start_run(run, loaded, comparison.text, choice, comparison.command)
    if seconds is None:
        return session, None
    return session, Deadline(budget=seconds, at=started + seconds, reserve=AFTERWARDS)
