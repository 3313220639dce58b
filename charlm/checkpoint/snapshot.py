"""What a checkpoint holds, to files and back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from charlm.checkpoint import safe_io as strict_json
from charlm.checkpoint import safe_io as tensors
from charlm.checkpoint.run_folder import RunFolder, no_checkpoint
from charlm.checkpoint.safe_io import NGRAM_FILE, read_vouched
from charlm.config import ModelConfig, TextConfig, TrainingConfig
from charlm.data.tokenizer import Vocabulary
from charlm.errors import CheckpointError
from charlm.model.layers import is_matrix
from charlm.model.transformer import LanguageModel
from charlm.ngram.kneser_ney import KneserNey
from charlm.terminal import one_line

S = TypeVar("S", ModelConfig, TrainingConfig)
MODEL_FILES = ("run.json", "vocabulary.json", "config.json", "model.safetensors", "state.json")


@dataclass(kw_only=True)
class Snapshot:
    """A moment of a run: weights to use, and (`optimizer`) what only training needs."""

    step: int
    model_config: ModelConfig
    training_config: TrainingConfig
    vocabulary: Vocabulary
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, Any]
    run: dict[str, Any]
    ngram: bytes | None = None  # the file of the run's n-gram model or prior, if it has one

    def files(self) -> dict[str, bytes]:
        """The checkpoint's files, in the order in which they are written."""
        config = {"model": self.model_config.to_json(), "training": self.training_config.to_json()}
        return {
            "model.safetensors": tensors.dump_tensors(self.weights),
            "train_state.safetensors": tensors.dump_tensors(self.optimizer),
            "config.json": strict_json.dump(config),
            "state.json": strict_json.dump({"step": self.step, **self.state}),
        }

    def run_files(self) -> dict[str, bytes]:
        """The files that all checkpoints of the run share."""
        ngram = {} if self.ngram is None else {NGRAM_FILE: self.ngram}
        facts = {
            "run.json": strict_json.dump(self.run),
            "vocabulary.json": self.vocabulary.to_json().encode(),
        }
        return facts | ngram

    def kneser_ney(self) -> KneserNey | None:
        """The run's n-gram model, checked; None if it has none. Raises CheckpointError if it is damaged."""
        if self.ngram is None:
            return None
        return KneserNey.from_bytes(self.ngram, self.vocabulary.n_symbols, NGRAM_FILE, self.vocabulary.end)


TABLE = "ngrams.table"
"""The weight that is learned row by row."""


def empty_model(config: ModelConfig, n_symbols: int) -> LanguageModel:
    """The model of a configuration without memory for its weights: their names and shapes."""
    with torch.device("meta"):
        return LanguageModel(config, n_symbols)


def expected_weights(config: ModelConfig, n_symbols: int) -> dict[str, Tensor]:
    """The weights of a model of that configuration, without memory for them; counts alone have none."""
    return {} if config.is_ngram else dict(empty_model(config, n_symbols).state_dict())


def remembered(weights: Mapping[str, Tensor], optimizer: str | None) -> dict[str, Tensor]:
    """What an optimizer keeps of each weight, by name (`momentum.blocks.0...`), as it is at the start."""
    kept = {}
    for name, weight in weights.items():
        if name == TABLE:
            kept[f"row_square.{name}"] = torch.zeros_like(weight[:, 0])
        elif optimizer == "muon" and is_matrix(name, weight):
            kept[f"momentum.{name}"] = torch.zeros_like(weight)
        else:
            kept |= {f"{kind}.{name}": torch.zeros_like(weight) for kind in ("exp_avg", "exp_avg_sq")}
    return kept


def read(run: RunFolder, which: str, *, training: bool = False) -> Snapshot:
    """A checkpoint of a run, verified; CheckpointError for any that isn't whole.

    If another process prunes it while it is read, the pointer is followed once more.
    """
    try:
        return _read(run, run.resolve(which), training)
    except FileNotFoundError:
        pass
    try:
        return _read(run, run.resolve(which), training)
    except FileNotFoundError:
        raise CheckpointError(f"the checkpoint {which} of {run.name} is gone") from None


def read_newest(run: RunFolder, warn: Callable[[str], None]) -> Snapshot:
    """The newest checkpoint that verifies, for going on with the run; says which were passed over."""
    failure = no_checkpoint(run)
    for step in reversed(run.steps()):
        try:
            return read(run, str(step), training=True)
        except CheckpointError as error:
            warn(f"the checkpoint of step {step} cannot be used ({error}); trying the one before")
            failure = error
    raise failure


