"""Beginning a run, and going on with one: from a run's folder to a session that can be trained."""

import platform
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import charlm
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.snapshot import Snapshot, read_newest
from charlm.config import TextConfig
from charlm.errors import CharlmError, CheckpointError, ResourceError
from charlm.terminal import one_line
from charlm.text import graphemes
from charlm.text.corpus import Corpus, reopen
from charlm.text.load import Loaded, load
from charlm.training.device import set_threads
from charlm.training.kinds import AnySession, new_session, resumed_session
from charlm.training.plan import Budget, Choice
from charlm.training.plan_file import read_plan, write_plan
from charlm.training.session import Session


def versions(units: str = "chars") -> dict[str, str]:
    """The versions that a figure depends on; what a grapheme is can change with that of `regex`."""
    found = {"regex": graphemes.version()} if units == "graphemes" else {}
    return found | {
        "charlm": charlm.__version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def begin(run: RunFolder, loaded: Loaded, text: TextConfig, choice: Choice, command: str) -> AnySession:
    """Write a new run's plan and what never changes; the session at step 0.

    `command` is what was typed, for the record. Raises ResourceError where nothing can be written.
    """
    corpus = loaded.corpus
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
            "train_chars": corpus.train_chars,
            "held_out_chars": corpus.held_out_chars,
        },
        "text": {**text.to_json(), "val_file": text.val_file and str(Path(text.val_file).absolute())},
        "versions": versions(corpus.vocabulary.units),
    }
    session = new_session(corpus, choice, facts)
    try:
        run.write_run_files(session.snapshot().run_files())
    except OSError as error:
        raise ResourceError(f"the run {run.name} cannot be written: {error.strerror}") from None
    write_plan(run, choice.plan)
    return session


def go_on(run: RunFolder, warn: Callable[[str], None], threads: int | None = None) -> AnySession:
    """The session of a run's newest whole checkpoint, under the plan in force.

    It computes with as many threads as before, unless told. `warn` is called with what differs.
    Raises CheckpointError where there is none, or where its text is not what it was.
    """
    run.lock()
    snapshot = read_newest(run, warn)
    set_threads(threads or snapshot.training_config.threads)
    session = resumed_session(snapshot, corpus_of(snapshot), read_plan(run))
    if (
        isinstance(session, Session)
        and session.plan.extended_at is not None
        and session.plan.extended_at >= snapshot.step
    ):
        session.begin_extension()  # it was cut off before its first save
    for what, before, now in _changes(snapshot):
        warn(f"this run was trained with {what} {before}, and goes on with {now}: not bit for bit the same")
    return session


def corpus_of(snapshot: Snapshot) -> Corpus:
    """The text that a run was trained on: from the cache, or read again and found unchanged."""
    facts = snapshot.run["corpus"]
    corpus = same_corpus(facts["key"], facts["label"], facts["sources"], snapshot.run["text"])
    if corpus.vocabulary != snapshot.vocabulary:
        different = one_line(corpus.vocabulary.differences(snapshot.vocabulary)[:40])
        raise CheckpointError(f"the text has another vocabulary than the run was trained with: {different}")
    return corpus


def same_corpus(key: str, label: str, sources: Sequence[Any], text: dict[str, Any]) -> Corpus:
    """The text of that key, from the cache or read again with the settings `text`.

    Raises CheckpointError where it is gone, or no longer what it was.
    """
    corpus = reopen(key) if key.isalnum() else None
    if corpus is not None:
        return corpus
    label = one_line(label)
    if "-" in sources:
        raise CheckpointError(f"the text, {label}, was read from standard input and is gone from the cache")
    try:
        corpus = load([str(source) for source in sources], TextConfig.from_json(text)).corpus
    except (CharlmError, ValueError, TypeError) as error:
        raise CheckpointError(f"the text, {label}, cannot be read again: {error}") from None
    if corpus.key != key:
        raise CheckpointError(f"{label} is no longer the text that was trained on; put that back to go on")
    return corpus


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
    if choice.model.counts_alone:
        return replace(choice, plan=plan)  # whatever the threads, they are the same
    return replace(choice, training=replace(choice.training, threads=threads), plan=plan)
