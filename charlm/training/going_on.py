"""A new session that begins with the weights of another run, and looks after the text held out there."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from charlm.checkpoint.snapshot import expected_weights
from charlm.config import ModelConfig, TrainingConfig
from charlm.context import ContextRule
from charlm.errors import CheckpointError, UsageError
from charlm.model.grown import grown_weights
from charlm.predictor_of import predictor_of
from charlm.settings import settings_of
from charlm.terminal import one_line
from charlm.text.corpus import Corpus
from charlm.training.counting import SHARE as COUNTING_SHARE
from charlm.training.counting import within
from charlm.training.extend import size_of
from charlm.training.old_text import OldText, symbols_to_score
from charlm.training.origin import Origin
from charlm.training.plan import Budget, Choice, choose
from charlm.training.session import Session
from charlm.training.texts import corpus_of_facts, of_origin

FREE = ("dropout", "ngram_dropout", "counts_dropout", "block_size")
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
        ("ngram_rate",) if optimizer == "adamw" or before.muon_rate is None else ("muon_rate", "ngram_rate")
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
    if model.counts and budget.seconds is not None:
        texts = [corpus, *origin.beside.values()]
        counted = sum(len(text.train) for text in texts)
        share = min(MOST_COUNTING, len(texts) * COUNTING_SHARE)  # as much for each as it had by itself
        training = within(training, share * budget.seconds, counted)
        training = replace(training, counts_chars=training.counts_chars or counted)
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
    weights = grown_weights(snapshot.weights, session.corpus.vocabulary.n_symbols)
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
