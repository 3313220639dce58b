"""Sampling: known odds give the known choices, stops are found, seeds mean what they say."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charlm.data.tokenizer import Decoder, Vocabulary
from charlm.inference.context import ContextRule
from charlm.inference.generate import Ended, Piece, _Sample, generate, sample_text
from charlm.inference.predictor import Predictor
from charlm.inference.sampling import StopFilter, sample_next, sample_weighted, sampling_weights
from charlm.inference.sampling_config import SamplingConfig

pytestmark = pytest.mark.native

LOGP = torch.tensor([[0.5, 0.25, 0.125, 0.125]], dtype=torch.float64).log()


class Mock(Predictor):
    """A predictor of known odds, whatever was read."""

    def __init__(self, odds: Sequence[float], chars: str = "abcd") -> None:
        self.vocabulary = Vocabulary(chars, b"", (1,) * len(chars))
        self.rule = ContextRule.of(8)
        self.logp = torch.full((self.vocabulary.n_ids,), -20.0)
        self.logp[: len(chars)] = torch.tensor(odds).log()
        self.read: list[torch.Tensor] = []

    def start(self, batch_size: int) -> int:
        return batch_size

    def step(self, state: int, ids: torch.Tensor) -> tuple[int, torch.Tensor]:
        self.read.append(ids)
        return state, self.logp.expand(state, -1)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [0.5, 0.25, 0.125, 0.125]),
        ({"temperature": 0.5}, [16 / 22, 4 / 22, 1 / 22, 1 / 22]),
        ({"top_k": 2}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_p": 0.5}, [1, 0, 0, 0]),
        ({"top_p": 0.51}, [2 / 3, 1 / 3, 0, 0]),
        ({"top_p": 0.0}, [1, 0, 0, 0]),
        ({"min_p": 0.5}, [2 / 3, 1 / 3, 0, 0]),
        ({"min_p": 0.51}, [1, 0, 0, 0]),
        ({"top_k": 3, "min_p": 0.5}, [2 / 3, 1 / 3, 0, 0]),
    ],
)
def test_what_is_chosen_from(settings: dict[str, float], expected: list[float]) -> None:
    config = SamplingConfig(**{"temperature": 1.0, "seed": 1, **settings})
    weights = sampling_weights(LOGP.numpy(), config)[0]
    np.testing.assert_allclose(weights / weights.sum(), expected, rtol=0, atol=1e-7)


def test_choices_have_their_probabilities() -> None:
    text = sample_text(Mock([0.5, 0.25, 0.125, 0.125]), "", SamplingConfig(temperature=1.0, seed=1), 20_000)
    for char, odds in zip("abcd", [0.5, 0.25, 0.125, 0.125], strict=True):
        assert text.count(char) / 20_000 == pytest.approx(odds, abs=0.02)


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=9).filter(lambda p: sum(p) > 1e-3),
    st.floats(0, 1, exclude_max=True),
)
def test_the_impossible_is_never_picked(p: list[float], u: float) -> None:
    row = np.array([p]) / sum(p)
    assert row[0, int(sample_weighted(row, np.array([u]))[0])] > 0


def test_temperature_nought_takes_the_likeliest() -> None:
    assert sample_next(LOGP.numpy(), np.array([0.99]), SamplingConfig(temperature=0)).tolist() == [0]


def test_a_sample_does_not_depend_on_those_beside_it() -> None:
    def texts(n: int) -> list[str]:
        out = [""] * n
        for piece in generate(Mock([0.4, 0.3, 0.2, 0.1]), ["a"], SamplingConfig(seed=5), n=n, length=50):
            if isinstance(piece, Piece):
                out[piece.sample] += piece.text
        return out

    assert texts(7)[:3] == texts(3)
    assert len(set(texts(7))) == 7


def texts_of(predictor: Mock, regex: str, n: int, **settings: float) -> Counter[str]:
    config, out = SamplingConfig(**{"temperature": 1.0, "seed": 3, **settings}), [""] * n
    for piece in generate(predictor, [""], config, n=n, length=9, regex=regex):
        if isinstance(piece, Piece):
            out[piece.sample] += piece.text
    return Counter(out)


def test_a_pattern_masks_what_cannot_match_and_divides_the_rest_by_its_sum() -> None:
    """At each step; `cc` is not made rarer because `c` is seldom followed by another."""
    found = texts_of(Mock([0.5, 0.25, 0.125, 0.125]), "ab|cc|ca", 4000)
    assert found["ab"] / 4000 == pytest.approx(4 / 5, abs=0.03)
    assert found["ca"] / 4000 == pytest.approx(1 / 5 * 4 / 5, abs=0.03)
    assert found["cc"] / 4000 == pytest.approx(1 / 5 * 1 / 5, abs=0.03)


def test_where_it_matches_what_the_pattern_cannot_take_ends_it_with_its_probability() -> None:
    found = texts_of(Mock([0.5, 0.25, 0.125, 0.125]), "a+b?", 4000)
    for text, odds in {"a": 1 / 4, "ab": 1 / 4, "aa": 1 / 8, "aab": 1 / 8, "aaa": 1 / 16}.items():
        assert found[text] / 4000 == pytest.approx(odds, abs=0.03)
    greedy = texts_of(Mock([0.3, 0.25, 0.4, 0.05]), "a*b?", 1, temperature=0)
    assert greedy == {"": 1}  # the likeliest is c, which it cannot take


def stopped(text: str, stops: list[str]) -> str | None:
    """What a text stops at, read whole: before the stop that is complete first, the longest of several."""
    for end in range(1, len(text) + 1):
        found = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(found)]
    return None


def fed(stops: list[str], pieces: Iterable[str]) -> tuple[str, bool]:
    stopping, out = StopFilter(stops), ""
    for piece in pieces:
        out += stopping.feed(piece)
    return out if stopping.found else out + stopping.flush(), stopping.found


# "e" and a combining accent, a letter beyond the basic plane: what is matched are code points
ALPHABET = "abe\u0301🦆"


@given(
    st.text(ALPHABET, max_size=30),
    st.lists(st.text(ALPHABET, min_size=1, max_size=4), max_size=4),
    st.lists(st.integers(0, 30), max_size=8),
)
def test_a_stop_is_found_wherever_the_pieces_are_cut(text: str, stops: list[str], cuts: list[int]) -> None:
    expected = stopped(text, stops)
    pieces = [text[a:b] for a, b in pairwise([0, *sorted(min(cut, len(text)) for cut in cuts), len(text)])]
    assert fed(stops, pieces) == (text if expected is None else expected, expected is not None)


def test_of_stops_within_one_another_the_one_that_is_complete_first_ends_it() -> None:
    for text, stops, left in (
        ("xabcx", ["abc", "b"], "xa"),
        ("xabcx", ["b", "abc"], "xa"),
        ("xabcx", ["abc", "bc", "c"], "x"),
        ("xabaababc", ["abab", "aba"], "x"),
        ("aabab", ["abab", "abb"], "a"),
        ("cafe\u0301.", ["e", "e\u0301"], "caf"),
    ):
        for cuts in range(1 << (len(text) - 1)):
            places = [0, *(i + 1 for i in range(len(text) - 1) if cuts >> i & 1), len(text)]
            assert fed(stops, [text[a:b] for a, b in pairwise(places)]) == (left, True)


@given(st.lists(st.integers(0, 2), max_size=12), st.lists(st.integers(0, 12), max_size=4), st.integers(1, 12))
def test_why_a_sample_ends_does_not_depend_on_the_pieces(
    ids: list[int], cuts: list[int], length: int
) -> None:
    def written(places: list[int]) -> list[object]:
        writer = _Sample(0, Decoder(Vocabulary("abc", b"", (1,) * 3)), ["ab"], length, end=2)
        events = []
        for a, b in pairwise(places):
            if writer.reason is None:
                events += writer.write(ids[a:b])
        texts = "".join(event.text for event in events if isinstance(event, Piece))
        return [texts, *(event for event in events if isinstance(event, Ended))]

    whole = [0, *sorted(min(cut, len(ids)) for cut in cuts), len(ids)]
    assert written(whole) == written([0, *range(1, len(ids) + 1)])


def test_aab_is_found_in_aaab() -> None:
    stopping = StopFilter(["aab"])
    assert "".join(map(stopping.feed, "aaab")) == "a"
    assert stopping.found


def test_nothing_that_may_begin_a_stop_is_shown() -> None:
    stopping = StopFilter(["end."])
    assert [stopping.feed(c) for c in "then"] == ["t", "h", "", ""]
    assert stopping.flush() == "en"


def test_ends_say_why() -> None:
    mock = Mock([1 - 1e-9, 1e-9 / 3, 1e-9 / 3, 1e-9 / 3])
    *pieces, end = generate(mock, [""], SamplingConfig(seed=1), length=3)
    assert pieces[0] == Piece(0, "a") and end == Ended(0, "length", 3)
    assert "".join(piece.text for piece in pieces if isinstance(piece, Piece)) == "aaa"
    assert list(generate(mock, [""], SamplingConfig(seed=1), length=9, stops=["aaa"]))[-1] == Ended(
        0, "stop", 0
    )


def test_a_top_k_beyond_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="1 to 4"):
        next(generate(Mock([0.25] * 4), [""], SamplingConfig(top_k=5), length=1))
