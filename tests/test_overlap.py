"""Passages that stand on both sides of a split, found by samples as by looking at all."""

import tracemalloc

import numpy as np
import pytest

from charlm.data import overlap as module
from charlm.data.overlap import PASSAGE, overlap, overlap_of_all, overlap_of_samples


def noise(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 60, n).astype(np.uint8)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_samples_say_about_what_all_say(share: float) -> None:
    train, text = noise(600_000, 1), noise(200_000, 2)
    length = int(200_000 * share)
    text[:length] = train[123_457 : 123_457 + length]
    found, exact = overlap_of_samples(train, text), overlap_of_all(train, text)
    assert abs(exact.share - share) < 0.001
    assert abs(found.share - share) < 0.02 and found.read == 1 and found.word == "about "
    assert (found.share > 0) == (share > 0)
    assert 4_000 < found.of_symbols < 9_000


def test_passages_across_pieces_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PIECE", 100)
    train = noise(3_000, 1)
    text = train[57:2_900].copy()
    found = overlap_of_samples(train, text)
    monkeypatch.setattr(module, "PIECE", 1 << 18)
    whole = overlap_of_samples(train, text)
    assert (found.symbols, found.of_symbols) == (whole.symbols, whole.of_symbols)
    assert found.share == 1 and found.of_symbols > 30
    for short in (train[: PASSAGE - 1], train[:0]):
        assert overlap_of_samples(short, text).symbols == overlap_of_samples(train, short).symbols == 0


def test_of_a_long_text_a_part_is_read_in_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_READ", 1 << 20)
    train = noise(4 << 20, 3)
    tracemalloc.start()
    found = overlap(train, train[: 1 << 19])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 << 20
    assert found.read == pytest.approx(0.25) and found.word == "at least "
    assert 0 < found.share <= 1
    assert overlap(train[: 1 << 20], train[:1000]).word == ""
