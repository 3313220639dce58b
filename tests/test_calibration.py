"""Calibration: as sure as right, measured on sources whose true probabilities are known."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from charlm.data.tokenizer import Vocabulary
from charlm.evaluation.calibration import BINS, Reliability
from charlm.evaluation.score import score_text, score_with_calibration
from charlm.inference.ngram_predictor import NgramPredictor
from charlm.inference.predictor import Predictor, TransformerPredictor
from charlm.ngram.build import fit
from charlm.reporting.run_page import Page, render
from charlm.training.events import Evaluated
from tests.test_model import make
from tests.test_report_page import FULL, charts, check, evaluation

TEXT = "the cat sat on the mat; " * 30 + "z"
VOCABULARY = Vocabulary.build(TEXT, 2)


def source(n: int, temperature: float = 1.0) -> Reliability:
    """Predictions of a source that draws from them, as a model says them at a temperature."""
    rng = np.random.default_rng(1)
    p = rng.dirichlet([0.4] * 6, n)
    targets = (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(max=5)
    said = torch.log_softmax(torch.from_numpy(np.log(p + 1e-30)) / temperature, dim=1)
    return Reliability.of(said, torch.from_numpy(targets))


def predictors() -> list[Predictor]:
    ngram = fit(VOCABULARY.encode(TEXT), VOCABULARY.n_symbols, 3, memory=1 << 24, most=None).model
    transformer = TransformerPredictor(make(block_size=9, n_symbols=VOCABULARY.n_symbols), VOCABULARY)
    return [transformer, NgramPredictor(ngram, VOCABULARY)]


def test_a_calibrated_source_shows_only_what_chance_gives() -> None:
    found = source(200_000)
    assert found.ece < 0.005
    assert found.ece == pytest.approx(found.ece_by_chance, rel=0.5)
    small = [source(n) for n in (500, 5_000)]
    for few in small:
        assert 0.4 < few.ece / few.ece_by_chance < 2


def test_sharpening_shows_as_overconfidence_and_changes_no_guess() -> None:
    right, sharp, flat = source(50_000), source(50_000, 0.5), source(50_000, 2.0)
    assert sharp.accuracy == right.accuracy == flat.accuracy
    assert sharp.ece == pytest.approx(sharp.confidence - sharp.accuracy, abs=0.005)
    assert flat.ece == pytest.approx(flat.accuracy - flat.confidence, abs=0.005)
    assert min(sharp.ece, flat.ece) > 0.05


def test_the_error_of_a_known_case() -> None:
    logp = torch.log(torch.tensor([[0.7, 0.3]])).expand(10, 2)
    found = Reliability.of(logp, torch.tensor([0] * 4 + [1] * 6))
    assert found.ece == pytest.approx(0.3) and found.accuracy == 0.4
    assert found.confidence == pytest.approx(0.7)


@pytest.mark.parametrize("text", ["t", "the mat", "the cat\U0001f986 sat", TEXT])
def test_every_symbol_is_counted_once_and_the_scores_are_the_same(text: str) -> None:
    for predictor in predictors():
        scored = score_with_calibration(predictor, "", text)
        np.testing.assert_allclose(scored.nats, score_text(predictor, "", text).nats, rtol=1e-12)
        assert scored.calibration is not None
        assert scored.calibration.n == len(VOCABULARY.encode(text))


def test_what_is_counted_is_what_steps_predict() -> None:
    text = TEXT[:60]
    ids = torch.from_numpy(VOCABULARY.encode(text).astype(np.int64))
    for predictor in predictors():
        state, rows = predictor.start(1), []
        for i in range(len(ids)):
            state, logp = predictor.step(state, ids[None, i - 1 : i] if i else ids[None, :0])
            rows.append(logp[0].double())
        expected = Reliability.of(torch.stack(rows), ids)
        found = score_with_calibration(predictor, "", text).calibration
        assert found is not None
        assert found.counts.tolist() == expected.counts.tolist()
        assert found.right.tolist() == expected.right.tolist()
        np.testing.assert_allclose(found.sums, expected.sums, rtol=1e-4, atol=1e-6)


def test_json_goes_there_and_back() -> None:
    found = source(1_000)
    again = Reliability.from_json(json.loads(json.dumps(found.to_json())))
    assert again.right.tolist() == found.right.tolist()
    assert (again.ece, again.accuracy) == pytest.approx((found.ece, found.accuracy))
    assert again.counts.tolist() == found.counts.tolist()


@pytest.mark.parametrize(
    "bins",
    [None, [], [{}] * BINS, [{"n": 0}] * BINS, [{"n": -1}] * BINS, [{"n": 1, "confidence": 2, "accuracy": 1}] * BINS,
     [{"n": 1, "confidence": 0.5, "accuracy": "x"}] * BINS, [{"n": True}] * BINS, ["x"] * BINS],
)  # fmt: skip
def test_damaged_bins_cost_the_page_its_chart_only(bins: object) -> None:
    with pytest.raises(ValueError):
        Reliability.from_json({"bins": bins})
    event = evaluation(1000, 2.4, final=True, calibration={"bins": bins})
    page = render(_with(event))
    check(page)
    assert "Calibration" not in page


def test_the_page_draws_a_dot_for_each_bin_in_use() -> None:
    found = source(1_000)
    page = render(_with(evaluation(1000, 2.4, final=True, calibration=found.to_json())))
    check(page)
    (drawn,) = (chart for chart in charts(page) if "calibration" in (chart.findtext("title") or ""))
    assert len(list(drawn.iter("circle"))) == len(found.bins)
    assert f"{found.ece:.4f}" in page


def _with(event: Evaluated) -> Page:
    return replace(FULL, evaluations=[*FULL.evaluations, event])
