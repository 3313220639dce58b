"""Read a folder that `charlm export --to hf` wrote, as strictly as a checkpoint, and describe what its files hold."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from torch import Tensor

from charlm.checkpoint.run_folder import CorpusFacts, RunFacts
from charlm.checkpoint.safe_io import FileEntry, load_tensors, read_file, read_json
from charlm.checkpoint.snapshot import Snapshot, settings_from
from charlm.config import ModelConfig, TrainingConfig
from charlm.data.text_config import TextConfig
from charlm.data.tokenizer import Vocabulary
from charlm.errors import CheckpointError
from charlm.model.mixture import Mixture
from charlm.model.qwen3 import ROPE_BASE, Qwen3Shape, from_qwen3, why_not_qwen3
from charlm.strict_json import read_as, to_json
from charlm.terminal import one_line

CONFIG_FILE, WEIGHTS_FILE, OWN_FILE = "config.json", "model.safetensors", "charlm.json"
FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class ExportFacts:
    """The contents of charlm.json: all of a run that the files of Qwen3 have no place for."""

    format: int = FORMAT
    charlm: str  # the version that wrote it
    name: str
    step: int
    temperature: float  # already applied to the weights
    model: dict[str, Any]
    training: dict[str, Any]
    text: TextConfig
    corpus: CorpusFacts
    vocabulary: dict[str, Any]
    created: str


def without_paths(facts: RunFacts) -> tuple[TextConfig, CorpusFacts]:
    """Return the facts about a run's text without the folders of this computer, since an export is passed on."""
    text, corpus = facts.text, facts.corpus
    if text.val_file is not None:
        text = replace(text, val_file=PurePath(text.val_file).name)
    label = " ".join(PurePath(word).name or word for word in corpus.label.split())
    return text, replace(corpus, label=label, sources=(), earlier=None)


def qwen3_config(shape: Qwen3Shape, end: int | None) -> dict[str, Any]:
    """Return config.json for transformers; `end` is the id that ends a document. `rope_theta` is for versions before 5."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": shape.n_ids,
        "hidden_size": shape.width,
        "intermediate_size": shape.wide_hidden,
        "num_hidden_layers": shape.n_layer,
        "num_attention_heads": shape.n_head,
        "num_key_value_heads": shape.n_kv_head,
        "head_dim": shape.head_size,
        "hidden_act": "silu",
        "max_position_embeddings": shape.block_size,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": ROPE_BASE,
        "rope_parameters": {"rope_type": "default", "rope_theta": ROPE_BASE},
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "use_cache": True,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "dtype": "float32",
    }


def is_exported(folder: Path) -> bool:
    """Whether it is a folder as `charlm export --to hf` or transformers writes it."""
    return (folder / CONFIG_FILE).is_file() and not (folder / "run.json").exists()


def read_exported(folder: Path) -> tuple[Snapshot, str]:
    """Read the run in an exported folder, and the SHA-256 of its weights. Raises CheckpointError.

    Nothing but JSON and safetensors is read. Tensors are checked before they are loaded, and must be those that charlm wrote.
    """
    shown = one_line(str(folder))
    if not (folder / OWN_FILE).is_file():
        raise CheckpointError(
            f"{shown} has no {OWN_FILE}: only a folder that `charlm export --to hf` wrote can be fine-tuned"
        )
    values = read_json(folder / OWN_FILE)
    if values.get("format") != FORMAT:
        raise CheckpointError(
            f"{OWN_FILE} has format {one_line(repr(values.get('format')))}; this version of charlm reads format {FORMAT}"
        )
    facts = read_as(ExportFacts, values, OWN_FILE)
    model = settings_from(ModelConfig, facts.model, OWN_FILE)
    training = settings_from(TrainingConfig, facts.training, OWN_FILE)
    try:
        vocabulary = Vocabulary.from_json(facts.vocabulary)
        alone = Mixture(n_transformers=1, ngram=False, bias=(1 / facts.temperature,), weights=((),))
    except (ValueError, ZeroDivisionError) as error:
        raise CheckpointError(f"{OWN_FILE} is damaged: {one_line(str(error))}") from None
    if not model.complete or why_not_qwen3(model) is not None:
        raise CheckpointError(f"{OWN_FILE} is damaged: its model is no plain decoder")
    shape = Qwen3Shape.of(model, vocabulary.n_symbols, vocabulary.n_ids)
    _check_config(read_json(folder / CONFIG_FILE), qwen3_config(shape, vocabulary.end))
    weights, sha256 = _read_weights(folder, shape, facts.temperature)
    run = RunFacts(name=facts.name, command="", created=facts.created, corpus=facts.corpus, text=facts.text)
    snapshot = Snapshot(
        step=facts.step,
        mixture=alone,
        model_config=model,
        training_config=training,
        vocabulary=vocabulary,
        weights=weights,
        state={"step": facts.step},
        run=run,
    )
    return snapshot, sha256


def _check_config(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise CheckpointError if config.json describes another model; what does not change the weights' meaning may differ."""
    free = (
        "architectures",
        "rope_theta",
        "use_cache",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "dtype",
    )
    for name, value in expected.items():
        if name not in free and found.get(name) != value:
            got = one_line(repr(found.get(name)))
            raise CheckpointError(
                f"{CONFIG_FILE} was changed: `{name}` is {got}; {OWN_FILE} needs {to_json(value)}"
            )


def _read_weights(folder: Path, shape: Qwen3Shape, temperature: float) -> tuple[dict[str, Tensor], str]:
    import torch  # here: `charlm runs` need not wait for torch

    with torch.device("meta"):
        expected = {name: torch.empty(size) for name, size in shape.tensors().items()}
    room = 4 * sum(tensor.numel() for tensor in expected.values()) + (1 << 20)
    data = read_file(folder / WEIGHTS_FILE, room)
    tensors = load_tensors(data, expected, WEIGHTS_FILE)
    try:
        return from_qwen3(tensors, shape, temperature), FileEntry.of(data).sha256
    except ValueError as error:
        raise CheckpointError(
            f"{WEIGHTS_FILE} cannot be read back: {error}; only weights that `charlm export` wrote can be"
        ) from None
