"""Start, resume and extend runs: builds the training session of a run's folder."""

import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import torch

import charlm
from charlm.checkpoint.run_folder import CorpusFacts, RunFacts, RunFolder, TeacherFacts
from charlm.checkpoint.snapshot import Snapshot, read_newest
from charlm.data.corpus import Corpus
from charlm.data.load import Loaded, absolute_name
from charlm.data.text_config import TextConfig
from charlm.errors import CheckpointError, ResourceError, UsageError
from charlm.strict_json import from_json, to_json
from charlm.terminal import one_line
from charlm.threads import available, use_threads
from charlm.training.deadline import Deadline
from charlm.training.distributed import current, shared_snapshot
from charlm.training.finetune import Parent, load_parent_weights, main_chars, reload_parent_text
from charlm.training.ngram_session import NgramSession
from charlm.training.plan import EXTENDED, Plan, read_plan, write_plan
from charlm.training.planner import Choice
from charlm.training.request import COUNTED_BY_ONE
from charlm.training.run_corpus import corpus_of, counted_parent
from charlm.training.session import Session, TransformerSession, kernels_on
from charlm.training.sizes import Budget, StepTime
from charlm.training.trial import step_time

SHARDS = {False: "off", True: "on"}


def versions() -> dict[str, str]:
    """Return the versions that results depend on."""
    return {
        "charlm": charlm.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def start_run(
    run: RunFolder,
    loaded: Loaded,
    text: TextConfig,
    choice: Choice,
    command: str,
    parent: Parent | None = None,
    teacher: TeacherFacts | None = None,
    asked: Mapping[str, Any] | None = None,
) -> Session:
    """Write the files of a new run, and return its session at step 0.

    `command`, `asked` (the requested settings) and `teacher` are recorded; a `parent` is fine-tuned. Raises ResourceError
    if nothing can be written.
    """
    corpus = loaded.corpus
    val_file = text.val_file and absolute_name(text.val_file)
    facts = RunFacts(
        name=run.path.name,
        command=command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        corpus=CorpusFacts(
            label=loaded.label,
            sources=tuple(loaded.sources),
            key=corpus.key,
            sha256=corpus.sha256,
            chars=main_chars(corpus, text),
            train_chars=corpus.train_chars,
            held_out_chars=corpus.held_out_chars,
            inherited_split=None if corpus.inherited_split is None else asdict(corpus.inherited_split),
            earlier=None if parent is None else parent.division_facts(),
        ),
        text=replace(text, val_file=val_file),
        versions=versions(),
        parent=None if parent is None else parent.facts(),
        teacher=teacher,
        asked=None if asked is None else dict(asked),
    )
    session: Session
    if choice.model.is_ngram:
        session = NgramSession(corpus, choice.model, choice.training, choice.plan, facts)
    else:
        counted = parent.counted_corpus if parent is not None else None
        also = [] if counted is None else [counted.train]
        session = TransformerSession(corpus, choice.plan, facts, also)
        shards = current().shards
        if parent is not None and (current().is_first or shards):
            load_parent_weights(session, parent)
        current().broadcast([] if shards else [*session.model.parameters()])
    if not current().is_first:
        return session
    try:
        run.write_run_files(session.snapshot().run_files())
    except OSError as error:
        raise ResourceError(f"the run {run.name} cannot be written: {error.strerror}") from None
    write_plan(run, choice.plan)
    return session


def resume_run(
    run: RunFolder,
    warn: Callable[[str], None],
    threads: int | None = None,
    find_corpus: Callable[[Snapshot], Corpus] = corpus_of,
) -> Session:
    """Lock a run and return the session of its newest complete checkpoint, under the current plan.

    It uses as many threads as the plan says, or `threads` to the end if given. `warn` is called with what differs from
    before. Raises CheckpointError if there is no checkpoint, or if the text has changed.
    """
    ranks = current()
    if ranks.is_first:
        run.lock()
    snapshot = shared_snapshot(ranks, lambda: read_newest(run, warn, later=ranks.shards))
    threads_before = snapshot.training_config.threads
    used = use_threads(threads or threads_before)
    if threads is None and threads_before is not None and available() < used:
        warn(
            f"this run uses {used} threads, but this process may use {available()} CPUs; --threads "
            f"{available()} would be faster, but the results would not be bit-identical"
        )
    corpus, plan = (
        find_corpus(snapshot),
        Plan.from_json(ranks.broadcast_object(lambda: read_plan(run).to_json())),
    )
    session: Session
    if snapshot.model_config.is_ngram:
        if ranks.is_distributed:
            raise UsageError(COUNTED_BY_ONE)
        session = NgramSession.resumed(snapshot, corpus, plan)
    else:
        also = counted_parent(snapshot.run)
        session = TransformerSession.resumed(
            snapshot, corpus, plan, [] if also is None else [also.train], threads_given=threads is not None
        )
        if session.state.parent_loss is not None and ranks.is_first:
            reload_parent_text(session, warn)
        if plan.extended_at is not None and plan.extended_at >= snapshot.step:
            session.begin_extension()  # it was cut off before its first checkpoint
    if (session.run.teacher is None) != (session.training_config.teacher_weight is None):
        raise CheckpointError(
            "the run is damaged: run.json names a teacher and its settings do not, or only they do"
        )
    if ranks.is_first:
        run.point_to_best(session.state.early_stopping.best_step)
    computed_by = kernels_on(session.device)
    for what, before, now in (
        ("torch", snapshot.run.versions.get("torch"), str(torch.__version__)),
        ("threads", session.state.threads, torch.get_num_threads()),
        ("kernels", session.state.kernels or computed_by, computed_by),
        ("ranks", session.state.ranks, ranks.size),
        ("--shard", SHARDS[session.state.shard], SHARDS[ranks.shards]),
    ):
        if before != now:
            warn(
                f"this run was trained with {what} {one_line(str(before))}, but resumes with {now}: results will "
                "not be bit-identical"
            )
    return session


def begin_plan_anew(session: Session, run: RunFolder) -> None:
    """Drop later decisions from the plan of a run without a saved step. Raises ResourceError."""
    session.plan = session.plan.as_begun()
    if current().is_first:
        write_plan(run, session.plan)


def extend_by_steps(session: TransformerSession, run: RunFolder, steps: int) -> None:
    """Add steps to a run, with their own warmup and cooldown, and write the plan. Raises ResourceError."""
    _extend(session, run, steps, steps_more=steps)


def extend_by_seconds(
    session: TransformerSession, run: RunFolder, seconds: float, started: float, reserve: float
) -> Deadline:
    """Add as many steps as fit in `seconds` from `started`: an estimate, which is revised from measured steps.

    `reserve`: seconds that the caller needs after training. Raises ResourceError.
    """
    step, ranks = session.state.step, current()
    timed = from_json(
        StepTime, ranks.broadcast_object(lambda: to_json(step_time(session)), together=ranks.shards)
    )
    ranks.agree()
    deadline = Deadline(
        budget=seconds,
        at=ranks.broadcast_object(lambda: started) + seconds,
        reserve=reserve,
        first_step=step,
        clock=ranks.clock,
        keeps_chunks=step > 0,
    )
    budget = Budget(seconds=max(1.0, round(deadline.left, 2)), timed=(timed,))
    guess = budget.steps_of(timed.kind, timed.size)
    _extend(session, run, guess, budget_seconds=seconds, timed=to_json(budget.timed))
    return deadline


def _extend(session: TransformerSession, run: RunFolder, steps: int, **facts: object) -> None:
    step = session.state.step
    plan = session.plan.with_restart(session.number, step, step + steps)
    session.plan = plan.record(at_step=step, decided=EXTENDED, **facts)
    session.begin_extension()
    if current().is_first:
        write_plan(run, session.plan)
