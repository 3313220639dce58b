"""Several members as one model: what they never see, how they are weighed, and that nothing is lost on the way."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.snapshot import read_snapshot
from charlm.config import TrainingConfig
from charlm.data.corpus import Corpus
from charlm.data.prepare import prepare
from charlm.data.text_config import TextConfig
from charlm.errors import CheckpointError
from charlm.inference.context import ContextRule
from charlm.inference.members import MixturePredictor, predictor_of, symbol_log_probs
from charlm.inference.ngram_predictor import NgramPredictor
from charlm.inference.predictor import TransformerPredictor
from charlm.inference.recent import without_recent
from charlm.model.mixture import Mixture, log_normalised
from charlm.ngram.build import build
from charlm.training import calibrate as calibration
from charlm.training.calibrate import calibrate, fit_mixture, reserved_log_probs, shift_starts
from charlm.training.events import Calibrated, Evaluated, Finished, Planned, Saved
from charlm.training.launch import resume_run
from charlm.training.plan import ENDED_EARLY
from charlm.training.session import TransformerSession
from charlm.training.trainer import Trainer
from tests.cli.models import prose
from tests.conftest import After, Never, toy_run
from tests.matrix import random_model
from tests.test_exact_resume import again, cut_off
from tests.test_loop import assert_same
from tests.test_predictor import VOCABULARY

V = 5
RESERVED = 600
KINDS = "no-prior,prior,ngram"


def logits(n: int, seed: int = 1, scale: float = 2.0) -> np.ndarray:
    return log_normalised(np.random.default_rng(seed).normal(0, scale, (n, V)).astype(np.float32))


def drawn(logp: np.ndarray, seed: int = 2) -> np.ndarray:
    """A symbol (N,) from each distribution (N, V)."""
    u = np.random.default_rng(seed).random((len(logp), 1))
    return (np.exp(logp.astype(np.float64)).cumsum(axis=1) < u).sum(axis=1).clip(max=V - 1)


def nats(logp: np.ndarray, targets: np.ndarray) -> float:
    return -float(logp[np.arange(len(targets)), targets].mean())


def text() -> Corpus:
    return prepare(prose(6000), TextConfig())


def members_run(
    root: Path, corpus: Corpus, steps: int = 20, name: str = "many", **training: Any
) -> tuple[RunFolder, TransformerSession]:
    training = {"members": KINDS, "reserved_chars": RESERVED, "learning_rate": 0.03, **training}
    return toy_run(root, corpus, steps, name, model={"ngram_embeddings": 2, "prior_order": None}, **training)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
def test_a_temperature_is_found_again(temperature: float) -> None:
    true = logits(20_000)
    mixture = fit_mixture([log_normalised(true * temperature)], drawn(true), ngram=False)
    assert mixture.temperature == pytest.approx(temperature, rel=0.05)


def test_a_mixture_listens_to_whoever_is_sure_with_reason() -> None:
    """Two members know one half of the text each, and are flat on the other: each alone knows half as much."""
    true, flat = logits(8000, scale=3.0), np.full((8000, V), -np.log(V), np.float32)
    first = np.arange(8000)[:, None] % 2 == 0
    halves = [np.where(first, true, flat), np.where(first, flat, true)]
    targets = drawn(true)
    mixture = fit_mixture(halves, targets, ngram=False)
    pooled = mixture.log_probs(halves)
    np.testing.assert_allclose(np.exp(pooled).sum(axis=1), 1, rtol=1e-5)
    assert nats(pooled, targets) < nats(true, targets) + 0.02
    assert nats(pooled, targets) < min(nats(half, targets) for half in halves) - 0.3


def test_a_useless_member_does_no_harm() -> None:
    true, noise = logits(8000), logits(8000, seed=9)
    targets = drawn(true)
    pooled = fit_mixture([true, noise], targets, ngram=True).log_probs([true, noise])
    assert nats(pooled, targets) < nats(true, targets) + 0.002


@pytest.mark.parametrize(
    "change",
    [
        {"n_transformers": 0, "bias": [1.0], "weights": [[]]},
        {"bias": [1.0, 1.0]},
        {"weights": [[0.0] * 5] * 3},
        {"bias": [1.0, 1.0, float("inf")]},
        {"n_transformers": 99, "bias": [1.0] * 100, "weights": [[0.0] * 200] * 100},
    ],
)
def test_weights_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    good: dict[str, Any] = {"n_transformers": 2, "ngram": True, "bias": [1.0] * 3, "weights": [[0.0] * 6] * 3}
    Mixture(**good)
    with pytest.raises(ValueError, match=r"mixture"):
        Mixture(**{**good, **change})


def mixture_predictor(blocks: tuple[int, int] = (9, 4), mixer: str = "attention") -> MixturePredictor:
    """Two transformers of different blocks, one of which begins from the n-grams that are the third member."""
    from charlm.config import ModelConfig

    ids = np.random.default_rng(3).integers(0, VOCABULARY.n_symbols, 900).astype(np.uint8)
    ngram = build(ids, VOCABULARY.n_symbols, 3, memory=1 << 28).model
    shape = {"n_layer": 1, "n_head": 2 if mixer == "attention" else None, "n_embd": 16, "mixer": mixer}
    shapes = [ModelConfig(**shape, block_size=block, dropout=0.0) for block in blocks]
    models = [
        random_model(shapes[0].completed(), VOCABULARY.n_symbols),
        random_model(
            ModelConfig(**{**vars(shapes[1]), "prior": True, "prior_order": 3}).completed(),
            VOCABULARY.n_symbols,
        ),
    ]
    transformers = [
        TransformerPredictor(models[0].eval(), VOCABULARY),
        TransformerPredictor(models[1].eval(), VOCABULARY, ngram),
    ]
    weights = np.random.default_rng(4).normal(0, 0.3, (3, 6)).tolist()
    mixture = Mixture(n_transformers=2, ngram=True, bias=(0.5, 0.4, 0.1), weights=tuple(map(tuple, weights)))
    return MixturePredictor([*transformers, NgramPredictor(ngram, VOCABULARY)], mixture, VOCABULARY)


@pytest.mark.parametrize("mixer", ["attention", "recurrent"])  # the second carries its state
def test_a_score_is_the_product_of_its_steps_though_blocks_differ(mixer: str) -> None:
    predictor = mixture_predictor(mixer=mixer)
    ids = np.random.default_rng(5).integers(0, VOCABULARY.n_ids, 60).astype(np.int64)
    scored = predictor.score(ids)
    state, logp = predictor.step(predictor.start(1), torch.empty((1, 0), dtype=torch.int64))
    stepped = [float(logp[0, ids[0]])]
    for before, symbol in pairwise(ids):
        state, logp = predictor.step(state, torch.tensor([[before]]))
        assert float(logp.exp().sum()) == pytest.approx(1, abs=1e-5)
        stepped.append(float(logp[0, symbol]))
    np.testing.assert_allclose(scored, stepped, rtol=0, atol=2e-4)


def test_what_comes_later_changes_no_score() -> None:
    predictor = mixture_predictor()
    ids = np.random.default_rng(6).integers(0, VOCABULARY.n_symbols, 60).astype(np.int64)
    other = np.concatenate((ids[:40], (ids[40:] + 1) % VOCABULARY.n_symbols))
    np.testing.assert_allclose(predictor.score(ids)[:40], predictor.score(other)[:40], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("block", "stride"), [(9, 4), (7, 7), (12, 5)])
def test_chunks_of_any_rule_are_covered_by_a_members_own(block: int, stride: int) -> None:
    predictor = mixture_predictor((block, 4))
    ids = np.random.default_rng(7).integers(0, VOCABULARY.n_symbols, 80).astype(np.int64)
    rule = ContextRule.of(block, stride)
    chunks = [k for k in range(rule.n_chunks(len(ids))) if k % 3 != 1]
    for member in predictor.members:
        for k, found in zip(chunks, symbol_log_probs(member, ids, chunks, rule), strict=True):
            part = rule.chunk(k, len(ids))
            assert found.shape == (part.end - part.first, VOCABULARY.n_symbols)
    assert sum(map(len, predictor.score_chunks(ids, range(rule.n_chunks(len(ids))), rule))) == len(ids) - 1


def test_no_member_trains_on_what_is_reserved(tmp_path: Path) -> None:
    """Another end of the text: the same weights of the member without n-grams, another mixture."""
    corpus = text()
    end = corpus.train.copy()
    end[-RESERVED:] = end[-RESERVED:][::-1]
    changed = Corpus(**{**vars(corpus), "train": end})
    found = []
    for name, each in (("a", corpus), ("b", changed)):
        run, session = members_run(tmp_path, each, 8, name)
        assert all(
            session.batch_sampler.starts(step).max() + session.model.block_size < len(each.train) - RESERVED
            for step in range(300)
        )
        list(Trainer(session, run).run(Never()))
        found.append(session)
    first, second = (session.earlier[0].weights for session in found)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert found[0].state.mixture != found[1].state.mixture


def test_calibration_leaves_out_what_the_ngrams_counted_there(tmp_path: Path) -> None:
    corpus = text()
    _, session = members_run(tmp_path, corpus, 4)
    assert session.kneser_ney is not None
    member = NgramPredictor(session.kneser_ney, corpus.vocabulary)
    logps, targets, ats = reserved_log_probs(session, [session.predictor, member])
    assert len(targets) > RESERVED - 3 * session.model.block_size
    assert np.array_equal(corpus.train[ats], targets)
    known = nats(logps[1], targets)
    order = session.kneser_ney.order
    rest = build(corpus.train[:-RESERVED], corpus.vocabulary.n_symbols, order, memory=1 << 28).model
    alone = -NgramPredictor(rest, corpus.vocabulary).score(corpus.train)[-len(targets) :].mean()
    seen = -member.score(corpus.train)[-len(targets) :].mean()
    assert known == pytest.approx(alone, abs=0.02) and known > seen + 0.05


@pytest.mark.parametrize("recent_chars", [0, 256])
@pytest.mark.parametrize("members", [KINDS, "no-prior"])
def test_predictions_are_flattened_if_the_reserved_text_is_easier_than_the_rest(
    tmp_path: Path, members: str, recent_chars: int
) -> None:
    """Reserved text that stands in the training text word for word says nothing about other text."""
    whole, shifts = prose(9000), []
    for reserved in (whole[-1200:-600], whole[-1200 - RESERVED : -1200]):
        corpus = prepare(whole[:-1200] + reserved + whole[-600:], TextConfig(val=600 / 8400))
        settings = {"members": members, "recent_chars": recent_chars}
        run, session = members_run(tmp_path, corpus, 4, f"{len(shifts)}", **settings)
        events = list(Trainer(session, run).run(Never()))
        shifts.append(next(event.shift for event in events if isinstance(event, Calibrated)))
        mixture = session.state.mixture
        assert mixture is not None and read_snapshot(run, "latest").mixture == mixture
        if mixture.recent is not None:
            assert mixture.recent.temperature == shifts[-1]
    assert 0.85 < shifts[0] < 1.15 and shifts[1] > shifts[0] + 0.05


@pytest.mark.parametrize("members", ["prior", "no-prior"])
def test_calibration_on_random_symbols_ends_well(tmp_path: Path, members: str) -> None:
    """Nothing predicts them, so the best temperature of n-grams and model is beyond all limits."""
    symbols = np.random.default_rng(1).integers(97, 123, 6000).astype(np.uint8)
    corpus = prepare(symbols.tobytes().decode(), TextConfig())
    run, session = members_run(tmp_path, corpus, 4, members=members, recent_chars=256)
    assert isinstance(list(Trainer(session, run).run(Never()))[-1], Finished)


def test_calibration_on_a_text_of_one_symbol_has_nothing_to_learn(tmp_path: Path) -> None:
    run, session = members_run(tmp_path, prepare("a" * 6000, TextConfig()), 4, recent_chars=256)
    *_, learned = (e for e in Trainer(session, run).run(Never()) if isinstance(e, Calibrated))
    assert str(learned.nats_per_symbol) == "0.0" and learned.recent_strength is None and learned.shift == 1


def test_a_dataset_shift_that_cannot_be_told_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a vocabulary that is too large no n-grams are counted for it; in a tiny text there is no place to look at."""
    _, session = members_run(tmp_path, text(), 4, members="no-prior")
    reserved, session.reserved = session.reserved, len(session.corpus.train) - 100
    assert not len(shift_starts(session))
    session.reserved = reserved
    assert len(shift_starts(session))
    monkeypatch.setattr(calibration, "build", None)
    with pytest.raises(TypeError):
        calibrate(session)
    monkeypatch.setattr(calibration, "NUMBERS", 127 * session.corpus.vocabulary.n_symbols)
    assert calibrate(session).shift == 1.0


