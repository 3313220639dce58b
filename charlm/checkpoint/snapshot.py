"""A checkpoint in memory: read from the files of a run folder and checked, or serialised to them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from charlm.checkpoint.run_folder import RunFacts, RunFolder, no_checkpoint
from charlm.checkpoint.safe_io import (
    EARLIER,
    NGRAM_FILE,
    OPTIMIZER_FILE,
    WEIGHTS_FILE,
    dump_tensors,
    load_tensors,
    read_manifest,
    read_verified,
    unless_gone,
)
from charlm.checkpoint.tensor_files import TensorFiles, check_tensors
from charlm.config import MOST_MEMBERS, ModelConfig, TrainingConfig
from charlm.data.tokenizer import Vocabulary
from charlm.errors import CheckpointError
from charlm.model.layers import is_matrix
from charlm.model.mixture import Mixture
from charlm.model.transformer import LanguageModel
from charlm.ngram.kneser_ney import KneserNey
from charlm.strict_json import dump_json, parse_json, read_as, to_json

S = TypeVar("S", ModelConfig, TrainingConfig)
FACTS_FILES = ("run.json", "vocabulary.json", "config.json", "state.json")
Tensors = Callable[[str, Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Reads the tensors of a file, model.safetensors or train_state.safetensors, which must match those it is given."""
TABLE = "ngrams.table"
"""The n-gram embeddings, which Adagrad trains row by row."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One of a run's several transformers, trained to its end."""

    model_config: ModelConfig
    training_config: TrainingConfig
    weights: Mapping[str, Tensor]


@dataclass(kw_only=True)
class Snapshot:
    """A run at one step: weights, configuration and state; the optimizer's tensors only if it is to be trained.

    Weights and the optimizer's tensors are in memory, or each is read when it is asked for. The configurations, `weights`
    and `optimizer` are those of the transformer trained last.
    """

    step: int
    earlier: tuple[Member, ...] = ()  # the transformers trained before it
    mixture: Mixture | None = None  # of the transformers trained to their end
    model_config: ModelConfig
    training_config: TrainingConfig
    vocabulary: Vocabulary
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor] = field(default_factory=dict)
    state: dict[str, Any]  # a RunState (charlm/training/state.py) as JSON
    run: RunFacts
    ngram: bytes | None = None  # the contents of the file of the n-gram model or prior, if the run has one

    @property
    def finished(self) -> str | None:
        """`done`, `early`, or None for an unfinished run."""
        finished = self.state.get("finished")
        return finished if finished in ("done", "early") else None

    @property
    def all_weights(self) -> dict[str, Tensor]:
        """The weights of all transformers, by their names in the file."""
        return {**self.weights, **named_earlier([member.weights for member in self.earlier])}

    def single(self) -> "Snapshot":
        """Return the run as a single transformer: the first of several, which has the n-gram prior if any has."""
        if not self.earlier:
            return replace(self, mixture=None)
        first = self.earlier[0]
        return replace(self, earlier=(), mixture=None, **vars(first))

    def files(self) -> dict[str, bytes]:
        """Serialise the checkpoint's own files, in the order in which they are written."""
        return {
            WEIGHTS_FILE: dump_tensors(self.all_weights),
            OPTIMIZER_FILE: dump_tensors(self.optimizer),
            **self.facts_files(),
        }

    def facts_files(self) -> dict[str, bytes]:
        """Serialise the checkpoint's files without tensors."""
        config: dict[str, Any] = {"model": self.model_config, "training": self.training_config}
        if self.earlier:
            earlier = [{"model": m.model_config, "training": m.training_config} for m in self.earlier]
            config[EARLIER] = earlier
        return {"config.json": dump_json(to_json(config)), "state.json": dump_json(self.state)}

    def run_files(self) -> dict[str, bytes]:
        """Serialise the files that all checkpoints of the run share."""
        ngram = {} if self.ngram is None else {NGRAM_FILE: self.ngram}
        facts = dump_json(to_json(self.run))
        return {"run.json": facts, "vocabulary.json": self.vocabulary.to_json().encode(), **ngram}

    def kneser_ney(self) -> KneserNey | None:
        """The run's n-gram model, None if it has none. Raises CheckpointError where it is damaged."""
        if self.ngram is None:
            return None
        return KneserNey.from_bytes(self.ngram, self.vocabulary.n_symbols, NGRAM_FILE)


