"""Fine-tuning: a new run that starts from the weights of another, its parent."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from charlm.checkpoint.exported import is_exported, read_exported
from charlm.checkpoint.run_folder import CorpusFacts, DivisionFacts, ParentFacts, RunFolder, find_run, has_run
from charlm.checkpoint.safe_io import read_manifest
from charlm.checkpoint.snapshot import Snapshot, expected_weights, read_chosen
from charlm.config import ModelConfig, TrainingConfig
from charlm.data.addresses import is_address
from charlm.data.corpus import Corpus
from charlm.data.holdout import EarlierText, InheritedSplit, Spans, Split
from charlm.data.overlap import MOST_COMPARED, overlap_of_all, overlap_of_samples
from charlm.data.records import is_record_file
from charlm.data.sources import find_files, may_hold_files
from charlm.data.text_config import TextConfig
from charlm.errors import CheckpointError, UsageError
from charlm.evaluation.score import spread
from charlm.inference.context import ContextRule
from charlm.inference.members import predictor_of
from charlm.model.transformer import grow_vocabulary
from charlm.settings import settings_of
from charlm.strict_json import read_as
from charlm.terminal import one_line
from charlm.training.held_out import ParentText
from charlm.training.plan import PLAN_FILE, Plan
from charlm.training.planner import (
    PRIOR_SHARE,
    Choice,
    choose,
    limit_prior_chars,
    single_kind,
)
from charlm.training.request import Messages
from charlm.training.run_corpus import Moved, corpus_of, parent_corpus
from charlm.training.session import TransformerSession
from charlm.training.sizes import Budget, Size, StepTime

MAX_COUNTED_OVERLAP = 0.05
"""If more of the new training text occurs in the parent's, the prior does not count the parent's text.

Otherwise the prior would have memorised the text that the model learns from."""
OWN_SETTINGS = ("val_file", "include", "exclude", "field", "encoding", "min_count")
"""Text settings that fine-tuning does not inherit: they depend on the files, or on what is new in them."""
SPLIT_SETTINGS = ("val", "test", "split")
CHANGEABLE = ("dropout", "ngram_embedding_dropout", "prior_dropout", "block_size")
"""Model settings that may differ from the parent's: no weight's shape depends on them, learned positions excepted."""
LEARNING_RATE_SHARE = 0.5
"""Learning rates, as a share of the parent's; benchmarks/NOTES.md has what was tried."""
MAX_PRIOR_SHARE = 0.3
"""Most of the time budget, for counting the n-grams of all texts."""
SCORING_SHARE = 0.02
"""Share of the time budget for each scoring of the parent's held-out text."""
MIN_SCORED, MAX_SCORED = 2_000, 20_000
"""Limits on the symbols of the parent's held-out text that are scored; the most without a time budget."""