def test_the_mixture_is_what_is_evaluated_saved_and_loaded(tmp_path: Path) -> None:
    corpus = text()
    run, session = members_run(tmp_path, corpus, 60)
    events = list(Trainer(session, run).run(Never()))
    calibrated = [event for event in events if isinstance(event, Calibrated)]
    assert [[m.kind for m in event.members] for event in calibrated] == [
        ["no-prior", "ngram"],
        ["no-prior", "prior", "ngram"],
    ]
    for event in calibrated:
        assert event.nats_per_symbol <= min(m.nats_per_symbol for m in event.members) + 1e-3
        assert sum(m.weight for m in event.members) == pytest.approx(1, abs=1e-4)
    final = [event for event in events if isinstance(event, Evaluated)][-1]
    predictor = predictor_of(read_snapshot(run, "latest"))
    assert isinstance(predictor, MixturePredictor) and final.final
    assert -predictor.score(corpus.held_out).mean() == pytest.approx(final.nats_per_char, abs=1e-5)


@pytest.mark.parametrize("killed", [False, True])
def test_it_is_resumed_exactly_wherever_it_is_cut(tmp_path: Path, *, killed: bool) -> None:
    corpus = text()
    run, whole = members_run(tmp_path, corpus, 20, "whole", dropout=0.2)
    list(Trainer(whole, run).run(Never()))
    run, part = members_run(tmp_path, corpus, 20, "part", dropout=0.2)
    for cut in (4, 10, 11, 19):  # the second member begins at 10
        cut_off(Trainer(part, run), cut, killed=killed)
        part = again(run)
        assert part.number == len(part.earlier)
    events = list(Trainer(part, run).run(Never()))
    assert isinstance(events[-1], Finished) and events[-1].step == 20
    assert_same(whole, part)
    assert part.state.mixture == whole.state.mixture
    for ours, theirs in zip(whole.earlier, part.earlier, strict=True):
        assert all(torch.equal(ours.weights[name], theirs.weights[name]) for name in ours.weights)


