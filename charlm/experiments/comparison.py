"""A comparison on disk: what is compared, on which text, with which budget, and whether a run belongs to it.

A folder's name proves nothing, so each run's text, settings and plan are checked.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from charlm.checkpoint.run_folder import CorpusFacts, RunFolder, folders_with, holds, run_command
from charlm.checkpoint.safe_io import read_json, write_json
from charlm.config import ModelConfig, TextConfig, TrainingConfig
from charlm.data.corpus import Corpus
from charlm.data.load import Loaded
from charlm.errors import CheckpointError, ResourceError
from charlm.experiments.variants import Variant, is_variant, written
from charlm.rng import permute
from charlm.settings import Settings
from charlm.strict_json import to_json
from charlm.terminal import one_line
from charlm.training.planner import Budget, Choice, Plan
from charlm.training.run_corpus import Moved, reload_corpus
from charlm.training.session import Session

NAME = "comparison.json"
FORMAT = 1
MOST_RUNS = 10_000
KEY = re.compile(r"[0-9a-f]{32}([0-9a-f]{8})?")
N = TypeVar("N", int, float)


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
    """Everything that its runs depend on; `name` is its folder's name."""

    name: str
    variants: tuple[Variant, ...]
    seeds: tuple[int, ...]
    budget: Budget  # of each run; the speed of the machine was measured once, for all
    threads: int
    text: TextConfig
    label: str
    sources: tuple[str, ...]
    corpus_key: str
    corpus_sha256: str
    command: str
    created: str

    def tasks(self) -> list[Task]:
        """Every variant with every seed, in random order: a machine growing slower hits all alike."""
        tasks = [Task(variant, seed) for seed in self.seeds for variant in self.variants]
        order = permute(np.arange(len(tasks)), len(tasks), int(self.corpus_key[:8], 16))
        return [tasks[i] for i in order]

    def fingerprint(self, task: Task) -> str:
        """A hash of a run's settings, budget and text, which its result must carry."""
        facts = self.to_json()
        of_run = {name: facts[name] for name in ("budget", "threads", "text")}
        variant = {"model": task.variant.model.to_json(), "training": task.variant.training.to_json()}
        corpus = [self.corpus_key, self.corpus_sha256]
        whole = json.dumps([variant, task.seed, of_run, corpus], sort_keys=True)
        return sha256(whole.encode()).hexdigest()

    @property
    def axes(self) -> tuple[str, ...]:
        """The settings that are varied."""
        return tuple(self.variants[0].values)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; `read` gives the same comparison again."""
        return {
            "format": FORMAT,
            "command": self.command,
            "created": self.created,
            "variants": [
                {"values": v.values, "model": v.model.to_json(), "training": v.training.to_json()}
                for v in self.variants
            ],
            "seeds": list(self.seeds),
            "budget": {
                "seconds": self.budget.seconds,
                "gflops": self.budget.gflops,
                "precision": self.budget.precision,
                "steps": self.budget.steps,
            },
            "threads": self.threads,
            "text": self.text.to_json(),
            "corpus": {
                "label": self.label,
                "sources": list(self.sources),
                "key": self.corpus_key,
                "sha256": self.corpus_sha256,
            },
        }


def now() -> str:
    """The time of day, as records have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write(folder: RunFolder, comparison: Comparison) -> None:
    """Write it down, before its first run begins; ResourceError if the disk refuses."""
    try:
        write_json(folder.path / NAME, comparison.to_json())
    except OSError as error:
        raise ResourceError(f"the comparison {folder.name} cannot be written: {error.strerror}") from None


def read(folder: RunFolder) -> Comparison:
    """What `write` wrote; CheckpointError where it is damaged."""
    try:
        data = read_json(folder.path / NAME)
        return _from_json(folder.path.name, data)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{NAME} of {folder.name} is damaged: {one_line(str(error))}") from None


