"""The counts as a predictor: a text's score is the product of its steps, under any rule."""

import numpy as np
import pytest
import torch

from charlm.data.tokenizer import Vocabulary
from charlm.evaluation.score import score_slice, spread
from charlm.inference.context import ContextRule
from charlm.inference.ngram_predictor import NgramPredictor
from charlm.inference.predictor import Predictor
from charlm.ngram.build import build

pytestmark = pytest.mark.native

TEXT = "the cat sat on the mat; the rat sat on the cat; " * 20 + "zé"


def predictor(order: int = 4) -> NgramPredictor:
    vocabulary = Vocabulary.build(TEXT, 2)
    built = build(vocabulary.encode(TEXT), vocabulary.n_symbols, order, memory=1 << 30)
    return NgramPredictor(built.model, vocabulary)


@pytest.mark.parametrize("order", [0, 1, 4, 9])
@pytest.mark.parametrize("text", ["t", "the mat sat", "Жthe cat🦆 sat", "zzz the"])
def test_a_text_is_the_product_of_its_steps(order: int, text: str) -> None:
    model: Predictor = predictor(order)
    ids = model.vocabulary.encode(text)
    score, state, read = model.score(ids), model.start(2), np.empty(0, np.int64)
    for t, id_ in enumerate(ids):
        state, logp = model.step(state, torch.from_numpy(np.stack([read, read])))
        assert logp.shape == (2, model.vocabulary.n_ids)
        assert torch.logsumexp(logp, dim=1).abs().max() < 1e-12
        assert float(logp[1, id_]) == pytest.approx(float(score[t]), abs=1e-12)
        read = np.array([id_])
    state, at_once = model.step(model.start(1), torch.from_numpy(ids[None].astype(np.int64)))
    _, again = model.step(model.start(1), torch.from_numpy(ids[None].astype(np.int64)))
    torch.testing.assert_close(at_once, again)


@pytest.mark.parametrize(
    "rule", [ContextRule.of(9), ContextRule.of(4, 4), ContextRule.of(3), ContextRule.of(5, 1)]
)
def test_every_character_is_predicted_from_as_many_before_it_as_the_order_says(rule: ContextRule) -> None:
    model = predictor(4)
    ids = model.vocabulary.encode("the cat sat on the rat; the mat é")
    scores = model.score(ids, rule)
    for t in range(len(ids)):
        alone = model.score(ids[max(0, t - 8) : t + 1])[-1]
        assert scores[t] == pytest.approx(alone, abs=1e-12)
    part = spread(model.rule, len(ids), len(ids), len(ids))
    estimate = score_slice(model, ids, part)
    assert estimate is not None
    assert -estimate.sums.sum() == pytest.approx(model.score(ids).sum())
