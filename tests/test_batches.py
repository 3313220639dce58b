"""The order of the text: each window once an epoch, a pure function of the step."""

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from charlm.data.corpus import BatchSampler
from charlm.rng import permute, uniform


@given(st.integers(2, 400), st.integers(1, 50), st.integers(1, 9), st.integers(0, 99))
def test_an_epoch_has_each_window_once(n: int, block: int, batch: int, seed: int) -> None:
    block = min(block, n - 1)
    sampler = BatchSampler(n, block, batch, seed)
    K = sampler.per_epoch
    starts = np.concatenate([sampler.starts(step) for step in range(-(-2 * K // batch))])[: 2 * K]
    for epoch in (starts[:K], starts[K:]):
        assert len(set(epoch)) == K
        assert set(np.diff(np.sort(epoch))) <= {block}
        assert epoch.min() >= 0
        assert epoch.max() + block + 1 <= n


@given(st.integers(1, 5000), st.integers(0, 2**62))
def test_a_permutation_is_one(n: int, key: int) -> None:
    assert sorted(permute(np.arange(n), n, key)) == list(range(n))


def test_every_character_is_learned_from_in_some_epoch() -> None:
    sampler = BatchSampler(1000, 256, 1, 5)
    seen = np.zeros(1000, dtype=bool)
    for step in range(400):
        start = sampler.starts(step)[0]
        seen[start + 1 : start + 257] = True
    assert seen[1:].mean() > 0.95


def test_ranks_share_out_the_same_windows_wherever_a_run_is_cut() -> None:
    """However many share a step, and whoever begins anew where, the union is the same."""
    rng = random.Random(1)
    for _ in range(300):
        ranks, share = rng.randint(1, 8), rng.randint(1, 4)
        made = (rng.randint(40, 3000), rng.randint(1, 30), ranks * share, rng.randint(0, 99))
        whole, cut = BatchSampler(*made), rng.randint(1, 300)
        whole.starts(cut - 1)  # it read on; the others begin at the cut
        found = [BatchSampler(*made).starts(cut)[rank * share :][:share].tolist() for rank in range(ranks)]
        assert [start for part in found for start in part] == whole.starts(cut).tolist()


def test_a_batch_is_the_text_at_its_starts() -> None:
    ids = np.arange(500).astype(np.uint16)
    sampler = BatchSampler(500, 10, 3, 2)
    batch = sampler.batch(ids, 7)
    assert batch.shape == (3, 11)
    assert (batch[:, 0] == sampler.starts(7)).all()
    assert (np.diff(batch, axis=1) == 1).all()


def test_orders_of_different_seeds_differ() -> None:
    assert list(BatchSampler(5000, 16, 8, 1).starts(0)) != list(BatchSampler(5000, 16, 8, 2).starts(0))


def test_uniform_numbers_are_uniform() -> None:
    numbers = uniform(3, np.arange(4)[:, None], np.arange(50_000))
    assert numbers.min() >= 0 and numbers.max() < 1
    assert (abs(np.histogram(numbers, 20, (0, 1))[0] / 10_000 - 1) < 0.05).all()
    assert abs(np.corrcoef(numbers)[0, 1]) < 0.02