def _read(run: RunFolder, step: int, training: bool) -> Snapshot:
    names = (*MODEL_FILES, "train_state.safetensors") if training else MODEL_FILES
    data = read_vouched(run.folder(step), names)
    parsed = {name: strict_json.parse(data[name], name) for name in names if name.endswith(".json")}
    config = parsed["config.json"]
    model_config = _settings(ModelConfig, config.get("model"))
    if not model_config.complete or not model_config.causal:
        raise CheckpointError("config.json is damaged: the model's shape is not complete, or it reads ahead")
    try:
        vocabulary = Vocabulary.from_json(parsed["vocabulary.json"])
    except ValueError as error:
        raise CheckpointError(f"vocabulary.json is damaged: {error}") from None
    expected = expected_weights(model_config, vocabulary.n_symbols)
    snapshot = Snapshot(
        step=step,
        model_config=model_config,
        training_config=_training(config.get("training"), alone=model_config.is_ngram),
        vocabulary=vocabulary,
        weights=tensors.load_tensors(data["model.safetensors"], expected, "model.safetensors"),
        state=parsed["state.json"],
        run=_run_facts(parsed["run.json"]),
        ngram=data.get(NGRAM_FILE),
    )
    if model_config.prior and snapshot.ngram is None:
        raise CheckpointError(f"the run has no {NGRAM_FILE}, which its model needs")
    if snapshot.state.pop("step", None) != step:
        raise CheckpointError("state.json is damaged: it is of another step")
    if snapshot.state.get("old_text") is not None and "from" not in snapshot.run:
        raise CheckpointError("state.json is damaged: it has old_text, and run.json names no run it is of")
    if training:
        moments = remembered(expected, snapshot.training_config.optimizer)
        snapshot.optimizer = tensors.load_tensors(
            data["train_state.safetensors"], moments, "train_state.safetensors"
        )
    return snapshot


def _settings(kind: type[S], values: Any) -> S:
    """A configuration from parsed JSON, completed; CheckpointError where it is none."""
    try:
        return kind.from_json(values if isinstance(values, dict) else {}).completed()
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"config.json is damaged: {error}") from None


def _training(values: Any, *, alone: bool) -> TrainingConfig:
    """The same for how it was trained, which a plan has completed before anything was saved.

    Counts `alone` are not trained by steps, and say nothing of them.
    """
    config = _settings(TrainingConfig, values)
    if not alone and (config.batch_size is None or config.learning_rate is None):
        raise CheckpointError("config.json is damaged: it does not say how the model was trained")
    return config


def _run_facts(data: dict[str, Any]) -> dict[str, Any]:
    """What run.json says, if it says what others count on; CheckpointError otherwise."""
    corpus = data.get("corpus")
    texts, numbers = ("label", "key", "sha256"), ("train_chars", "held_out_chars")
    if (
        not isinstance(corpus, dict)
        or not all(isinstance(corpus.get(name), str) for name in texts)
        or not all(type(corpus.get(name)) is int and 0 <= corpus[name] < 2**63 for name in numbers)
        or not isinstance(corpus.get("sources"), list)
        or not all(isinstance(data.get(name), dict) for name in ("text", "versions"))
    ):
        raise CheckpointError("run.json is damaged: it does not say what text was trained on, and with what")
    try:
        TextConfig.from_json(data["text"])
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"run.json is damaged: {one_line(str(error))}") from None
    if "from" in data:
        _check_origin(data["from"])
    return data


def _check_origin(origin: Any) -> None:
    """CheckpointError where that is not what a run keeps of the one it goes on from."""
    kinds = {
        "run": str,
        "step": int,
        "weights_sha256": str,
        "block_size": int,
        "beside": list,
        "earlier": dict,
    }
    if not isinstance(origin, dict) or not all(
        type(origin.get(name)) is kind for name, kind in kinds.items()
    ):
        raise CheckpointError("run.json is damaged: it does not say what the run goes on from")
    if origin["block_size"] < 1 or not 0 <= origin["step"] < 2**63:
        raise CheckpointError("run.json is damaged: block_size or step of the run it goes on from cannot be")
    _run_facts({"versions": {}, **origin})
