"""A comparison on disk: its variants, seeds, text and budget, and checks that a run belongs to it.

A folder's name proves nothing, so each run's text, settings and plan are checked.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np

from charlm.checkpoint.run_folder import CorpusFacts, RunFacts, RunFolder, folders_with, holds, run_command
from charlm.checkpoint.safe_io import read_json, write_json
from charlm.config import TrainingConfig
from charlm.data.load import Loaded
from charlm.data.text_config import TextConfig
from charlm.errors import CheckpointError, ResourceError
from charlm.experiments.variants import Variant
from charlm.rng import permute
from charlm.settings import Settings
from charlm.strict_json import read_as, to_json
from charlm.terminal import one_line
from charlm.training.plan import read_plan
from charlm.training.run_corpus import Moved, reload_corpus
from charlm.training.sizes import Budget

NAME = "comparison.json"
MOST_RUNS = 10_000
KEY = re.compile(r"[0-9a-f]{32}([0-9a-f]{8})?")


@dataclass(frozen=True)
class Task:
    """One run of a comparison."""

    variant: Variant
    seed: int

    @property
    def run_name(self) -> str:
        """The name of its folder in the comparison's."""
        return f"{self.variant.folder}.seed-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The contents of comparison.json: everything that its runs depend on. Raises ValueError if invalid."""

    format: Literal[1] = 1
    name: str  # of its folder
    command: str
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    budget: Budget  # of each run; the speed of the machine was measured once, for all
    threads: int
    text: TextConfig
    corpus: CorpusFacts

    def __post_init__(self) -> None:
        runs, folders = len(self.variants) * len(self.seeds), {variant.folder for variant in self.variants}
        if not 0 < runs <= MOST_RUNS or len(folders) * len(set(self.seeds)) < runs:
            raise ValueError(f"it must have 1 to {MOST_RUNS} runs, none twice")
        for variant in self.variants:
            variant.check()
            if list(variant.values) != list(self.axes):
                raise ValueError("its variants do not vary the same settings")
        budget = self.budget
        amounts = (
            [budget.steps]
            if budget.steps is not None
            else [budget.seconds, *(t.seconds for t in budget.timed)]
        )
        if not all(amount is not None and 0 < amount < 1e9 for amount in (*amounts, self.threads)):
            raise ValueError("its budget and its threads must be above 0")
        TrainingConfig(precision=budget.precision)
        if not KEY.fullmatch(self.corpus.key):
            raise ValueError("the key of its text is malformed")

    def tasks(self) -> list[Task]:
        """Return every variant with every seed in random order, so that a machine that slows down affects all alike."""
        tasks = [Task(variant, seed) for seed in self.seeds for variant in self.variants]
        order = permute(np.arange(len(tasks)), len(tasks), int(self.corpus.key[:8], 16))
        return [tasks[i] for i in order]

    def fingerprint(self, task: Task) -> str:
        """Return a hash of a run's settings, budget and text, which its result must carry."""
        text = (self.text, self.corpus.key, self.corpus.sha256)
        whole = (task.variant, task.seed, self.budget, self.threads, *text)
        return sha256(json.dumps(to_json(whole), sort_keys=True).encode()).hexdigest()

    @property
    def axes(self) -> tuple[str, ...]:
        """The settings that are varied."""
        return tuple(self.variants[0].values)


def write(folder: RunFolder, comparison: Comparison) -> None:
    """Write comparison.json, before its first run begins. Raises ResourceError if the disk fails."""
    try:
        write_json(folder.path / NAME, to_json(comparison))
    except OSError as error:
        raise ResourceError(f"the comparison {folder.name} cannot be written: {error.strerror}") from None


def read(folder: RunFolder) -> Comparison:
    """Read what `write` wrote. Raises CheckpointError if it is damaged."""
    found = read_as(Comparison, read_json(folder.path / NAME), f"{NAME} of {folder.name}")
    return replace(found, name=folder.path.name)


