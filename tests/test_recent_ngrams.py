"""Recent n-grams: a distribution corrected by what followed the last symbols earlier in the same text."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from charlm.config import ModelConfig
from charlm.data.tokenizer import Vocabulary
from charlm.inference.context import ContextRule
from charlm.inference.predictor import TransformerPredictor
from charlm.inference.recent import RecentPredictor
from charlm.model.recent_ngrams import RecentNgrams, document_starts
from charlm.model.transformer import LanguageModel, initialise
from charlm.native.library import library
from tests.conftest import TEXT

V = 7


def bursty(n: int, seed: int = 0) -> NDArray[np.int64]:
    """Ids in which passages of 20 come again soon."""
    rng = np.random.default_rng(seed)
    passages = rng.integers(0, V, (6, 20))
    return np.concatenate([passages[i] for i in rng.integers(0, 6, n // 20 + 1)])[:n].astype(np.int64)


def distributions(n: int, seed: int = 1) -> NDArray[np.float32]:
    """Log-probabilities (n, V)."""
    logits = torch.from_numpy(np.random.default_rng(seed).normal(size=(n, V)))
    return torch.log_softmax(logits, dim=-1).float().numpy()


def corrected(
    ids: NDArray[np.int64], chars: int = 64, *, native: bool = True, n_symbols: int = V, shortest: int = 3
) -> NDArray[np.float32]:
    ats, recent = np.arange(len(ids)), RecentNgrams(chars=chars, strength=5.0, shortest=shortest)
    return recent.log_probs(distributions(len(ids)), ids, ats, np.zeros_like(ats), n_symbols, native=native)


@pytest.mark.native
@pytest.mark.parametrize(("n_symbols", "shortest"), [(V, 3), (V - 2, 3), (V, 2), (V, 1)])
def test_the_kernel_computes_what_numpy_does(clone: str, n_symbols: int, shortest: int) -> None:
    assert library() is not None and clone
    ids = bursty(600)
    found = corrected(ids, 300, n_symbols=n_symbols, shortest=shortest)
    expected = corrected(ids, 300, native=False, n_symbols=n_symbols, shortest=shortest)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(expected - distributions(600)).max() > 0.5  # and that is not nothing


@pytest.mark.native
@pytest.mark.parametrize("shortest", [1, 2, 3])
def test_the_kernel_keeps_to_any_window(clone: str, shortest: int) -> None:
    """Of no, a few and many symbols, at both ends of the text."""
    assert library() is not None and clone
    rng, ids = np.random.default_rng(3), bursty(400)
    ats = rng.integers(0, len(ids) + 1, 200)
    lows = np.maximum(0, ats - rng.integers(0, 200, 200))
    recent, logp = RecentNgrams(chars=150, strength=2.0, shortest=shortest), distributions(200)
    found = recent.log_probs(logp, ids, ats, lows, V)
    np.testing.assert_allclose(found, recent.log_probs(logp, ids, ats, lows, V, native=False), atol=1e-6)


@pytest.mark.parametrize("native", [True, False])
def test_the_formula_by_hand(native: bool) -> None:
    """After "abcx abcx abcy abc", n-grams of 3 were followed by y once and by x twice; no longer ones occurred."""
    a, b, c, x, y, space = range(6)
    ids = np.array([a, b, c, x, 6, a, b, c, x, space, a, b, c, y, 5, 4, a, b, c])
    p = np.full(V, 1 / V)
    rows = np.log(p)[None].astype(np.float32)
    recent, at = RecentNgrams(chars=100, strength=5.0), np.array([len(ids)])
    found = recent.log_probs(rows, ids, at, np.zeros(1, np.int64), V, native=native)
    expected = p * (5 + 0.8 * 2) / 8
    expected[x] += (2 - 0.8) / 8
    expected[y] += (1 - 0.8) / 8
    np.testing.assert_allclose(np.exp(found[0]), expected, rtol=1e-5)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("shortest", [1, 3])
def test_probabilities_sum_to_one_and_see_only_the_window_before(native: bool, shortest: int) -> None:
    ids = bursty(400)
    found = corrected(ids, native=native, shortest=shortest)
    np.testing.assert_allclose(np.exp(found.astype(np.float64)).sum(axis=1), 1, atol=1e-5)
    later = ids.copy()
    later[200:] = (later[200:] + 1) % V
    np.testing.assert_array_equal(corrected(later, native=native, shortest=shortest)[:201], found[:201])
    earlier = ids.copy()
    earlier[: 300 - 64] = (earlier[: 300 - 64] + 1) % V
    np.testing.assert_array_equal(corrected(earlier, native=native, shortest=shortest)[300:], found[300:])


def test_nothing_is_seen_of_another_document() -> None:
    ids = np.array([0, 1, 2, 9, 0, 1, 9, 3])
    assert document_starts(ids, np.arange(1, 8), 9).tolist() == [0, 0, 0, 3, 3, 3, 6]
    assert document_starts(ids, np.arange(1, 8), None).tolist() == [0] * 7
    assert document_starts(ids[:3], np.arange(3), 9).tolist() == [0] * 3


@pytest.fixture
def predictor() -> RecentPredictor:
    """Recent n-grams over an untrained transformer with blocks of 16."""
    vocabulary = Vocabulary.build(TEXT)
    config = ModelConfig(n_layer=1, n_embd=16, n_head=2, block_size=16).completed()
    model = LanguageModel(config, vocabulary.n_symbols)
    initialise(model, torch.Generator().manual_seed(1))
    return RecentPredictor(
        TransformerPredictor(model.eval(), vocabulary), RecentNgrams(chars=50, strength=3.0)
    )


def test_a_text_is_predicted_alike_at_once_step_by_step_and_in_any_chunks(predictor: RecentPredictor) -> None:
    ids = predictor.vocabulary.encode(TEXT[:300])
    at_once = predictor.score(ids)
    state, found = predictor.start(2), []
    state, logp = predictor.step(state, torch.empty((2, 0), dtype=torch.int64))
    for i in ids:
        found.append(float(logp[1, i]))
        state, logp = predictor.step(state, torch.tensor([[int(i)], [int(i)]]))
    np.testing.assert_allclose(found, at_once, atol=1e-4)
    state = predictor.start(1)
    state, _ = predictor.step(state, torch.from_numpy(ids[None, :120].astype(np.int64)))  # a prompt, at once
    state, logp = predictor.step(state, torch.tensor([[int(ids[120])]]))
    assert float(logp[0, ids[121]]) == pytest.approx(at_once[121], abs=1e-4)
    rule = predictor.rule
    some = list(predictor.score_chunks(ids, [7, 2, 9]))
    parts = [rule.chunk(k, len(ids)) for k in (7, 2, 9)]
    np.testing.assert_allclose(
        np.concatenate(some), np.concatenate([at_once[p.first : p.end] for p in parts]), atol=1e-5
    )


def test_a_rule_that_resets_the_context_resets_the_recent_n_grams(predictor: RecentPredictor) -> None:
    ids = predictor.vocabulary.encode(TEXT[:300])
    rule = replace(ContextRule.of(16, 16), reset_prior_at_start=True)
    part = rule.chunk(5, len(ids))
    alone = next(iter(predictor.distributions(ids[part.start : part.end], [0], rule)))
    found = next(iter(predictor.distributions(ids, [5], rule)))
    np.testing.assert_allclose(found[-4:].numpy(), alone[-4:].numpy(), atol=1e-5)


@pytest.mark.parametrize("n_symbols", [V, V - 2])
def test_a_temperature_flattens_symbols_and_leaves_the_rest(n_symbols: int) -> None:
    """The bytes that training never saw keep their small probability."""
    ids, logp = bursty(300), distributions(300)
    ats, plain = np.arange(300), RecentNgrams(chars=64, strength=5.0)
    arguments = (logp, ids, ats, np.zeros_like(ats), n_symbols)
    before = np.exp(plain.log_probs(*arguments))
    after = np.exp(replace(plain, temperature=2.0).log_probs(*arguments))
    np.testing.assert_array_equal(after[:, n_symbols:], before[:, n_symbols:])
    np.testing.assert_allclose(after.sum(axis=1), before.sum(axis=1), rtol=1e-5)
    flat = np.sqrt(before[:, :n_symbols])
    flat *= before[:, :n_symbols].sum(axis=1, keepdims=True) / flat.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(after[:, :n_symbols], flat, rtol=1e-4)
