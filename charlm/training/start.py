"""Starting a run and resuming one: from a run's folder to a session that can be trained."""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import charlm
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.snapshot import Snapshot, read_newest
from charlm.config import TextConfig, TrainingConfig
from charlm.data.corpus import Corpus
from charlm.data.load import Loaded
from charlm.data.tokenizer import Ids
from charlm.errors import ResourceError
from charlm.ngram.kneser_ney import KneserNey
from charlm.terminal import one_line
from charlm.threads import available, use_threads
from charlm.training.deadline import Pace
from charlm.training.device import measure_gflops, measure_threads, pick_precision
from charlm.training.finetune import Origin, go_on_from, main_chars, old_text_again, respected_facts
from charlm.training.ngram_trainer import CountsSession, CountsTrainer
from charlm.training.planner import Budget, Choice, Plan, read_plan, write_plan
from charlm.training.run_text import corpus_of, texts_beside
from charlm.training.session import Session
from charlm.training.trainer import Trainer, has_compiler

LOOK_SHARE, LONGEST_LOOK = 0.05, 3.0
"""How long it is waited for a busy machine to be quiet: at most this share of the time, and so many seconds."""


def means_of(
    device: torch.device, training: TrainingConfig, steps: int | None, seconds: float | None = None
) -> tuple[int, Budget]:
    """How many threads compute, and a budget of so many steps, or of these seconds.

    With a number of steps nothing is timed: what the processor is decides alone.
    """
    wanted = None if training.precision == "auto" else training.precision
    compiler = has_compiler(device)
    if steps is not None:
        precision = wanted or pick_precision(device, timed=False)
        return torch.get_num_threads(), Budget(steps=steps, precision=precision, compiler=compiler)
    patience = min(LONGEST_LOOK, LOOK_SHARE * (seconds or 0.0))
    threads, gflops = measure_threads(device, fixed=training.threads is not None, patience=patience)
    precision = wanted or pick_precision(device, timed=True)
    if precision == "bf16":
        gflops = measure_gflops(device, torch.bfloat16)
    return threads, Budget(seconds=seconds, gflops=round(gflops, 1), precision=precision, compiler=compiler)


AnySession = Session | CountsSession
"""A run in memory: those who show, keep and score it use only what both have."""


def new_session(
    corpus: Corpus, choice: Choice, run: dict[str, Any], beside: Sequence[Ids] = ()
) -> AnySession:
    """The session of a new run, at its beginning; `beside`: texts of before that it counts too."""
    if choice.model.is_ngram:
        return CountsSession.counted(corpus, choice.model, choice.training, choice.plan, run)
    return Session(corpus, choice.model, choice.training, choice.plan, run, beside)


def resumed_session(snapshot: Snapshot, corpus: Corpus, plan: Plan, beside: Sequence[Ids] = ()) -> AnySession:
    """The session that a checkpoint was taken of. Raises CheckpointError where it cannot go on exactly."""
    if snapshot.model_config.is_ngram:
        return CountsSession.resumed(snapshot, corpus, plan)
    return Session.resumed(snapshot, corpus, plan, beside)


def trainer_of(
    session: AnySession, run: RunFolder, pace: Pace | None = None, baseline: KneserNey | None = None
) -> Trainer | CountsTrainer:
    """What carries a session to its end; counts keep no pace, since there is nothing to time.

    `baseline`: n-gram counts to compare each evaluation with; by default those the model starts from.
    """
    if isinstance(session, CountsSession):
        return CountsTrainer(session, run)
    return Trainer(session, run, pace, baseline)


