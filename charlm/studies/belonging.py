"""Does a run in a comparison's folder belong there: no link, and of that variant, seed, text and budget?

The name of a folder says nothing: anyone may have put another run there.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from charlm.checkpoint.manifest import read_regular
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.strict_json import LARGEST, parse
from charlm.config import TrainingConfig
from charlm.errors import CheckpointError
from charlm.settings import Settings
from charlm.studies.comparison import Comparison, Task
from charlm.studies.variants import written
from charlm.terminal import one_line
from charlm.text.corpus import Corpus, same_text
from charlm.training.kinds import AnySession
from charlm.training.plan import Choice, Plan

OPEN = (None, "auto")
"""What the plan chooses."""


def refuse_links(folder: Path, what: str) -> None:
    """CheckpointError where a folder that is there, or anything in it, is a symbolic link, or it is no folder."""
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


def check_run(run: RunFolder, comparison: Comparison, task: Task, corpus: Corpus | None) -> None:
    """CheckpointError where another run than the task's lies in its folder; what cannot be read is no run."""
    refuse_links(run.path, f"the run {run.name} of {comparison.name}")
    facts = _read(run.path / "run.json")
    if facts is None:
        return
    try:
        steps = run.steps()
    except CheckpointError:
        steps = []
    config = _read(run.folder(steps[-1]) / "config.json") if steps else None
    found = [*_other_text(comparison, facts.get("corpus"))]
    words = _read(run.path / "vocabulary.json")
    if corpus is not None and words is not None and words != json.loads(corpus.vocabulary.to_json()):
        found.append("it has another vocabulary")
    if config is not None:
        found += _not_given(task.variant.model, config.get("model"))
        found += _not_given(_seeded(task), config.get("training"))
    plan = _read(run.path / "plan.json")
    if plan is not None:
        budget = comparison.budget
        ours = {"seconds": budget.seconds, "steps": budget.steps, "gflops": budget.gflops}
        found += _other_plan(comparison, ours | {"threads": comparison.threads}, plan)
    _refuse(run, comparison, task, found)


def check_session(
    session: AnySession, run: RunFolder, comparison: Comparison, task: Task, choice: Choice
) -> None:
    """The same of a run that is to be gone on with, with all that was chosen for it."""
    found = [*_other_text(comparison, session.run["corpus"])]
    for chosen, has in ((choice.model, session.model_config), (choice.training, session.training_config)):
        found += _differences(chosen.to_json(), has.to_json())
    found += _other_plan(comparison, choice.plan.decisions[0], session.plan.to_json())
    _refuse(run, comparison, task, found)


def _refuse(run: RunFolder, comparison: Comparison, task: Task, found: list[str]) -> None:
    if found:
        values = ", ".join(f"{name} {written(value)}" for name, value in task.variant.values.items())
        raise CheckpointError(
            f"the run {run.name} of the comparison {comparison.name} does not belong there ({one_line(values)}, seed "
            f"{task.seed}): {one_line(found[0])}; move it away, and charlm resume {comparison.name} trains that run"
        )


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return parse(read_regular(path, LARGEST), path.name)
    except CheckpointError:
        return None  # whoever needs it says what is wrong


def _other_text(comparison: Comparison, corpus: Any) -> Iterator[str]:
    key, sha256 = (
        (str(corpus.get(name)) for name in ("key", "sha256")) if isinstance(corpus, dict) else ("", "")
    )
    if not same_text(key, comparison.corpus_key) or sha256 != comparison.corpus_sha256:
        label = corpus.get("label") if isinstance(corpus, dict) else None
        yield f"it was trained on another text, or one divided otherwise ({label})"


def _seeded(task: Task) -> TrainingConfig:
    return replace(task.variant.training, seed=task.seed)


def _not_given(given: Settings, found: Any) -> Iterator[str]:
    """Settings that are others than those given; what was left to the plan may be anything."""
    said = {name: value for name, value in given.to_json().items() if value not in OPEN and name != "threads"}
    found = found if isinstance(found, dict) else {}
    block = found.get("block_size")
    if type(block) is int and block < said.get("block_size", 0):
        del said["block_size"]  # it is shortened for a short text
    yield from _differences(said, found)


def _differences(expected: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
    for name, value in expected.items():
        if found.get(name) != value and not (name == "counts_order" and value is None):
            yield f"its {name} is {found.get(name)}, not {value}"  # counts alone choose their order later


def _other_plan(comparison: Comparison, expected: dict[str, Any], data: dict[str, Any]) -> Iterator[str]:
    """Another budget than that of all runs."""
    try:
        plan = Plan.from_json(data)
    except ValueError:
        return  # it is damaged: whoever needs it says so
    for name, value in expected.items():
        if plan.decisions[0].get(name) != value:
            yield f"its plan began with {name} {plan.decisions[0].get(name)}, not {value}"
    if plan.extended_at is not None or (comparison.budget.seconds is None and len(plan.decisions) > 1):
        yield "its plan was changed after it began"
