"""The fast decoder in C and the model in torch: the same logits, wherever the decoder fits the model."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from charlm.config import ModelConfig
from charlm.inference.generate import generate, sample_text
from charlm.inference.predictor import TransformerPredictor
from charlm.inference.sampling import sampling_weights
from charlm.inference.sampling_config import SamplingConfig
from charlm.model.fast_decoder import arranged, fast_decoder_fits
from charlm.model.transformer import LanguageModel
from charlm.native.decoder import CDecoder, LayerArrays, ModelArrays
from charlm.native.library import library
from charlm.ngram.build import build
from tests.matrix import name_of, typical_models
from tests.test_predictor import VOCABULARY

pytestmark = pytest.mark.native

SMALL = ModelConfig(
    n_layer=2, n_embd=8, n_head=2, block_size=5, dropout=0.0, ngram_embeddings=3, ngram_embedding_rows=64
)
PRIOR = replace(SMALL, block_size=21, prior=True, prior_order=3)
GROUPED = ModelConfig(
    n_layer=2, n_embd=24, n_head=4, n_kv_head=2, block_size=70, dropout=0.0, ngram_embeddings=4,
    ngram_embedding_rows=64,
)  # fmt: skip
WIDE = ModelConfig(n_layer=2, n_embd=136, n_head=1, block_size=37, dropout=0.0, position="learned")
MANY_HEADS = ModelConfig(
    n_layer=2, n_embd=80, n_head=40, n_kv_head=1, block_size=33, dropout=0.0, prior=True, prior_order=2
)
PLAIN_POSITIONS = ("none", "learned", "sinusoidal", "rotary")
FITTING = [
    config
    for config in typical_models()
    if config.mixer == "attention" and config.position in PLAIN_POSITIONS
    if config.window is None and not config.locality
]
ATTENTION = [config for config in typical_models() if config.mixer == "attention"]


def single(config: ModelConfig) -> LanguageModel:
    """A random model in fp32."""
    model = LanguageModel(config, VOCABULARY.n_symbols)
    for i, parameter in enumerate(model.parameters()):
        torch.nn.init.normal_(parameter, std=0.4, generator=torch.Generator().manual_seed(i))
    if model.ngrams is not None:
        with torch.no_grad():
            model.ngrams.table[model.ngrams.nothing] = 0  # as training leaves it
    return model.eval()


def predictor_of(model: LanguageModel, *, native: bool = True) -> TransformerPredictor:
    """Of a random n-gram prior where the model has one."""
    prior = None
    if model.prior is not None:
        ids = np.random.default_rng(3).zipf(1.3, 900).clip(max=VOCABULARY.n_symbols) - 1
        prior = build(ids, VOCABULARY.n_symbols, model.config.prior_order or 0, memory=1 << 28).model
    return TransformerPredictor(model, VOCABULARY, prior, native=native)


def read(predictor: TransformerPredictor, B: int, first: int = 2, n: int = 12) -> torch.Tensor:
    """Log-probabilities (n + 1, B, V): a piece first, then single characters, unknown ones among them."""
    ids = torch.randint(VOCABULARY.n_ids, (B, first + n), generator=torch.Generator().manual_seed(5))
    state, logps = predictor.start(B), []
    assert (state.decoder is None) == (predictor.kernels == "none")
    for piece in ids.split((first, *[1] * n), dim=1):
        state, logp = predictor.step(state, piece)
        logps.append(logp.clone())
    return torch.stack(logps).double()


def both(model: LanguageModel, B: int, **how: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What the decoder and what torch say."""
    return read(predictor_of(model), B, **how), read(predictor_of(model, native=False), B, **how)


@pytest.mark.parametrize("config", FITTING, ids=name_of)
def test_it_says_what_the_model_says(config: ModelConfig, kernels: None) -> None:
    fast, slow = both(single(config), 3)
    torch.testing.assert_close(fast, slow, rtol=0, atol=2e-5)


@pytest.mark.parametrize("B", [1, 3, 37])
@pytest.mark.parametrize("config", [SMALL, PRIOR, GROUPED, WIDE, MANY_HEADS], ids=name_of)
def test_every_clone_says_what_the_model_says(config: ModelConfig, B: int, clone: str) -> None:
    """Over a text longer than a block, so that its end is read again."""
    fast, slow = both(single(config), B, first=70, n=80)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-4)


@pytest.mark.parametrize("piece", [1, 2, 7, 30])
def test_a_text_may_be_read_in_pieces(piece: int, kernels: None) -> None:
    model = single(replace(PRIOR, block_size=64))
    ids = torch.randint(VOCABULARY.n_ids, (2, 60), generator=torch.Generator().manual_seed(6))
    predictor = predictor_of(model)
    _, whole = predictor.step(predictor.start(2), ids)
    state = predictor.start(2)
    for part in ids.split(piece, dim=1):
        state, logp = predictor.step(state, part)
    torch.testing.assert_close(logp, whole, rtol=0, atol=1e-4)


@pytest.mark.parametrize("config", [PRIOR, GROUPED], ids=name_of)
def test_the_number_of_threads_changes_not_a_bit(config: ModelConfig, kernels: None) -> None:
    predictor, found = predictor_of(single(config)), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(read(predictor, 70))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize(("part", "size"), [("k_norm", 2000.0), ("mlp_norm", 1000.0)])
