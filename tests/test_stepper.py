"""The NumPy path and the model: the same logits, for every attention model that can be."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from charlm.config import ModelConfig, SamplingConfig
from charlm.inference.generate import Piece, generate, sample_text
from charlm.inference.predictor import TransformerPredictor
from charlm.inference.sampling import sampling_weights
from charlm.inference.text_state import TextState
from charlm.model.fast_decoder import LONGEST_BLOCK, DecoderWeights, NumpyDecoder
from charlm.model.transformer import LanguageModel
from charlm.native.decoder import CDecoder
from tests.matrix import name_of, typical_models
from tests.test_predictor import VOCABULARY

pytestmark = pytest.mark.native

ATTENTION = [config for config in typical_models() if config.mixer == "attention"]
NGRAMS = [
    ModelConfig(
        n_layer=2, n_embd=8, n_head=2, block_size=5, dropout=0.0, ngram_embeddings=3, ngram_embedding_rows=64
    )
]

WIDER = [
    ModelConfig(
        n_layer=2,
        n_embd=24,
        n_head=4,
        n_kv_head=2,
        block_size=40,
        dropout=0.0,
        ngram_embeddings=4,
        ngram_embedding_rows=64,
    ),
    ModelConfig(
        n_layer=1, n_embd=40, n_head=2, block_size=37, dropout=0.0, position="learned", ngram_embeddings=1
    ),
]


def single(config: ModelConfig) -> LanguageModel:
    """A random model in fp32."""
    model = LanguageModel(config, VOCABULARY.n_symbols)
    for i, parameter in enumerate(model.parameters()):
        torch.nn.init.normal_(parameter, std=0.4, generator=torch.Generator().manual_seed(i))
    if model.ngrams is not None:
        with torch.no_grad():
            model.ngrams.table[model.ngrams.nothing] = 0  # as training leaves it
    return model.eval()


def read(predictor: TransformerPredictor, B: int, first: int = 2, n: int = 12) -> torch.Tensor:
    """Log-probabilities (n + 1, B, V): a piece first, then single characters, unknown ones among them."""
    ids = torch.randint(VOCABULARY.n_ids, (B, first + n), generator=torch.Generator().manual_seed(5))
    state, logps = predictor.start(B), []
    for piece in ids.split((first, *[1] * n), dim=1):
        state, logp = predictor.step(state, piece)
        logps.append(logp.clone())
    return torch.stack(logps)


class Plain(TransformerPredictor):
    """Reads by the model itself."""

    def start(self, batch_size: int) -> TextState:
        return TextState(self.rule, batch_size, self.model.new_cache(batch_size), None)


@pytest.mark.parametrize("config", [*ATTENTION, *NGRAMS], ids=name_of)
def test_it_says_what_the_model_says(config: ModelConfig) -> None:
    model = single(config)
    fast, slow = read(TransformerPredictor(model, VOCABULARY), 3), read(Plain(model, VOCABULARY), 3)
    torch.testing.assert_close(fast, slow, rtol=0, atol=2e-5)
    model.double()
    fast, slow = read(TransformerPredictor(model, VOCABULARY), 3), read(Plain(model, VOCABULARY), 3)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-10)


@pytest.mark.parametrize("B", [1, 3, 37])
@pytest.mark.parametrize("config", WIDER, ids=name_of)
def test_the_step_in_c_says_what_the_model_says(config: ModelConfig, B: int, clone: str) -> None:
    model = single(config)
    predictor = TransformerPredictor(model, VOCABULARY)
    assert isinstance(predictor.start(B).decoder, CDecoder)
    fast, slow = (read(p, B, first=70, n=60) for p in (predictor, Plain(model, VOCABULARY)))
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-4)


@pytest.mark.parametrize("config", WIDER, ids=name_of)
def test_a_draw_hardly_ever_falls_between_what_two_ways_of_computing_say(
    config: ModelConfig, kernels: None
) -> None:
    """So the same seed writes the same text elsewhere too, but for one in about so many characters."""
    model = single(config)
    ways = (
        TransformerPredictor(model, VOCABULARY),
        TransformerPredictor(model, VOCABULARY, native=False),
    )
    in_c, in_numpy, in_torch = (
        sampling_weights(read(way, 8, n=60).flatten(0, 1).numpy(), SamplingConfig())
        for way in (*ways, Plain(model, VOCABULARY))
    )
    edges = [(p / p.sum(axis=1, keepdims=True)).cumsum(axis=1) for p in (in_c, in_numpy, in_torch)]
    for other in edges[1:]:
        assert np.abs(edges[0] - other).sum(axis=1).mean() < 1e-5
    texts = {
        sample_text(way, "the", SamplingConfig(seed=3), 200) for way in (*ways, Plain(model, VOCABULARY))
    }
    assert len(texts) == 1


def test_the_compiled_step_leaves_small_numbers_as_they_are(kernels: None) -> None:
    assert np.float32(1e-39) * np.float32(0.5) > 0, "as -ffast-math would have it for the whole process"


def test_scores_too_high_for_exponentials_are_lowered_first(kernels: None) -> None:
    model = single(NGRAMS[0])
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "k_norm" in name:
                weight.fill_(200.0)
    predictor = TransformerPredictor(model, VOCABULARY)
    assert isinstance(predictor.start(1).decoder, NumpyDecoder)
    torch.testing.assert_close(read(predictor, 3), read(Plain(model, VOCABULARY), 3), rtol=0, atol=2e-4)


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0}, {"top_k": 3}, {"top_p": 0.7}, {"min_p": 0.1, "temperature": 1.5}]
)
def test_texts_are_those_of_the_model_itself(settings: dict[str, float]) -> None:
    model = single(NGRAMS[0]).double()
    config = SamplingConfig(seed=4, **settings)

    def texts(predictor: TransformerPredictor, n: int) -> list[str]:
        found = [""] * n
        for event in generate(predictor, "the cat", config, n=n, length=90, stops=["e", "th"][: n - 1]):
            if isinstance(event, Piece):
                found[event.sample] += event.text
        return found

    for n in (1, 2, 3):
        assert texts(TransformerPredictor(model, VOCABULARY), n) == texts(Plain(model, VOCABULARY), n)


@pytest.mark.parametrize("kind", [Plain, TransformerPredictor])
def test_of_a_long_prompt_the_model_reads_what_it_can_see(
    kind: type[TransformerPredictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, seen = kind(single(NGRAMS[0]), VOCABULARY, native=False), []
    real, fast = LanguageModel.hidden, NumpyDecoder.next_logits

    def hidden(self: LanguageModel, ids: torch.Tensor, cache: object, **more: object) -> torch.Tensor:
        seen.append(ids.shape[1])
        return real(self, ids, cache, **more)  # type: ignore[arg-type]

    def stepped(self: NumpyDecoder, ids: np.ndarray, at: int, told: np.ndarray | None) -> np.ndarray:
        seen.append(ids.shape[1] - at)
        return fast(self, ids, at, told)

    monkeypatch.setattr(LanguageModel, "hidden", hidden)
    monkeypatch.setattr(NumpyDecoder, "next_logits", stepped)
    next(generate(predictor, "the cat " * 12_500, SamplingConfig(seed=1), n=2, length=1))
    assert len(seen) == 1 and seen[0] <= predictor.rule.block_size


def test_it_stands_for_attention_in_blocks_that_are_not_too_long() -> None:
    assert not DecoderWeights.supports(single(NGRAMS[0]).bfloat16())
    mixed = ModelConfig(n_layer=2, n_embd=8, n_head=2, block_size=5, mixer="attention,convolution")
    assert not DecoderWeights.supports(single(mixed))
    assert not DecoderWeights.supports(single(replace(NGRAMS[0], block_size=LONGEST_BLOCK + 1)))
