"""Scores of what learns as it reads: all that is learned was scored before, and nothing is learned twice."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from charlm.checkpoint.run_folder import CorpusFacts, RunFacts
from charlm.checkpoint.snapshot import Snapshot
from charlm.data.corpus import Corpus
from charlm.data.text_config import TextConfig
from charlm.evaluation.adaptive import BLOCK, MODEL, NGRAM, DynamicModel, scoring_online
from charlm.evaluation.report import evaluate
from charlm.evaluation.score import Score, score_text
from charlm.inference.context import ContextRule
from charlm.inference.members import predictor_of
from charlm.ngram.online import OnlineKneserNey
from tests.test_prior import beside_counts

SHAPES: list[dict[str, object]] = [
    {},
    {"prior": False, "prior_order": None},
    {"position": "learned"},
    {"mixer": "recurrent", "n_head": None},
    {"mixer": "attention,convolution", "prior": False, "prior_order": None},
]
FACTS = RunFacts(
    name="toy",
    command="charlm train",
    created="",
    corpus=CorpusFacts(label="a toy", sources=(), key="", sha256=""),
    text=TextConfig(),
)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


class Frozen(OnlineKneserNey):
    def learn(self, contexts: object, ids: object) -> None:
        """Nothing."""


def snapshot(corpus: Corpus, **shape: object) -> Snapshot:
    """Of a model with weights that all act, in double precision."""
    session = beside_counts(corpus, **{"n_layer": 2, **shape})
    generator = torch.Generator().manual_seed(5)
    for parameter in session.model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    found = session.snapshot()
    weights = {name: weight.double() for name, weight in found.weights.items()}
    return replace(found, weights=weights, run=FACTS)


def learned(
    of: Snapshot, *texts: str, rate: float = 0.02, frozen: bool = False, stride: int | None = None
) -> dict[str, Score]:
    rule = ContextRule.of_model(of.model_config, stride)
    model = DynamicModel(of, rule, rate)
    if frozen and model.prior is not None:
        model.prior = Frozen(model.prior.model)
    work = scoring_online(model, [(str(i), text) for i, text in enumerate(texts)])
    while True:
        try:
            next(work)
        except StopIteration as end:
            return dict(end.value)


@shapes
@pytest.mark.parametrize("stride", [None, 5, 16])
def test_where_nothing_is_learned_the_figure_is_the_static_one(
    corpus: Corpus, shape: dict[str, object], stride: int | None
) -> None:
    of = snapshot(corpus, **shape)
    if of.model_config.carries_state and stride:
        pytest.skip("it has no stride")
    text = corpus.held_out_text()[:200] + "Ж" + corpus.held_out_text()[200:]
    found = learned(of, text, rate=0, frozen=True, stride=stride)
    rule = ContextRule.of_model(of.model_config, stride)
    static = score_text(predictor_of(of), "", text, rule)
    np.testing.assert_allclose(found[MODEL].nats, static.nats, rtol=0, atol=1e-6)


@shapes
def test_nothing_is_learned_before_it_is_scored(corpus: Corpus, shape: dict[str, object]) -> None:
    of, text = snapshot(corpus, **shape), corpus.held_out_text()[: 4 * BLOCK]
    before = learned(of, text)
    for t in (0, 1, BLOCK, BLOCK + 1, 2 * BLOCK + 9):
        other = "".join("xq"[text[i] == "x"] for i in range(t + 1, len(text)))
        after = learned(of, text[: t + 1] + other)
        for kind, figure in before.items():
            np.testing.assert_array_equal(after[kind].nats[: t + 1], figure.nats[: t + 1])


@shapes
def test_a_block_once_scored_is_learned(corpus: Corpus, shape: dict[str, object]) -> None:
    of, text = snapshot(corpus, **shape), corpus.held_out_text()[: 3 * BLOCK]
    static, found = learned(of, text, rate=0, frozen=True), learned(of, text)
    for kind, figure in found.items():
        same = figure.nats == static[kind].nats
        assert same[: BLOCK + 1].all() and not same[BLOCK + 1 :].all()


def test_what_repeats_is_learned(corpus: Corpus) -> None:
    text = "ducks away swimming hills and hello " * 20
    of = snapshot(corpus)
    found, static = learned(of, text), learned(of, text, rate=0, frozen=True)
    assert all(
        figure.nats[-BLOCK:].mean() < 0.8 * static[k].nats[-BLOCK:].mean() for k, figure in found.items()
    )


def test_counts_online_are_those_of_the_prior_and_what_was_read(corpus: Corpus) -> None:
    of, text = snapshot(corpus), corpus.held_out_text()[:300]
    model = of.kneser_ney()
    assert model is not None
    online, ids = OnlineKneserNey(model), of.vocabulary.encode(text)
    contexts, nats = online.contexts(ids), []
    for start, end in ((0, 65), (65, 129), (129, 193), (193, 257), (257, 300)):
        rows = online.rows(contexts[start:end])
        nats.append(-np.log(rows[np.arange(end - start), ids[start:end]]))
        online.learn(contexts[start:end], ids[start:end])
    lacking = 2.0**-16
    np.testing.assert_allclose(
        learned(of, text)[NGRAM].nats, np.concatenate(nats) - np.log1p(-lacking), rtol=0, atol=1e-12
    )


def test_what_was_learned_is_kept_for_the_next_text(corpus: Corpus) -> None:
    of, text = snapshot(corpus), corpus.held_out_text()[:200]
    twice, once = learned(of, text, text), learned(of, text)
    for kind in (NGRAM, MODEL):
        first, second = (scored.nats for scored in twice[kind].texts)
        np.testing.assert_array_equal(first, once[kind].nats)
        assert second.mean() < first.mean()
    assert learned(of, "", text)[MODEL].chars == len(text)


def test_the_checkpoint_stays_as_it_is(corpus: Corpus) -> None:
    of = snapshot(corpus)
    before = {name: weight.clone() for name, weight in of.weights.items()}
    assert (
        learned(of, corpus.held_out_text())[MODEL].nats == learned(of, corpus.held_out_text())[MODEL].nats
    ).all()
    assert all((of.weights[name] == weight).all() for name, weight in before.items())


def test_every_figure_says_of_what_kind_it_is(corpus: Corpus) -> None:
    for shape, kinds in (({}, [NGRAM, MODEL]), ({"prior": False, "prior_order": None}, [MODEL])):
        of = snapshot(corpus, **shape)
        text, rule = corpus.held_out_text(), ContextRule.of_model(of.model_config)
        static = evaluate(of, "latest", [("x", text)], rule, corpus, predictor_of(of))
        both = replace(static, online=learned(of, text))
        found = json.loads(json.dumps(both.to_json()))
        assert found["online"] is False
        assert [(f["kind"], f["online"]) for f in found["figures"]] == [
            *((kind, False) for kind in kinds),
            *((kind, True) for kind in kinds),
        ]
        assert found["figures"][len(kinds) - 1]["nats_per_char"] == found["nats_per_char"]
        assert len({f["nats_per_char"] for f in found["figures"]}) == 2 * len(kinds)
        assert len(static.to_json()["figures"]) == len(kinds)
