"""Characters and ids: every text comes back exactly, whatever was kept."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.data.tokenizer import Decoder, Vocabulary, first_surrogate


def test_every_unicode_scalar_comes_back() -> None:
    everything = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    assert len(everything) == 1_112_064
    vocabulary = Vocabulary.build("abc" * 2 + "é", 2)
    assert vocabulary.decode(vocabulary.encode(everything)) == everything


@given(st.text(min_size=1, alphabet="abcé🦆\n"), st.text(), st.integers(1, 3))
def test_every_text_comes_back(training: str, text: str, min_count: int) -> None:
    vocabulary = Vocabulary.build(training, min_count)
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    assert len(ids) == vocabulary.ids_per_char(text).sum()
    assert (vocabulary.encode(training) < vocabulary.n_symbols).all(), "training has what it needs"
    assert set(vocabulary.encode(training)) == set(range(vocabulary.n_symbols)), "and nothing else"
    assert list(vocabulary.counts) == list(np.bincount(vocabulary.encode(training)))
    assert Vocabulary.from_json(__import__("json").loads(vocabulary.to_json())) == vocabulary


def test_what_is_kept() -> None:
    assert Vocabulary.build("a" * 60_000 + "b" * 60_000 + "c").chars == "ab"
    assert Vocabulary.build("aabbc").chars == "abc"
    assert Vocabulary.build("aabbc", 2).trained_bytes == b"c"


@given(st.text(), st.data())
def test_decoding_in_pieces_is_decoding_at_once(text: str, data: st.DataObject) -> None:
    vocabulary = Vocabulary.build("a")
    ids = vocabulary.encode(text)
    cut = data.draw(st.integers(0, len(ids)))
    decoder = Decoder(vocabulary)
    assert decoder.feed(ids[:cut]) + decoder.feed(ids[cut:]) + decoder.flush() == text


def test_bytes_that_are_no_text_become_the_replacement_character() -> None:
    vocabulary = Vocabulary.build("a")
    broken = vocabulary.encode("é")[:1]
    assert vocabulary.decode(np.concatenate((broken, vocabulary.encode("a")))) == "�a"


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"chars": "ba", "bytes": [], "counts": [1, 1]},
        {"chars": "ab", "bytes": [256], "counts": [1, 1, 1]},
        {"chars": "ab", "bytes": [], "counts": [1]},
        {"chars": "ab", "bytes": [], "counts": [1, 0]},
        {"chars": "a\ud800", "bytes": [], "counts": [1, 1]},
        {"chars": "", "bytes": [], "counts": []},
        {"chars": "a", "bytes": [True], "counts": [1, 1]},
    ],
)
def test_what_is_no_vocabulary_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="vocabulary"):
        Vocabulary.from_json(data)


def test_lone_surrogates_are_found() -> None:
    assert first_surrogate("ab\udc80") == 2
    assert first_surrogate("🦆") is None
