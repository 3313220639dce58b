"""`charlm inspect` from within: its sample of a long text, and the characters of any text."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.data import corpus_cache as cache
from charlm.data.encode import TextCounter, codes_of
from charlm.data.stream import Block
from charlm.inspection.characters import (
    CONTROLS,
    Character,
    find_lookalikes,
    is_invisible,
    list_characters,
    normal_forms,
)
from charlm.training.sizes import Budget
from tests.conftest import Result

Charlm = Callable[..., Result]


@pytest.fixture(autouse=True)
def _one_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are not timed, so that the same plan is shown each time."""
    monkeypatch.setattr(
        "charlm.training.trial.timed_budget",
        lambda corpus, training, seconds, choose: (1, Budget(seconds=5.0)),
    )


def test_of_a_long_text_a_sample_is_read_and_said(charlm: Charlm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charlm.data.text_scan.READ_WHOLE", 10_000)
    monkeypatch.setattr("charlm.data.text_scan.PIECE_BYTES", 1_000)
    text = "".join(f"{i} ducks and {i % 7} geese on the pond\n" for i in range(6_000))
    Path("t.txt").write_text(text)
    before = {entry.key for entry in cache.entries()}
    shown = charlm("inspect", "t.txt")
    assert shown.code == 0 and f"of {len(text):,} bytes, in pieces spread evenly" in shown.out
    found = json.loads(charlm("inspect", "t.txt", "--json").out)
    assert found["text"]["bytes_read"] <= 64_000 and found["text"]["of_bytes"] == len(text)
    assert found["text"]["read"] == "in pieces spread evenly"
    assert found["repeats"]["repeated"]["word"] == "at least"
    assert {entry.key for entry in cache.entries()} == before  # nobody asks for a sample again
    assert f"{len(text):,} characters" in charlm("train", "t.txt", "--dry-run").err


def test_without_a_name_it_is_the_manual(charlm: Charlm) -> None:
    pytest.importorskip("pydoc_data.topics")
    shown = charlm("inspect", "--val", "0.02")
    assert shown.code == 0 and "the manual of Python" in shown.out


def test_a_table_is_said_to_be_one(charlm: Charlm) -> None:
    Path("t.csv").write_text("id,body\n" + "".join(f"{i},the duck {i} is here\n" for i in range(300)))
    found = json.loads(charlm("inspect", "t.csv", "--json").out)
    (warning,) = [warning for warning in found["warnings"] if warning["code"] == "records"]
    assert "id" in warning["text"] and "body" in warning["text"]


@given(st.text(min_size=1))
def test_every_character_is_counted_and_named(text: str) -> None:
    counter = TextCounter()
    counter.add(codes_of(Block.of(text)))
    found = list_characters(counter.counts())
    assert {c.char: c.count for c in found} == {char: text.count(char) for char in set(text)}
    assert [c.count for c in found] == sorted((c.count for c in found), reverse=True)
    assert all(c.name and c.code_point == f"U+{ord(c.char):04X}" for c in found)


def listed(text: str) -> list[Character]:
    return [Character.of(char, text.count(char)) for char in set(text)]


@given(st.text(alphabet="eéaå\u0301\u030a\u0323\u05b8\u05bcÅ\u212b한\u1112\u1161"))
def test_a_text_is_in_its_composed_form_or_said_not_to_be(text: str) -> None:
    found = normal_forms(listed(text), text)
    is_nfc = not (found.decomposed or found.unstable or found.reordered)
    assert is_nfc == unicodedata.is_normalized("NFC", text)


def test_look_alike_letters_are_told_from_units_and_names() -> None:
    def odd(text: str) -> str:
        return "".join(c.char for c in find_lookalikes(listed(text), text).letters)

    assert odd("\u041co\u0441\u043a\u0432\u0430 \u041c\u043e\u0441\u043a\u0432\u0430") == "o"
    assert odd("\u041c\u043e\u0441k\u0432\u0430") == ""  # k is no look-alike
    assert odd("5 \u03bcm, the \u0394ABC, \u041f\u0440\u0438\u0432\u0435\u0442 hello, \u0430 a") == ""
    assert odd("\u039dame") == "\u039d"


def test_names_of_controls_are_of_those_without_one() -> None:
    assert all(not unicodedata.name(chr(point), "") for point in CONTROLS)


def test_what_shows_nothing_is_invisible() -> None:
    assert all(map(is_invisible, "\x07\x1b\u200b\u202e\u2028\ufeff\xad\u2066\U000e0041\ue000"))
    assert not any(map(is_invisible, "a\t\r\n \u200c\u200d\xa0\u0301\u0600é日"))
