"""Plain decoders whose weights all act, without training, and what charlm says of them."""

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from charlm.checkpoint.run_folder import CorpusFacts, RunFacts
from charlm.checkpoint.snapshot import Snapshot, expected_weights
from charlm.config import ModelConfig, TrainingConfig
from charlm.data.prepare import prepare
from charlm.data.text_config import TextConfig
from charlm.data.tokenizer import END, Vocabulary
from charlm.export.decoder import PlainDecoder
from charlm.inference.generate import sample_text
from charlm.inference.predictor import TransformerPredictor
from charlm.inference.sampling_config import SamplingConfig
from charlm.model.mixture import Mixture
from charlm.model.qwen3 import Qwen3Shape
from charlm.strict_json import to_json
from charlm.training.guards import Divergence
from charlm.training.state import RunState

ODD = "\0\x01\x07\t\n\r\x1b\x7f\u0085\u2028 <0x0A>▁é東😀\ufeff\ufffd\U0010ffff"
"""Characters that mean something to other programs, and one of the last plane."""
PROSE = "The little old duck went over the river. " * 9
TEMPERATURE = 1.25


@cache
def vocabularies() -> dict[str, Vocabulary]:
    """Vocabularies of every kind."""
    plain, wide = Vocabulary.build(PROSE), Vocabulary.build(PROSE + ODD)
    return {
        "plain": plain,
        "odd": wide,
        "spelled": Vocabulary.build(PROSE * 2 + ODD, min_count=2),
        "documents": Vocabulary.build(PROSE + END + ODD + END),
        "bytes": Vocabulary.build(PROSE + ODD, units="bytes"),
        "extended": plain.extended(wide).extended(Vocabulary.build("Ünö" + END)),
    }


def every_plane() -> str:
    """Text from all of Unicode, with what a tokenizer may take for its own names."""
    points = [
        plane << 16 | low
        for plane in range(17)
        for low in (0, 1, 0x20, 0x7F, 0xFF, 0x2580, 0xD7FF, 0xE000, 0xFFFF)
    ]
    names = "<0x0A> <|endoftext|> </s> <s> <unk> [PAD] ## Ġ"
    return names + PROSE[:50] + ODD.replace("▁", "") + "".join(map(chr, points)) + "  two  spaces  "


def decoder_of(
    vocabulary: Vocabulary,
    *,
    n_layer: int = 2,
    n_embd: int = 64,
    n_head: int = 2,
    n_kv_head: int | None = None,
    block_size: int = 64,
    documents: str = "none",
    query_size: float = 1.0,
) -> PlainDecoder:
    """A decoder of that shape with random weights; those that make queries, keys and values are `query_size` times as large."""
    config = ModelConfig(
        n_layer=n_layer,
        n_embd=n_embd,
        n_head=n_head,
        n_kv_head=n_kv_head,
        block_size=block_size,
        dropout=0.0,
        plain=True,
    ).completed()
    generator = torch.Generator().manual_seed(n_embd)
    weights = {
        name: torch.randn(weight.shape, generator=generator) * 1.5 / weight.shape[1] ** 0.5
        if weight.ndim == 2
        else 0.5 + torch.rand(weight.shape, generator=generator)
        for name, weight in expected_weights(config, vocabulary.n_symbols).items()
    }
    for name in weights:
        weights[name] *= query_size if "qkv" in name else 1
    facts = prepare(PROSE * 20, TextConfig())
    snapshot = Snapshot(
        step=7,
        mixture=Mixture(n_transformers=1, ngram=False, bias=(1 / TEMPERATURE,), weights=((),)),
        model_config=config,
        training_config=TrainingConfig(batch_size=4, learning_rate=1e-3, optimizer="adamw"),
        vocabulary=vocabulary,
        weights=weights,
        state=to_json(RunState(divergence=Divergence(unigram_nats=3.0), step=7)),
        run=RunFacts(
            name="toy",
            command="",
            created="",
            corpus=CorpusFacts(
                label="/home/me/toy.txt", sources=("/home/me/toy.txt",), key=facts.key, sha256=facts.sha256
            ),
            text=TextConfig(documents=documents),
        ),
    )
    shape = Qwen3Shape.of(config, vocabulary.n_symbols, vocabulary.n_ids)
    return PlainDecoder("toy", snapshot, shape, TEMPERATURE)


def predictor_of(decoder: PlainDecoder) -> TransformerPredictor:
    """What charlm predicts with."""
    return TransformerPredictor.of(
        decoder.config, decoder.snapshot.weights, decoder.vocabulary, None, temperature=decoder.temperature
    )


@torch.inference_mode()
def logits_of(decoder: PlainDecoder, ids: Tensor) -> Tensor:
    """charlm's logits (B, T, symbols) after ids (B, T), the temperature included."""
    return predictor_of(decoder).model(ids) / decoder.temperature  # type: ignore[no-any-return]


def greedy(decoder: PlainDecoder, prompt: str, length: int) -> str:
    """What charlm writes when it always takes the likeliest character."""
    return sample_text(predictor_of(decoder), prompt, SamplingConfig(temperature=0, seed=1), length)


def some_ids(decoder: PlainDecoder, B: int, T: int) -> Tensor:
    """Random ids (B, T), untrained bytes among them."""
    return torch.randint(0, decoder.shape.n_ids, (B, T), generator=torch.Generator().manual_seed(3))


def texts() -> Iterator[str]:
    """Texts whose ids must be equal elsewhere."""
    yield from ("", "a", " ", "\n", "\0", "Hello  world\n", every_plane(), ODD.replace("▁", ""))