def versions() -> dict[str, str]:
    """The versions that a figure depends on."""
    return {
        "charlm": charlm.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def begin(
    run: RunFolder,
    loaded: Loaded,
    text: TextConfig,
    choice: Choice,
    command: str,
    origin: Origin | None = None,
    asked: Mapping[str, Any] | None = None,
) -> AnySession:
    """Write a new run's plan and what never changes; the session at step 0.

    `command` is what was typed, and `asked` the settings that were given, for the record; `origin`, the run it goes on from, gives its weights.
    Raises ResourceError where nothing can be written.
    """
    corpus = loaded.corpus
    beside = [] if origin is None else [text.train for text in origin.beside.values()]
    facts: dict[str, Any] = {
        "format": 1,
        "name": run.path.name,
        "command": command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "corpus": {
            "label": loaded.label,
            "sources": list(loaded.sources),
            "key": corpus.key,
            "sha256": corpus.sha256,
            "chars": main_chars(corpus, text),
            "train_chars": corpus.train_chars,
            "held_out_chars": corpus.held_out_chars,
            **respected_facts(corpus),
        },
        "text": {**text.to_json(), "val_file": text.val_file and str(Path(text.val_file).absolute())},
        "versions": versions(),
        **({} if origin is None else {"from": origin.facts()}),
        **({} if asked is None else {"asked": dict(asked)}),
    }
    session = new_session(corpus, choice, facts, beside)
    if origin is not None:
        assert isinstance(session, Session), "counts alone are not gone on from"
        go_on_from(session, origin)
    try:
        run.write_run_files(session.snapshot().run_files())
    except OSError as error:
        raise ResourceError(f"the run {run.name} cannot be written: {error.strerror}") from None
    write_plan(run, choice.plan)
    return session


def go_on(
    run: RunFolder,
    warn: Callable[[str], None],
    threads: int | None = None,
    find: Callable[[Snapshot], Corpus] = corpus_of,
) -> AnySession:
    """The session of a run's newest whole checkpoint, under the plan in force.

    It computes with as many threads as before, unless told. `warn` is called with what differs, `find` finds
    the text.
    Raises CheckpointError where there is none, or where its text is not what it was.
    """
    run.lock()
    snapshot = read_newest(run, warn)
    began_with = snapshot.training_config.threads
    used = use_threads(threads or began_with)
    if threads is None and began_with is not None and available() < used:
        warn(
            f"this run began with {used} threads, and this process may use {available()} CPUs: with --threads "
            f"{available()} it would be faster, though not bit for bit the same"
        )
    beside = [text.train for text in texts_beside(snapshot.run).values()]
    session = resumed_session(snapshot, find(snapshot), read_plan(run), beside)
    run.point_to_best(session.state.memorising.best_step)
    if isinstance(session, Session) and session.state.old_text is not None:
        session.old_text = old_text_again(session, warn)
    if (
        isinstance(session, Session)
        and session.plan.extended_at is not None
        and session.plan.extended_at >= snapshot.step
    ):
        session.begin_extension()  # it was cut off before its first save
    for what, before, now in _changes(snapshot):
        warn(f"this run was trained with {what} {before}, and goes on with {now}: not bit for bit the same")
    return session


def _changes(snapshot: Snapshot) -> list[tuple[str, object, object]]:
    """What differs from the run's first sitting and can change the last bits of its weights."""
    before = snapshot.run["versions"]
    pairs: list[tuple[str, object, object]] = [
        ("torch", before.get("torch"), str(torch.__version__)),
        ("threads", snapshot.state.get("threads"), torch.get_num_threads()),
    ]
    return [(what, one_line(str(old)), new) for what, old, new in pairs if old != new]


def recorded(choice: Choice, budget: Budget, threads: int) -> Choice:
    """The choice with all that it came from written down, so that it can be repeated."""
    plan = choice.plan.decided(
        decided="size",
        at_step=0,
        seconds=budget.seconds,
        gflops=budget.gflops,
        threads=threads,
        precision=choice.training.precision,
        compile=choice.training.compile,
        steps=budget.steps,
    )
    if choice.model.is_ngram:
        return replace(choice, plan=plan)  # whatever the threads, they are the same
    return replace(choice, training=replace(choice.training, threads=threads), plan=plan)
