"""Repeats and entropies of a text, against what a few lines without NumPy make of it."""

from collections import Counter
from itertools import pairwise
from math import log2

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.data.overlap import PASSAGE
from charlm.data.text_scan import Sample
from charlm.data.tokenizer import END, END_POINT, code_points
from charlm.inspection.entropy import entropies, longest_repeat, repeated_share, sampled_repeated_share

texts = st.text(alphabet=f"ab{END}", max_size=40) | st.text(alphabet=f"abcdé{END}", max_size=60)


def plain_longest(text: str) -> int:
    n = len(text)
    for length in range(n // 2, 0, -1):
        for i in range(n - 2 * length + 1):
            passage = text[i : i + length]
            if END not in passage and text.find(passage, i + length) >= 0:
                return length
    return 0


@given(texts)
def test_the_longest_repeat_is_that_of_brute_force(text: str) -> None:
    found = longest_repeat(code_points(text))
    assert (found.length if found else 0) == plain_longest(text)
    if found:
        passage = text[found.first : found.first + found.length]
        assert text.startswith(passage, found.last) and found.last - found.first >= found.length
        assert found.times == text.count(passage) >= 2 and END not in passage


def test_a_long_repeat_is_found_to_the_character() -> None:
    noise = np.random.default_rng(1).integers(97, 123, 50_000).astype(np.uint32)
    noise[40_000:46_789] = noise[123 : 123 + 6_789]
    noise[40_000 - 1], noise[46_789] = 33, 34
    found = longest_repeat(noise)
    assert found and (found.length, found.first, found.last, found.times) == (6_789, 123, 40_000, 2)


def plain_entropy(text: str, order: int) -> tuple[float, float] | None:
    grams = [text[i : i + order + 1] for i in range(len(text) - order)]
    grams = [gram for gram in grams if END not in gram]
    if not grams:
        return None
    contexts = Counter(gram[:-1] for gram in grams)
    bits = -sum(log2(n / contexts[gram[:-1]]) * n for gram, n in Counter(grams).items()) / len(grams)
    return bits, sum(contexts[gram[:-1]] == 1 for gram in grams) / len(grams)


@given(texts)
def test_entropies_are_those_of_a_dictionary(text: str) -> None:
    for found in entropies(code_points(text)):
        wanted = plain_entropy(text, found.order)
        if wanted is None:
            assert found.bits_per_char is None
        else:
            assert (found.bits_per_char, found.seen_once) == pytest.approx(wanted, abs=1e-9)


def test_entropies_of_what_is_known() -> None:
    codes = code_points("ab" * 5_000)
    assert [round(e.bits_per_char or 0, 3) for e in entropies(codes)] == [1.0, 0, 0, 0, 0, 0]
    noise = np.random.default_rng(1).integers(0, 4, 400_000).astype(np.uint32)
    assert all(e.bits_per_char == pytest.approx(2, abs=0.01) for e in entropies(noise))


def plain_repeated(text: str) -> int:
    seen, covered = set(), set()
    for i in range(len(text) - PASSAGE + 1):
        passage = text[i : i + PASSAGE]
        if END in passage:
            continue
        if passage in seen:
            covered.update(range(i, i + PASSAGE))
        seen.add(passage)
    return len(covered)


@given(st.lists(st.sampled_from(["a" * 40, "b" * 70, "the quick brown fox " * 3, END, "."]), max_size=12))
def test_what_stood_there_before_is_that_of_a_set(parts: list[str]) -> None:
    text = "".join(parts)
    found = repeated_share(code_points(text))
    assert (found.symbols, found.of_symbols) == (plain_repeated(text), len(text.replace(END, "")))


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_samples_say_about_as_much(share: float) -> None:
    text = np.random.default_rng(1).integers(0, 60, 600_000).astype(np.uint8)
    length = int(len(text) * share)
    text[len(text) - length :] = text[:length]
    found = sampled_repeated_share(text)
    assert found.share == pytest.approx(repeated_share(text.astype(np.uint32)).share, abs=0.02)
    assert found.word == "about "


@given(st.lists(st.integers(0, 30), max_size=30), st.integers(1, 7), st.integers(2, 6))
def test_a_sample_is_the_text_or_evenly_spread_pieces_of_it(sizes: list[int], piece: int, most: int) -> None:
    sample, text = Sample(piece, most), np.arange(sum(sizes), dtype=np.uint32)
    for part in np.split(text, np.cumsum(sizes)[:-1]) if sizes else []:
        sample.add(part)
    found = sample.codes()
    if sample.whole:
        assert found.tolist() == text.tolist() and len(text) < piece * (most + 1)
        return
    ends = np.flatnonzero(found == END_POINT)
    pieces = [part[part != END_POINT].tolist() for part in np.split(found, ends + 1)]
    pieces = [part for part in pieces if part]
    firsts = [part[0] for part in pieces]
    assert all(part == list(range(part[0], part[0] + len(part))) for part in pieces)
    assert firsts[0] == 0 and len({b - a for a, b in pairwise(firsts)}) <= 1
    assert len(pieces) <= most + 1 and len(text) - pieces[-1][-1] <= firsts[1] - firsts[0] + piece
