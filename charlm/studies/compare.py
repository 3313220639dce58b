"""Running a comparison: each variant with each seed is trained, then scored on the same text."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from time import perf_counter

from charlm import files
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.snapshot import read
from charlm.errors import DivergedError, UsageError
from charlm.studies.comparison import Comparison, Task
from charlm.studies.result import Result, failed, is_there, score
from charlm.text.load import Loaded
from charlm.training.events import Event
from charlm.training.loop import Stop, Trainer
from charlm.training.pace import Pace
from charlm.training.plan import Choice, choose
from charlm.training.session import Session
from charlm.training.start import begin, go_on, recorded

AFTERWARDS = 0.1  # seconds that a run leaves for what follows it
LEAST_LEFT = 1.0


@dataclass(frozen=True, kw_only=True)
class Began:
    """A run begins, or goes on."""

    task: Task
    number: int
    of: int
    run: RunFolder
    session: Session


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """A run is trained, and is being scored."""

    task: Task


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A run is done."""

    task: Task
    result: Result


def plan_of(comparison: Comparison, task: Task, n_train: int) -> Choice:
    """What a run is given; UsageError where its settings do not go together."""
    variant = task.variant
    training = replace(variant.training, seed=task.seed)
    try:
        choice = choose(comparison.budget, n_train, variant.model, training)
    except ValueError as error:
        raise UsageError(f"{variant.label}: {error}") from None
    return recorded(choice, comparison.budget, comparison.threads)


def compare(
    folder: RunFolder, comparison: Comparison, loaded: Loaded, stop: Stop, warn: Callable[[str], None]
) -> Iterator[Began | Event | Scoring | Scored]:
    """Do what is not done yet, until `stop`: the events of each run, between Began and Scored.

    What was cut off goes on from its last save; with a time, for what is left of it.
    """
    tasks = comparison.tasks()
    for number, task in enumerate(tasks, 1):
        run = RunFolder(folder.path / task.run_name)
        if is_there(run):
            continue
        if stop.is_set():
            return
        session, pace = _session(run, comparison, task, loaded, warn)
        yield Began(task=task, number=number, of=len(tasks), run=run, session=session)
        result = None
        try:
            if session.state.finished is None:
                yield from Trainer(session, run, pace).run(stop)
        except DivergedError as error:
            result = failed(run, str(error))
        finally:
            run.unlock()
        if result is None:
            if session.state.finished is None:
                return  # stopped in the middle
            yield Scoring(task=task)
            which = "best" if session.state.finished == "early" else "latest"
            result = score(run, read(run, which), which, session, loaded.corpus)
        yield Scored(task=task, result=result)


def _session(
    run: RunFolder, comparison: Comparison, task: Task, loaded: Loaded, warn: Callable[[str], None]
) -> tuple[Session, Pace | None]:
    """The run as it was left, or at its beginning."""
    if run.path.is_dir() and (run.path / "run.json").is_file() and run.steps():
        session = go_on(run, warn)
    else:
        files.remove_tree(run.path)  # cut off before its first save
        run.path.parent.mkdir(exist_ok=True)
        files.make_folder(run.path)
        run.lock()
        choice = plan_of(comparison, task, len(loaded.corpus.train))
        session = begin(run, loaded, comparison.text, choice, comparison.command)
    if comparison.budget.seconds is None:
        return session, None
    left = max(LEAST_LEFT, comparison.budget.seconds - session.state.seconds)
    deadline = perf_counter() + left
    pace = Pace(budget=left, deadline=deadline, afterwards=AFTERWARDS, first_step=session.state.step)
    return session, pace
