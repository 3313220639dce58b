"""The run that another goes on from: what is taken over from it, and how that is written down."""

import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from charlm.checkpoint.manifest import NAME, read_regular
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.snapshot import Snapshot, read
from charlm.checkpoint.strict_json import LARGEST, parse
from charlm.config import TextConfig
from charlm.errors import CheckpointError, UsageError
from charlm.evaluation.overlap import MOST_COMPARED, overlap_of_all, overlap_of_samples
from charlm.text.corpus import Corpus
from charlm.text.respect import Earlier, Respected
from charlm.text.split import Division, Spans
from charlm.text.vocabulary import Ids
from charlm.training.texts import Moved, corpus_of, texts_beside

KNOWN_SHARE = 0.05
"""From such a share of a training part on that stands in the old one, the old one is not counted beside it.

What is learned from would else be known by heart to the counts that it is learned beside."""


@dataclass(frozen=True)
class Origin:
    """A checkpoint of a run, and the text of that run, if it is still there."""

    name: str
    snapshot: Snapshot
    weights_sha256: str
    text: TextConfig
    corpus: Corpus | None
    gone: str  # why the text is not there; empty where it is
    beside: dict[int, Corpus] = field(default_factory=dict)  # the texts to count beside the new one

    @classmethod
    def of(cls, run: RunFolder, which: str | None, moved: Moved | None = None) -> "Origin":
        """The latest checkpoint, or the best after an early stop, unless told; its text may have `moved`.

        Raises CheckpointError where it is not whole, UsageError where there are no weights to go on from.
        """
        snapshot = read(run, which or "latest")
        if which is None and snapshot.state.get("finished") == "early":
            snapshot = read(run, "best")
        if snapshot.model_config.counts_alone:
            raise UsageError(
                f"{run.name} is counts alone (mixer none), which have no weights to go on from; count both texts "
                "together instead: charlm train OLD NEW --mixer none"
            )
        manifest = parse(read_regular(run.folder(snapshot.step) / NAME, LARGEST), NAME)
        weights = str(manifest["files"]["model.safetensors"]["sha256"])
        try:
            text = TextConfig.from_json(snapshot.run["text"])
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"run.json is damaged: {error}") from None
        try:
            corpus, gone = corpus_of(snapshot, moved), ""
        except CheckpointError as error:
            if moved is not None:
                raise
            corpus, gone = None, str(error)
        return cls(run.path.name, snapshot, weights, text, corpus, gone)

    def earlier(self) -> Earlier:
        """Its text, as the division and the vocabulary of a new one depend on it."""
        facts, corpus = self.snapshot.run["corpus"], self.corpus
        chars = facts.get("chars")
        if type(chars) is not int:
            chars = main_chars(corpus, self.text) if corpus is not None else 0
        kept_back = (
            None if corpus is None else (corpus.held_out, *([] if corpus.test is None else [corpus.test]))
        )
        return Earlier(
            vocabulary=self.snapshot.vocabulary,
            key=str(facts["key"]),
            sha256=str(facts["sha256"]),
            chars=chars,
            spans=_spans(facts, chars, self.text),
            kept_back=kept_back,
            looked=corpus is not None,
        )

    def before(self, corpus: Corpus) -> "Origin":
        """The same with the texts to count beside a new one: that of this run, and those that it counts so.

        Not those that are gone, or stand in the new one already.
        """
        if not self.snapshot.model_config.counts or self.corpus is None:
            return self
        try:
            older = texts_beside(self.snapshot.run)
        except CheckpointError:
            older = {}
        texts = {0: self.corpus, **{depth + 1: text for depth, text in older.items()}}
        if corpus.respected is not None and corpus.respected.begins:
            del texts[0]
        apart = {d: text for d, text in texts.items() if _share(text, corpus) < KNOWN_SHARE}
        return replace(self, beside=apart)

    def facts(self) -> dict[str, Any]:
        """What a run that goes on from it keeps of it, in its run.json."""
        earlier, run = self.earlier(), self.snapshot.run
        before = {"from": run["from"]} if "from" in run else {}
        return {
            "run": self.name,
            "step": self.snapshot.step,
            "weights_sha256": self.weights_sha256,
            "block_size": self.snapshot.model_config.block_size,
            "beside": sorted(self.beside),
            "corpus": run["corpus"],
            "text": run["text"],
            "earlier": {"chars": earlier.chars, "spans": earlier.spans, "looked": earlier.looked},
            "vocabulary": json.loads(self.snapshot.vocabulary.to_json()),
            **before,
        }


def _share(old: Corpus, new: Corpus) -> float:
    """How much of a new training part stands in an old one, whatever documents end in them."""
    parts = [_characters(corpus) for corpus in (old, new)]
    long = max(map(len, parts)) > MOST_COMPARED // 8  # a share is asked for, not which passages
    return (overlap_of_samples if long else overlap_of_all)(*parts).share


def _characters(corpus: Corpus) -> Ids:
    """The ids of a training part without the ends of documents."""
    end = corpus.vocabulary.end
    return corpus.train if end is None else corpus.train[corpus.train != end]


def main_chars(corpus: Corpus, text: TextConfig) -> int:
    """Characters of a text without the held-out text of its own."""
    if text.val_file is None:
        return corpus.chars
    respected = corpus.respected
    if respected is not None and respected.begins:  # then some of what is held out stands in the text itself
        start, end = respected.spans["held_out"][-1]
        return corpus.chars - (end - start)
    return corpus.chars - corpus.held_out_chars


def respected_facts(corpus: Corpus) -> dict[str, Any]:
    """How a text was divided, for run.json, where an earlier division holds in it."""
    return {} if corpus.respected is None else {"respected": asdict(corpus.respected)}


def _spans(facts: dict[str, Any], chars: int, text: TextConfig) -> Spans | None:
    """How a text was divided; None where its documents were, or that is no longer known."""
    if not chars or text.documents != "none":
        return None
    if "respected" not in facts:
        return Division.of(chars, chars, text).spans
    spans = Respected.from_json(facts["respected"]).spans
    return {name: [(a, b) for a, b in spans[name] if b <= chars] for name in spans}
