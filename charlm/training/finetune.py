"""Fine-tuning: a new run from the weights of another, and what it forgets of the old text."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.safe_io import LARGEST, NAME, parse, read_regular
from charlm.checkpoint.snapshot import Snapshot, expected_weights, read
from charlm.config import ModelConfig, TextConfig, TrainingConfig
from charlm.data.corpus import Corpus
from charlm.data.holdout import EarlierText, InheritedSplit, Spans, Split
from charlm.data.overlap import MOST_COMPARED, overlap_of_all, overlap_of_samples
from charlm.data.tokenizer import Ids
from charlm.errors import CheckpointError, UsageError
from charlm.inference.context import ContextRule
from charlm.inference.predictor import predictor_of
from charlm.model.transformer import grow_vocabulary
from charlm.settings import settings_of
from charlm.terminal import one_line
from charlm.training.extend import size_of
from charlm.training.forgetting import OldText, symbols_to_score
from charlm.training.planner import SHARE as COUNTING_SHARE
from charlm.training.planner import Budget, Choice, choose, within
from charlm.training.run_text import Moved, corpus_of, corpus_of_facts, of_origin, texts_beside
from charlm.training.session import Session

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
        if snapshot.model_config.is_ngram:
            raise UsageError(
                f"{run.name} is counts alone (model ngram), which have no weights to go on from; count both texts "
                "together instead: charlm train OLD NEW --model ngram"
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

    def earlier(self) -> EarlierText:
        """Its text, as the division and the vocabulary of a new one depend on it."""
        facts, corpus = self.snapshot.run["corpus"], self.corpus
        chars = facts.get("chars")
        if type(chars) is not int:
            chars = main_chars(corpus, self.text) if corpus is not None else 0
        kept_back = (
            None if corpus is None else (corpus.held_out, *([] if corpus.test is None else [corpus.test]))
        )
        return EarlierText(
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
        if not self.snapshot.model_config.prior or self.corpus is None:
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
        return Split.of(chars, chars, text).spans
    spans = InheritedSplit.from_json(facts["respected"]).spans
    return {name: [(a, b) for a, b in spans[name] if b <= chars] for name in spans}


FREE = ("dropout", "ngram_embedding_dropout", "prior_dropout", "block_size")
"""The settings of a model that may differ: no weight depends on them, but for learned positions on the block."""
RATE_SHARE = 0.5
"""Of the learning rates of the run that is gone on from; benchmarks/NOTES.md has what was tried."""

MOST_COUNTING = 0.3
"""Of a run's time, for counting all texts together."""


def shape_from(origin: Origin, wanted: ModelConfig, told: set[str]) -> ModelConfig:
    """The shape of the run gone on from, with what may differ as `told`, and else open for the plan.

    Raises UsageError for what was told and would change it.
    """
    before = origin.snapshot.model_config
    for setting in settings_of(ModelConfig):
        name, was, value = setting.name, getattr(before, setting.name), getattr(wanted, setting.name)
        if name in told and name not in FREE and value != was:
            option = f"--no-{setting.option[2:]}" if value is False else setting.option
            raise UsageError(
                f"{name} is {value}, and {was} in {origin.name}, whose weights are gone on from: its shape cannot "
                f"change; leave {option} out, or train a new run"
            )
    free: dict[str, Any] = {name: getattr(wanted, name) if name in told else None for name in FREE[:-1]}
    if "block_size" in told:
        free["block_size"] = wanted.block_size
    try:
        return replace(before, **free)
    except ValueError as error:
        raise UsageError(str(error)) from None


def training_from(origin: Origin, wanted: TrainingConfig, told: set[str]) -> TrainingConfig:
    """How it is trained: by the optimizer of that run where nothing was told, at lower rates."""
    before = origin.snapshot.training_config
    optimizer = wanted.optimizer if "optimizer" in told else before.optimizer
    names = (
        ("ngram_embedding_lr",)
        if optimizer == "adamw" or before.muon_lr is None
        else ("muon_lr", "ngram_embedding_lr")
    )
    rates: dict[str, Any] = {name: getattr(before, name) * RATE_SHARE for name in names if name not in told}
    try:
        return replace(wanted, optimizer=optimizer, **rates)
    except ValueError as error:
        raise UsageError(str(error)) from None


def choose_from(
    origin: Origin, corpus: Corpus, budget: Budget, model: ModelConfig, training: TrainingConfig
) -> Choice:
    """The plan of a run that goes on from another: for the size that is given.

    Raises ValueError where what was set by hand does not go together, UsageError where the text is too
    short for a block that cannot be shortened.
    """
    snapshot = origin.snapshot
    if model.prior and budget.seconds is not None:
        texts = [corpus, *origin.beside.values()]
        counted = sum(len(text.train) for text in texts)
        share = min(MOST_COUNTING, len(texts) * COUNTING_SHARE)  # as much for each as it had by itself
        training = within(training, share * budget.seconds, counted)
        training = replace(training, prior_chars=training.prior_chars or counted)
    given = size_of(snapshot.model_config, snapshot.training_config, RATE_SHARE)
    choice = choose(budget, len(corpus.train), model, training, given)
    n, block, was = corpus.vocabulary.n_symbols, choice.model.block_size, snapshot.model_config.block_size
    shapes = [
        {name: weight.shape for name, weight in expected_weights(config, n).items()}
        for config in (choice.model, replace(choice.model, block_size=was))
    ]
    if shapes[0] != shapes[1]:
        raise UsageError(
            f"block_size is {block}, and {was} in {origin.name}, whose {choice.model.position} positions have a weight "
            f"each: that cannot change; leave --block-size out, and give at least {2 * (was or 0) + 1} characters to train on"
        )
    return replace(choice, why=f"as in {one_line(origin.name)}, {choice.why}")


def go_on_from(session: Session, origin: Origin) -> None:
    """Give a session at its beginning the weights of a run, and the text that was held out there."""
    snapshot = origin.snapshot
    weights = grow_vocabulary(snapshot.weights, session.corpus.vocabulary.n_symbols)
    session.model.load_state_dict(weights)
    if origin.corpus is not None:
        first = predictor_of(snapshot, device=session.device)
        old_text = _old_text(session, origin.corpus)
        session.old_text = replace(old_text, first=first) if old_text.part.windows else None


def old_text_again(session: Session, warn: Callable[[str], None]) -> OldText | None:
    """The same text for a run that was resumed; None where it is gone, which is said."""
    try:
        corpus = corpus_of_facts(session.run["from"])
    except CheckpointError as error:
        warn(f"{of_origin(error, session.run['from'])}; so it cannot be said what is forgotten of it")
        return None
    found, kept = _old_text(session, corpus), session.state.old_text
    if kept is not None and len(kept["before_sums"]) != len(found.part.windows):
        raise CheckpointError(
            f"state.json is damaged: before_sums has {len(kept['before_sums'])} blocks, and the text has "
            f"{len(found.part.windows)}"
        )
    return found


def _old_text(session: Session, corpus: Corpus) -> OldText:
    origin, config = session.run["from"], session.model_config
    assert config.block_size
    block_size = min(config.block_size, int(origin["block_size"]))
    rule = ContextRule.of_model(replace(config, block_size=block_size))
    symbols = symbols_to_score(session.plan, size_of(config, session.training_config))
    return OldText.of(str(origin["run"]), corpus, session.corpus.vocabulary, rule, symbols)
