"""The plain decoder that an export writes, and why a run may not be one."""

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
    """A decoder to export, with its run's weights, vocabulary and temperature."""

    name: str  # of the run's folder: files are named by it, and run.json may hold anything
    snapshot: Snapshot
    shape: Qwen3Shape
    temperature: float

    @property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary, whose ids are those of the exported model."""
        return self.snapshot.vocabulary

    @property
    def config(self) -> ModelConfig:
        """The configuration of the decoder in charlm."""
        return self.snapshot.model_config

    def qwen3(self, n_ids: int | None = None) -> dict[str, Tensor]:
        """Convert the weights to Qwen3's, with rows for so many ids: by default for all of the vocabulary."""
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
    """Return the name of a byte in tokenizers with byte fallback."""
    return f"<0x{byte:02X}>"


def plain_decoder(run: "Run") -> PlainDecoder:
    """Return the decoder of a run. Raises UsageError, with the command that trains a plain one, if it is not all that predicts."""
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
    """Say what in a run only charlm can compute; None for a plain decoder."""
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
    """Return the command that distils a plain decoder from a run, or, if the run cannot be a teacher, trains one."""
    facts, text = run.snapshot.run, run.text_config
    if text.val_file is not None:
        text = replace(text, val_file=relative(text.val_file))
    words = ["--plain"]
    if facts.parent is None:  # a fine-tuned run splits its text as its parent did, which a new one cannot
        words += ["--teacher", run.name, *folder_words(RunFolder(run.path))]
    sources = ["FILE" if path == "-" else relative(path) for path in facts.corpus.sources]
    return train_command(sources, words, (ModelConfig(), TrainingConfig(), text))


def tokenizer_json(decoder: PlainDecoder, to: str) -> bytes:
    """Return tokenizer.json for the `tokenizers` library: a BPE of characters without merges, with byte fallback. Raises UsageError."""
    tokenizers = need(to, "tokenizers")
    ids = {piece: i for i, piece in enumerate(decoder.pieces)}
    tokenizer: Any = tokenizers.Tokenizer(tokenizers.models.BPE(ids, [], byte_fallback=True))
    tokenizer.decoder = tokenizers.decoders.Sequence(
        [tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    )
    if decoder.vocabulary.end is not None:
        tokenizer.add_special_tokens([tokenizers.AddedToken(END_PIECE, special=True, normalized=False)])
    return str(tokenizer.to_str(pretty=True)).encode()
