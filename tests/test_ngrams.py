"""N-gram vectors: what a row depends on, what a step changes, and agreement through the cache."""

from pathlib import Path

import pytest
import torch

from charlm.config import ModelConfig, TrainingConfig
from charlm.data.corpus import Corpus
from charlm.inference.predictor import TransformerPredictor
from charlm.model.ngram_layers import NgramEmbeddings
from charlm.model.transformer import LanguageModel, initialise
from charlm.training.optimizer import LearningRates, Optimizer
from charlm.training.planner import NGRAM_EMBEDDING_WEIGHTS, choose
from charlm.training.sizes import Budget
from tests.test_loop import stopped_and_resumed
from tests.test_predictor import VOCABULARY

CONFIG = ModelConfig(
    n_layer=1, n_head=2, n_embd=8, block_size=7, ngram_embeddings=4, ngram_embedding_rows=512, dropout=0.0
)


def ngrams(n_symbols: int = 20) -> NgramEmbeddings:
    made = NgramEmbeddings(CONFIG, n_symbols)
    torch.nn.init.normal_(made.table, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        made.table[made.nothing] = 0
    return made.eval()


def test_a_row_depends_on_the_last_characters_and_on_nothing_else() -> None:
    made, generator = ngrams(), torch.Generator().manual_seed(1)
    ids = torch.randint(20, (2, 12), generator=generator)
    none = torch.full((2, 3), -1)
    rows = made.index(ids, none)
    ids[1, 4:] = ids[0, 4:]
    changed = made.index(ids, none)
    for i, n in enumerate((2, 3, 4)):
        assert torch.equal(changed[0, 3 + n :, i], changed[1, 3 + n :, i]), (
            "the same characters, the same row"
        )
        assert torch.equal(rows[0, :, i], changed[0, :, i])
        assert not torch.equal(rows[0, :, i], rows[1, :, i])
    assert len(changed[..., 0].unique()) > 12, "different characters, as a rule, different rows"


def test_what_no_vocabulary_has_and_what_is_not_there_has_no_vector() -> None:
    made = ngrams()
    index = made.index(torch.tensor([[3, 25, 4, 5, 6, 7]]), torch.full((1, 3), -1))
    nothing = index == made.nothing
    assert nothing[0].tolist() == [
        [True, True, True],  # nothing before it
        [True, True, True],  # unknown
        [True, True, True],
        [False, True, True],
        [False, False, True],
        [False, False, False],
    ]
    assert (made(torch.tensor([[3]]), torch.full((1, 3), -1)) == 0).all()


def test_a_step_moves_the_rows_that_were_read_against_their_gradient() -> None:
    made = LanguageModel(CONFIG, 20)
    initialise(made, torch.Generator().manual_seed(1))
    assert made.ngrams is not None and (made.ngrams.table == 0).all()
    optimizer = Optimizer(made.train(), "muon", 0.1)
    ids = torch.tensor([[1, 2, 3, 1, 2]])
    made(ids).square().sum().backward()
    ((index, summed),) = made.ngrams.pending
    assert summed.grad is not None
    gradient = summed.grad[0].clone()
    optimizer.update(LearningRates(0.0, 0.0, 0.05), torch.tensor(0.0))
    read = set(index.flatten().tolist()) - {made.ngrams.nothing}
    moved = set(made.ngrams.table.abs().sum(dim=1).nonzero().flatten().tolist())
    assert moved == read and not made.ngrams.pending
    twice = index[1, 0]  # "1 2", at places 1 and 4
    assert twice == index[4, 0]
    total = gradient[1] + gradient[4]
    expected = -0.05 * total / total.square().mean().sqrt()
    torch.testing.assert_close(made.ngrams.table[twice].detach(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("cut", [1, 3, 6])
def test_ngrams_through_the_cache_are_those_of_recomputation(cut: int) -> None:
    model = LanguageModel(CONFIG, VOCABULARY.n_symbols)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(2))
    model.double().eval()
    predictor = TransformerPredictor(model, VOCABULARY)
    ids = torch.randint(VOCABULARY.n_symbols, (2, 20), generator=torch.Generator().manual_seed(3))
    state, _ = predictor.step(predictor.start(2), ids[:, :cut])
    for t in range(cut, 20):
        state, logp = predictor.step(state, ids[:, t : t + 1])
        start = predictor.rule.start(t + 1)
        expected = torch.log_softmax(model(ids[:, start : t + 1])[:, -1], dim=-1)
        known = logp[:, : VOCABULARY.n_symbols]
        torch.testing.assert_close(torch.log_softmax(known, dim=-1), expected, rtol=0, atol=1e-10)


def test_the_plan_gives_as_many_vectors_as_a_text_can_fill() -> None:
    short, long = (
        choose(Budget(steps=50), n, ModelConfig(prior=False, n_embd=64), TrainingConfig()).model
        for n in (1000, 10**8)
    )
    assert short.ngram_embedding_rows == 1024 and long.ngram_embedding_rows and long.ngram_embeddings
    assert long.ngram_embedding_rows * (long.ngram_embeddings - 1) * 64 <= NGRAM_EMBEDDING_WEIGHTS
    assert (
        choose(Budget(steps=50), 1000, ModelConfig(plain=True), TrainingConfig()).model.ngram_embeddings == 1
    )


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_a_run_with_ngrams_resumes_exactly(tmp_path: Path, corpus: Corpus, dropout: float) -> None:
    stopped_and_resumed(
        tmp_path,
        corpus,
        {"ngram_embeddings": 3, "ngram_embedding_rows": 256, "ngram_embedding_dropout": dropout},
    )


def test_with_gradient_taken_as_seen_rare_rows_move_less_and_frequent_ones_as_ever() -> None:
    moved = {}
    for prior in (0.0, 1e-4):
        made = LanguageModel(CONFIG, 20)
        initialise(made, torch.Generator().manual_seed(1))
        assert made.ngrams is not None
        optimizer = Optimizer(made.train(), "muon", 0.1, ngram_embedding_accumulator=prior)
        square = optimizer.state["row_square.ngrams.table"]
        made(torch.tensor([[1, 2, 3]])).square().mean().backward()
        index = made.ngrams.pending[0][0]
        rare, frequent = int(index[1, 0]), int(index[2, 0])
        square[frequent] = 1.0
        optimizer.update(LearningRates(0.0, 0.0, 0.05), torch.tensor(0.0))
        moved[prior] = [made.ngrams.table[row].detach().norm() for row in (rare, frequent)]
    assert moved[1e-4][0] < 0.9 * moved[0.0][0]
    assert moved[1e-4][1] == pytest.approx(float(moved[0.0][1]), rel=1e-3)


def test_dropout_leaves_out_that_share_of_vectors_in_training_only() -> None:
    made = NgramEmbeddings(
        ModelConfig(n_embd=8, ngram_embeddings=3, ngram_embedding_rows=64, ngram_embedding_dropout=0.3), 20
    )
    torch.nn.init.normal_(made.table)
    ids = torch.randint(20, (50, 40), generator=torch.Generator().manual_seed(1))
    before = torch.zeros(50, 2, dtype=torch.long)
    torch.manual_seed(2)
    made.train()(ids, before)
    left_out = (made.pending[0][0] == made.nothing).float().mean()
    assert left_out == pytest.approx(0.3, abs=0.03)
    made.eval()
    whole = made.table[made.index(ids, before)].sum(dim=2)
    torch.testing.assert_close(made(ids, before), whole)


def test_the_plan_holds_rare_ngrams_back_the_more_the_more_often_it_reads_the_text() -> None:
    def chosen(n_train: int, **given: float) -> TrainingConfig:
        budget = Budget(steps=500)
        return choose(budget, n_train, ModelConfig(n_embd=64, block_size=64), TrainingConfig(batch_size=16, reserved_chars=0, **given)).training  # fmt: skip

    once, twice, often = (chosen(n).ngram_embedding_accumulator for n in (513_000, 256_000, 51_200))
    assert once == 0 and twice == pytest.approx(6.0, rel=0.01) and often == pytest.approx(486.0, rel=0.01)
    assert chosen(51_200, ngram_embedding_accumulator=1.0).ngram_embedding_accumulator == 1.0