@dataclass(frozen=True)
class Parent:
    """A checkpoint to fine-tune, and the text of its run if that still exists."""

    name: str
    snapshot: Snapshot  # of the transformer that is fine-tuned
    whole: Snapshot  # of the run, with all that it predicts with: its other members and its calibration
    weights_sha256: str
    corpus: Corpus | None
    gone: str  # why the text is missing; empty if it is not
    counted: bool = False  # whether the new run's prior counts the parent's text too

    @classmethod
    def find(cls, root: Path, name: str, which: str | None, moved: Moved | None = None) -> "Parent":
        """Find a checkpoint of the run of that name in `root`, or of the exported folder `name`.

        Raises CheckpointError if it is damaged, UsageError if `name` is neither, or for an n-gram model.
        """
        folder = Path(os.path.expanduser(name))
        if has_run(root, name) or not os.path.isdir(folder):  # False for an impossible file name
            return cls.load(find_run(root, name), which, moved)
        if not is_exported(folder):
            raise UsageError(
                f"--from {one_line(name)} is neither a run in {one_line(str(root))} nor a folder that "
                "`charlm export --to hf` wrote; charlm runs lists the runs"
            )
        return cls.load_exported(folder, which, moved)

    @classmethod
    def load(cls, run: RunFolder, which: str | None, moved: Moved | None = None) -> "Parent":
        """Load a checkpoint of a run: by default the latest, or the best after early stopping.

        Raises CheckpointError if it is damaged, UsageError for an n-gram model.
        """
        whole = read_chosen(run, which)
        snapshot = whole.single()
        if snapshot.model_config.is_ngram:
            raise UsageError(
                f"{run.name} is an n-gram model, which has no weights to fine-tune; train one on both texts instead: "
                "charlm train OLD NEW --model ngram"
            )
        manifest = read_manifest(run.folder(snapshot.step))
        weights = manifest.weights_sha256
        corpus, gone = _corpus_or_why(snapshot, moved)
        return cls(run.path.name, snapshot, whole, weights, corpus, gone)

    @classmethod
    def load_exported(cls, folder: Path, which: str | None, moved: Moved | None = None) -> "Parent":
        """Load the run in a folder that `charlm export --to hf` wrote, which has one checkpoint.

        Its text is searched for in the cache and where it `moved` to. Raises CheckpointError, UsageError for another `which`.
        """
        whole, weights = read_exported(folder)
        if which not in (None, str(whole.step)):
            raise UsageError(
                f"{one_line(str(folder))} has no checkpoint {one_line(which or '')}; it has step {whole.step} alone"
            )
        snapshot = whole.single()
        return cls(str(folder), snapshot, whole, weights, *_corpus_or_why(snapshot, moved))

    @property
    def members(self) -> int:
        """Transformers of the run, of which the first one is fine-tuned."""
        return 1 + len(self.whole.earlier)

    @property
    def text(self) -> TextConfig:
        """The settings by which its text was read and split."""
        return self.snapshot.run.text

    def earlier(self) -> EarlierText:
        """Return the facts that the split and the vocabulary of the new text depend on."""
        facts, corpus = self.snapshot.run.corpus, self.corpus
        held_out = None if corpus is None else (corpus.held_out, corpus.test)
        return EarlierText(
            vocabulary=self.snapshot.vocabulary,
            key=facts.key,
            sha256=facts.sha256,
            chars=facts.chars,
            spans=_spans(facts, self.text),
            kept_back=held_out,
            looked=corpus is not None,
        )

    def with_counting(self, corpus: Corpus) -> "Parent":
        """Decide whether the prior of a run on `corpus` counts the parent's text too.

        It does not if that text is missing, or if too much of the new training text occurs in it.
        """
        if not self.snapshot.model_config.prior or self.corpus is None:
            return self
        contained = corpus.inherited_split is not None and corpus.inherited_split.begins
        counted = not contained and _overlap(self.corpus, corpus) < MAX_COUNTED_OVERLAP
        return replace(self, counted=counted)

    @property
    def counted_corpus(self) -> Corpus | None:
        """The parent's text, if the prior counts it."""
        return self.corpus if self.counted else None

    def facts(self) -> ParentFacts:
        """Return the parent as run.json records it."""
        block_size = self.snapshot.model_config.block_size
        assert block_size
        return ParentFacts(
            run=self.name,
            step=self.snapshot.step,
            weights_sha256=self.weights_sha256,
            block_size=block_size,
            counted=self.counted,
            corpus=self.snapshot.run.corpus,
            text=self.text,
        )

    def division_facts(self) -> DivisionFacts:
        """Return the facts that the split of the new text depends on, as run.json records them."""
        earlier = self.earlier()
        shared = {name: getattr(earlier, name) for name in ("key", "sha256", "chars", "spans", "looked")}
        return DivisionFacts(vocabulary=json.loads(self.snapshot.vocabulary.to_json()), **shared)


def _corpus_or_why(snapshot: Snapshot, moved: Moved | None) -> tuple[Corpus | None, str]:
    """Return the text of a run, or why it is missing. Raises CheckpointError for a wrong `moved`."""
    try:
        return corpus_of(snapshot, moved), ""
    except CheckpointError as error:
        if moved is not None:
            raise
        return None, str(error)


def _overlap(old: Corpus, new: Corpus) -> float:
    """Return the share of a new training part that occurs in an old one, apart from document ends."""
    ends = old.vocabulary.end, new.vocabulary.end
    if max(len(old.train), len(new.train)) > MOST_COMPARED // 8:  # sampling is precise enough for a share
        return overlap_of_samples(old.train, new.train, ends).share
    parts = [text.train[:] for text in (old, new)]
    return overlap_of_all(
        *(ids if end is None else ids[ids != end] for ids, end in zip(parts, ends, strict=True))
    ).share


def main_chars(corpus: Corpus, text: TextConfig) -> int:
    """Return the number of characters of a text without its separate held-out file."""
    if text.val_file is None:
        return corpus.chars
    inherited = corpus.inherited_split
    if inherited is not None and inherited.begins:  # then part of the held-out text is in the text itself
        start, end = inherited.spans["held_out"][-1]
        return corpus.chars - (end - start)
    return corpus.chars - corpus.held_out_chars