def test_an_unfinished_run_predicts_by_what_is_calibrated(tmp_path: Path) -> None:
    """The new member knows nothing yet, and must do no harm."""
    corpus = text()
    run, session = members_run(tmp_path, corpus, 40)
    cut_off(Trainer(session, run), 22, killed=False)
    predictor = without_recent(predictor_of(read_snapshot(run, "latest")))
    assert isinstance(predictor, MixturePredictor)
    assert [member.kind for member in predictor.members] == ["transformer", "ngram"]
    run.unlock()
    resume_run(RunFolder(run.path), pytest.fail)


def test_a_member_that_overfits_ends_early_with_its_best_weights(tmp_path: Path) -> None:
    """Its steps go to nobody; the next one begins, and the plan says so."""
    corpus = text()
    run, session = members_run(tmp_path, corpus, 400, patience=1, learning_rate=0.3)
    events = list(Trainer(session, run).run(Never()))
    planned = [event for event in events if isinstance(event, Planned)]
    assert planned and planned[0].decision["decided"] == ENDED_EARLY
    assert session.plan.members[0].end == planned[0].step < 200
    begun = next(e for e in events if isinstance(e, Saved) and e.step == planned[0].step)
    assert read_snapshot(run, "latest").mixture is not None and begun.step == session.plan.members[0].end


