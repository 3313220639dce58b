"""The text of a run, found again: in the cache, where it was read, or where it was moved to; and those of the runs it was fine-tuned from."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from charlm.checkpoint.snapshot import Snapshot
from charlm.config import TextConfig
from charlm.data.corpus import Corpus, reopen
from charlm.data.holdout import EarlierText, InheritedSplit
from charlm.data.load import load
from charlm.data.tokenizer import Vocabulary
from charlm.errors import CharlmError, CheckpointError, UsageError
from charlm.terminal import first_of, one_line

MOVED = "if it is elsewhere now, --text PATH says where"


@dataclass(frozen=True)
class Moved:
    """Where the text of a run is now, as the user says: files and folders, and its held-out file if it has one.

    What is not given is where it was.
    """

    texts: tuple[str, ...]
    val_file: str | None = None


def corpus_of(snapshot: Snapshot, moved: Moved | None = None) -> Corpus:
    """The text that a run was trained on: from the cache, or read again and found unchanged."""
    corpus = corpus_of_facts(snapshot.run, moved)
    if corpus.vocabulary != snapshot.vocabulary:
        different = first_of(corpus.vocabulary.differences(snapshot.vocabulary))
        raise CheckpointError(f"the text has another vocabulary than the run was trained with: {different}")
    return corpus


def corpus_of_facts(run: dict[str, Any], moved: Moved | None = None) -> Corpus:
    """The same by what run.json says, or what it says of the run that was gone on from."""
    return same_corpus(run["corpus"], run["text"], earlier_of(run), moved)


def same_corpus(
    facts: dict[str, Any],
    text: dict[str, Any],
    earlier: EarlierText | None = None,
    moved: Moved | None = None,
) -> Corpus:
    """The text that has these facts (`key`, `sha256`, `label`, `sources`), read with the settings `text`.

    It comes from the cache or is read again, where it was or has `moved` to. Raises CheckpointError where it is
    gone or another, TextError where what has moved cannot be read.
    """
    key, label, sources = facts["key"], one_line(facts["label"]), [str(source) for source in facts["sources"]]
    if moved is None:
        corpus = reopen(key) if key.isalnum() else None
        if corpus is not None:
            return corpus
    named = list(moved.texts) if moved is not None else []
    names = named or sources
    if not named and "-" in sources:
        raise CheckpointError(
            f"the text, {label}, was read from standard input and is not in the cache; if you have it in a file, "
            "name that with --text FILE"
        )
    try:
        config = TextConfig.from_json(text)
        if moved is not None:
            config = _where_it_is_now(config, sources, names, moved.val_file)
        corpus = load(names, config, earlier=earlier).corpus
    except CharlmError as error:
        if moved is not None:
            raise
        raise CheckpointError(
            f"the text, {label}, cannot be read again: {str(error).rstrip('.')}; {MOVED}"
        ) from None
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"the text, {label}, cannot be read again: {error}") from None
    if corpus.key != key:
        raise _another(corpus, facts, " ".join(names), moved is not None)
    return corpus


def _where_it_is_now(
    config: TextConfig, sources: Sequence[str], names: Sequence[str], val_file: str | None
) -> TextConfig:
    """The settings of a text that is now at `names`: what they say of folders and of the held-out file fits there."""
    if not any(os.path.isdir(name) for name in names):
        usual = TextConfig()  # these choose among the files of folders
        config = replace(config, include=usual.include, exclude=usual.exclude)
    if config.val_file is None:
        if val_file is not None:
            raise UsageError(f"--val-file {one_line(val_file)}: this run has no held-out file; leave it out")
        return config
    found = val_file or next(filter(os.path.exists, _likely_places(config.val_file, sources, names)), None)
    if found is None:
        raise CheckpointError(
            f"the run's held-out file, {one_line(config.val_file)}, is gone; --val-file PATH says where it is now"
        )
    return replace(config, val_file=found)


def _likely_places(val_file: str, sources: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    """Where a held-out file can be: where it was, or moved together with the text."""
    yield val_file
    for old, new in product(map(Path, sources), (Path(name).absolute() for name in names)):
        for was, now in product((old, *old.parents), (new, *new.parents)):
            if was != was.parent and Path(val_file).is_relative_to(was):
                yield str(now / Path(val_file).relative_to(was))


def _another(corpus: Corpus, facts: dict[str, Any], named: str, moved: bool) -> CheckpointError:
    """The error to raise for a text that is not the one trained on."""
    label, named, was = one_line(facts["label"]), one_line(named), facts.get("sha256")
    if was == corpus.sha256:
        return CheckpointError(
            f"{named} begins with the text that was trained on, {label}, but its held-out file or its documents are others"
        )
    hashes = f"its SHA-256 is {corpus.sha256}, and was {was} when it was trained on"
    if moved:
        return CheckpointError(f"--text {named} is not the text of the run, {label}: {hashes}")
    return CheckpointError(
        f"{label} is no longer the text that was trained on: {hashes}; put that back to go on, or, {MOVED}"
    )


def earlier_of(run: dict[str, Any]) -> EarlierText | None:
    """What the text of a run depended on, where it goes on from another. CheckpointError where that is damaged."""
    if "from" not in run:
        return None
    try:
        origin, respected = run["from"], run["corpus"].get("respected")
        earlier = origin["earlier"]
        return EarlierText(
            vocabulary=Vocabulary.from_json(origin["vocabulary"]),
            key=str(origin["corpus"]["key"]),
            sha256=str(origin["corpus"]["sha256"]),
            chars=int(earlier["chars"]),
            spans=earlier["spans"],
            kept_back=None,
            looked=bool(earlier["looked"]),
            respected=None if respected is None else InheritedSplit.from_json(respected),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"run.json is damaged: it does not say what the run goes on from: {error!r}"
        ) from None


def of_origin(error: CheckpointError, origin: dict[str, Any]) -> str:
    """What is wrong with the text of the run that another was fine-tuned from, which --text there does not name."""
    by_name = f"`charlm eval --run {one_line(str(origin['run']))} --text PATH` brings it back to the cache"
    return str(error).replace(MOVED, by_name)


def texts_beside(run: dict[str, Any]) -> dict[int, Corpus]:
    """The texts whose training parts a run counts beside its own, of the runs it goes on from: 0 is the last one."""
    before, depth, found = run.get("from"), 0, {}
    wanted = [] if before is None else before["beside"]
    while before is not None:
        if depth in wanted:
            try:
                found[depth] = corpus_of_facts(before)
            except CheckpointError as error:
                raise CheckpointError(
                    f"the counts of this run are of the text of {one_line(str(before['run']))} too: "
                    f"{of_origin(error, before)}"
                ) from None
        before, depth = before.get("from"), depth + 1
    return found
