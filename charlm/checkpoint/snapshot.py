"""A checkpoint in memory, to files and back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from charlm.checkpoint.run_folder import RunFacts, RunFolder, no_checkpoint
from charlm.checkpoint.safe_io import NGRAM_FILE, dump_tensors, load_tensors, read_verified
from charlm.config import ModelConfig, TrainingConfig
from charlm.data.tokenizer import Vocabulary
from charlm.errors import CheckpointError
from charlm.model.layers import is_matrix
from charlm.model.transformer import LanguageModel
from charlm.ngram.kneser_ney import KneserNey
from charlm.strict_json import dump_json, parse_json, read_as, to_json

S = TypeVar("S", ModelConfig, TrainingConfig)
INFERENCE_FILES = ("run.json", "vocabulary.json", "config.json", "model.safetensors", "state.json")
OPTIMIZER_FILE = "train_state.safetensors"
TABLE = "ngrams.table"
"""The n-gram embeddings, which Adagrad trains row by row."""


@dataclass(kw_only=True)
class Snapshot:
    """A run at one step: weights, configuration and state; the optimizer's tensors only where they are needed."""

    step: int
    model_config: ModelConfig
    training_config: TrainingConfig
    vocabulary: Vocabulary
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, Any]  # a RunState (charlm/training/state.py) as JSON
    run: RunFacts
    ngram: bytes | None = None  # the file of the n-gram model or prior, if the run has one

    @property
    def finished(self) -> str | None:
        """`done`, `early`, or None for an unfinished run."""
        finished = self.state.get("finished")
        return finished if finished in ("done", "early") else None

    def files(self) -> dict[str, bytes]:
        """The checkpoint's own files, in the order in which they are written."""
        config = {"model": self.model_config, "training": self.training_config}
        return {
            "model.safetensors": dump_tensors(self.weights),
            OPTIMIZER_FILE: dump_tensors(self.optimizer),
            "config.json": dump_json(to_json(config)),
            "state.json": dump_json(self.state),
        }

    def run_files(self) -> dict[str, bytes]:
        """The files that all checkpoints of the run share."""
        ngram = {} if self.ngram is None else {NGRAM_FILE: self.ngram}
        facts = dump_json(to_json(self.run))
        return {"run.json": facts, "vocabulary.json": self.vocabulary.to_json().encode(), **ngram}

    def kneser_ney(self) -> KneserNey | None:
        """The run's n-gram model, None if it has none. Raises CheckpointError where it is damaged."""
        if self.ngram is None:
            return None
        return KneserNey.from_bytes(self.ngram, self.vocabulary.n_symbols, NGRAM_FILE)


def empty_model(config: ModelConfig, n_symbols: int) -> LanguageModel:
    """A model on the meta device: names and shapes of its weights without their memory."""
    with torch.device("meta"):
        return LanguageModel(config, n_symbols)


def expected_weights(config: ModelConfig, n_symbols: int) -> dict[str, Tensor]:
    """The weights that a model of this configuration has, on the meta device; an n-gram model has none."""
    return {} if config.is_ngram else dict(empty_model(config, n_symbols).state_dict())


def initial_optimizer_state(weights: Mapping[str, Tensor], optimizer: str | None) -> dict[str, Tensor]:
    """The optimizer's tensors before the first step, by name (`momentum.blocks.0...`)."""
    state = {}
    for name, weight in weights.items():
        if name == TABLE:
            state[f"row_square.{name}"] = torch.zeros_like(weight[:, 0])
        elif optimizer == "muon" and is_matrix(name, weight):
            state[f"momentum.{name}"] = torch.zeros_like(weight)
        else:
            state |= {f"{moment}.{name}": torch.zeros_like(weight) for moment in ("exp_avg", "exp_avg_sq")}
    return state


def read_snapshot(run: RunFolder, which: str, *, training: bool = False) -> Snapshot:
    """Read and verify the checkpoint `latest`, `best` or a step; with the optimizer's tensors for `training`.

    If another process prunes it meanwhile, the pointer is followed once more. Raises CheckpointError or UsageError.
    """
    for _ in range(2):
        try:
            return _read(run, run.resolve(which), training)
        except FileNotFoundError:
            pass
    raise CheckpointError(f"the checkpoint {which} of {run.name} no longer exists")


def read_newest(run: RunFolder, warn: Callable[[str], None]) -> Snapshot:
    """Read the newest whole checkpoint, for training; `warn` is called for each damaged one that is skipped."""
    failure = no_checkpoint(run)
    for step in reversed(run.steps()):
        try:
            return read_snapshot(run, str(step), training=True)
        except CheckpointError as error:
            warn(f"the checkpoint of step {step} cannot be used ({error}); trying the previous one")
            failure = error
    raise failure


def _read(run: RunFolder, step: int, training: bool) -> Snapshot:
    names = (*INFERENCE_FILES, OPTIMIZER_FILE) if training else INFERENCE_FILES
    data = read_verified(run.folder(step), names)
    config = parse_json(data["config.json"], "config.json")
    model_config = _settings(ModelConfig, config.get("model"))
    if not model_config.complete or not model_config.causal:
        raise CheckpointError("config.json is damaged: the model's shape is incomplete, or it is not causal")
    training_config = _settings(TrainingConfig, config.get("training"))
    if not model_config.is_ngram and None in (training_config.batch_size, training_config.learning_rate):
        raise CheckpointError("config.json is damaged: batch_size or learning_rate is missing")
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
    if model_config.prior and NGRAM_FILE not in data:
        raise CheckpointError(f"the run has no {NGRAM_FILE}, which its model needs")
    expected = expected_weights(model_config, vocabulary.n_symbols)
    snapshot = Snapshot(
        step=step,
        model_config=model_config,
        training_config=training_config,
        vocabulary=vocabulary,
        weights=load_tensors(data["model.safetensors"], expected, "model.safetensors"),
        state=state,
        run=facts,
        ngram=data.get(NGRAM_FILE),
    )
    if training:
        moments = initial_optimizer_state(expected, training_config.optimizer)
        snapshot.optimizer = load_tensors(data[OPTIMIZER_FILE], moments, OPTIMIZER_FILE)
    return snapshot


def _settings(kind: type[S], values: Any) -> S:
    try:
        return kind.from_json(values if isinstance(values, dict) else {}).completed()
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"config.json is damaged: {error}") from None