@pytest.mark.parametrize("damage", ["mixture", "earlier"])
def test_damage_is_refused(tmp_path: Path, damage: str) -> None:
    corpus = text()
    run, session = members_run(tmp_path, corpus, 4)
    list(Trainer(session, run).run(Never()))
    snapshot = session.snapshot()
    if damage == "mixture":
        snapshot.state["mixture"]["n_transformers"] = 3
        snapshot.state["mixture"]["ngram"] = False
    else:
        snapshot.state["mixture"] = None
    run.save(99, {**snapshot.files()}, snapshot.run_files(), best=False)
    with pytest.raises(CheckpointError, match=r"(state|config)\.json"):
        read_snapshot(run, "99")


@pytest.mark.parametrize("members", ["ngram", "prior,ngram,ngram", "prior,nonsense", ",".join(["prior"] * 9)])
def test_members_that_cannot_be_are_refused(members: str) -> None:
    with pytest.raises(ValueError, match="members"):
        TrainingConfig(members=members)


def test_a_stop_during_the_last_evaluation_is_made_up_for(tmp_path: Path) -> None:
    corpus = text()
    run, whole = members_run(tmp_path, corpus, 6, "whole")
    list(Trainer(whole, run).run(Never()))
    run, part = members_run(tmp_path, corpus, 6, "part")
    list(Trainer(part, run).run(After(lambda: part.state.step, 6)))
    part = again(run)
    list(Trainer(part, run).run(Never()))
    assert part.state.mixture == whole.state.mixture and part.state.finished == "done"
