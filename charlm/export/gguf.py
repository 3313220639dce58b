"""`--to gguf`: write a file for llama.cpp, and a Modelfile with which ollama runs it.

Its tokenizer is Llama 2's (SentencePiece), which looks up the characters of a text in the vocabulary, and encodes those
it does not find as bytes. Nothing is merged, since no piece has two characters.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from charlm import files
from charlm.export import need
from charlm.export.decoder import END_PIECE, PlainDecoder, byte_piece
from charlm.inference.sampling_config import SamplingConfig

TYPES = ("f32", "f16", "q8_0")
SPACE, SPACE_PIECE = " ", "\u2581"
MODELFILE = """FROM ./{file}
TEMPLATE \"\"\"{{{{ .Prompt }}}}\"\"\"
PARAMETER num_ctx {block_size}
PARAMETER num_predict {block_size}
PARAMETER temperature {temperature}
PARAMETER top_k 0
PARAMETER top_p 1
PARAMETER min_p 0
PARAMETER repeat_penalty 1
"""
"""ollama's default repetition penalty is meant for words; letters all repeat, so it is turned off."""


@dataclass(frozen=True)
class Token:
    """An entry of llama.cpp's vocabulary."""

    text: str
    kind: str  # the name of a gguf.TokenType


def write_gguf(decoder: PlainDecoder, folder: Path, number_format: str = "f16") -> None:
    """Write NAME.gguf and Modelfile into a folder. Raises UsageError without the extra, OSError."""
    gguf = need("gguf", "gguf")
    path, draft = folder / f"{decoder.name}.gguf", folder / "draft"
    tokens = list(tokens_of(decoder))
    writer = gguf.GGUFWriter(draft, "qwen3")
    _add_model(writer, gguf, decoder, number_format)
    _add_tokenizer(writer, gguf, decoder, tokens)
    _add_tensors(writer, gguf, decoder, len(tokens), number_format)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    files.write_synced(path, draft.read_bytes())  # synced to the disk, which gguf does not do
    draft.unlink()
    sampling = {"block_size": decoder.shape.block_size, "temperature": SamplingConfig().temperature}
    files.write_synced(folder / "Modelfile", MODELFILE.format(file=path.name, **sampling).encode())


def tokens_of(decoder: PlainDecoder) -> Iterator[Token]:
    """Yield the entry of llama.cpp's vocabulary for each id, and an end of document for a model without documents.

    That one serves as the special ids that a file must name; the usual ones are characters here. llama.cpp replaces each
    space by U+2581 before look-up, and each U+2581 by a space on output. If the vocabulary has U+2581 too, both are
    user-defined tokens, which are matched literally, though in time quadratic in the length of a text. A NUL would end
    a name there, so its id has the name of the byte, whose own id no text ever gets.
    """
    vocabulary, pieces = decoder.vocabulary, decoder.pieces
    space, both = int(vocabulary.encode(SPACE)[0]), SPACE_PIECE in vocabulary.chars
    for i, piece in enumerate(pieces):
        if i == vocabulary.end:
            yield Token(END_PIECE, "CONTROL")
        elif i == space:
            yield Token(SPACE, "USER_DEFINED") if both else Token(SPACE_PIECE, "NORMAL")
        elif piece == SPACE_PIECE:
            yield Token(piece, "USER_DEFINED")
        elif piece == "\0":
            yield Token(byte_piece(0), "BYTE")
        elif piece == byte_piece(0) and "\0" in vocabulary.chars:
            yield Token("<unused>", "UNUSED")
        else:
            yield Token(piece, "NORMAL" if len(piece) == 1 else "BYTE")
    if vocabulary.end is None:
        yield Token(END_PIECE, "CONTROL")


def _add_model(writer: Any, gguf: Any, decoder: PlainDecoder, number_format: str) -> None:
    shape = decoder.shape
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(decoder.name)
    writer.add_file_type(
        {
            "f32": gguf.LlamaFileType.ALL_F32,
            "f16": gguf.LlamaFileType.MOSTLY_F16,
            "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
        }[number_format]
    )
    writer.add_context_length(shape.block_size)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(shape.wide_hidden)
    writer.add_block_count(shape.n_layer)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_kv_head)
    writer.add_key_length(shape.head_size)
    writer.add_value_length(shape.head_size)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_rope_freq_base(10_000.0)


def _add_tokenizer(writer: Any, gguf: Any, decoder: PlainDecoder, tokens: list[Token]) -> None:
    end = decoder.vocabulary.end
    special = len(tokens) - 1 if end is None else end
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([token.text for token in tokens])
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([gguf.TokenType[token.kind] for token in tokens])
    writer.add_bos_token_id(special)
    writer.add_eos_token_id(special)
    writer.add_unk_token_id(special)
    writer.add_pad_token_id(special)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)


def _add_tensors(writer: Any, gguf: Any, decoder: PlainDecoder, n_ids: int, number_format: str) -> None:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, decoder.shape.n_layer)
    for name, tensor in decoder.qwen3(n_ids).items():
        array, kind = tensor.numpy(), gguf.GGMLQuantizationType.F32
        if array.ndim == 2 and number_format == "q8_0" and array.shape[1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            array = gguf.quants.quantize(array, kind)
        elif array.ndim == 2 and number_format != "f32":  # also rows that do not fill whole blocks of q8_0
            array, kind = array.astype(np.float16), gguf.GGMLQuantizationType.F16
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), array, raw_dtype=kind)
