"""A comparison on disk: what is compared, on which text, with which budget, and in which order."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from charlm import files
from charlm.checkpoint.manifest import read_regular
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.strict_json import LARGEST, dump, parse
from charlm.config import ModelConfig, TextConfig, TrainingConfig
from charlm.errors import CheckpointError, ResourceError
from charlm.randomness import permute
from charlm.studies.variants import VARIED, Variant
from charlm.terminal import one_line
from charlm.text.corpus import Corpus, reopen
from charlm.text.load import Loaded, load
from charlm.training.plan import Budget

NAME = "comparison.json"
FORMAT = 1
MOST_RUNS = 10_000


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
    """All that its runs depend on. `name` is that of its folder."""

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
        files.replace(folder.path / NAME, dump(comparison.to_json()))
    except OSError as error:
        raise ResourceError(f"the comparison {folder.name} cannot be written: {error.strerror}") from None


def read(folder: RunFolder) -> Comparison:
    """What `write` wrote; CheckpointError where it is damaged."""
    try:
        data = parse(read_regular(folder.path / NAME, LARGEST), NAME)
        return _from_json(folder.path.name, data)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
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
    if not all(list(v.values) == axes and set(axes) <= set(VARIED) for v in variants):
        raise ValueError("its variants do not vary the same settings")
    if not seeds or not all(type(seed) is int for seed in seeds) or len(variants) * len(seeds) > MOST_RUNS:
        raise ValueError("its seeds are whole numbers, and not too many")
    corpus = data["corpus"]
    int(str(corpus["key"]), 16)
    return Comparison(
        name=name,
        variants=variants,
        seeds=seeds,
        budget=_budget(data["budget"]),
        threads=int(data["threads"]),
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
    if steps is not None:
        return Budget(steps=int(steps))
    return Budget(seconds=float(seconds), gflops=float(gflops))


def corpus_of(comparison: Comparison) -> Loaded:
    """Its text, from the cache or read again; CheckpointError where that is no longer what it was."""
    corpus: Corpus | None = reopen(comparison.corpus_key)
    if corpus is None:
        if "-" in comparison.sources:
            raise CheckpointError(f"the text of {comparison.name} came from standard input and is gone")
        corpus = load(comparison.sources, comparison.text).corpus
    if corpus.key != comparison.corpus_key:
        raise CheckpointError(
            f"{one_line(comparison.label)} is no longer the text that {comparison.name} was begun with; put "
            "that back to go on"
        )
    return Loaded(corpus=corpus, notes=(), sources=comparison.sources, label=comparison.label)


def find(root: Path, name: str) -> RunFolder | None:
    """The folder of the comparison of that name, if there is one."""
    path = root / name
    return RunFolder(path) if (path / NAME).is_file() else None


def comparisons(root: Path) -> Iterator[RunFolder]:
    """All below a folder, by name."""
    for path in sorted(root.iterdir()) if root.is_dir() else []:
        if (path / NAME).is_file():
            yield RunFolder(path)
