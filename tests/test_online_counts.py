"""Counts that go on counting: the same as counts made anew of all that was read."""

import numpy as np
import pytest

from charlm.ngram.build import build
from charlm.ngram.kneser_ney import KneserNey
from charlm.ngram.online import OnlineKneserNey
from tests.plain_kneser_ney import Plain

V, BLOCK = 4, 7


def random_ids(seed: int, n: int, high: int = V) -> np.ndarray:
    """Ids of which some follow others more often."""
    rng = np.random.default_rng(seed)
    steps = rng.choice(high, n, p=np.array([5, 3, 1, 1, *[1] * (high - 4)]) / (6 + high))
    return (np.cumsum(steps) % high).astype(np.int32)


def counted(ids: np.ndarray, order: int) -> KneserNey:
    return build(ids, V, order, memory=1 << 28).model


def anew(train: np.ndarray, read: list[np.ndarray], model: KneserNey) -> Plain:
    """All of it counted by dictionaries, every beginning (and id that is no symbol) unlike any other."""
    joined: list[int] = [int(i) for i in train]
    never = -2
    for text in read:
        for own in [V] * model.order + [int(i) for i in text]:
            joined.append(own if own < V else never)
            never -= own >= V
    positions = [i for i, own in enumerate(joined) if own >= 0]
    discounts = [level.discounts.tolist() for level in model.levels]
    return Plain(joined, V, model.order, positions, discounts)


@pytest.mark.parametrize("order", [0, 1, 3, 6])
@pytest.mark.parametrize("n", [0, 1, 30, 400])
def test_they_equal_counts_of_all_that_was_read(order: int, n: int) -> None:
    train = random_ids(1, n)
    texts = [random_ids(2, 90, V + 1), random_ids(2, 50), np.array([V, 0, V], dtype=np.int32)]
    model = counted(train, order)
    online, read = OnlineKneserNey(model), []
    for text in texts:
        contexts = online.contexts(text)
        read.append(text[:0])
        for start in range(0, len(text), BLOCK):
            part = slice(start, start + BLOCK)
            plain = anew(train, read, model)
            rows = online.rows(contexts[part])
            for t, row in enumerate(rows, start):
                before = [int(i) for i in text[:t]]
                known = before[max((i + 1 for i, own in enumerate(before) if own >= V), default=0) :]
                expected = [plain.probability(tuple(known), symbol) for symbol in range(V)]
                np.testing.assert_allclose(row, expected, rtol=0, atol=1e-12)
            online.learn(contexts[part], text[part])
            read[-1] = text[: start + BLOCK]


def test_before_anything_is_learned_they_are_the_counts() -> None:
    model = counted(random_ids(3, 500), 5)
    online, text = OnlineKneserNey(model), random_ids(4, 200, V + 2)
    contexts = np.concatenate((model.start(1), model.contexts(text[None, :-1])[0]))
    np.testing.assert_allclose(online.rows(online.contexts(text)), model.rows(contexts), rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_symbols", [V, 70_000])  # of 70,000, three fit a number
def test_no_context_crosses_the_end_of_a_document(n_symbols: int) -> None:
    train, read = random_ids(7, 300), random_ids(8, 200)
    train[-1] = read[0] = end = 2
    model = build(train, n_symbols, 5, memory=1 << 28, end=end).model
    whole = build(np.concatenate((train, read[1:])), n_symbols, 5, memory=1 << 28, end=end).model
    for mine, theirs in zip(whole.levels, model.levels, strict=True):
        object.__setattr__(mine, "discounts", theirs.discounts)
    online, probe = OnlineKneserNey(model, end), random_ids(9, 60, V + 1)
    online.learn(online.contexts(read)[1:], read[1:])
    rows = KneserNey(n_symbols, whole.levels).rows(whole.contexts(probe[None])[0])
    np.testing.assert_allclose(online.rows(online.contexts(probe))[1:], rows[:-1], rtol=0, atol=1e-12)


def test_rows_sum_to_one_and_the_counts_they_began_from_stay() -> None:
    model = counted(random_ids(5, 500), 4)
    text = random_ids(6, 300)
    before = model.rows(model.contexts(text[None])[0])
    online = OnlineKneserNey(model)
    online.learn(online.contexts(text), text)
    np.testing.assert_allclose(online.rows(online.contexts(text)).sum(axis=1), 1, rtol=0, atol=1e-12)
    assert (model.rows(model.contexts(text[None])[0]) == before).all()
    assert (online.rows(online.contexts(text)) != before).any()
