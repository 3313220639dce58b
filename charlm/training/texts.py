"""The text of a run, found again: in the cache, or where it was read; and those of the runs it goes on from."""

from collections.abc import Sequence
from typing import Any

from charlm.checkpoint.snapshot import Snapshot
from charlm.config import TextConfig
from charlm.errors import CharlmError, CheckpointError
from charlm.terminal import first_of, one_line
from charlm.text.corpus import Corpus, reopen, same_text
from charlm.text.load import load
from charlm.text.respect import Earlier, Respected
from charlm.text.vocabulary import Vocabulary


def corpus_of(snapshot: Snapshot) -> Corpus:
    """The text that a run was trained on: from the cache, or read again and found unchanged."""
    corpus = corpus_of_facts(snapshot.run)
    if corpus.vocabulary != snapshot.vocabulary:
        different = first_of(corpus.vocabulary.differences(snapshot.vocabulary))
        raise CheckpointError(f"the text has another vocabulary than the run was trained with: {different}")
    return corpus


def corpus_of_facts(run: dict[str, Any]) -> Corpus:
    """The same by what run.json says, or what it says of the run that was gone on from."""
    facts = run["corpus"]
    return same_corpus(facts["key"], facts["label"], facts["sources"], run["text"], earlier_of(run))


def same_corpus(
    key: str, label: str, sources: Sequence[Any], text: dict[str, Any], earlier: Earlier | None = None
) -> Corpus:
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
        names = [str(source) for source in sources]
        corpus = load(names, TextConfig.from_json(text), earlier=earlier).corpus
    except (CharlmError, ValueError, TypeError) as error:
        raise CheckpointError(f"the text, {label}, cannot be read again: {error}") from None
    if not same_text(corpus.key, key):
        raise CheckpointError(f"{label} is no longer the text that was trained on; put that back to go on")
    return corpus


def earlier_of(run: dict[str, Any]) -> Earlier | None:
    """What the text of a run depended on, where it goes on from another. CheckpointError where that is damaged."""
    if "from" not in run:
        return None
    try:
        origin, respected = run["from"], run["corpus"].get("respected")
        earlier = origin["earlier"]
        return Earlier(
            vocabulary=Vocabulary.from_json(origin["vocabulary"]),
            key=str(origin["corpus"]["key"]),
            sha256=str(origin["corpus"]["sha256"]),
            chars=int(earlier["chars"]),
            spans=earlier["spans"],
            kept_back=None,
            looked=bool(earlier["looked"]),
            respected=None if respected is None else Respected.from_json(respected),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"run.json is damaged: it does not say what the run goes on from: {error!r}"
        ) from None


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
                    f"the counts of this run are of the text of {one_line(str(before['run']))} too: {error}"
                ) from None
        before, depth = before.get("from"), depth + 1
    return found
