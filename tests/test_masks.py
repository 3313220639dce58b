"""Masks and the soft prior: exactly who may read whom."""

import pytest
import torch

from charlm.config import ModelConfig
from charlm.model.masks import (
    Causal,
    Documents,
    Locality,
    Window,
    alibi_slopes,
    allowed_by,
    as_bias,
    masks_of,
)
from tests.matrix import random_model

PLACES = torch.arange(7)
DOCS = torch.tensor([[0, 0, 0, 1, 1, 1, 2], [5, 5, 5, 5, 5, 5, 5]])


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("documents", [True, False])
def test_masks_are_joined_by_and(causal: bool, window: int | None, documents: bool) -> None:
    config = ModelConfig(n_embd=8, n_head=2, causal=causal, window=window)
    docs = DOCS if documents else None
    mask = allowed_by(masks_of(config, documents=documents), PLACES, PLACES, docs)
    mask = mask.expand(2, 1, 7, 7)[:, 0]
    for b in range(2):
        for q in range(7):
            for k in range(7):
                allowed = (
                    (not causal or k <= q)
                    and (window is None or abs(q - k) < window)
                    and (docs is None or bool(docs[b, q] == docs[b, k]))
                )
                assert bool(mask[b, q, k]) == allowed


def test_a_mask_says_the_same_of_later_queries_alone() -> None:
    """As sampling asks it: the queries are the last places only."""
    masks = [Causal(), Window(3)]
    whole = allowed_by(masks, PLACES, PLACES)
    assert torch.equal(allowed_by(masks, PLACES[4:], PLACES), whole[4:])
    docs = Documents()(PLACES, PLACES, DOCS)
    assert docs.shape == (2, 1, 7, 7)


def test_what_a_mask_forbids_has_no_weight() -> None:
    bias = as_bias(Causal()(PLACES, PLACES, None), torch.zeros((), dtype=torch.float64))
    weights = torch.softmax(torch.randn(7, 7, dtype=torch.float64) * 100 + bias, dim=-1)
    assert (weights.triu(1) == 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(7, dtype=torch.float64))


def test_a_mask_of_a_document_makes_its_beginning_independent_of_what_stands_before() -> None:
    """With positions that depend on the distance only, a document reads as if it stood alone."""
    model = random_model(ModelConfig(n_layer=2, n_embd=8, n_head=2, block_size=8, position="rotary"))
    ids = torch.tensor([[3, 1, 4, 1, 5, 2, 6, 5]])
    docs = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]])
    together = model(ids, docs=docs)
    torch.testing.assert_close(together[:, :3], model(ids[:, :3]), rtol=0, atol=1e-12)
    torch.testing.assert_close(together[:, 3:], model(ids[:, 3:]), rtol=0, atol=1e-12)


def test_locality_is_a_mask_that_only_prefers() -> None:
    prior = Locality(ModelConfig(n_embd=12, n_head=3))
    torch.nn.init.zeros_(prior.bias_scale)
    bias = prior.bias(PLACES, PLACES)
    assert bias.shape == (3, 7, 7) and torch.isfinite(bias).all()
    distance = (PLACES[:, None] - PLACES[None, :]).abs()
    torch.testing.assert_close(bias.double(), -alibi_slopes(3)[:, None, None] * distance)
    (grown,) = torch.autograd.grad(bias[0].sum(), prior.bias_scale)
    assert grown[0] < 0 and (grown[1:] == 0).all(), "each head learns its own"


def test_locality_is_one_prior_of_the_model_and_acts_like_a_mask_on_all_layers() -> None:
    config = ModelConfig(n_layer=3, n_embd=8, n_head=2, block_size=8, locality=True, position="none")
    model = random_model(config)
    assert [name for name in model.state_dict() if "locality" in name] == ["locality.bias_scale"]
    ids = torch.tensor([[3, 1, 4, 1, 5, 2, 6, 5]])
    before = model(ids)
    with torch.no_grad():
        assert model.locality is not None
        model.locality.bias_scale.fill_(20.0)  # so steep that each position reads itself only
    alone = torch.cat([model(ids[:, t : t + 1]) for t in range(8)], dim=1)
    torch.testing.assert_close(model(ids), alone, rtol=0, atol=1e-12)
    assert (before - alone)[:, 1:].abs().max() > 1e-3
