"""Grapheme clusters: those of UAX 29 as `regex` finds them, wherever blocks are cut, in bounded memory."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import regex
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charlm.config import TextConfig
from charlm.data import graphemes
from charlm.data.graphemes import LONGEST, find, merged, whole
from charlm.data.prepare import vocabulary_of
from charlm.data.tokenizer import END, code_points

# Of every kind that UAX 29 tells apart, and what joins with them: marks, conjuncts, flags, families, jamo.
JOINING = "\r\na1\u0301\u0308\u200d\u0600\u0995\u0915\u094d\u09cd\u0903\u093f\u1100\u1161\u11a8가각\U0001f1e6\U0001f1e7"
JOINING += "\U0001f468\u2764\ufe0f\U0001f3fd\U000e0067\u0000\u00ad中"
TEXTS = st.one_of(st.text(alphabet=JOINING, max_size=60), st.text(max_size=40))


def clusters_of(texts: Sequence[str]) -> list[str]:
    """Whole texts in their clusters, as `find` has them."""
    pieces = []
    for text in texts:
        starts, found = find(code_points(text))
        at = 0
        for start, cluster in zip(starts.tolist(), found, strict=True):
            assert text[start : start + len(cluster)] == cluster
            pieces += [*text[at:start], cluster]
            at = start + len(cluster)
        pieces += text[at:]
    return pieces


def text_of(codes: np.ndarray) -> str:
    return "".join(map(chr, codes.tolist()))


def blocks_of(text: str, cuts: Sequence[int]) -> list[np.ndarray]:
    bounds = [0, *sorted(cuts), len(text)]
    return [code_points(text[a:b]) for a, b in pairwise(bounds)]


@settings(max_examples=400)
@given(TEXTS)
def test_they_are_those_of_regex(text: str) -> None:
    assert clusters_of([text]) == regex.findall(r"\X", text)
    assert graphemes.count(text) == len(regex.findall(r"\X", text))


def test_no_two_characters_join_unless_one_of_them_is_said_to() -> None:
    """Each character beside one of every kind that the properties of Unicode tell apart."""
    every = np.flatnonzero(~graphemes._joining())
    every = every[(every < 0xD800) | (every >= 0xE000)]
    few = regex.findall(r"(?V1)[^\p{Cn}\p{Co}\p{Ideographic}가-힣]", "".join(map(chr, every.tolist())))
    assert 20_000 < len(few) < 60_000
    few += map(chr, every[::50].tolist())  # of what is all alike, or not assigned
    for kind in ("a", "\n", "\0", "\u0915", "\u0995", "가", "각", "\U0001f468", "\u2764", "中", "\u00ad"):
        text = kind.join(few)
        assert len(regex.findall(r"\X", text)) == len(text), repr(kind)


@given(st.lists(TEXTS, max_size=5))
def test_none_reaches_over_the_end_of_a_document(texts: list[str]) -> None:
    joined = END.join(texts)
    assert clusters_of([joined]) == [
        piece for i, text in enumerate(texts) for piece in [END] * (i > 0) + regex.findall(r"\X", text)
    ]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS, st.lists(st.integers(0, 60), max_size=8), st.sampled_from([(63, 1024), (3, 5), (2, 4)]))
def test_in_blocks_as_at_once(
    monkeypatch: pytest.MonkeyPatch, text: str, cuts: list[int], sizes: tuple[int, int]
) -> None:
    """Also where all but the shortest are too long: then so many characters at a time, from wherever they begin."""
    monkeypatch.setattr(graphemes, "LONGEST", sizes[0])
    monkeypatch.setattr(graphemes, "_WINDOW", sizes[1])
    pieces = list(whole(blocks_of(text, [min(cut, len(text)) for cut in cuts])))
    assert "".join(map(text_of, pieces)) == text
    assert clusters_of([text_of(piece) for piece in pieces]) == clusters_of([text])
    assert all(len(cluster) <= sizes[0] for cluster in clusters_of([text]))


def test_what_is_too_long_is_characters_and_little_is_held() -> None:
    text = "x" + "e" + "\u0301" * 3000 + "y" + "o\u0308"
    found = clusters_of([text])
    assert found[-2:] == ["y", "o\u0308"] and max(map(len, found)) < LONGEST
    assert graphemes.count("e" + "\u0301" * (LONGEST - 1)) == 1
    assert graphemes.count("e" + "\u0301" * LONGEST) == LONGEST + 1, "as characters"
    sizes = [len(piece) for piece in whole([code_points(char) for char in text])]
    assert sum(sizes) == len(text) and max(sizes) <= LONGEST + 1
    flags = "\U0001f1e6" * 20_000  # where `regex` alone would look back over all of them, each time
    assert graphemes.count(flags) == 10_000


@given(TEXTS, st.sets(st.sampled_from(["\r\n", "a\u0301", "\u0995\u09cd\u0995", "\U0001f1e6\U0001f1e7"])))
def test_what_is_known_is_one_number(text: str, known: set[str]) -> None:
    numbers = {cluster: graphemes.FIRST_POINT + i for i, cluster in enumerate(sorted(known))}
    expected: list[int] = []
    for cluster in regex.findall(r"\X", text):
        expected += [numbers[cluster]] if cluster in numbers else map(ord, cluster)
    assert merged(code_points(text), numbers).tolist() == expected


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS.filter(bool), st.lists(st.integers(0, 60), max_size=5), st.integers(0, 9))
def test_only_so_many_are_counted_whatever_the_blocks(
    monkeypatch: pytest.MonkeyPatch, text: str, cuts: list[int], most: int
) -> None:
    monkeypatch.setattr(graphemes, "MOST", most)
    config = TextConfig(units="graphemes", min_count=1)
    counts = np.bincount(code_points(text))
    one, other = (
        vocabulary_of(counts, blocks_of(text, [min(cut, len(text)) for cut in where]), config)
        for where in ([], cuts)
    )
    assert one == other and sum(map(len, one.clusters)) <= most
    assert list(one.counts) == np.bincount(one.encode(text)).tolist()
