"""The corpus: divided by characters, cached by contents, narrow, never wrong."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charlm.data.corpus import reopen
from charlm.data.corpus_cache import cache_folder, entries
from charlm.data.load import load, run_name
from charlm.data.prepare import prepare
from charlm.data.sources import read_manual
from charlm.data.text_config import TextConfig
from charlm.errors import TextError


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(min_size=3, alphabet="abé🦆\n "), st.sampled_from([0.0, 0.1, 0.5]), st.integers(1, 3))
def test_the_parts_are_the_text(text: str, val: float, min_count: int) -> None:
    n_train = int(len(text) * (1 - val))
    if n_train < 2:
        return
    corpus = prepare(text, TextConfig(val=val, min_count=min_count))
    assert corpus.training_text() == text[:n_train]
    assert corpus.held_out_text() == text[n_train:]
    assert (corpus.train_chars, corpus.held_out_chars) == (n_train, len(text) - n_train)
    again = prepare(text, TextConfig(val=val, min_count=min_count))
    assert again.vocabulary == corpus.vocabulary and list(again.train) == list(corpus.train)


def test_ids_are_as_narrow_as_they_can_be_and_on_disk() -> None:
    corpus = prepare("abc" * 50, TextConfig())
    assert corpus.train.dtype == np.uint8
    assert isinstance(corpus.train, np.memmap)
    wide = prepare("".join(map(chr, range(0x4E00, 0x4E00 + 300))) * 3, TextConfig())
    assert wide.train.dtype == np.uint16


def test_the_vocabulary_knows_the_training_part_only() -> None:
    corpus = prepare("ab" * 45 + "z" * 10, TextConfig())
    assert corpus.vocabulary.chars == "ab"
    assert corpus.held_out_text() == "z" * 10


def test_another_text_or_division_is_another_corpus() -> None:
    keys = {
        prepare(text, config).key
        for text in ("abab" * 9, "abba" * 9)
        for config in (TextConfig(), TextConfig(val=0.2), TextConfig(min_count=2))
    }
    assert len(keys) == 6


def test_a_damaged_cache_is_made_again() -> None:
    text = "the same old song " * 30
    corpus = prepare(text, TextConfig())
    path = cache_folder() / "corpora" / corpus.key / "train.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert reopen(corpus.key) is None
    assert prepare(text, TextConfig()).training_text() + corpus.held_out_text() == text


@pytest.mark.skipif(os.name == "nt", reason="named pipes of POSIX")
@pytest.mark.parametrize("name", ["corpus.json", "train.npy"])
@pytest.mark.parametrize("kind", ["pipe", "huge"])
def test_a_cache_that_has_no_end_is_made_again(name: str, kind: str) -> None:
    text = "another old song " * 30
    corpus = prepare(text, TextConfig())
    path = cache_folder() / "corpora" / corpus.key / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.touch()
        os.truncate(path, 1 << 36)
    assert reopen(corpus.key) is None
    assert name != "corpus.json" or corpus.key not in [entry.key for entry in entries()]
    assert prepare(text, TextConfig()).training_text() + corpus.held_out_text() == text


def test_a_cache_that_cannot_be_written_is_done_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CHARLM_CACHE", str(tmp_path / "file" / "below"))
    assert prepare("abc" * 50, TextConfig()).training_text() == ("abc" * 50)[:135]


@pytest.mark.parametrize(
    ("text", "said"), [("", "0 characters"), ("a", "1 character,"), ("ab", "2 characters, 1 of")]
)
def test_too_little_is_one_clear_sentence(text: str, said: str) -> None:
    with pytest.raises(TextError, match=said):
        prepare(text, TextConfig())


def test_the_manual_is_there_and_always_the_same() -> None:
    loaded = load([], TextConfig())
    assert loaded.corpus.chars > 300_000
    assert read_manual() == read_manual()
    assert "manual of Python 3" in loaded.label


def test_names_of_runs() -> None:
    assert run_name([]) == "python-manual"
    assert run_name(["-"]) == "stdin"
    assert run_name(["texts/poems.txt.gz", "other.txt"]) == "poems"
    assert run_name(["texts/poems/"]) == "poems"


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(min_size=8, alphabet="abé🦆"), st.sampled_from([0.0, 0.1, 0.4]), st.sampled_from([0.05, 0.3]))
def test_three_parts_are_the_text(text: str, val: float, test: float) -> None:
    corpus = prepare(text, TextConfig(val=val, test=test, min_count=1))
    assert corpus.training_text() + corpus.held_out_text() + corpus.test_text() == text
    assert corpus.chars == len(text)
    assert set(corpus.vocabulary.chars) == set(corpus.training_text())
    own = prepare(text, TextConfig(test=test, val_file="v", min_count=1), "held")
    assert (own.training_text() + own.test_text(), own.held_out_text()) == (text, "held")
    assert own.test_chars == len(text) - int(len(text) * (1 - test))


def test_the_customary_split_is_exact() -> None:
    from charlm.data.holdout import split_tail

    spans = split_tail(10**8, 10**8, TextConfig(val=0.05, test=0.05))
    wanted = {"train": (0, 9 * 10**7), "held_out": (9 * 10**7, 95 * 10**6), "test": (95 * 10**6, 10**8)}
    assert spans == {name: [span] for name, span in wanted.items()} | {"left_out": []}


def test_held_out_text_that_was_seen_is_said() -> None:
    from charlm.training.describe import leak_warning

    rng = np.random.default_rng(0)
    text = "".join(map(chr, rng.integers(97, 123, 2000)))
    assert leak_warning(prepare(text, TextConfig())) is None
    said = leak_warning(prepare(text + text[500:600], TextConfig(val=0.1)))
    assert said and said.startswith("48 % of the held-out text") and "--val-file" in said
