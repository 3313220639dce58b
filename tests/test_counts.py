"""Counts: the formulas of Kneser-Ney to the digit, with and without a fold, in memory that is given."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from charlm.errors import CheckpointError
from charlm.ngram.build import (
    build,
    count_parts,
    count_unigram,
    fit,
    fold_edges,
    fold_of,
    lower_orders,
    split_spans,
    spread_chars,
    tail_losses,
)
from charlm.ngram.grams import Grams, count
from charlm.ngram.keys import KEY_BITS, Packing
from charlm.ngram.kneser_ney import KneserNey
from charlm.ngram.table import discounts, levels, levels_with_folds
from charlm.ngram.table_file import save_levels
from tests.plain_kneser_ney import Plain, by_paper

SYMBOLS = 4
TEXTS = st.lists(st.integers(0, SYMBOLS - 1), min_size=1, max_size=60)


def counted(ids: np.ndarray, order: int, n_symbols: int = SYMBOLS) -> KneserNey:
    packing = Packing(n_symbols)
    order, grams = count(ids, packing, order, [(0, len(ids))])
    return KneserNey(n_symbols, levels(grams, packing, order))


def noise(n: int, n_symbols: int = SYMBOLS, seed: int = 1) -> np.ndarray:
    """Ids that repeat themselves enough for every order to have something to say."""
    rng = np.random.default_rng(seed)
    phrase = rng.integers(0, n_symbols, n // 4 + 1)
    ids = np.concatenate([phrase[rng.integers(0, len(phrase) // 2) :] for _ in range(9)])[:n]
    return np.where(rng.random(len(ids)) < 0.1, rng.integers(0, n_symbols, len(ids)), ids)


@given(TEXTS, st.integers(0, 6), st.lists(st.integers(0, SYMBOLS), max_size=9), st.booleans())
def test_rows_are_the_formulas(text: list[int], order: int, context: list[int], known: bool) -> None:
    if known:
        context = text[: len(context)]
    model, plain = counted(np.array(text), order), Plain(text, SYMBOLS, order)
    state = model.start(1)
    for id_ in context:
        state = model.step(state, np.array([id_]))
    row = model.rows(state)[0]
    expected = [plain.probability(tuple(context), symbol) for symbol in range(SYMBOLS)]
    np.testing.assert_allclose(row, expected, rtol=1e-12)
    assert row.sum() == pytest.approx(1, abs=1e-12)
    assert row.min() > 0


@pytest.mark.parametrize("dense", [0, 1 << 21])
@pytest.mark.parametrize("order", [0, 1, 3, 8])
def test_a_text_is_scored_as_its_rows_say(order: int, dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charlm.ngram.kneser_ney.DENSE_NUMBERS", dense)
    monkeypatch.setattr("charlm.ngram.kneser_ney.POSITIONS_AT_ONCE", 37)
    model, plain = counted(noise(500), order), Plain(noise(500), SYMBOLS, order)
    text = noise(120, seed=2)
    text[50] = SYMBOLS + 3  # no symbol of the model: it ends every context
    scored = model.probabilities(text)
    rows = np.exp(model.log_rows(text, np.array([0]), len(text))[0])
    assert scored[50] == 0
    for t in range(1, len(text)):
        if t != 50:
            assert scored[t] == pytest.approx(rows[t - 1, text[t]], rel=1e-5)
            assert scored[t] == pytest.approx(plain.probability(tuple(text[:t]), text[t]), rel=1e-12)


@pytest.mark.parametrize("n_symbols", [256, 603])
def test_ids_are_read_alike_whatever_type_holds_them(n_symbols: int) -> None:
    """A byte holds the ids of this text, and not the boundary, which is the number of symbols."""
    ids = np.concatenate(([0, 1, n_symbols % 256, 0, 7], noise(500, 256)))  # as if the boundary wrapped
    model, other = (counted(each, 3, n_symbols) for each in (ids, ids.astype(np.uint8)))
    wanted = model.log_rows(ids, np.array([0, 9]), 40)
    for text in (ids, ids.astype(np.uint8)):
        np.testing.assert_array_equal(other.log_rows(text, np.array([0, 9]), 40), wanted)


def test_one_symbol_more_gives_the_context_of_the_whole_text() -> None:
    model, text = counted(noise(500), 5), noise(40, seed=2)
    state = model.start(2)
    for t in range(len(text)):
        state = model.step(state, text[[t, t]])
        at_once = model.contexts(text[None])[0, t]
        np.testing.assert_array_equal(state, [at_once, at_once])


@pytest.mark.parametrize("n_symbols", [1, 2, 3, 63, 64, 255, 256, 65535, 70000])
@pytest.mark.parametrize("more", [0, 1, 9])
def test_keys_of_any_vocabulary_and_length_sort_as_their_symbols(n_symbols: int, more: int) -> None:
    packing = Packing(n_symbols)
    digits = KEY_BITS // packing.bits + more  # as many as fit a number, or more
    assert packing.fits(digits) == (more == 0)
    ids = np.random.default_rng(1).integers(max(0, n_symbols - 3), n_symbols, 60)
    ids[[20, 40]] = 0, n_symbols
    keys = packing.pack(ids, 0, 60, digits)
    windows = [
        [n_symbols] * max(0, digits - 1 - t) + ids[max(0, t - digits + 1) : t + 1].tolist() for t in range(60)
    ]
    assert np.argsort(keys, kind="stable").tolist() == sorted(range(60), key=windows.__getitem__)
    contexts, last = packing.parted(keys)
    assert last.tolist() == [window[-1] for window in windows]
    np.testing.assert_array_equal(contexts[1:], packing.pack(ids, 0, 59, digits - 1) if digits > 1 else 0)
    for shorter in {1, digits // 2, digits - 1} - {0, digits}:
        np.testing.assert_array_equal(packing.last(keys, shorter), packing.pack(ids, 0, 60, shorter))
    keys.sort()
    assert packing.inside(keys, digits) == sum(window[0] < n_symbols for window in windows)
    assert len(packing.pack(ids, 7, 7, digits)) == 0


@pytest.mark.parametrize("order", [3, 4, 5, 8, 12])  # with 13 bits each, five symbols fit a number
def test_vocabularies_of_thousands(order: int) -> None:
    ids = np.concatenate([np.random.default_rng(1).zipf(1.3, 1500) % 5000] * 2)
    model, plain = counted(ids, order, 5000), Plain(ids, 5000, order)
    assert model.order == order
    again = KneserNey.from_bytes(model.to_bytes(), 5000, "x")
    read = np.concatenate((ids[:40], [4999], ids[70:110]))
    rows, scored = model.rows(model.contexts(read[None])[0]), model.probabilities(read)
    np.testing.assert_array_equal(again.rows(again.contexts(read[None])[0]), rows)
    np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=1e-12)
    for t in (0, 3, 20, 39, 40, 43, 79):
        expected = [plain.probability(tuple(read[: t + 1]), symbol) for symbol in range(0, 5000, 97)]
        np.testing.assert_allclose(rows[t, ::97], expected, rtol=1e-12)
        assert scored[t] == pytest.approx(plain.probability(tuple(read[:t]), read[t]), rel=1e-12)


@given(st.lists(st.integers(1, 7), max_size=30))
def test_discounts_are_those_of_the_paper(counts: list[int]) -> None:
    found = discounts(np.array(counts, dtype=np.uint8))
    np.testing.assert_allclose(found, by_paper(counts), rtol=1e-12)
    assert all(0 < found[i] <= i for i in (1, 2, 3)), "something is always left to the order below"


def test_the_papers_discounts_by_hand() -> None:
    counts = np.repeat([1, 2, 3, 4, 9], [8, 4, 2, 1, 5])  # Y = 8 / (8 + 2 * 4) = 1/2
    np.testing.assert_allclose(
        discounts(counts), [0, 1 - 2 / 2 * 4 / 8, 2 - 3 / 2 * 2 / 4, 3 - 4 / 2 * 1 / 2]
    )


@pytest.mark.parametrize("memory", [1 << 62, 1 << 20, 1])
def test_pieces_joined_are_the_whole(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    text, packing = noise(60_000, seed=3), Packing(SYMBOLS)
    order, grams = count(text, packing, 4, [(0, 1000), (1000, len(text))], memory)
    assert order == 4
    padded = [SYMBOLS] * 4 + text.tolist()
    expected = Counter(zip(*(padded[i : i + len(text)] for i in range(5)), strict=True))
    found = {
        tuple(int(key) >> (packing.bits * i) & (2**packing.bits - 1) for i in (4, 3, 2, 1, 0)): int(n)
        for key, n in zip(grams.keys, grams.counts, strict=True)
    }
    assert found == expected


def test_too_many_grams_lower_the_order() -> None:
    text, packing = np.random.default_rng(1).integers(0, 30, 200_000), Packing(30)
    order, grams = count(text, packing, 5, [(0, len(text))], memory=1 << 20)
    assert order < 5
    _, whole = count(text, packing, order, [(0, len(text))])
    np.testing.assert_array_equal(grams.keys, whole.keys)
    np.testing.assert_array_equal(grams.counts, whole.counts)


@given(st.integers(1, 200), st.integers(1, 12))
def test_folds_are_contiguous_and_cover_the_text(n: int, n_folds: int) -> None:
    folds = fold_of(np.arange(n), n, n_folds)
    assert (np.diff(folds) >= 0).all() and folds[0] >= 0 and folds[-1] < n_folds
    edges = fold_edges(n, n_folds)
    assert [int((folds == f).sum()) for f in range(n_folds)] == np.diff(edges).tolist()


@pytest.mark.parametrize("dense", [0, 1 << 21])
@given(TEXTS, st.integers(0, 4), st.integers(2, 4))
def test_without_a_fold_is_counted_from_the_others(
    dense: int, text: list[int], order: int, n_folds: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("charlm.ngram.kneser_ney.DENSE_NUMBERS", dense)
        ids, packing = np.array(text), Packing(SYMBOLS)
        order, parts = count_parts(
            [(ids, part) for part in split_spans([(0, len(ids))], fold_edges(len(ids), n_folds))],
            packing,
            order,
        )
        model = KneserNey(SYMBOLS, *levels_with_folds(parts, packing, order))
    whole = Plain(text, SYMBOLS, order)
    folds = fold_of(np.arange(len(ids)), len(ids), n_folds)
    contexts = np.concatenate((model.start(1), model.contexts(ids[None])[0, :-1]))
    held_out, full = model.rows(contexts, folds), model.rows(contexts)
    for fold in range(n_folds):
        others = [t for t in range(len(ids)) if folds[t] != fold]
        plain = Plain(text, SYMBOLS, order, others, whole.discounts)
        for t in np.flatnonzero(folds == fold):
            expected = [plain.probability(tuple(text[:t]), symbol) for symbol in range(SYMBOLS)]
            np.testing.assert_allclose(held_out[t], expected, rtol=1e-12)
    for t in range(len(ids)):
        expected = [whole.probability(tuple(text[:t]), symbol) for symbol in range(SYMBOLS)]
        np.testing.assert_allclose(full[t], expected, rtol=1e-12)


def test_folds_of_parts_of_a_text_and_of_little_memory() -> None:
    text, packing = np.random.default_rng(1).integers(0, 30, 200_000), Packing(30)
    spans = [(1000, 90_000), (120_000, 170_000)]
    order, parts = count_parts(
        [(text, part) for part in split_spans(spans, fold_edges(len(text), 7))], packing, 5, memory=1 << 18
    )
    assert order < 5
    found, shares = levels_with_folds(parts, packing, order)
    _, grams = count(text, packing, order, spans)
    for level, expected, share in zip(found, levels(grams, packing, order), shares, strict=True):
        np.testing.assert_array_equal(level.contexts, expected.contexts)
        np.testing.assert_array_equal(level.counts, expected.counts)
        assert (share.sum(axis=0) <= level.counts).all()
    np.testing.assert_array_equal(shares[-1].sum(axis=0), found[-1].counts)


def test_nothing_counted_is_uniform() -> None:
    packing = Packing(SYMBOLS)
    order, grams = count(np.empty(0, np.uint8), packing, 3, [])
    model = KneserNey(SYMBOLS, levels(grams, packing, order))
    np.testing.assert_allclose(model.rows(model.start(2)), 1 / SYMBOLS)
    assert isinstance(grams, Grams) and model.n_folds == 0


@pytest.mark.parametrize("memory", [1 << 30, 1 << 18, 1 << 14])
@pytest.mark.parametrize("n_folds", [0, 5])
def test_memory_bounds_what_is_kept_and_what_is_left_out_is_said(memory: int, n_folds: int) -> None:
    text = noise(30_000, 20)
    built = build(text, 20, 4, memory=memory, folds=fold_edges(len(text), n_folds) if n_folds else None)
    kept = sum(level.nbytes for level in built.model.levels)
    kept += sum(share.nbytes for share in built.model.fold_counts or ())
    assert kept <= memory
    assert bool(built.limits) == (memory < 1 << 30)
    rows = built.model.rows(
        built.model.contexts(text[None, :200])[0], np.arange(200) % 5 if n_folds else None
    )
    np.testing.assert_allclose(rows.sum(axis=1), 1, rtol=1e-12)


def test_rare_contexts_left_out_leave_all_to_the_order_below() -> None:
    text = noise(3000, 20)
    whole = build(text, 20, 3, memory=1 << 30)
    size = sum(level.nbytes for level in whole.model.levels)
    found = build(text, 20, 3, memory=size - 1)
    assert found.rare == 1 and found.model.order == 3 and "seen 1 times or less" in found.limits
    totals = whole.model.levels[3].totals()[0]
    read = text[None, :900]
    (expected,), (contexts,) = whole.model.contexts(read), found.model.contexts(read)
    rare = totals[expected[:, 3]] <= 1
    assert (rare | (expected[:, 3] < 0)).sum() > 9 < (~rare).sum()
    rows = np.where(rare[:, None], whole.model.rows(expected, up_to=2), whole.model.rows(expected))
    np.testing.assert_allclose(found.model.rows(contexts), rows, rtol=1e-12)


@given(st.integers(0, 5000), st.integers(0, 5000))
def test_spread_parts_are_apart_in_order_and_no_more_than_asked(n: int, most: int) -> None:
    spans = spread_chars(n, most)
    assert sum(b - a for a, b in spans) <= most
    assert sum(b - a for a, b in spans) >= min(n, most) - 32
    edges = [edge for span in spans for edge in span]
    assert edges == sorted(edges) and all(0 <= edge <= n for edge in edges)


def random_text(seed: int, n: int, n_symbols: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, n_symbols, n)


PHRASE = np.random.default_rng(7).integers(0, 4, 40)
CHOSEN_ON = {
    "random ACGT": (random_text(1, 6000, 4), 4, None),
    "random bits": (random_text(2, 3000, 2), 2, None),
    "random bytes": (random_text(3, 2000, 256), 256, None),
    "digits, then another": (np.repeat([0, 1], [900, 100]), 2, None),
    "one symbol": (np.zeros(400, np.int64), 1, None),
    "two symbols in turn": (np.arange(400) % 2, 2, None),
    "a long period": (np.tile(PHRASE, 60), 4, None),
    "a long period with errors": (np.where(random_text(4, 2400, 20) == 0, 3, np.tile(PHRASE, 60)), 4, None),
    "records": (
        np.concatenate([np.concatenate((np.arange(9), 9 + random_text(i, 8, 9))) for i in range(200)]),
        18,
        None,
    ),
    "documents": (np.tile([0, 1, 2, 3, 1, 1, 3], 100), 4, 3),
    "a phrase repeated": (noise(3000), 4, None),
    "rare symbols": (np.minimum(np.random.default_rng(6).zipf(1.3, 4000), 900) - 1, 900, None),
    "the shortest with an end": (np.array([0, 1, 1, 0, 1, 0, 0, 1, 1, 0]), 2, None),
}


def losses_one_by_one(ids: np.ndarray, n_symbols: int, end: int | None) -> tuple[list[float], float]:
    """Of each order by a model of its own, and of add-one smoothing."""
    packing, n = Packing(n_symbols, end), len(ids) - len(ids) // 10
    found = []
    for order in range(max(8, KEY_BITS // packing.bits - 1) + 1):
        _, grams = count(ids, packing, order, [(0, n)])
        model = KneserNey(n_symbols, levels(grams, packing, order), dense=False)
        found.append(-float(np.log(model.probabilities(ids)[n:]).mean()))
    seen = np.bincount(ids[:n], minlength=n_symbols) + 1
    return found, -float(np.log(seen[ids[n:]] / seen.sum()).mean())


@pytest.mark.parametrize("name", CHOSEN_ON)
def test_the_order_chosen_predicts_the_end_best_of_all_orders_and_the_unigram(name: str) -> None:
    ids, n_symbols, end = CHOSEN_ON[name]
    expected, unigram = losses_one_by_one(ids, n_symbols, end)
    found = tail_losses(ids, n_symbols, end=end)
    np.testing.assert_allclose(found.by_order, expected, rtol=0, atol=1e-12)
    assert found.unigram == pytest.approx(unigram, abs=1e-12)
    best = min([*expected, unigram])
    assert min(found.by_order[found.order], unigram if found.order == 0 else np.inf) == pytest.approx(
        best, abs=1e-12
    )
    assert min(found.by_order[: found.order], default=np.inf) > best, "the lowest of equals"
    # Counted on what stands before the end, the model does as well there as was said.
    before = ids[: len(ids) - len(ids) // 10]
    smooth = found.order == 0 and found.smooth
    model = (
        count_unigram(before, Packing(n_symbols, end), None)
        if smooth
        else build(before, n_symbols, found.order, memory=1 << 30, end=end)
    ).model
    assert -np.log(model.probabilities(ids)[len(before) :]).mean() == pytest.approx(best, abs=1e-9)


def test_random_texts_are_best_without_context_and_by_the_unigram() -> None:
    ids, n_symbols, _ = CHOSEN_ON["random bytes"]
    (level,) = fit(ids, n_symbols, memory=1 << 30).model.levels
    model = fit(ids, n_symbols, 0, memory=1 << 30).model
    row = model.rows(model.start(1))[0]
    seen = np.bincount(ids, minlength=n_symbols) + 1
    np.testing.assert_allclose(row, seen / seen.sum(), rtol=1e-12)
    np.testing.assert_array_equal(level.counts, seen)


def test_the_order_chosen_is_the_one_the_text_was_made_with() -> None:
    rng = np.random.default_rng(1)
    text = rng.integers(0, 8, 3).tolist()
    table = rng.dirichlet(np.full(8, 0.1), 512).cumsum(axis=1)
    for draw in rng.random(60_000):
        state = (text[-3] * 8 + text[-2]) * 8 + text[-1]
        text.append(min(7, int(np.searchsorted(table[state], draw))))
    assert tail_losses(np.array(text), 8).order == 3
    assert tail_losses(np.array(text[:5]), 8).order == 1, "too short to tell"


def test_a_part_of_the_time_counts_a_part_of_the_text() -> None:
    text = noise(10_000)
    built = build(text, SYMBOLS, 3, memory=1 << 30, most=1000)
    assert built.symbols <= 1000 and "of 10,000 symbols" in built.limits
    assert built.model.levels[3].counts.sum() <= 1000


def test_counts_survive_a_file_bit_for_bit() -> None:
    model = counted(noise(800), 5)
    again = KneserNey.from_bytes(model.to_bytes(), SYMBOLS, "x")
    contexts = model.contexts(noise(90, seed=2)[None])[0]
    np.testing.assert_array_equal(again.rows(contexts), model.rows(contexts))
    assert again.to_bytes() == model.to_bytes()
    empty = counted(np.empty(0, np.uint8), 2)
    assert KneserNey.from_bytes(empty.to_bytes(), SYMBOLS, "x").to_bytes() == empty.to_bytes()


def damaged() -> dict[str, Callable[[dict[str, np.ndarray]], object]]:
    """Ways to be no counts, each by what it does to the arrays."""

    def put(name: str, at: int, value: float) -> Callable[[dict[str, np.ndarray]], object]:
        return lambda arrays: arrays[name].__setitem__(at, value)

    return {
        "symbol": put("2.symbols", 3, SYMBOLS),
        "count": put("2.counts", 3, 0),
        "start": put("2.starts", 1, 2**31),
        "fall": put("2.starts", 2, 0),
        "context": put("2.contexts", 3, 2**60),
        "boundary": put("2.contexts", -1, SYMBOLS),
        "twice": put("2.symbols", 1, 0),
        "discount": put("1.discounts", 1, 1.5),
        "nan": put("1.discounts", 2, np.nan),
        "given": put("1.discounts", 0, 0.5),
        "missing": lambda arrays: arrays.pop("1.counts"),
        "more": lambda arrays: arrays.update(x=np.zeros(1)),
        "kind": lambda arrays: arrays.update({"1.counts": arrays["1.counts"].astype(np.float32)}),
        "shape": lambda arrays: arrays.update({"1.counts": arrays["1.counts"][:, None].copy()}),
        "short": lambda arrays: arrays.update({"1.counts": arrays["1.counts"][:-1].copy()}),
    }


@pytest.mark.parametrize("how", damaged())
def test_a_damaged_file_is_refused(how: str) -> None:
    arrays = safetensors.numpy.load(counted(noise(800), 3).to_bytes())
    damaged()[how](arrays)
    with pytest.raises(CheckpointError, match="x is damaged"):
        KneserNey.from_bytes(safetensors.numpy.save(arrays), SYMBOLS, "x")


@pytest.mark.parametrize(
    ("at", "value"), [(0, 2**32 - 1), (3, 0), (-1, 2**31)], ids=["first", "descends", "beyond"]
)
def test_contexts_that_are_no_entries_of_the_order_below_are_refused(at: int, value: int) -> None:
    """Of 70,000 symbols three fit a number: from there on, contexts are entries of the order below."""
    arrays = safetensors.numpy.load(counted(noise(800, 200), 4, 70_000).to_bytes())
    assert [arrays[f"{k}.contexts"].itemsize for k in range(5)] == [8, 8, 8, 4, 4]
    arrays["4.contexts"][at] = value
    with pytest.raises(CheckpointError, match=r"x is damaged: wrong .*contexts in order 4"):
        KneserNey.from_bytes(safetensors.numpy.save(arrays), 70_000, "x")
    arrays["4.contexts"] = np.arange(len(arrays["4.contexts"]), dtype=np.uint64)
    with pytest.raises(CheckpointError, match="wrong type of the contexts in order 4"):
        KneserNey.from_bytes(safetensors.numpy.save(arrays), 70_000, "x")


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    for attempt in (data, counted(noise(80), 1).to_bytes()[: len(data)]):
        with pytest.raises(CheckpointError, match="damaged"):
            KneserNey.from_bytes(attempt, SYMBOLS, "x")


@pytest.mark.parametrize("most", [None, 150])
def test_the_lower_orders_of_one_count_are_those_counted_alone(most: int | None) -> None:
    ids = noise(400)
    found = list(lower_orders(ids, SYMBOLS, 5, memory=1 << 30, most=most))
    assert [model.order for model in found] == [4, 3, 2, 1]
    for model in found:
        alone = build(ids, SYMBOLS, model.order, memory=1 << 30, most=most).model
        np.testing.assert_array_equal(model.probabilities(ids), alone.probabilities(ids))
    assert list(lower_orders(ids, SYMBOLS, 1, memory=1 << 30)) == []
    assert list(lower_orders(ids, SYMBOLS, 0, memory=1 << 30)) == []


def test_a_context_that_stands_twice_is_refused() -> None:
    """Its entries ascend all the same; who looks it up would find one or the other."""
    model = build(np.random.default_rng(5).integers(0, 4, 300), 4, 3, memory=1 << 28).model
    level = model.levels[1]
    at = int(np.flatnonzero(np.diff(level.starts) > 1)[0])
    apart = replace(
        level,
        contexts=np.insert(level.contexts, at, level.contexts[at]),
        starts=np.insert(level.starts, at + 1, level.starts[at] + 1),
    )
    torn = save_levels([model.levels[0], apart, *model.levels[2:]], Packing(4))
    KneserNey.from_bytes(model.to_bytes(), 4, "x")
    with pytest.raises(CheckpointError, match="order of the contexts in order 1"):
        KneserNey.from_bytes(torn, 4, "x")