def _from_json(name: str, data: dict[str, Any]) -> Comparison:
    if data["format"] != FORMAT:
        raise ValueError(f"it has format {data['format']!r}; this version reads {FORMAT}")
    variants = tuple(
        Variant(dict(v["values"]), ModelConfig.from_json(v["model"]), TrainingConfig.from_json(v["training"]))
        for v in data["variants"]
    )
    seeds = tuple(data["seeds"])
    axes = list(variants[0].values)
    if not all(list(v.values) == axes and is_variant(v) for v in variants):
        raise ValueError("its variants do not vary the same settings")
    if not all(type(seed) is int and 0 <= seed < 2**63 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise ValueError("its seeds are whole numbers, each once")
    if not 0 < len(variants) * len(seeds) <= MOST_RUNS or len({v.folder for v in variants}) < len(variants):
        raise ValueError("its runs are too many, or none, or some twice")
    corpus = data["corpus"]
    if not KEY.fullmatch(str(corpus["key"])):
        raise ValueError("the key of its text is malformed")
    return Comparison(
        name=name,
        variants=variants,
        seeds=seeds,
        budget=_budget(data["budget"]),
        threads=_positive(data["threads"], int),
        text=TextConfig.from_json(data["text"]),
        label=str(corpus["label"]),
        sources=tuple(map(str, corpus["sources"])),
        corpus_key=str(corpus["key"]),
        corpus_sha256=str(corpus["sha256"]),
        command=str(data["command"]),
        created=str(data["created"]),
    )


def _budget(data: dict[str, Any]) -> Budget:
    steps, seconds, gflops = data["steps"], data["seconds"], data["gflops"]
    precision = TrainingConfig(precision=data.get("precision", "fp32")).precision
    if steps is not None:
        return Budget(steps=_positive(steps, int), precision=precision)
    return Budget(seconds=_positive(seconds, float), gflops=_positive(gflops, float), precision=precision)


def _positive(value: Any, kind: type[N]) -> N:
    if not isinstance(value, kind) or isinstance(value, bool) or not 0 < value < 1e9:
        raise ValueError(f"{value!r} is not a number above 0")
    return value


def corpus_of(comparison: Comparison, moved: Moved | None = None) -> Loaded:
    """Load its text; CheckpointError where it is gone or changed."""
    c = comparison
    facts = CorpusFacts(key=c.corpus_key, sha256=c.corpus_sha256, label=c.label, sources=c.sources)
    corpus = reload_corpus(facts, c.text, moved)
    if corpus.sha256 != c.corpus_sha256:
        raise CheckpointError(f"{NAME} of {c.name} is inconsistent: its text and its key do not match")
    return Loaded(corpus=corpus, notes=(), sources=c.sources, label=c.label)


def find(root: Path, name: str) -> RunFolder | None:
    """The folder of the comparison of that name, if there is one."""
    return RunFolder(root / name) if holds(root, name, NAME) else None


def comparisons(root: Path) -> Iterator[RunFolder]:
    """All below a folder, by name."""
    yield from map(RunFolder, folders_with(root, NAME))


OPEN = (None, "auto")
"""Values that leave a setting to the plan."""


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
    session: Session, run: RunFolder, comparison: Comparison, task: Task, choice: Choice
) -> None:
    """CheckpointError where a run to resume differs from the task in its text, settings or plan."""
    found = [*_other_text(comparison, to_json(session.run.corpus))]
    for chosen, has in ((choice.model, session.model_config), (choice.training, session.training_config)):
        found += _differences(chosen.to_json(), has.to_json())
    found += _other_plan(comparison, choice.plan.decisions[0], session.plan.to_json())
    _refuse(run, comparison, task, found)


def _refuse(run: RunFolder, comparison: Comparison, task: Task, found: list[str]) -> None:
    if found:
        values = ", ".join(f"{name} {written(value)}" for name, value in task.variant.values.items())
        again = run_command("resume", RunFolder(run.path.parent))
        raise CheckpointError(
            f"the run {run.name} of the comparison {comparison.name} does not belong there ({one_line(values)}, seed "
            f"{task.seed}): {one_line(found[0])}; move it away, then train that run again: {one_line(again)}"
        )


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path)
    except CheckpointError:
        return None  # whoever needs it says what is wrong


def _other_text(comparison: Comparison, corpus: Any) -> Iterator[str]:
    key, sha256 = (
        (str(corpus.get(name)) for name in ("key", "sha256")) if isinstance(corpus, dict) else ("", "")
    )
    if key != comparison.corpus_key or sha256 != comparison.corpus_sha256:
        label = corpus.get("label") if isinstance(corpus, dict) else None
        yield f"it was trained on another text, or on a different split of it ({label})"


def _seeded(task: Task) -> TrainingConfig:
    return replace(task.variant.training, seed=task.seed)


def _not_given(given: Settings, found: Any) -> Iterator[str]:
    """Settings that differ from those given; those left to the plan may have any value."""
    said = {name: value for name, value in given.to_json().items() if value not in OPEN and name != "threads"}
    found = found if isinstance(found, dict) else {}
    block = found.get("block_size")
    if type(block) is int and block < said.get("block_size", 0):
        del said["block_size"]  # it is shortened for a short text
    yield from _differences(said, found)


def _differences(expected: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
    for name, value in expected.items():
        if found.get(name) != value and not (name == "prior_order" and value is None):
            yield f"its {name} is {found.get(name)}, not {value}"  # an n-gram model chooses its order later


def _other_plan(comparison: Comparison, expected: dict[str, Any], data: dict[str, Any]) -> Iterator[str]:
    """What differs between a plan and the comparison's budget."""
    try:
        plan = Plan.from_json(data)
    except ValueError:
        return  # it is damaged: whoever needs it says so
    for name, value in expected.items():
        if plan.decisions[0].get(name) != value:
            yield f"its plan began with {name} {plan.decisions[0].get(name)}, not {value}"
    if plan.extended_at is not None or (comparison.budget.seconds is None and len(plan.decisions) > 1):
        yield "its plan was changed after it began"
