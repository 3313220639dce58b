"""What can be exported: a run that predicts with one plain decoder, and nothing else."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from charlm.checkpoint.run_folder import RunFolder, folder_words
from charlm.checkpoint.snapshot import Snapshot
from charlm.config import NGRAM, ModelConfig, TrainingConfig
from charlm.data.tokenizer import Vocabulary
from charlm.errors import UsageError
from charlm.export import need
from charlm.model.qwen3 import Qwen3Shape, to_qwen3, why_not_qwen3
from charlm.reporting.commands import relative, train_command
from charlm.terminal import one_line
from charlm.training.describe import joined

if TYPE_CHECKING:
    from charlm.run import Run

END_PIECE = "<|endoftext|>"
"""The name of the end of a document in other programs' vocabularies."""


@dataclass(frozen=True)
class PlainDecoder:
    """A decoder to export: its weights, vocabulary and temperature, and the run that they are of."""

    name: str  # of the run's folder: files are named by it, and run.json may hold anything
    snapshot: Snapshot
    shape: Qwen3Shape
    temperature: float

    @property
    def vocabulary(self) -> Vocabulary:
        """Its ids are those of the exported model."""
        return self.snapshot.vocabulary

    @property
    def config(self) -> ModelConfig:
        """The shape of the decoder, as charlm has it."""
        return self.snapshot.model_config

    def qwen3(self, n_ids: int | None = None) -> dict[str, Tensor]:
        """The weights as those of Qwen3, with rows for so many ids: by default for all of the vocabulary."""
        shape = self.shape if n_ids is None else replace(self.shape, n_ids=n_ids)
        return to_qwen3(self.snapshot.weights, shape, self.temperature)

    @cached_property
    def pieces(self) -> list[str]:
        """What each id stands for: a character, a byte as `<0x0A>`, or the end of a document."""
        v = self.vocabulary
        found = [END_PIECE] * v.n_ids
        for byte, i in enumerate(v.id_of_byte.tolist()):
            found[i] = byte_piece(byte)
        for char, i in zip(v.chars, v.encode(v.chars).tolist(), strict=True):
            found[i] = char
        return found


def byte_piece(byte: int) -> str:
    """A byte as tokenizers with byte fallback name it."""
    return f"<0x{byte:02X}>"


def plain_decoder(run: "Run") -> PlainDecoder:
    """The decoder of a run. Raises UsageError if it is not all that predicts, with the command that trains one that is."""
    snapshot, why = run.snapshot, why_not_plain(run.snapshot)
    if why is not None:
        raise UsageError(
            f"{one_line(run.name)} {why}, which only charlm computes; train a plain decoder that learns its "
            f"probabilities, and export that: {one_line(plain_command(run))}"
        )
    v, mixture = snapshot.vocabulary, snapshot.mixture
    shape = Qwen3Shape.of(snapshot.model_config, v.n_symbols, v.n_ids)
    return PlainDecoder(run.name, snapshot, shape, (mixture.temperature if mixture else None) or 1.0)


def why_not_plain(snapshot: Snapshot) -> str | None:
    """What in a run only charlm computes, in words; None for a plain decoder."""
    mixture = snapshot.mixture
    if mixture is not None and mixture.n_members > 1:
        configs = [member.model_config for member in snapshot.earlier] + [snapshot.model_config]
        kinds = [config.kind for config in configs[: mixture.n_transformers]]
        return f"is a mixture of {joined([*kinds, *[NGRAM] * mixture.ngram])}"
    if snapshot.earlier and mixture is None:
        return "is to be a mixture of several models"
    if mixture is not None and mixture.recent is not None:
        return "corrects its predictions by recent n-grams"
    return why_not_qwen3(snapshot.model_config)


def plain_command(run: "Run") -> str:
    """The command that trains a plain decoder on a run's text, with that run as its teacher where it can be one."""
    facts, text = run.snapshot.run, run.text_config
    if text.val_file is not None:
        text = replace(text, val_file=relative(text.val_file))
    words = ["--plain"]
    if facts.parent is None:  # a fine-tuned run divides its text as its parent did, which a new one cannot
        words += ["--teacher", run.name, *folder_words(RunFolder(run.path))]
    sources = ["FILE" if path == "-" else relative(path) for path in facts.corpus.sources]
    return train_command(sources, words, (ModelConfig(), TrainingConfig(), text))


def tokenizer_json(decoder: PlainDecoder, to: str) -> bytes:
    """tokenizer.json for the library `tokenizers`: characters as a BPE without merges; a character without an id is spelled in bytes. Raises UsageError."""
    tokenizers = need(to, "tokenizers")
    ids = {piece: i for i, piece in enumerate(decoder.pieces)}
    tokenizer: Any = tokenizers.Tokenizer(tokenizers.models.BPE(ids, [], byte_fallback=True))
    tokenizer.decoder = tokenizers.decoders.Sequence(
        [tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    )
    if decoder.vocabulary.end is not None:
        tokenizer.add_special_tokens([tokenizers.AddedToken(END_PIECE, special=True, normalized=False)])
    return str(tokenizer.to_str(pretty=True)).encode()
