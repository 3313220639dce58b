"""When a run has diverged, and when it has begun to memorise."""

from math import nan

import numpy as np

from charlm.training.guards import MAX_NONFINITE, RECENT, Divergence, EarlyStopping


def test_a_falling_loss_is_no_divergence() -> None:
    watch = Divergence(unigram_nats=3.3)
    assert not any(watch.update(loss) for loss in np.linspace(4.2, 1.5, 500) + 0.3 * np.sin(np.arange(500)))


def test_a_nat_above_the_lowest_is() -> None:
    watch = Divergence(unigram_nats=9.0)
    assert not any(watch.update(1.5) for _ in range(100))
    reasons = [watch.update(2.6) for _ in range(RECENT)]
    assert reasons[-1] and not any(reasons[:40])


def test_above_the_unigram_after_having_been_below_is() -> None:
    watch = Divergence(unigram_nats=2.0)
    assert not any(watch.update(1.7) for _ in range(60))
    assert any(watch.update(2.2) for _ in range(RECENT))
    slow = Divergence(unigram_nats=2.0)
    assert not any(slow.update(2.0 + 0.09 * (-1) ** (i // 60)) for i in range(600)), "never clearly below"


def test_one_bad_loss_is_left_out_and_three_in_a_row_are_not() -> None:
    watch = Divergence(unigram_nats=2.0)
    assert [bool(watch.update(x)) for x in (nan, nan, 1.0, nan, nan)] == [False] * 5
    assert watch.update(nan)
    assert MAX_NONFINITE == 3


def test_another_slice_is_no_improvement_by_itself() -> None:
    judge = EarlyStopping()
    judge.update(1, [2.0] * 10)
    assert not judge.update(2, [2.5] * 30)
    assert (judge.best_step, judge.rises) == (1, 1)
    assert judge.update(3, [1.9] * 30)


def test_only_a_rise_beyond_chance_counts() -> None:
    rng = np.random.default_rng(0)
    judge, base = EarlyStopping(), rng.normal(2, 0.3, 100)
    assert judge.update(1, list(base))
    noise = rng.normal(0, 0.2, 100)
    assert not judge.update(2, list(base + noise - noise.mean() + 0.001))
    assert judge.rises == 0
    assert not judge.update(3, list(base + noise - noise.mean() + 0.05))
    assert judge.rises == 1
    assert judge.update(4, list(base - 0.001))
    assert (judge.rises, judge.best_step) == (0, 4)


def test_what_a_cooldown_takes_back_does_not_count() -> None:
    judge, base = EarlyStopping(), np.random.default_rng(0).normal(2, 0.3, 100)
    judge.update(1, list(base))
    for rise, margin, rises in ((0.02, 0.03, 0), (0.04, 0.03, 1), (0.02, 0.0, 2)):
        assert not judge.update(2, list(base + rise), margin)
        assert judge.rises == rises
