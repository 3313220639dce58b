"""The mixture's kernel and its NumPy reference agree on every clone, and a sampled mixture is what its members say."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from charlm.config import ModelConfig
from charlm.inference.generate import sample_text
from charlm.inference.members import MixturePredictor
from charlm.inference.ngram_predictor import NgramPredictor
from charlm.inference.predictor import TransformerPredictor
from charlm.inference.sampling_config import SamplingConfig
from charlm.model.mixture import Mixture
from charlm.native.library import library
from charlm.native.mixture_kernel import MixtureKernel
from charlm.ngram.build import build
from charlm.ngram.kneser_ney import KneserNey
from tests.matrix import random_model
from tests.test_predictor import VOCABULARY

pytestmark = pytest.mark.native


def mixture_of(M: int, seed: int = 1) -> Mixture:
    random = np.random.default_rng(seed)
    weights = random.normal(0, 0.3 / M, (M, 2 * M)).tolist()
    return Mixture(
        n_transformers=M - 1, ngram=True, bias=tuple(random.random(M) / M), weights=tuple(map(tuple, weights))
    )


def kernel_of(mixture: Mixture) -> MixtureKernel:
    found = library()
    assert found is not None
    return MixtureKernel(found, mixture.bias, mixture.weights)


def random_logits(M: int, N: int, V: int, seed: int = 2) -> list[np.ndarray]:
    """Rows of one number more than is given, as the fast decoder has them; of one member in double precision."""
    found = np.random.default_rng(seed).normal(0, 4, (M, N, V + 1))
    return [found[0, :, :V], *(logits[:, :V] for logits in found[1:].astype(np.float32))]


@pytest.mark.parametrize(("N", "V"), [(1, 65), (1, 1), (8, 3), (5, 16), (200, 65), (7, 2000)])
@pytest.mark.parametrize("M", [2, 3, 16])
def test_every_clone_pools_as_numpy_does(M: int, N: int, V: int, clone: str) -> None:
    mixture, logits = mixture_of(M), random_logits(M, N, V)
    found = kernel_of(mixture).log_probs(logits)
    assert found.shape == (N, V) and found.dtype == np.float32
    np.testing.assert_allclose(found, mixture.log_probs(logits), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.exp(found.astype(np.float64)).sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -3e38])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_hostile_numbers_give_what_numpy_gives(value: float, clone: str) -> None:
    """A row with a NaN has no distribution and says so; an impossible symbol stays the least likely one."""
    mixture, logits = mixture_of(3), random_logits(3, 6, 40)
    logits[1][1, 5] = value
    logits[2][2] = value
    logits[0][3, 1:] = value
    for of_member in logits:
        of_member[4] = value
    found, expected = kernel_of(mixture).log_probs(logits), mixture.log_probs(logits)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert np.isfinite(found[[0, 5]]).all()
    assert np.isfinite(found[1]).all() == (value < np.inf)


def mixture_predictor(prior: KneserNey, *, native: bool = True) -> MixturePredictor:
    """Three transformers of different blocks, two of them with the prior, and the n-gram model."""
    members: list[TransformerPredictor | NgramPredictor] = []
    for block_size, order in ((9, 3), (7, None), (12, 3)):
        config = ModelConfig(
            n_layer=1, n_embd=8, n_head=2, block_size=block_size, dropout=0.0, prior=order is not None,
            prior_order=order,
        )  # fmt: skip
        model = random_model(config, VOCABULARY.n_symbols).float()
        members.append(TransformerPredictor(model, VOCABULARY, prior if order else None, native=native))
    return MixturePredictor(
        [*members, NgramPredictor(prior, VOCABULARY)], mixture_of(4), VOCABULARY, native=native
    )


def random_prior() -> KneserNey:
    ids = np.random.default_rng(3).zipf(1.3, 900).clip(max=VOCABULARY.n_symbols) - 1
    return build(ids, VOCABULARY.n_symbols, 3, memory=1 << 28).model


@pytest.mark.parametrize("B", [1, 3])
def test_steps_pool_the_steps_of_the_members(B: int, clone: str) -> None:
    """Through moves of each window, in pieces and one by one: the kernels, and NumPy and torch without them."""
    prior = random_prior()
    ids = torch.randint(VOCABULARY.n_ids, (B, 50), generator=torch.Generator().manual_seed(5))
    native, plain = mixture_predictor(prior), mixture_predictor(prior, native=False)
    alone = [(member, member.start(B)) for member in native.members]
    states = native.start(B), plain.start(B)
    for piece in ids.split((3, 14, *[1] * 33), dim=1):
        logits = [member.step(state, piece)[1].numpy()[:, : VOCABULARY.n_symbols] for member, state in alone]
        expected = torch.from_numpy(native.mixture.log_probs(logits)).exp()
        for predictor, state in zip((native, plain), states, strict=True):
            found = predictor.step(state, piece)[1].exp()
            torch.testing.assert_close(found.sum(dim=1), torch.ones(B), rtol=0, atol=1e-5)
            torch.testing.assert_close(found[:, : VOCABULARY.n_symbols], expected, rtol=0, atol=5e-5)


def test_the_n_gram_model_is_asked_once_a_character(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two transformers and the n-gram model itself use what it says."""
    prior, asked = random_prior(), []
    cursor = type(prior.cursor(1))

    def counting(method: Callable[..., object]) -> Callable[..., object]:
        return lambda *arguments: (asked.append(method.__name__), method(*arguments))[1]

    for name in ("read", "next"):
        monkeypatch.setattr(cursor, name, counting(getattr(cursor, name)))
    sample_text(mixture_predictor(prior), "the", SamplingConfig(seed=1), 30)
    assert asked.count("next") <= 30 and asked.count("read") <= 30


@pytest.mark.parametrize("weight", [1e6, -1e6])
def test_the_largest_weights_that_a_file_may_have_give_a_distribution(weight: float, clone: str) -> None:
    mixture = Mixture(n_transformers=2, ngram=False, bias=(weight, 1.0), weights=((weight,) * 4,) * 2)
    found = kernel_of(mixture).log_probs(random_logits(2, 9, 65))
    np.testing.assert_allclose(np.exp(found.astype(np.float64)).sum(axis=1), 1, atol=1e-5)
    for beyond in (weight * 1.1, weight * 1e40, np.nan, np.inf):
        with pytest.raises(ValueError, match="mixture"):
            Mixture(n_transformers=2, ngram=False, bias=(beyond, 1.0), weights=((0.0,) * 4,) * 2)
