"""Counts as where a model begins: what it says at first, what training sees, and that nothing of it is lost."""

from copy import copy
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from numpy.typing import NDArray

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.snapshot import read_snapshot
from charlm.config import ModelConfig, TrainingConfig
from charlm.data.corpus import Corpus
from charlm.inference.context import ContextRule
from charlm.inference.members import predictor_of
from charlm.inference.ngram_predictor import NgramPredictor
from charlm.inference.predictor import TransformerPredictor
from charlm.model.transformer import LanguageModel
from charlm.native.ngram_rows import Cursor
from charlm.ngram.build import FOLDS, TrainingPrior, build, fold_edges, training_folds
from charlm.ngram.kneser_ney import KneserNey, log_float32
from charlm.ngram.table import pruned
from charlm.training.launch import resume_run
from charlm.training.planner import choose
from charlm.training.session import TransformerSession
from charlm.training.sizes import Budget
from charlm.training.trainer import Trainer
from tests.conftest import After, Never, toy_choice, toy_run
from tests.matrix import every_model, name_of

pytestmark = pytest.mark.native

V = 5


def beside_counts(corpus: Corpus, steps: int = 6, **model: object) -> TransformerSession:
    """A session whose model begins from counts."""
    settings = {"prior": True, "prior_order": 3, **model}
    choice = toy_choice(corpus, steps, model=settings)  # type: ignore[arg-type]
    return TransformerSession(corpus, choice.plan, {})


def shaken(session: TransformerSession) -> TransformerPredictor:
    """The session's model with weights that all act, and small enough to agree to many digits."""
    generator = torch.Generator().manual_seed(5)
    for parameter in session.model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    model, vocabulary = session.model.double().eval(), session.corpus.vocabulary
    return TransformerPredictor(model, vocabulary, prior=session.kneser_ney)


@pytest.mark.parametrize("stride", [None, 16])
def test_an_untrained_model_says_exactly_what_the_counts_say(corpus: Corpus, stride: int | None) -> None:
    session = beside_counts(corpus)
    assert session.kneser_ney is not None
    rule = ContextRule.of(16, stride)
    ours = TransformerPredictor(session.model.eval(), corpus.vocabulary, prior=session.kneser_ney)
    theirs = NgramPredictor(session.kneser_ney, corpus.vocabulary)
    unknown = np.concatenate((corpus.held_out, [corpus.vocabulary.n_ids - 1, corpus.held_out[0]]))
    np.testing.assert_allclose(ours.score(unknown, rule), theirs.score(unknown, rule), rtol=0, atol=1e-5)


def through_blocks(model: LanguageModel, x: torch.Tensor) -> torch.Tensor:
    """What the blocks make of their input (1, T, C)."""
    info = model.position_info(torch.arange(x.shape[1]), None, x)
    for block in model.blocks:
        x = block(x, info, None)
    return x


def test_the_logits_are_those_of_the_formula(corpus: Corpus) -> None:
    predictor = shaken(beside_counts(corpus))
    model, counts = predictor.model, predictor.prior
    assert model.prior is not None and counts is not None
    ids = corpus.held_out[:9]
    E, w = model.embedding.weight.detach().numpy(), model.prior.gate[0].detach().numpy()
    R, rows = model.prior.read.detach().numpy(), counts.rows(counts.contexts(ids[None])[0])  # (T, V)
    told = torch.from_numpy(E[ids] + np.sqrt(rows) @ R.T)  # what goes into the first layer
    h = model.norm(through_blocks(model, told[None]))[0, -1].detach().numpy()
    logits = E @ h + (1 + w @ h) * np.log(rows[-1])
    expected = logits - np.log(np.exp(logits).sum())
    _, logp = predictor.step(predictor.start(1), torch.from_numpy(ids[None].astype(np.int64)))
    np.testing.assert_allclose(logp[0, : len(expected)] - logp[0].logsumexp(0), expected, atol=1e-4)


@pytest.mark.parametrize(
    "shape",
    [{}, {"mixer": "recurrent", "n_head": None}, {"mixer": "attention,convolution"}, {"position": "alibi"}],
    ids=str,
)
def test_the_steps_of_a_text_multiply_to_its_score(corpus: Corpus, shape: dict[str, object]) -> None:
    shape = {"n_layer": 2, **shape}
    predictor = shaken(beside_counts(corpus, **shape))
    ids = np.concatenate((corpus.held_out[:70], [corpus.vocabulary.n_ids - 1], corpus.held_out[:9]))
    state, found = predictor.start(1), []
    for t in range(len(ids)):
        before = torch.from_numpy(ids[None, max(0, t - 1) : t].astype(np.int64))
        state, logp = predictor.step(state, before)
        found.append(float(logp[0, ids[t]]))
    np.testing.assert_allclose(found, predictor.score(ids), rtol=0, atol=1e-5)