def _spans(facts: CorpusFacts, text: TextConfig) -> Spans | None:
    """Return where the parts of a text are; None if they consist of documents."""
    if not facts.chars or text.documents != "none":
        return None
    if facts.inherited_split is None:
        return Split.of(facts.chars, facts.chars, text).spans
    spans = read_as(InheritedSplit, facts.inherited_split, "the division of its text").spans
    return {name: [(a, b) for a, b in spans[name] if b <= facts.chars] for name in spans}


def inherit_text(parent: Parent, settings: dict[str, Any], given: set[str]) -> None:
    """Read and split the new text like the old one, by `settings`. Raises UsageError for a `given` one that differs."""
    was = parent.text
    for setting in settings_of(TextConfig):
        name, before, value = setting.name, getattr(was, setting.name), settings[setting.name]
        if name in OWN_SETTINGS or (name in SPLIT_SETTINGS and name in given):
            continue
        if name not in given:
            own = name in SPLIT_SETTINGS and settings["val_file"] is not None
            settings[name] = value if own else before
        elif value != before and not (name in ("documents", "separator") and was.documents == "none"):
            raise _contradiction(parent, setting.option, name, value, before)
    if "documents" in (settings["split"], was.split) and settings["split"] != was.split:
        option = "--split" if "split" in given else "--val-file"
        raise _contradiction(parent, option, "split", settings["split"], was.split)
    held_out, before = settings["val"] + settings["test"], was.val + was.test
    if was.split == "documents" and held_out < before:
        raise UsageError(
            f"`val` and `test` are {held_out:g} together, but {before:g} in {parent.name}: training would include "
            "documents that were held out; leave both out, or hold out more"
        )


def _contradiction(parent: Parent, option: str, name: str, value: Any, before: Any) -> UsageError:
    return UsageError(
        f"`{name}` is {value}, but {before} in {parent.name}; fine-tuning must read and split the text as that run "
        f"did: leave {option} out, or train a new run"
    )


def inherit_file_choice(
    parent: Parent, paths: Sequence[str], settings: dict[str, Any], given: set[str], messages: Messages
) -> None:
    """Choose files and fields as the old run did, if the new files are of the same kind."""
    was, name = parent.text, one_line(parent.name)
    folders = any(map(may_hold_files, paths))
    for setting, effect in (("include", "reading only"), ("exclude", "leaving out")):
        patterns = getattr(was, setting)
        if patterns and setting not in given and folders:
            settings[setting] = patterns
            messages.say(
                f"{effect} files that match {one_line(' or '.join(patterns))}, as {name} did; --{setting} chooses others"
            )
    if was.field is None or "field" in given or not paths:
        return
    here = [path for path in paths if not is_address(path)]
    found, _ = find_files(here) if here else ([], [])
    if any(map(is_record_file, [*found, *set(paths) - {*here}])):
        settings["field"] = was.field
        messages.say(
            f"reading the field {one_line(was.field)} of each record, as {name} did; --field chooses another"
        )


def inherit_model(parent: Parent, wanted: ModelConfig, given: set[str]) -> ModelConfig:
    """Return the parent's model settings; those that may change are as `given`, or left to the plan. Raises UsageError."""
    before = parent.snapshot.model_config
    for setting in settings_of(ModelConfig):
        name, was, value = setting.name, getattr(before, setting.name), getattr(wanted, setting.name)
        if name in given and name not in CHANGEABLE and value != was:
            raise UsageError(
                f"`{name}={value}` differs from {was} in {parent.name}: fine-tuning cannot change the model's shape; "
                "leave it out, or train a new run"
            )
    changed: dict[str, Any] = {
        name: getattr(wanted, name) if name in given else None for name in CHANGEABLE if name != "block_size"
    }
    if "block_size" in given:
        changed["block_size"] = wanted.block_size
    try:
        return replace(before, **changed)
    except ValueError as error:
        raise UsageError(str(error)) from None


def inherit_training(parent: Parent, wanted: TrainingConfig, given: set[str]) -> TrainingConfig:
    """Return the training settings: the parent's optimizer at lower learning rates, unless given. Raises UsageError."""
    before = parent.snapshot.training_config
    optimizer = wanted.optimizer if "optimizer" in given else before.optimizer
    names = [] if parent.snapshot.model_config.plain else ["ngram_embedding_lr"]
    if optimizer != "adamw" and before.muon_lr is not None:
        names.append("muon_lr")
    rates: dict[str, Any] = {
        name: getattr(before, name) * LEARNING_RATE_SHARE for name in names if name not in given
    }
    try:
        return replace(wanted, optimizer=optimizer, **rates)
    except ValueError as error:
        raise UsageError(str(error)) from None


