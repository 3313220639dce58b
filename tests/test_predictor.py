"""The predictor: cache equals recomputation, the score is the product of the conditionals."""

import numpy as np
import pytest
import torch

from charlm.data.tokenizer import Vocabulary
from charlm.inference.context import ContextRule
from charlm.inference.generate import sample_text
from charlm.inference.predictor import ESCAPE, TransformerPredictor, unigram_log_probs
from charlm.inference.sampling_config import SamplingConfig
from charlm.model.transformer import LanguageModel
from tests.test_model import make

pytestmark = pytest.mark.native

VOCABULARY = Vocabulary.build("the cat sat on the mat; " * 3 + "z", 2)


def predictor(block_size: int = 9) -> TransformerPredictor:
    return TransformerPredictor(make(block_size=block_size, n_symbols=VOCABULARY.n_symbols), VOCABULARY)


def recomputed(model: LanguageModel, ids: torch.Tensor, rule: ContextRule, t: int) -> torch.Tensor:
    """Log-probabilities of character t by one forward pass over exactly the slice of the rule."""
    return torch.log_softmax(model(ids[None, rule.start(t) : t])[0, -1], dim=-1)


def test_greedy_text_through_the_cache_is_greedy_text_by_recomputation() -> None:
    p = predictor()
    text = sample_text(p, "the ", SamplingConfig(temperature=0), 3 * p.rule.block_size)
    ids = list(VOCABULARY.encode("the "))
    for t in range(4, 4 + 3 * p.rule.block_size):
        ids.append(int(recomputed(p.model, torch.tensor(ids), p.rule, t).argmax()))
    assert text == VOCABULARY.decode(np.array(ids))[4:]


@pytest.mark.parametrize("stride", [None, 1, 9])
def test_the_score_is_the_product_of_the_conditionals(stride: int | None) -> None:
    p = predictor()
    rule = ContextRule.of(9, stride)
    ids = VOCABULARY.encode("the mat sat on the cat; Ж then the cat")
    scores = p.score(ids, rule)
    row = unigram_log_probs(VOCABULARY)
    for t, id_ in enumerate(ids):
        if t:
            known = recomputed(p.model, torch.from_numpy(ids.astype(np.int64)), rule, t).detach().numpy()
            lacking = VOCABULARY.n_ids - VOCABULARY.n_symbols
            row = np.concatenate((known + np.log1p(-ESCAPE), np.full(lacking, np.log(ESCAPE / lacking))))
        assert scores[t] == pytest.approx(row[id_], abs=1e-10)


POSITIONS = 1000


def test_probabilities_sum_to_one_everywhere() -> None:
    p = predictor()
    ids = torch.randint(VOCABULARY.n_ids, (1, POSITIONS), generator=torch.Generator().manual_seed(9))
    state = p.start(1)
    for t in range(POSITIONS + 1):
        state, logp = p.step(state, ids[:, t - 1 : t] if t else ids[:, :0])
        assert logp.shape == (1, VOCABULARY.n_ids)
        assert float(logp.double().exp().sum()) == pytest.approx(1, abs=1e-9)


def test_bytes_never_seen_cost_next_to_nothing() -> None:
    assert ESCAPE < 1e-4
    assert -np.log1p(-ESCAPE) < 0.002


def test_scores_do_not_depend_on_what_is_scored_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    p = predictor()
    p.model.float()
    ids = VOCABULARY.encode("the cat sat on the mat; " * 40)
    several = p.score(ids)
    monkeypatch.setattr("charlm.inference.predictor.IDS_AT_ONCE", 1)
    np.testing.assert_allclose(p.score(ids), several, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(p.score(ids), p.score(ids))
