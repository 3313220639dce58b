"""Find the text of a run again: in the cache, where it was read, or where it was moved to."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from charlm.checkpoint.run_folder import CorpusFacts, ParentFacts, RunFacts
from charlm.checkpoint.snapshot import Snapshot
from charlm.data.addresses import is_address
from charlm.data.corpus import Corpus, reopen
from charlm.data.holdout import EarlierText, InheritedSplit
from charlm.data.load import load
from charlm.data.sources import manual_name, may_hold_files
from charlm.data.text_config import TextConfig
from charlm.data.tokenizer import Vocabulary
from charlm.errors import CharlmError, CheckpointError, UsageError
from charlm.strict_json import from_json
from charlm.terminal import first_of, one_line

HINT = "if you moved the text, give its path with --text PATH"


@dataclass(frozen=True)
class Moved:
    """Where a run's text is now, according to the user: files and folders, and its held-out file if it has one.

    Parts that are not given are where they were.
    """

    texts: tuple[str, ...]
    val_file: str | None = None


def corpus_of(snapshot: Snapshot, moved: Moved | None = None) -> Corpus:
    """Return the text that a run was trained on. Raises CheckpointError if it is missing or has changed."""
    corpus = reload_corpus(snapshot.run.corpus, snapshot.run.text, moved)
    if corpus.vocabulary != snapshot.vocabulary:
        different = first_of(corpus.vocabulary.differences(snapshot.vocabulary))
        raise CheckpointError(
            f"the vocabulary of the text differs from the one the run was trained with: {different}"
        )
    return corpus


def parent_corpus(parent: ParentFacts) -> Corpus:
    """Return the text of the run that another was fine-tuned from. Raises CheckpointError."""
    try:
        return reload_corpus(parent.corpus, parent.text)
    except CheckpointError as error:  # --text names the run's own text
        hint = f"`charlm eval --run {one_line(parent.run)} --text PATH` restores it in the cache"
        raise CheckpointError(str(error).replace(HINT, hint)) from None


def reload_corpus(facts: CorpusFacts, config: TextConfig, moved: Moved | None = None) -> Corpus:
    """Return the text with these facts: from the cache, or read again where it was or where it `moved` to.

    Raises CheckpointError if it is missing or has changed, TextError if the moved text cannot be read.
    """
    if moved is None:
        corpus = reopen(facts.key) if facts.key.isalnum() else None
        if corpus is not None:
            return corpus
    label, given = one_line(facts.label), list(moved.texts) if moved is not None else []
    paths = given or list(facts.sources)
    if not given and "-" in facts.sources:
        raise CheckpointError(
            f"the text, {label}, was read from standard input and is not in the cache; if you have it as a file, "
            "name it with --text FILE"
        )
    if not paths and facts.label != manual_name():  # of an exported run, which names no place
        raise CheckpointError(f"the text, {label}, is not in the cache; {HINT}")
    try:
        if moved is not None:
            config = _moved_config(config, facts.sources, paths, moved.val_file)
        corpus = load(paths, config, earlier=earlier_of(facts), asks=moved is not None).corpus
    except CharlmError as error:
        if moved is not None:
            raise
        raise CheckpointError(f"the text, {label}, cannot be read again: {error}; {HINT}") from None
    if corpus.key != facts.key:
        raise _changed_error(corpus, facts, " ".join(paths), moved is not None)
    return corpus


def _moved_config(
    config: TextConfig, sources: Sequence[str], paths: Sequence[str], val_file: str | None
) -> TextConfig:
    """Return the settings of a text now at `paths`: file filters only for folders, the held-out file where it is now."""
    if not any(map(may_hold_files, paths)):
        config = replace(config, include=None, exclude=None)
    if config.val_file is None:
        if val_file is not None:
            raise UsageError(f"--val-file {one_line(val_file)}: this run has no held-out file; leave it out")
        return config
    found = val_file or next(filter(_is_there, _likely_places(config.val_file, sources, paths)), None)
    if found is None:
        raise CheckpointError(
            f"the run's held-out file, {one_line(config.val_file)}, is missing; give its path with "
            "--val-file PATH"
        )
    return replace(config, val_file=found)


def _is_there(name: str) -> bool:
    return is_address(name) or os.path.exists(name)


def _likely_places(val_file: str, sources: Sequence[str], paths: Sequence[str]) -> Iterator[str]:
    """Yield where a held-out file may be: where it was, or moved together with the text."""
    yield val_file
    for old, new in product(map(Path, sources), (Path(path).absolute() for path in paths)):
        for was, now in product((old, *old.parents), (new, *new.parents)):
            if was != was.parent and Path(val_file).is_relative_to(was):
                yield str(now / Path(val_file).relative_to(was))


def _changed_error(corpus: Corpus, facts: CorpusFacts, paths: str, moved: bool) -> CheckpointError:
    label, paths = one_line(facts.label), one_line(paths)
    if facts.sha256 == corpus.sha256:
        return CheckpointError(
            f"{paths} begins with the text of the run, {label}, but its held-out file or its documents differ"
        )
    hashes = f"its SHA-256 is {corpus.sha256}, but it was {one_line(facts.sha256)} when the run was trained"
    if moved:
        return CheckpointError(f"--text {paths} is not the text of the run, {label}: {hashes}")
    return CheckpointError(
        f"{label} has changed since training: {hashes}; restore the original text, or, {HINT}"
    )


def earlier_of(facts: CorpusFacts) -> EarlierText | None:
    """Return what vocabulary and split of a fine-tuning text depend on. Raises CheckpointError if damaged."""
    if facts.earlier is None:
        return None
    e = facts.earlier
    try:
        return EarlierText(
            vocabulary=Vocabulary.from_json(e.vocabulary),
            key=e.key,
            sha256=e.sha256,
            chars=e.chars,
            spans=e.spans,
            kept_back=None,
            looked=e.looked,
            inherited_split=None
            if facts.inherited_split is None
            else from_json(InheritedSplit, facts.inherited_split),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"run.json is damaged: {one_line(repr(error))}") from None


def counted_parent(run: RunFacts) -> Corpus | None:
    """Return the parent's text, if the run's n-gram prior counts it too. Raises CheckpointError."""
    if run.parent is None or not run.parent.counted:
        return None
    try:
        return parent_corpus(run.parent)
    except CheckpointError as error:
        raise CheckpointError(
            f"the n-gram prior of this run also counts the text of {one_line(run.parent.run)}: {error}"
        ) from None