def test_numbers_beyond_exponentials_are_no_harm(part: str, size: float, kernels: None) -> None:
    """Scores and gates of hundreds and thousands."""
    model = single(SMALL)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if part in name:
                weight.fill_(size)
    fast, slow = both(model, 3)
    assert torch.isfinite(fast).all()
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=2e-4)


def test_ids_that_are_none_are_read_as_unknown(clone: str) -> None:
    found = library()
    assert found is not None
    decoder = CDecoder(found, arranged(single(SMALL)), 1)
    ids = np.array([[3, VOCABULARY.n_symbols, 2, 4]])
    expected = decoder.next_logits(ids, 0, None).copy()
    for id_ in (-1, 1 << 62, -(1 << 62), VOCABULARY.n_symbols + 1):
        ids[0, 1] = id_
        np.testing.assert_array_equal(decoder.next_logits(ids, 0, None), expected)


def changed(array: np.ndarray, axis: int, by: int) -> np.ndarray:
    """An array of another size."""
    shape = list(array.shape)
    shape[axis] += by
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize("by", [-1, 1])
@pytest.mark.parametrize("config", [PRIOR, GROUPED, WIDE], ids=name_of)
def test_no_array_is_smaller_than_c_takes_it_to_be(config: ModelConfig, by: int, kernels: None) -> None:
    found, arrays, tried = library(), arranged(single(config)), 0
    assert found is not None

    def refused(model: ModelArrays) -> None:
        with pytest.raises(AssertionError):
            CDecoder(found, model, 2)

    for field in fields(ModelArrays):
        array = getattr(arrays, field.name)
        if isinstance(array, np.ndarray):
            for axis in range(array.ndim):
                if (field.name, axis) == ("embedding", 0) and not config.prior:
                    continue  # that is what V is taken from
                refused(replace(arrays, **{field.name: changed(array, axis, by)}))
            refused(replace(arrays, **{field.name: array.astype(np.float64)}))
            tried += 1
    for field in fields(LayerArrays):
        layer = arrays.layers[-1]
        for axis in range(getattr(layer, field.name).ndim):
            other = replace(layer, **{field.name: changed(getattr(layer, field.name), axis, by)})
            refused(replace(arrays, layers=[*arrays.layers[:-1], other]))
    assert tried >= 3
    decoder = CDecoder(found, arrays, 2)
    too_long = np.zeros((2, config.block_size + 1), np.int64)
    with pytest.raises(AssertionError):
        decoder.next_logits(too_long, 0, None)


def test_it_fits_attention_in_fp32_without_a_bias(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fast_decoder_fits(single(SMALL))
    for config in ATTENTION:
        assert fast_decoder_fits(single(config)) == (config in FITTING), name_of(config)
    mixed = ModelConfig(n_layer=2, n_embd=8, n_head=2, block_size=5, mixer="attention,convolution")
    assert not fast_decoder_fits(single(mixed))
    assert not fast_decoder_fits(single(SMALL).bfloat16())
    assert not fast_decoder_fits(single(SMALL).double())
    monkeypatch.setenv("CHARLM_NATIVE", "0")
    assert not fast_decoder_fits(single(SMALL))


def test_weights_that_were_trained_since_are_read_anew(kernels: None) -> None:
    predictor = predictor_of(single(SMALL))
    before = read(predictor, 2)
    with torch.no_grad():
        predictor.model.embedding.weight.mul_(1.5)
    after, expected = read(predictor, 2), read(predictor_of(predictor.model, native=False), 2)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("config", [GROUPED, WIDE], ids=name_of)
def test_a_draw_hardly_ever_falls_between_what_two_ways_of_computing_say(
    config: ModelConfig, kernels: None
) -> None:
    """So the same seed writes the same text elsewhere too, but for one in about so many characters."""
    model = single(config)
    ways = predictor_of(model), predictor_of(model, native=False)
    weights = [sampling_weights(read(way, 8, n=60).flatten(0, 1).numpy(), SamplingConfig()) for way in ways]
    in_c, in_torch = ((p / p.sum(axis=1, keepdims=True)).cumsum(axis=1) for p in weights)
    assert np.abs(in_c - in_torch).sum(axis=1).mean() < 1e-5
    assert len({sample_text(way, "the", SamplingConfig(seed=3), 200) for way in ways}) == 1


def test_the_library_leaves_small_numbers_as_they_are(kernels: None) -> None:
    assert np.float32(1e-39) * np.float32(0.5) > 0, "as -ffast-math would have it for the whole process"


@pytest.mark.parametrize("native", [False, True])
def test_of_a_long_prompt_the_model_reads_what_it_can_see(
    native: bool, kernels: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, seen = predictor_of(single(SMALL), native=native), []
    real, fast = LanguageModel.hidden, CDecoder.next_logits

    def hidden(self: LanguageModel, ids: torch.Tensor, *more: object, **named: object) -> torch.Tensor:
        seen.append(ids.shape[1])
        return real(self, ids, *more, **named)  # type: ignore[arg-type]

    def stepped(self: CDecoder, ids: np.ndarray, at: int, prior: np.ndarray | None) -> np.ndarray:
        seen.append(ids.shape[1] - at)
        return fast(self, ids, at, prior)

    monkeypatch.setattr(LanguageModel, "hidden", hidden)
    monkeypatch.setattr(CDecoder, "next_logits", stepped)
    next(generate(predictor, ["the cat " * 12_500], SamplingConfig(seed=1), n=2, length=1))
    assert len(seen) == 1 and seen[0] <= predictor.rule.block_size
