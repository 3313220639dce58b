"""Evaluation: every character once, baselines by their formulas, passages found wherever they are."""

from math import log, log2
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.checkpoint.snapshot import read_snapshot
from charlm.data.corpus import Corpus
from charlm.data.overlap import PASSAGE, overlap
from charlm.data.prepare import prepare
from charlm.data.text_config import TextConfig
from charlm.data.tokenizer import Vocabulary
from charlm.evaluation import baselines
from charlm.evaluation.baselines import (
    Baseline,
    measure_baselines,
    ngram_baseline,
    symbol_baselines,
    xz_size,
)
from charlm.evaluation.bootstrap import confidence_interval
from charlm.evaluation.report import evaluate
from charlm.evaluation.score import Estimate, Score, score_slice, score_text, spread
from charlm.inference.context import ContextRule
from charlm.inference.members import predictor_of
from charlm.inference.ngram_predictor import NgramPredictor
from charlm.inference.predictor import TransformerPredictor
from charlm.ngram.build import build, fit
from charlm.training.trainer import Trainer
from tests.conftest import Never, toy_run
from tests.test_model import make

VOCABULARY = Vocabulary.build("the cat sat on the mat; " * 3 + "z", 2)


def predictor() -> TransformerPredictor:
    return TransformerPredictor(make(block_size=9, n_symbols=VOCABULARY.n_symbols), VOCABULARY)


@pytest.mark.parametrize("text", ["t", "the mat", "Жthe cat🦆 sat", "zzz" * 20])
def test_the_characters_sum_to_the_text(text: str) -> None:
    scored = score_text(predictor(), "x", text)
    assert len(scored.nats) == len(text)
    assert np.isfinite(scored.nats).all()
    assert scored.nats.sum() == pytest.approx(-predictor().score(VOCABULARY.encode(text)).sum(), rel=1e-12)
    assert scored.unknown_chars == sum(char not in VOCABULARY.chars for char in text)


def test_units() -> None:
    figure = Score([score_text(predictor(), "a", "the cat é"), score_text(predictor(), "b", "on")])
    assert (figure.chars, figure.bytes, figure.unknown_chars) == (11, 12, 1)
    assert figure.bits_per_char * log(2) == pytest.approx(figure.nats_per_char)
    assert figure.bits_per_byte * 12 == pytest.approx(figure.bits_per_char * 11)
    assert figure.perplexity == pytest.approx(2**figure.bits_per_char)


def test_context_does_not_cross_files() -> None:
    both = Score([score_text(predictor(), "a", "the cat"), score_text(predictor(), "b", "sat on")])
    assert both.nats[7] == score_text(predictor(), "b", "sat on").nats[0]


@given(st.integers(2, 400), st.integers(1, 500))
def test_spread_windows_are_whole_distinct_and_even(n: int, symbols: int) -> None:
    rule = ContextRule.of(8)
    part = spread(rule, n, symbols, n)
    assert len(set(part.chunks)) == len(part.chunks) >= 1
    assert part.chunks[0] == 0 and part.chunks[-1] in (0, rule.n_chunks(n) - 1)
    gaps = np.diff(part.chunks)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_a_slice_of_all_is_the_score_of_all() -> None:
    ids = VOCABULARY.encode("the cat sat on the mat; " * 5)
    p = predictor()
    whole = score_slice(p, ids, spread(p.rule, len(ids), len(ids), len(ids)))
    assert whole is not None
    assert whole.nats_per_char == pytest.approx(-p.score(ids).mean(), rel=1e-12)
    assert score_slice(p, ids, spread(p.rule, len(ids), 50, len(ids)), lambda: True) is None


def test_the_standard_error_is_right() -> None:
    """Of slices of independent blocks, the figures scatter as their standard errors say."""
    rng = np.random.default_rng(1)
    estimates = [Estimate(rng.normal(20, 5, 40), np.full(40, 10), 1.0) for _ in range(400)]
    said = np.mean([e.standard_error for e in estimates])
    assert np.std([e.nats_per_char for e in estimates]) == pytest.approx(said, rel=0.1)


def correlated(trials: int, blocks: int, coefficient: float, skewed: bool) -> np.ndarray:  # type: ignore[type-arg]
    """AR(1) series of mean 0, after a run-in."""
    rng = np.random.default_rng(7)
    size = trials, blocks + 50
    noise = rng.exponential(size=size) - 1 if skewed else rng.normal(size=size)
    for t in range(1, noise.shape[1]):
        noise[:, t] += coefficient * noise[:, t - 1]
    return noise[:, 50:]


@pytest.mark.parametrize("blocks", [20, 60])
@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize("coefficient", [0.0, 0.3])
def test_the_interval_covers_few_blocks_skewed_ones_and_correlated_ones(
    blocks: int, skewed: bool, coefficient: float
) -> None:
    """About 95 in 100; benchmarks/coverage.py has the whole table. The bootstrap had 80 to 93 here."""
    found = [confidence_interval(x.repeat(1000)) for x in correlated(800, blocks, coefficient, skewed)]
    assert 0.925 <= np.mean([low <= 0 <= high for low, high in filter(None, found)]) <= 0.98


def test_the_interval_leaves_no_character_out() -> None:
    values = np.zeros(20_999)
    values[-999:] = 5.0
    low, high = confidence_interval(values) or (0, 0)
    assert low < values.mean() < high
    assert confidence_interval(np.full(20_500, 3.0)) == (3, 3)


