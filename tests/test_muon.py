"""Muon: updates made orthogonal, fused matrices each by itself, all of one shape at once."""

import pytest
import torch

from charlm.config import ModelConfig
from charlm.model.layers import is_matrix, row_parts
from charlm.model.transformer import LanguageModel, initialise
from charlm.training.optimizer import MOMENTUM, LearningRates, Optimizer, orthogonalize, orthogonalize_parts


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 8, 30), (2, 30, 8), (1, 1, 5)])
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, ...]) -> None:
    x = some(*shape)
    found = orthogonalize(x)
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.3 and values.max() < 1.3
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    middle = u.mT @ found @ v.mT  # diagonal if the directions are the same
    assert (middle - torch.diag_embed(middle.diagonal(dim1=1, dim2=2))).abs().max() < 1e-3
    torch.testing.assert_close(orthogonalize(7 * x), found, rtol=0, atol=1e-4)


def test_parts_are_done_each_by_itself_whatever_stands_beside_them() -> None:
    joined, tall, flat = some(24, 8), some(16, 8, seed=1), some(8, 16, seed=2)
    found = orthogonalize_parts([joined, tall, flat], [(8, 8, 8), (16,), (8,)])
    for part, rows in zip(found[0].split(8), joined.split(8), strict=True):
        torch.testing.assert_close(part, orthogonalize(rows[None])[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[1], orthogonalize(tall[None])[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(found[2], orthogonalize(flat[None])[0], rtol=0, atol=1e-5)


def model(mixer: str = "attention", **settings: object) -> LanguageModel:
    heads = {"n_head": 2} if mixer == "attention" else {}
    made = LanguageModel(ModelConfig(n_layer=2, n_embd=16, block_size=8, mixer=mixer, **heads, **settings), 9)  # type: ignore[arg-type]
    initialise(made, torch.Generator().manual_seed(1))
    return made


@pytest.mark.parametrize(
    ("mixer", "name", "parts"),
    [
        ("attention", "blocks.0.mixer.qkv.weight", (16, 16, 16)),
        ("attention", "blocks.1.mlp.gate_up.weight", (48, 48)),
        ("attention", "blocks.1.mlp.down.weight", (16,)),
        ("recurrent", "blocks.0.mixer.gru.weight_hh_l0", (16, 16, 16)),
    ],
)
def test_joined_matrices_know_their_parts(mixer: str, name: str, parts: tuple[int, ...]) -> None:
    assert row_parts(model(mixer), name) == parts


def test_only_the_blocks_linear_maps_are_matrices() -> None:
    for mixer in ("attention", "convolution", "recurrent"):
        for name, weight in model(mixer).named_parameters():
            expected = name.startswith("blocks.") and any(
                part in name for part in ("qkv", "out.", "gate_up", "down", "weight_ih", "weight_hh")
            )
            assert is_matrix(name, weight) == expected, name
    assert not any(
        "position" in name and is_matrix(name, w) for name, w in model(position="learned").named_parameters()
    )


def test_a_step_is_the_rule_written_out() -> None:
    made = model()
    optimizer = Optimizer(made, "muon", weight_decay=0.5)
    weight = made.get_parameter("blocks.0.mlp.down.weight")
    gains = made.get_parameter("blocks.0.mlp_norm.weight")
    with torch.no_grad():
        weight.copy_(some(*weight.shape))
    expected, momentum = weight.detach().clone(), torch.zeros_like(weight)
    for step in range(3):
        for p in made.parameters():
            p.grad = some(*p.shape, seed=step)
        optimizer.update(LearningRates(adamw=0.01, muon=0.1, ngram_embeddings=0.0), torch.tensor(0.0))
        gradient = some(*weight.shape, seed=step)
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * gradient
        nesterov = (1 - MOMENTUM) * gradient + MOMENTUM * momentum
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * orthogonalize(nesterov[None])[0]
    torch.testing.assert_close(weight.detach(), expected, rtol=0, atol=1e-5)
    assert gains.detach().sub(1).abs().max() <= 0.031, (
        "a gain goes by AdamW, at its own rate, and does not decay"
    )


def test_the_rest_goes_by_the_librarys_adamw() -> None:
    ours, theirs = model(), model()
    optimizer = Optimizer(ours, "adamw", weight_decay=0.3)
    matrices = [p for n, p in theirs.named_parameters() if is_matrix(n, p)]
    others = [p for n, p in theirs.named_parameters() if not is_matrix(n, p)]
    groups = [{"params": matrices, "weight_decay": 0.3}, {"params": others, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.95), eps=1e-8, fused=True)
    for step in range(4):
        for made in (ours, theirs):
            for p in made.parameters():
                p.grad = some(*p.shape, seed=step)
        optimizer.update(LearningRates(0.01, 0.0, 0.0), torch.tensor(0.0))
        reference.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=5e-7)


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_a_bad_step_changes_nothing(kind: str) -> None:
    made = model(ngram_embeddings=3, ngram_embedding_rows=32)
    optimizer = Optimizer(made, kind, weight_decay=0.1)

    def learn(good: bool) -> None:
        made.zero_grad()
        made(torch.arange(8)[None] % 9).sum().mul(1.0 if good else torch.nan).backward()
        optimizer.update(LearningRates(0.01, 0.02, 0.05), torch.tensor(0.0 if good else torch.nan))

    learn(True)
    before = {name: t.clone() for name, t in {**made.state_dict(), **optimizer.state}.items()}
    learn(False)
    after = {**made.state_dict(), **optimizer.state}
    assert all(torch.equal(before[name], after[name]) for name in before)
    learn(True)
    assert any(not torch.equal(before[name], after[name]) for name in before)
