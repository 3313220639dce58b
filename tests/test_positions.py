"""Positions: the published formulas, what depends on the distance only, and what has an end."""

from math import cos, log, sin

import pytest
import torch
import torch.nn.functional as F

from charlm.config import ModelConfig
from charlm.model.masks import alibi_slopes
from charlm.model.positions import POSITIONS, Alibi, Learned, Relative, Rotary, Sinusoidal, rotate
from charlm.model.transformer import LanguageModel, initialise
from tests.matrix import random_model

CONFIG = ModelConfig(n_embd=24, n_head=3, block_size=10)


def some(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("n_embd", [6, 7])
def test_sinusoidal_position_is_the_published_formula(n_embd: int) -> None:
    places = torch.tensor([0, 1, 17, 1000])
    found = Sinusoidal(ModelConfig(n_embd=n_embd)).encoding(places)
    for row, t in zip(found, places.tolist(), strict=True):
        for column in range(n_embd):
            angle = t / 10_000 ** ((column - column % 2) / n_embd)
            assert float(row[column]) == pytest.approx((cos if column % 2 else sin)(angle), abs=1e-12)


def test_sinusoidal_position_is_added_in_the_published_proportion() -> None:
    """Vaswani et al.: sqrt(C) E + PE. Here E + PE / sqrt(C), a multiple of it."""
    position, x, places = Sinusoidal(CONFIG), some(2, 5, 24), torch.arange(5)
    expected = (24**0.5 * x + position.encoding(places)) / 24**0.5
    torch.testing.assert_close(position.embed(x, places), expected, rtol=0, atol=1e-12)


def test_learned_position_refuses_lengths_beyond_its_table_with_the_number() -> None:
    model = random_model(ModelConfig(n_layer=1, n_embd=8, n_head=2, block_size=10, position="learned"))
    assert model(torch.zeros(1, 10, dtype=torch.long)).shape == (1, 10, 7)
    with pytest.raises(ValueError, match="the text has 11 characters; learned positions end at 10"):
        model(torch.zeros(1, 11, dtype=torch.long))


def test_learned_position_is_one_table_of_the_model() -> None:
    names = [
        name
        for name in random_model(
            ModelConfig(n_layer=3, n_embd=8, n_head=2, block_size=10, position="learned")
        ).state_dict()
        if "position" in name
    ]
    assert names == ["position.table.weight"]
    learned = Learned(CONFIG)
    assert learned.table.weight.shape == (10, 24)


@pytest.mark.parametrize("position", ["relative", "rotary", "alibi"])
def test_scores_depend_on_the_distance_only_with_this_position(position: str) -> None:
    module = POSITIONS[position](CONFIG)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    module.double()
    q, k = some(1, 3, 1, 8, seed=1), some(1, 3, 1, 8, seed=2)

    def score(q_at: int, k_at: int) -> torch.Tensor:
        q_pos, k_pos = torch.tensor([q_at]), torch.tensor([k_at])
        product = (module.rotation(q_pos, q)(q) * module.rotation(k_pos, k)(k)).sum(-1)[0, :, 0]
        return (product + module.bias(q_pos, k_pos, q).squeeze()).detach()

    torch.testing.assert_close(score(9, 4), score(105, 100), rtol=0, atol=1e-10)
    assert (score(9, 4) - score(9, 5)).abs().min() > 1e-3


def test_rotary_position_is_the_formula() -> None:
    x = some(1, 1, 5, 6)
    pairs = torch.complex(x[..., :3], x[..., 3:])
    angle = torch.arange(5, dtype=torch.float64)[:, None] * 10_000.0 ** (
        -torch.arange(3, dtype=torch.float64) / 3
    )
    turned = pairs * torch.polar(torch.ones_like(angle), angle)
    expected = torch.cat((turned.real, turned.imag), dim=-1)
    rotary = Rotary(ModelConfig(n_embd=6, n_head=1))
    torch.testing.assert_close(rotate(x, rotary.angles(torch.arange(5), x)), expected, rtol=0, atol=1e-12)


def t5_bucket(back: int, *, both_ways: bool) -> int:
    """Written out from the paper's description: half exact, the rest logarithmic up to 128."""
    n, bucket = 32, 0
    if both_ways:
        n, bucket = 16, 16 if back < 0 else 0
        back = abs(back)
    back = max(0, back)
    if back < n // 2:
        return bucket + back
    return bucket + min(n - 1, n // 2 + int(log(back / (n // 2)) / log(128 / (n // 2)) * (n - n // 2)))


@pytest.mark.parametrize("causal", [True, False])
def test_relative_position_is_bucketed_as_in_t5(causal: bool) -> None:
    relative = Relative(ModelConfig(n_embd=4, n_head=2, causal=causal))
    distances = [*range(-300 if not causal else 0, 300)]
    distances = [
        d for d in distances if abs(d) not in (32, 64)
    ]  # powers, where a logarithm rounds as it likes
    expected = [t5_bucket(d, both_ways=not causal) for d in distances]
    assert relative.bucket(torch.tensor(distances)).tolist() == expected
    assert max(expected) == 31 and (causal or min(expected) == 0)


@pytest.mark.parametrize(
    ("n_head", "slopes"),
    [
        (1, [1 / 256]),
        (2, [1 / 16, 1 / 256]),
        (3, [1 / 16, 1 / 256, 1 / 4]),
        (6, [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8]),
        (8, [2.0**-i for i in range(1, 9)]),
        (12, [*(2.0**-i for i in range(1, 9)), 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5]),
    ],
)
def test_alibi_position_has_the_published_slopes(n_head: int, slopes: list[float]) -> None:
    torch.testing.assert_close(
        alibi_slopes(n_head), torch.tensor(slopes, dtype=torch.float64), rtol=0, atol=1e-15
    )
    places = torch.arange(4)
    bias = Alibi(ModelConfig(n_embd=2 * n_head, n_head=n_head)).bias(places, places, some(1))
    assert float(bias[0, 3, 1]) == -2 * slopes[0] and float(bias[-1, 2, 2]) == 0


def test_no_position_and_a_causal_mask_still_learn_order() -> None:
    """The answer is the character before the last: a matter of order, and nothing else."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    losses = {}
    for causal in (True, False):
        config = ModelConfig(
            n_layer=2, n_embd=32, n_head=2, block_size=6, position="none", causal=causal, dropout=0.0
        )
        model = LanguageModel(config, 4)
        initialise(model, torch.Generator().manual_seed(1))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(150):
            ids = torch.randint(4, (64, 6), generator=generator)
            loss = F.cross_entropy(model(ids)[:, -1], ids[:, -2])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses[causal] = float(loss.detach())
    assert losses[True] < 0.7 * log(4)
    assert losses[False] > 1.2 * losses[True], "unmasked, it sees only how often each character occurs"
