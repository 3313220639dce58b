"""A training job: trains a run to its end, with its deadline, n-gram baseline, logs and report."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import wraps
from time import perf_counter
from typing import Any, Concatenate, ParamSpec

import torch

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.snapshot import Snapshot, read_newest
from charlm.data.documents import separator_of
from charlm.data.load import run_name
from charlm.errors import CharlmError, CheckpointError, UsageError
from charlm.evaluation.baselines import (
    CHOSEN,
    KNESER_NEY,
    NgramBaseline,
    ngram_baseline,
)
from charlm.evaluation.bootstrap import too_few
from charlm.inference.generate import default_prompt, sample_text
from charlm.inference.predictor import Predictor
from charlm.inference.sampling_config import SamplingConfig
from charlm.ngram.build import fit
from charlm.reporting.log import MetricsLog, SampleLog
from charlm.reporting.run_page import NAME as REPORT
from charlm.reporting.run_page import report_seconds, write_report
from charlm.reporting.run_summary import Row, repeat_row, summary_rows
from charlm.reporting.trackers.listener import Reporting
from charlm.terminal import one_line
from charlm.training.deadline import Deadline
from charlm.training.describe import several, text_name
from charlm.training.distributed import current
from charlm.training.events import Event, Finished
from charlm.training.launch import (
    begin_plan_anew,
    extend_by_seconds,
    extend_by_steps,
    resume_run,
    start_run,
)
from charlm.training.request import Messages, Prepared, TrainRequest, begun_run
from charlm.training.request_text import load_text, note_files, report_moved
from charlm.training.run_corpus import Moved, corpus_of, earlier_of
from charlm.training.session import Session, TransformerSession
from charlm.training.signals import Stop
from charlm.training.teacher import Teacher
from charlm.training.trainer import Trainer

P = ParamSpec("P")
PREVIEW_CHARS = 120
BASELINE_SHARE = 0.1  # of a run's time, at most, for counting the baseline
BASELINE_SECONDS = 10.0  # the same for a run without a time
BASELINE_CLOSING_SHARE = 0.02  # of a run's time, at most, for scoring the baseline at the end
SYMBOLS_PER_SECOND = 0.8e6  # counted; the held-out part is scored at half of it


class TrainingJob:
    """A run that can be trained: its folder, session, deadline and n-gram baseline."""

    def __init__(
        self,
        folder: RunFolder,
        session: Session,
        deadline: Deadline | None,
        messages: Messages,
        teacher: Teacher | None = None,
        report_to: tuple[str, ...] | None = None,
    ) -> None:
        """`deadline`: of a run with a time budget. `teacher`: of a distilled run that is to be trained.

        `report_to`: the trackers to report to; None: those that the run was reported to before.
        """
        self.folder, self.session, self.deadline, self.messages = folder, session, deadline, messages
        self.threads = torch.get_num_threads()
        self.last: Finished | None = None
        self.ranks = session.ranks
        finished = session.state.finished
        if finished is not None:
            best, steps = session.state.early_stopping.best_step, session.plan.total_steps
            self.last = Finished(step=session.state.step, reason=finished, best_step=best, total_steps=steps)
        self.complete: bool = self.ranks.broadcast_object(self._is_complete)
        """Whether nothing is left to do, not even the report."""
        alone = self.ranks.is_first and not self.complete
        self.baseline = self._measure_baseline() if alone else None
        if teacher is not None:
            assert isinstance(session, TransformerSession)
            what = f"asking {one_line(teacher.name)}"
            with messages.progress(what, " symbols") as watch:
                session.learn_from(teacher, lambda done, of: watch(what, done, of))
        self.samples: SampleLog | None = None
        self._report_to = report_to
        self._trackers: Reporting | None = None

    @property
    def is_ngram(self) -> bool:
        """Whether it is an n-gram model, which has no steps."""
        return self.session.model_config.is_ngram

    def _is_complete(self) -> bool:
        return self.last is not None and (self.folder.path / REPORT).exists()

    @property
    def in_comparison(self) -> bool:
        """Whether it is one of the runs of a comparison."""
        return (self.folder.path.parent / "comparison.json").is_file()

    def _measure_baseline(self) -> NgramBaseline | None:
        """Count n-grams and score them on the held-out part; None where nothing is held out, or it takes too long.

        Only a part of a long text is counted. The baseline of a model with a prior is that prior; else its order is
        chosen as `charlm eval` does. An n-gram model has no baseline.
        """
        session, corpus = self.session, self.session.corpus
        most = BASELINE_SECONDS if self.deadline is None else BASELINE_SHARE * self.deadline.budget
        seconds = most - 2 * len(corpus.held_out) / SYMBOLS_PER_SECOND
        if session.model_config.is_ngram or not len(corpus.held_out) or seconds <= 0:
            return None
        built, source = session.built, "the model's prior"
        with self.messages.progress("counting n-grams", " symbols"):
            if built is None:
                symbols, source = int(seconds * SYMBOLS_PER_SECOND), CHOSEN
                memory = session.training_config.prior_memory << 20
                vocabulary = corpus.vocabulary
                built = fit(
                    corpus.train, vocabulary.n_symbols, memory=memory, most=symbols, end=vocabulary.end
                )
            started = perf_counter()
            baseline = ngram_baseline(
                built.model, corpus.vocabulary, corpus.held_out, corpus.held_out_chars, limits=built.limits
            )
            seconds = perf_counter() - started
        order = several(baseline.order or 0, corpus.vocabulary.unit_noun)
        self.messages.say(
            f"baseline: {baseline.bits_per_char:.3f} bits/char on all held-out text, from n-grams with "
            f"{order} of context, {source} "
            f"({KNESER_NEY}){f'; {baseline.limits}' if baseline.limits else ''}{too_few(corpus.held_out_chars)}. "
            "Each evaluation scores this baseline on the same windows as the model"
        )
        return NgramBaseline(baseline, built.model, seconds)

    def events(self, stop: Stop) -> Iterator[Event]:
        """Train to the end of the plan or until `stop`; the last event is Finished. Each is logged before it is yielded.

        Raises DivergedError and ResourceError.
        """
        session, first_step = self.session, self.session.state.step
        baseline = self.baseline.model if self.baseline else None
        if self.deadline is not None:  # the closing evaluation scores the baseline too
            scoring = 0.0 if self.baseline is None else self.baseline.seconds
            reserve = self.deadline.reserve + min(scoring, BASELINE_CLOSING_SHARE * self.deadline.budget)
            self.deadline.reserve = self.ranks.broadcast_object(lambda: reserve)
        self.ranks.agree()
        trainer = Trainer(session, self.folder, self.deadline, baseline)
        if not self.ranks.is_first:
            yield from self._follow_first(trainer, stop)
            return
        # The report is of an earlier step. If this process is killed, `charlm resume` writes the last one's.
        with suppress(OSError):
            (self.folder.path / REPORT).unlink(missing_ok=True)
        log_event = MetricsLog(self.folder.path, first_step)
        sample = lambda: self._sample(trainer.evaluator.predictor)  # noqa: E731
        # With sharded weights, every character of a sample would need a pass that gathers them all.
        self.samples = SampleLog(self.folder.path, first_step, None if self.ranks.shards else sample)
        report = self._report()
        try:
            for event in trainer.run(stop):
                log_event(event)
                self.samples(event)
                report(event)
                if isinstance(event, Finished):
                    self.last = event
                yield event
        finally:
            self.folder.unlock()
            if self.last is None:
                report.close("failed", None, hurry=True)

    def _follow_first(self, trainer: Trainer, stop: Stop) -> Iterator[Event]:
        """Train in step with rank 0, which alone keeps the logs."""
        for event in trainer.run(stop):
            if isinstance(event, Finished):
                self.last = event
            yield event

    def close(self, *, hurry: bool = False) -> list[Row]:
        """Write the report. Return the facts of the run as rows of a table. In a `hurry`, what takes time is left out.

        A report that cannot be written is a warning.
        """
        assert self.last is not None, "a run is closed when it has ended"
        self.folder.unlock()
        report = self._report()
        rows = summary_rows(self.folder, self.session, self.last)
        budget = 0.0 if hurry else None if self.deadline is None else self.deadline.budget
        baseline = self.baseline.baseline if self.baseline else None
        facts = [*rows, *repeat_row(self.folder, self.session)]
        try:
            rows += write_report(self.folder, self.session, facts, budget, baseline, self.messages.warn)
        except (OSError, CharlmError) as error:
            self.messages.warn(f"the report could not be written: {error}")
        page = self.folder.path / REPORT
        status = "stopped" if self.session.state.finished is None else "done"
        report.close(status, page if page.is_file() else None, hurry=hurry)
        return rows

    def _report(self) -> Reporting:
        """Return the listener that reports to trackers, started when it is first needed."""
        if self._trackers is None:
            self._trackers = Reporting(
                self.folder.path,
                self.session,
                self._report_to,
                lambda: self.samples.text if self.samples is not None else "",
                self.messages,
            )
        return self._trackers

    def _sample(self, predictor: Predictor) -> str:
        """Write a sample with the predictor that was evaluated."""
        text = self.session.run.text
        with self.session.predicting():
            prompt = default_prompt(predictor)
            return sample_text(predictor, prompt, SamplingConfig(seed=1), PREVIEW_CHARS, separator_of(text))


def begin(prepared: Prepared, messages: Messages, *, shared_name: bool = False) -> TrainingJob:
    """Write a new run, at step 0. With a `shared_name` other processes may be given the same name.

    Raises UsageError where the name is taken, ResourceError where nothing can be written.
    """
    request, loaded, choice, budget = prepared.request, prepared.loaded, prepared.choice, prepared.budget
    teacher = prepared.teacher
    folder = _new_folder(request, shared_name=shared_name)
    with messages.progress("counting n-grams", " symbols"):
        session = start_run(
            folder,
            loaded,
            prepared.text,
            choice,
            request.command,
            prepared.origin,
            None if teacher is None else teacher.facts(),
            request.asked,
        )
    deadline = _pace(session, budget, request.started)
    return TrainingJob(folder, session, deadline, messages, teacher, request.report_to)


def _new_folder(request: TrainRequest, *, shared_name: bool) -> RunFolder:
    """Return the folder of a new run, which rank 0 creates."""
    ranks, made = current(), list[RunFolder]()

    def make() -> str:
        if request.run is None:
            made.append(RunFolder.create_like(request.root, run_name(list(request.paths))))
        elif shared_name and begun_run(request.root, request.run) is not None:
            raise CheckpointError(
                f"another process has started the run {request.run}; repeat the command to resume it"
            )
        else:
            made.append(RunFolder.create(request.root, request.run, shared_name=shared_name))
        ranks.remember_run(made[0].path.name)
        return made[0].path.name

    name = ranks.broadcast_object(make)
    return made[0] if made else RunFolder(request.root / name)


def _unlocked_if_refused(
    reopening: Callable[Concatenate[RunFolder, P], TrainingJob],
) -> Callable[Concatenate[RunFolder, P], TrainingJob]:
    """Unlock a run that is not resumed after all: who keeps the error, as a notebook does, can try again."""

    @wraps(reopening)
    def unlocking(folder: RunFolder, /, *args: P.args, **named: P.kwargs) -> TrainingJob:
        try:
            return reopening(folder, *args, **named)
        except BaseException:
            folder.unlock()
            raise

    return unlocking


@_unlocked_if_refused
def reopen(
    folder: RunFolder,
    messages: Messages,
    *,
    started: float,
    time: float | None = None,
    steps: int | None = None,
    first_time: float | None = None,
    threads: int | None = None,
    moved: Moved | None = None,
    report_to: tuple[str, ...] | None = None,
) -> TrainingJob:
    """Resume a run from its newest whole checkpoint: to the end of its plan, or for `time` seconds or `steps` more.

    `first_time`: the time budget in seconds of a run that was begun but never took a step. `moved`: where its text is
    now. `report_to`: other trackers than before. Raises CheckpointError where it cannot be resumed, UsageError
    where `time` or `steps` have no effect.
    """
    with messages.progress("reading", " symbols"):
        session = resume_run(folder, messages.warn, threads, lambda snapshot: corpus_of(snapshot, moved))
    report_moved(session.corpus.uncached, moved, messages)
    teacher, facts = None, session.run.teacher
    if facts is not None and (session.state.finished is None or time is not None or steps is not None):
        teacher = Teacher.reload(folder.path.parent, facts)
        teacher.check_text(session.corpus)
    deadline: Deadline | None = None
    if time is None and steps is None:
        if session.state.step == 0 and session.state.finished is None:
            deadline = _pace(session, first_time, started)
        if deadline is not None:  # before the first step nothing depends on the first plan yet
            begin_plan_anew(session, folder)
    elif not isinstance(session, TransformerSession):
        option = "--time" if time is not None else "--steps"
        raise UsageError(
            f"{option} has no effect on {folder.name}: an n-gram model needs no further training"
        )
    elif steps is not None:
        extend_by_steps(session, folder, steps)
    else:
        assert time is not None
        afterwards = report_seconds(session.corpus, time, session.plan.total_steps)
        deadline = extend_by_seconds(session, folder, time, started, afterwards)
    return TrainingJob(folder, session, deadline, messages, teacher, report_to)


def _pace(session: Session, budget: float | None, started: float) -> Deadline | None:
    """Return the deadline of a new run, if it has a time budget."""
    if budget is None:
        return None
    afterwards = report_seconds(session.corpus, budget, session.plan.total_steps)
    ranks = current()
    return Deadline(
        budget=budget,
        at=ranks.broadcast_object(lambda: started) + budget,
        reserve=afterwards,
        clock=ranks.clock,
    )


def check_same_request(run: RunFolder, request: TrainRequest, messages: Messages) -> Snapshot:
    """Read the newest checkpoint of a run, checking that the same request began it.

    Raises UsageError where the request has other settings, CheckpointError where it names another text, or
    while another process trains the run.
    """
    run.lock()
    try:
        snapshot = read_newest(run, messages.warn)
    finally:
        run.unlock()
    different = _differences(snapshot, request.asked)
    if different:
        raise UsageError(
            f"the run {run.name} was started with other settings: {'; '.join(different)}. Repeat the "
            "original command, "
            "or another name with --run"
        )
    text = snapshot.run.text
    loaded = load_text(request.paths, text, messages, earlier=earlier_of(snapshot.run.corpus))
    note_files(loaded.notes, messages)
    if loaded.corpus.key != snapshot.run.corpus.key:
        raise CheckpointError(
            f"the run {run.name} was trained on another text: {text_name(snapshot.run)}; this text is "
            f"{one_line(loaded.label)}, SHA-256 {loaded.corpus.sha256[:16]}. Restore that text, or give "
            "another name with --run"
        )
    return snapshot


def _differences(snapshot: Snapshot, asked: Mapping[str, Any]) -> list[str]:
    """List the settings that differ from those the run was begun with; `threads` may."""
    before = snapshot.run.asked
    if before is None:  # a run of a comparison: compare with what was chosen in the end
        configs = (snapshot.model_config, snapshot.training_config, snapshot.run.text)
        chosen = {name: value for config in configs for name, value in config.to_json().items()}
        before = {name: chosen.get(name, asked[name]) for name in asked}

    def shown(value: Any) -> str:
        return "not given" if value is None else one_line(str(value))

    return [
        f"`{one_line(name)}` was {shown(before.get(name))} and is now {shown(asked.get(name))}"
        for name in {**before, **asked}
        if name != "threads" and before.get(name) != asked.get(name)
    ]