def named_earlier(weights: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the weights of the transformers trained before the last one, by their names in the file."""
    return {
        f"{EARLIER}.{i}.{name}": weight for i, each in enumerate(weights) for name, weight in each.items()
    }


def empty_model(config: ModelConfig, n_symbols: int) -> LanguageModel:
    """Make a model on the meta device: names and shapes of its weights without their memory."""
    with torch.device("meta"):
        return LanguageModel(config, n_symbols)


def expected_weights(config: ModelConfig, n_symbols: int) -> dict[str, Tensor]:
    """Return the weights of a model of this configuration, on the meta device; an n-gram model has none."""
    return {} if config.is_ngram else dict(empty_model(config, n_symbols).state_dict())


def initial_optimizer_state(weights: Mapping[str, Tensor], optimizer: str | None) -> dict[str, Tensor]:
    """The optimizer's tensors before the first step, by name (`momentum.blocks.0...`)."""
    state = {}
    for name, weight in weights.items():
        if name == TABLE:
            state[f"row_square.{name}"] = weight.new_zeros(len(weight))
        elif optimizer == "muon" and is_matrix(name, weight):
            state[f"momentum.{name}"] = weight.new_zeros(weight.shape)
        else:
            state |= {
                f"{moment}.{name}": weight.new_zeros(weight.shape) for moment in ("exp_avg", "exp_avg_sq")
            }
    return state


def read_snapshot(run: RunFolder, which: str, *, training: bool = False, later: bool = False) -> Snapshot:
    """Read and verify the checkpoint `latest`, `best` or a step; with the optimizer's tensors for `training`.

    `later`: the tensors of the last transformer are verified, but each is read only when it is asked for. If another
    process prunes the checkpoint meanwhile, the pointer is followed once more. Raises CheckpointError or UsageError.
    """
    for _ in range(2):
        try:
            return _read(run, run.resolve(which), training, later)
        except FileNotFoundError:
            pass
    raise CheckpointError(f"the checkpoint {which} of {run.name} no longer exists")


def read_chosen(run: RunFolder, which: str | None) -> Snapshot:
    """Read the checkpoint of that name, for inference: by default the latest, or the best after early stopping."""
    snapshot = read_snapshot(run, which or "latest")
    return read_snapshot(run, "best") if which is None and snapshot.finished == "early" else snapshot


def read_newest(run: RunFolder, warn: Callable[[str], None], *, later: bool = False) -> Snapshot:
    """Read the newest whole checkpoint, for training; `warn` is called for each damaged one that is skipped.

    `later`: as in `read_snapshot`.
    """
    failure = no_checkpoint(run)
    for step in reversed(run.steps()):
        try:
            return read_snapshot(run, str(step), training=True, later=later)
        except CheckpointError as error:
            warn(f"the checkpoint of step {step} cannot be used ({error}); trying the previous one")
            failure = error
    raise failure


def _read(run: RunFolder, step: int, training: bool, later: bool) -> Snapshot:
    folder = run.folder(step)
    with unless_gone(folder):
        manifest = read_manifest(folder)
        if manifest.n_parts == 1 and not later:
            names = (WEIGHTS_FILE, OPTIMIZER_FILE) if training else (WEIGHTS_FILE,)
            data = read_verified(folder, (*FACTS_FILES, *names))
            return snapshot_of(data, step, tensors_in(data), training=training)

        def tensors(name: str, expected: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            check_tensors(folder, manifest, name, expected)
            found = TensorFiles(folder, manifest, name, expected)
            return found if later else dict(found)

        return snapshot_of(read_verified(folder, FACTS_FILES), step, tensors, training=training)


def tensors_in(data: Mapping[str, bytes]) -> Tensors:
    """Return a reader of tensors from files that are in memory."""
    return lambda name, expected: load_tensors(data[name], expected, name)


def snapshot_of(data: Mapping[str, bytes], step: int, tensors: Tensors, *, training: bool) -> Snapshot:
    """Build the checkpoint of a step from its files and those of its run. Raises CheckpointError."""
    config = parse_json(data["config.json"], "config.json")
    model_config, training_config = _configs(config)
    configs = _earlier_configs(config)
    try:
        vocabulary = Vocabulary.from_json(parse_json(data["vocabulary.json"], "vocabulary.json"))
    except ValueError as error:
        raise CheckpointError(f"vocabulary.json is damaged: {error}") from None
    facts = read_as(RunFacts, parse_json(data["run.json"], "run.json"), "run.json")
    state = parse_json(data["state.json"], "state.json")
    if state.get("step") != step:
        raise CheckpointError("state.json is damaged: it belongs to another step")
    if state.get("parent_loss") is not None and facts.parent is None:
        raise CheckpointError("state.json is damaged: it has parent_loss, but run.json names no parent")
    mixture = _mixture(state, 1 + len(configs))
    if configs and mixture is None:
        raise CheckpointError("state.json is damaged: it has no mixture of the run's transformers")
    priors = [
        model_config.prior,
        *(model.prior for model, _ in configs),
        mixture is not None and mixture.ngram,
    ]
    if any(priors) and NGRAM_FILE not in data:
        raise CheckpointError(f"the run has no {NGRAM_FILE}, which its model needs")
    expected = expected_weights(model_config, vocabulary.n_symbols)
    of_earlier = [expected_weights(model, vocabulary.n_symbols) for model, _ in configs]
    weights = tensors(WEIGHTS_FILE, {**expected, **named_earlier(of_earlier)})
    snapshot = Snapshot(
        step=step,
        model_config=model_config,
        training_config=training_config,
        vocabulary=vocabulary,
        weights=weights.only(expected)
        if isinstance(weights, TensorFiles)
        else {n: weights[n] for n in expected},
        earlier=tuple(
            Member(
                model_config=model,
                training_config=training,
                weights={name: weights[f"{EARLIER}.{i}.{name}"] for name in of_earlier[i]},
            )
            for i, (model, training) in enumerate(configs)
        ),
        mixture=mixture,
        state=state,
        run=facts,
        ngram=data.get(NGRAM_FILE),
    )
    if training:
        moments = initial_optimizer_state(expected, training_config.optimizer)
        snapshot.optimizer = tensors(OPTIMIZER_FILE, moments)
    return snapshot


def _configs(config: dict[str, Any]) -> tuple[ModelConfig, TrainingConfig]:
    """Parse the configurations of a transformer or an n-gram model, which must be complete."""
    model, training = (
        settings_from(ModelConfig, config.get("model"), "config.json"),
        settings_from(TrainingConfig, config.get("training"), "config.json"),
    )
    if not model.complete or not model.causal:
        raise CheckpointError("config.json is damaged: the model's shape is incomplete, or it is not causal")
    if not model.is_ngram and None in (training.batch_size, training.learning_rate):
        raise CheckpointError("config.json is damaged: batch_size or learning_rate is missing")
    return model, training


def _earlier_configs(config: dict[str, Any]) -> list[tuple[ModelConfig, TrainingConfig]]:
    """Parse the configurations of the transformers trained before the last one."""
    earlier = config.get(EARLIER, [])
    if not isinstance(earlier, list) or len(earlier) >= MOST_MEMBERS:
        raise CheckpointError(
            f"config.json is damaged: {EARLIER} must be a list of fewer than {MOST_MEMBERS}"
        )
    configs = [_configs(each if isinstance(each, dict) else {}) for each in earlier]
    if any(model.is_ngram for model, _ in configs):
        raise CheckpointError(f"config.json is damaged: {EARLIER} holds an n-gram model")
    return configs


def _mixture(state: dict[str, Any], most: int) -> Mixture | None:
    """Parse the mixture in state.json, of at most so many transformers."""
    if state.get("mixture") is None:
        return None
    values = state["mixture"] if isinstance(state["mixture"], dict) else {}
    mixture = read_as(Mixture, values, "state.json")
    if mixture.n_transformers > most:
        raise CheckpointError(f"state.json is damaged: its mixture has {mixture.n_transformers} transformers")
    return mixture


def settings_from(kind: type[S], values: Any, name: str) -> S:
    """Parse the configuration in the file `name`, and complete it. Raises CheckpointError where it is damaged."""
    try:
        return kind.from_json(values if isinstance(values, dict) else {}).completed()
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{name} is damaged: {error}") from None