def in_numpy(model: KneserNey) -> KneserNey:
    """The same model, whose rows NumPy computes."""
    plain = copy(model)
    plain.kernel = None
    return plain


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.tobytes() == b.tobytes() and a.dtype == b.dtype and a.shape == b.shape


@pytest.mark.parametrize(("n_folds", "end"), [(0, None), (3, 1), (10, None)])
@pytest.mark.parametrize(
    ("n_symbols", "order"), [(2, 7), (5, 0), (65, 8), (300, 4), (300, 8), (70_000, 2), (70_000, 5)]
)
def test_rows_in_c_are_the_same_to_the_last_bit(
    clone: str, n_symbols: int, order: int, n_folds: int, end: int | None
) -> None:
    rng = np.random.default_rng(2)
    ids = rng.zipf(1.3, 3000).clip(max=n_symbols).astype(np.int64) - 1
    ids[1000:1800] = 0  # counts too large for a byte
    unseen = rng.integers(0, n_symbols + 9, 300)  # some are no symbols
    edges = fold_edges(len(ids), n_folds) if n_folds else None
    built = build(ids, n_symbols, order, memory=1 << 28, folds=edges, end=end).model
    T = 37 if n_symbols < 1000 else 5
    starts = np.array([0, 3, 700, 1790, 2999 - T, 2990])  # the last goes beyond the end
    folds = fold_edges(len(ids), n_folds) if n_folds else None
    for dense in (True, False):
        model = KneserNey(n_symbols, built.levels, built.fold_counts, dense=dense)
        plain = in_numpy(model)
        assert model.kernel is not None
        kinds = [
            (ids, starts, before, part)
            for part, before in ((folds, None), (None, None), (None, 0), (folds, 1))
        ]
        for read, at, before, part in (*kinds, (unseen, starts // 10, None, None)):
            expected = plain.log_rows(read, at, T, before=before, folds=part)
            for n_threads in (1, 2):
                torch.set_num_threads(n_threads)
                assert same_bits(model.log_rows(read, at, T, before=before, folds=part), expected)


@pytest.mark.parametrize("memory", [1 << 28, 1 << 16])
@pytest.mark.parametrize("most", [None, 400])
@pytest.mark.parametrize("end", [None, 4])
@pytest.mark.parametrize(("n_symbols", "order"), [(5, 0), (5, 3), (65, 8), (255, 7)])
def test_texts_read_on_in_c_are_the_same(
    clone: str, n_symbols: int, order: int, end: int | None, most: int | None, memory: int
) -> None:
    """Also where contexts were dropped to save memory, and where parts were counted, which begin anywhere."""
    rng = np.random.default_rng(3)
    ids = rng.zipf(1.3, (40, 60)).clip(max=n_symbols + 9).astype(np.int64) - 1  # the last are no symbols
    seen = ids.reshape(-1)[:1600].clip(max=n_symbols - 1)
    model = build(seen, n_symbols, order, memory=memory, end=end, most=most).model
    in_c, plain = model.cursor(40), in_numpy(model).cursor(40)
    assert isinstance(in_c, Cursor) and same_bits(in_c.next(), plain.next())
    for t in (0, 1, 2, 3, 8, 9, 20):  # a few at a time, and none
        for cursor in (in_c, plain):
            cursor.read(ids[:, t : t + t % 4])
        assert same_bits(in_c.next(), plain.next())


def test_the_rows_of_a_text_are_those_of_reading_it(kernels: None) -> None:
    ids = np.random.default_rng(4).zipf(1.2, 5000).clip(max=30).astype(np.int64) - 1
    model = build(ids[:3000], 30, 5, memory=1 << 28).model
    cursor, rows = model.cursor(1), model.log_rows(ids, np.array([0]), 400)[0]
    for t in range(400):
        cursor.read(ids[None, t : t + 1])
        assert same_bits(log_float32(cursor.next())[0], rows[t])


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_counts_that_contradict_themselves_are_read_without_harm(kernels: None, level: int) -> None:
    """Contexts that the orders below say were never seen are dropped; all paths do without them."""
    ids = np.random.default_rng(5).integers(0, 4, 300)
    whole = build(ids, 4, 3, memory=1 << 28).model
    kept = [np.ones(len(each.contexts), bool) for each in whole.levels]
    kept[level] = np.arange(len(kept[level])) % 5 != 2 * (level > 0)
    torn = KneserNey(4, pruned(whole.levels, [], kept)[0], dense=False)
    file = safetensors.numpy.load(whole.to_bytes())
    lengths = np.diff(file[f"{level}.starts"])
    file[f"{level}.contexts"] = file[f"{level}.contexts"][kept[level]]
    file[f"{level}.starts"] = np.append(0, lengths[kept[level]].cumsum()).astype(np.uint32)
    for name in (f"{level}.symbols", f"{level}.counts"):
        file[name] = file[name][np.repeat(kept[level], lengths)]
    again = KneserNey.from_bytes(safetensors.numpy.save(file), 4, "x")
    assert torn.to_bytes() == again.to_bytes() != whole.to_bytes()
    expected = in_numpy(torn).log_rows(ids, np.array([0]), 299)
    assert same_bits(torn.log_rows(ids, np.array([0]), 299), expected)
    np.testing.assert_allclose(np.exp(expected).sum(axis=2), 1, rtol=1e-5)


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("n", [1, 6])
def test_single_characters_are_read_as_many_are(corpus: Corpus, native: bool, n: int) -> None:
    session = beside_counts(corpus)
    predictor = shaken(session)
    predictor = TransformerPredictor(
        predictor.model.float(), corpus.vocabulary, session.kneser_ney, native=native
    )
    ids = np.stack([corpus.held_out[i : i + 60] for i in range(n)]).astype(np.int64)
    state = predictor.start(n)
    for t in range(60):
        state, logits = predictor.next_logits(state, ids[:, t])
    _, whole = predictor.step(predictor.start(n), torch.from_numpy(ids))
    said = torch.log_softmax(torch.from_numpy(logits), dim=-1)
    whole = torch.log_softmax(whole[:, : said.shape[1]], dim=-1)
    torch.testing.assert_close(said.float(), whole.float(), rtol=0, atol=1e-4)


def prior_of(text: NDArray[np.uint8]) -> TrainingPrior:
    """The prior of a text, as training sees it."""
    folds = training_folds(len(text), 0)
    return TrainingPrior(build(text, V, 2, memory=1 << 28, folds=folds).model, text, folds)


def test_a_position_never_sees_the_counts_of_its_own_fold() -> None:
    text = np.random.default_rng(1).integers(0, V, 600).astype(np.uint8)
    prior = prior_of(text)
    first, last = fold_edges(len(text), FOLDS)[3:5].tolist()
    changed = text.copy()
    changed[first : last - 2] = (text[first : last - 2] + 1) % V  # but for what the next fold looks back at
    other = prior_of(changed)
    for mine, theirs in zip(prior.model.levels, other.model.levels, strict=True):
        object.__setattr__(theirs, "discounts", mine.discounts)  # those are of the whole text
    dense = [type(p.model)(V, p.model.levels, p.model.fold_counts, dense=False) for p in (prior, other)]
    contexts = dense[0].contexts(np.array([[a, b] for a in range(V) for b in range(V)]))[:, -1]
    fold = np.full(len(contexts), 3)
    np.testing.assert_allclose(*(model.rows(contexts, fold) for model in dense), rtol=0, atol=1e-12)
    assert not np.allclose(*(model.rows(contexts) for model in dense))
    starts = np.array([first - 1])
    whole = prior.model.contexts(text[None])[0, first - 1 : first + 3]  # windows do not cut what counts see
    with_fold = prior.model.rows(whole, np.full(4, 3))
    np.testing.assert_allclose(np.exp(prior.log_rows(starts, 4)[0]), with_fold, rtol=1e-5)
    at_start = prior.model.rows(prior.model.contexts(text[None, :3])[0], np.full(3, 0))
    np.testing.assert_allclose(np.exp(prior.log_rows(np.array([0]), 3)[0]), at_start, rtol=1e-5)


def test_windows_are_left_without_the_prior_as_often_as_asked_and_the_same_each_time(corpus: Corpus) -> None:
    session = beside_counts(corpus, prior_dropout=0.5)
    rows = session.prior_rows
    assert rows is not None
    batches = [rows.batch(step) for step in (0, 1, 2, 7, 8, 3)]
    again = [rows.batch(step) for step in (0, 1, 2, 7, 8, 3)]
    for a, b in zip(batches, again, strict=True):
        np.testing.assert_array_equal(a, b)
    without = [float((rows.batch(step) == 0).all(axis=(1, 2)).mean()) for step in range(100)]
    assert 0.4 < np.mean(without) < 0.6


@pytest.mark.parametrize(
    "config", [c for c in every_model() if not (c.window or c.locality or c.n_kv_head)][::5], ids=name_of
)
def test_every_mixer_learns_beside_counts(corpus: Corpus, config: ModelConfig) -> None:
    shape = {name: getattr(config, name) for name in ("n_layer", "n_head", "mixer", "position")}
    session = beside_counts(corpus, 60, prior_order=1, **shape)
    trainer, part = Trainer(session, None), corpus.held_out  # type: ignore[arg-type]
    before = session.predictor.score(part).mean()
    for _ in range(60):
        list(trainer._guarded_steps())
    assert session.predictor.score(part).mean() > before + 0.05


def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path, corpus: Corpus) -> None:
    settings = {"prior": True, "prior_order": 3, "prior_dropout": 0.3}
    run, session = toy_run(tmp_path, corpus, 9, "whole", model=settings)
    list(Trainer(session, run).run(Never()))
    run.unlock()
    cut, session = toy_run(tmp_path, corpus, 9, "cut", model=settings)
    trainer = Trainer(session, cut)
    list(trainer.run(After(lambda: trainer.step, 4)))
    assert 0 < trainer.step < 9
    cut.unlock()
    resumed = resume_run(RunFolder(cut.path), pytest.fail)
    list(Trainer(resumed, cut).run(Never()))
    cut.unlock()
    one, other = read_snapshot(run, "latest"), read_snapshot(cut, "latest")
    assert one.ngram == other.ngram and one.ngram is not None
    for name, weight in one.weights.items():
        assert torch.equal(weight, other.weights[name]), name
    loaded, ids = predictor_of(other), session.corpus.held_out
    in_memory = TransformerPredictor(
        resumed.model.eval(), resumed.corpus.vocabulary, prior=resumed.kneser_ney
    )
    np.testing.assert_array_equal(loaded.score(ids), in_memory.score(ids))


def test_the_plan_takes_counts_where_there_is_text_enough_and_leaves_n_grams_out() -> None:
    def model(n_train: int, **given: object) -> ModelConfig:
        return choose(Budget(steps=10), n_train, ModelConfig(**given), TrainingConfig()).model  # type: ignore[arg-type]

    assert model(1_000_000).prior and model(1_000_000).prior_order == 8
    assert (
        model(1_000_000).ngram_embeddings == 1 and model(1_000_000, ngram_embeddings=3).ngram_embeddings == 3
    )
    assert model(1_000_000, ngram_embedding_rows=64).ngram_embeddings == 4
    assert not model(1_000).prior and model(1_000).ngram_embeddings == 4
    assert model(1_000, prior=True).prior and model(1_000, prior_order=2).prior_order == 2
    assert not model(1_000_000, prior=False).prior and not model(1_000_000, plain=True).prior


def test_how_much_is_counted_cannot_act_without_counts() -> None:
    with pytest.raises(ValueError, match="`prior_chars=9` has no effect without a prior"):
        choose(Budget(steps=10), 10**6, ModelConfig(prior=False), TrainingConfig(prior_chars=9))


def test_windows_go_without_the_prior_where_the_text_is_read_often_enough() -> None:
    def dropout(steps: int, **given: object) -> float | None:
        return choose(Budget(steps=steps), 10**6, ModelConfig(**given), TrainingConfig()).model.prior_dropout  # type: ignore[arg-type]

    assert dropout(10) == 0 and dropout(3000) == 0.1 and dropout(10, prior_dropout=0.3) == 0.3
    assert dropout(10, prior=False) is None


def test_counting_keeps_to_a_tenth_of_the_time_by_a_fixed_rule() -> None:
    def chars(n_train: int) -> int | None:
        budget = Budget(seconds=20.0)
        return choose(budget, n_train, ModelConfig(), TrainingConfig()).training.prior_chars

    assert chars(1_000_000) is None
    assert chars(10_000_000) == chars(100_000_000) == 1_200_000