def corpus_of(comparison: Comparison, moved: Moved | None = None) -> Loaded:
    """Load its text. Raises CheckpointError if it is gone or changed."""
    facts = comparison.corpus
    corpus = reload_corpus(facts, comparison.text, moved)
    if corpus.sha256 != facts.sha256:
        raise CheckpointError(
            f"{NAME} of {comparison.name} is inconsistent: its text and its key do not match"
        )
    return Loaded(corpus=corpus, notes=(), sources=facts.sources, label=facts.label)


def find(root: Path, name: str) -> RunFolder | None:
    """Return the folder of the comparison of that name, if there is one."""
    return RunFolder(root / name) if holds(root, name, NAME) else None


def comparisons(root: Path) -> Iterator[RunFolder]:
    """Yield all comparisons in a folder, by name."""
    yield from map(RunFolder, folders_with(root, NAME))


def run_of(folder: RunFolder, task: Task) -> RunFolder:
    """The folder of a run of a comparison."""
    return RunFolder(folder.path / task.run_name)


def refuse_links(folder: Path, what: str) -> None:
    """Raise CheckpointError if the path exists and is no folder, or it or anything in it is a symbolic link."""
    place = one_line(str(folder))
    try:
        if folder.is_symlink():
            raise CheckpointError(f"{what}, {place}, is a symbolic link, which is not followed; remove it")
        if not os.path.lexists(folder):
            return
        links = sorted(entry.name for entry in os.scandir(folder) if entry.is_symlink())
    except OSError as error:
        raise CheckpointError(f"{what}, {place}, cannot be read: {error.strerror}") from None
    if links:
        link = one_line(str(folder / links[0]))
        raise CheckpointError(f"{link} is a symbolic link, which is not followed in a comparison; remove it")


def check_run(run: RunFolder, comparison: Comparison, task: Task) -> None:
    """Raise CheckpointError if the folder of a task holds another run; an unreadable run counts as none."""
    refuse_links(run.path, f"the run {run.name} of {comparison.name}")
    try:
        facts = read_as(RunFacts, read_json(run.path / "run.json"), "run.json")
    except CheckpointError:
        return
    found = next(_differences(run, facts.corpus, comparison, task), None)
    if found is not None:
        again = run_command("resume", RunFolder(run.path.parent))
        raise CheckpointError(
            f"the run {run.name} of the comparison {comparison.name} does not belong there: {one_line(found)}; "
            f"move it away, then train that run again: {one_line(again)}"
        )


def _differences(run: RunFolder, corpus: CorpusFacts, comparison: Comparison, task: Task) -> Iterator[str]:
    """Yield how a run differs from the task in its text, settings and plan. Damaged files are skipped."""
    if (corpus.key, corpus.sha256) != (comparison.corpus.key, comparison.corpus.sha256):
        yield f"it was trained on another text, or on a different split of it ({corpus.label})"
    with suppress(CheckpointError):
        for step in run.steps()[-1:]:
            config = read_json(run.folder(step) / "config.json")
            yield from _not_as_given(task.variant.model, config.get("model"))
            yield from _not_as_given(replace(task.variant.training, seed=task.seed), config.get("training"))
    with suppress(CheckpointError):
        plan, budget = read_plan(run), comparison.budget
        begun = {"seconds": budget.seconds, "steps": budget.steps, "timed": to_json(budget.timed)}
        for name, value in {**begun, "threads": comparison.threads}.items():
            if plan.decisions[0].get(name) != value:
                yield f"its plan began with {name} {plan.decisions[0].get(name)}, not {value}"
        if plan.extended_at is not None or (budget.seconds is None and len(plan.decisions) > 1):
            yield "its plan was changed after it began"


def _not_as_given(given: Settings, found: Any) -> Iterator[str]:
    """Yield settings that differ from those given; those left to the plan may have any value."""
    for name, value in given.to_json().items():
        has = found.get(name) if isinstance(found, dict) else None
        shortened = name == "block_size" and isinstance(has, int) and has < (value or 0)  # for a short text
        if value not in (None, "auto") and name != "threads" and has != value and not shortened:
            yield f"its {name} is {has}, not {value}"