def choose_finetuning(
    parent: Parent, corpus: Corpus, budget: Budget, model: ModelConfig, training: TrainingConfig
) -> Choice:
    """Plan a fine-tuning run, for the parent's size.

    Raises ValueError for settings that contradict each other, UsageError if the text is too short for a block size
    that cannot be reduced.
    """
    snapshot = parent.snapshot
    if model.prior and budget.seconds is not None:
        texts = [corpus] if parent.counted_corpus is None else [corpus, parent.counted_corpus]
        symbols = sum(len(text.train) for text in texts)
        share = min(MAX_PRIOR_SHARE, len(texts) * PRIOR_SHARE)
        training = limit_prior_chars(training, share * budget.seconds, symbols)
        training = replace(training, prior_chars=training.prior_chars or symbols)
    given = Size.of(snapshot.model_config, snapshot.training_config, LEARNING_RATE_SHARE)
    kind = single_kind(model, len(corpus.train))
    if training.members not in (None, kind):
        raise ValueError(
            f"`members={training.members}` contradicts {parent.name}, of which one transformer is fine-tuned; leave it out"
        )
    training = replace(training, members=kind)
    choice = choose(budget, len(corpus.train), model, training, given)
    n, block, was = corpus.vocabulary.n_symbols, choice.model.block_size, snapshot.model_config.block_size
    shapes = [
        {name: weight.shape for name, weight in expected_weights(config, n).items()}
        for config in (choice.model, replace(choice.model, block_size=was))
    ]
    if shapes[0] != shapes[1]:
        raise UsageError(
            f"`block_size={block}` differs from {was} in {parent.name}, whose {choice.model.position} positions have "
            f"weights, so it cannot change; leave it out, and give at least {2 * (was or 0) + 1} characters to train on"
        )
    return replace(choice, why=f"as in {one_line(parent.name)}, {choice.why}")


def load_parent_weights(session: TransformerSession, parent: Parent) -> None:
    """Load the parent's weights into a new session, with the parent's held-out text to measure forgetting on."""
    snapshot = parent.snapshot
    weights = grow_vocabulary(snapshot.weights, session.corpus.vocabulary.n_symbols)
    session.load_weights(weights)
    if parent.corpus is not None and session.ranks.is_first:
        text = _parent_text(session, parent.corpus)
        predictor = predictor_of(parent.whole, device=session.device)
        text = replace(text, parent=predictor, parent_ids=parent.corpus.held_out)
        session.parent_text = text if text.part.chunks else None


def reload_parent_text(session: TransformerSession, warn: Callable[[str], None]) -> None:
    """Find the parent's held-out text again for a resumed session; `warn` is called if it is missing.

    Raises CheckpointError if the state does not fit the text.
    """
    parent, loss = session.run.parent, session.state.parent_loss
    assert parent is not None and loss is not None
    try:
        text = _parent_text(session, parent_corpus(parent))
    except CheckpointError as error:
        warn(f"{error}; without that text, charlm cannot measure forgetting")
        return
    if len(loss.before_sums) != len(text.part.chunks):
        raise CheckpointError(
            f"state.json is damaged: before_sums has {len(loss.before_sums)} blocks, and the text has "
            f"{len(text.part.chunks)}"
        )
    session.parent_text = text


def _parent_text(session: TransformerSession, corpus: Corpus) -> ParentText:
    parent, config = session.run.parent, session.model_config
    assert parent is not None and config.block_size
    rule = ContextRule.of_model(replace(config, block_size=min(config.block_size, parent.block_size)))
    symbols = _symbols_to_score(session.plan, Size.of(config, session.training_config))
    ids = corpus.vocabulary.ids_in(session.corpus.vocabulary, corpus.held_out)
    part = spread(rule, len(ids), symbols, corpus.held_out_chars)
    return ParentText(parent.run, ids, corpus.held_out_chars, part, rule)


def _symbols_to_score(plan: Plan, size: Size) -> int:
    """Return how many symbols of the parent's held-out text there is time to score, by the plan's first decision."""
    first = plan.decisions[0] if plan.decisions else {}
    seconds = first.get("seconds")
    if not isinstance(seconds, int | float):
        return MAX_SCORED
    timed = read_as(tuple[StepTime, ...], first.get("timed", []), PLAN_FILE)
    symbol_seconds = Budget(timed=timed).scoring_seconds(plan.members[0].kind, size)
    return int(min(MAX_SCORED, max(MIN_SCORED, SCORING_SHARE * seconds / symbol_seconds)))
