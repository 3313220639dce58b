"""`--to hf`: write a folder that transformers loads without code of ours, and that `charlm train --from` reads back."""

from pathlib import Path
from typing import Any

from charlm import __version__, files
from charlm.checkpoint.exported import (
    CONFIG_FILE,
    OWN_FILE,
    WEIGHTS_FILE,
    ExportFacts,
    qwen3_config,
    without_paths,
)
from charlm.export.card import model_card
from charlm.export.decoder import END_PIECE, PlainDecoder, tokenizer_json
from charlm.inference.sampling_config import SamplingConfig
from charlm.strict_json import dump_json, parse_json, to_json


def write_hf(decoder: PlainDecoder, folder: Path) -> None:
    """Write the files of the model into a folder. Raises UsageError without the extra, OSError."""
    end = decoder.vocabulary.end
    contents = {
        CONFIG_FILE: dump_json(qwen3_config(decoder.shape, end)),
        "generation_config.json": dump_json(_generation_config(decoder)),
        "tokenizer.json": tokenizer_json(decoder, "hf"),
        "tokenizer_config.json": dump_json(_tokenizer_config(decoder)),
        WEIGHTS_FILE: _dump(decoder),
        OWN_FILE: dump_json(to_json(export_facts(decoder))),
        "README.md": model_card(decoder).encode(),
    }
    for name, data in contents.items():
        files.write_synced(folder / name, data)


def export_facts(decoder: PlainDecoder) -> ExportFacts:
    """Return the contents of charlm.json."""
    snapshot = decoder.snapshot
    text, corpus = without_paths(snapshot.run)
    return ExportFacts(
        charlm=__version__,
        name=decoder.name,
        step=snapshot.step,
        temperature=decoder.temperature,
        model=snapshot.model_config.to_json(),
        training=snapshot.training_config.to_json(),
        text=text,
        corpus=corpus,
        vocabulary=parse_json(snapshot.vocabulary.to_json().encode(), OWN_FILE),
        created=snapshot.run.created,
    )


def _dump(decoder: PlainDecoder) -> bytes:
    import safetensors.torch

    tensors = {name: tensor.contiguous() for name, tensor in decoder.qwen3().items()}
    return safetensors.torch.save(tensors, metadata={"format": "pt"})


def _generation_config(decoder: PlainDecoder) -> dict[str, Any]:
    """Return settings to sample as `charlm sample` does: its temperature, nothing cut off. Samples end with the context."""
    end = decoder.vocabulary.end
    return {
        "do_sample": True,
        "temperature": SamplingConfig().temperature,
        "top_k": 0,
        "top_p": 1.0,
        "max_length": decoder.shape.block_size,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
    }


def _tokenizer_config(decoder: PlainDecoder) -> dict[str, Any]:
    """Return settings under which nothing is added to or removed from a text, so that its ids are charlm's."""
    end = None if decoder.vocabulary.end is None else END_PIECE
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": True,
        "model_max_length": decoder.shape.block_size,
        "model_input_names": ["input_ids", "attention_mask"],
        "bos_token": end,
        "eos_token": end,
        "pad_token": end,
    }