def test_the_error_of_one_block_is_unknown_and_that_of_correlated_ones_is_larger() -> None:
    assert Estimate(np.array([20.0]), np.array([10]), 1.0).standard_error is None
    said, scatter = [], []
    for x in correlated(400, 80, 0.5, skewed=False):
        estimate = Estimate(x, np.ones(80, dtype=np.int64), 1.0)
        said.append(estimate.standard_error)
        scatter.append(estimate.nats_per_char)
    assert np.mean(np.array(said)) == pytest.approx(
        np.std(scatter), rel=0.12
    )  # half of it, were they independent


def test_baselines_are_their_formulas() -> None:
    vocabulary = Vocabulary.build("aab")
    found = symbol_baselines(vocabulary, vocabulary.encode("abba"), 4)
    assert found["uniform"].bits_per_char == pytest.approx(1)
    assert found["unigram"].bits_per_char == pytest.approx(-(log2(3 / 6) + log2(2 / 6)) / 2)
    text = "".join(chr(97 + i * i % 26) for i in range(3000))
    seen = measure_baselines(vocabulary, lambda: text, text)["xz"]
    assert isinstance(seen, Baseline) and seen.bits_per_char < 0.3, "it has seen it"
    assert 8 * xz_size(text.encode()) / len(text) > seen.bits_per_char


@pytest.mark.parametrize("documents", ["none", "line"])
def test_counts_of_ids_in_pieces_say_what_counts_of_the_text_say(
    documents: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = prepare("the cat sat on the mat\nwith a hat\n" * 60 + "é", TextConfig(documents=documents))
    vocabulary, ids, text = corpus.vocabulary, corpus.held_out, corpus.held_out_text()
    model = fit(corpus.train, vocabulary.n_symbols, memory=1 << 28, end=vocabulary.end).model
    expected = (
        score_text(NgramPredictor(model, vocabulary), "", text).bits.mean(),
        measure_baselines(vocabulary, None, text)["unigram"],
    )
    monkeypatch.setattr(baselines, "POSITIONS_AT_ONCE", 7)
    found = ngram_baseline(model, vocabulary, ids, corpus.held_out_chars)
    assert found.bits_per_char == pytest.approx(expected[0], rel=1e-12)
    simple = symbol_baselines(vocabulary, ids, corpus.held_out_chars)["unigram"]
    assert isinstance(expected[1], Baseline)
    assert simple.bits_per_char == pytest.approx(expected[1].bits_per_char, rel=1e-12)


def test_every_baseline_is_there_or_says_why() -> None:
    found = measure_baselines(VOCABULARY, None, "the cat")
    assert list(found) == ["uniform", "unigram", "xz"]
    assert isinstance(found["xz"], str)
    assert {s.adaptive for s in found.values() if isinstance(s, Baseline)} == {False}
    xz = measure_baselines(VOCABULARY, lambda: "the cat sat", "the cat" * 30)["xz"]
    assert isinstance(xz, Baseline) and xz.adaptive
    few = measure_baselines(VOCABULARY, lambda: "the cat sat", "the cat")["xz"]
    assert isinstance(few, str) and "200 characters" in few and "7" in few, "0.0000 bits would be no figure"


@given(st.integers(0, 300), st.integers(0, 120), st.integers(0, 50))
def test_shared_passages_are_found_to_the_character(start: int, length: int, before: int) -> None:
    rng = np.random.default_rng(3)
    train = rng.integers(0, 60, 500)
    own = rng.integers(60, 99, 400)
    text = np.concatenate((own[:before], train[start : start + length], own[before:]))
    copied = len(train[start : start + length])
    assert overlap(train, text).symbols == (copied if copied >= PASSAGE else 0)


def test_passages_across_the_pieces_in_which_training_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charlm.data.overlap.AT_ONCE", 7)
    train = np.random.default_rng(4).integers(0, 60, 300)
    assert overlap(train, train[50:150]).share == 1


def test_counts_saved_in_the_run_stand_in_where_its_text_is_gone(tmp_path: Path, corpus: Corpus) -> None:
    run, session = toy_run(tmp_path, corpus, 3, model={"prior": True, "prior_order": 3})
    list(Trainer(session, run).run(Never()))
    text, rule = corpus.held_out_text(), ContextRule.of(16)
    snapshot = read_snapshot(run, "latest")
    found = evaluate(snapshot, "latest", [("x", text)], rule, None, predictor_of(snapshot))
    stick = found.baselines["kneser-ney"]
    assert isinstance(stick, Baseline) and stick.order == 3
    alone = NgramPredictor(
        build(corpus.train, corpus.vocabulary.n_symbols, 3, memory=1 << 30).model, corpus.vocabulary
    )
    assert stick.bits_per_char == pytest.approx(score_text(alone, "", text).bits.mean(), rel=1e-12)
    assert any("saved in the run, because its text is missing" in warning for warning in found.warnings)
    assert not any("no kneser-ney" in warning for warning in found.warnings)


@pytest.mark.parametrize(("counts", "hint"), [(True, "on more text"), (False, "--prior")])
def test_a_model_that_counts_beat_is_told_what_to_do(
    tmp_path: Path, corpus: Corpus, counts: bool, hint: str
) -> None:
    run, session = toy_run(tmp_path, corpus, 1, model={"prior": True, "prior_order": 1} if counts else {})
    list(Trainer(session, run).run(Never()))
    text = [("x", corpus.held_out_text())]
    snapshot = read_snapshot(run, "latest")
    found = evaluate(snapshot, "latest", text, ContextRule.of(16), corpus, predictor_of(snapshot))
    assert any("characters of context predict better" in said and hint in said for said in found.warnings)
