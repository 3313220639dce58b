"""Normalisation and look-alikes: on request, the same in blocks as at once, applied to prompts and scored text alike."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.data.load import load
from charlm.data.normalize import (
    ELLIPSIS,
    LONG_ROW,
    LOOKALIKES,
    find_lookalikes,
    normal_form,
    normalize,
    normalize_blocks,
)
from charlm.data.prepare import prepare
from charlm.data.stream import Block
from charlm.data.text_config import TextConfig
from charlm.data.tokenizer import Vocabulary
from tests.conftest import Result

SETTINGS = st.builds(
    TextConfig,
    normalize=st.sampled_from([None, "nfc", "nfkc"]),
    newlines=st.sampled_from(["keep", "lf"]),
    lowercase=st.booleans(),
    collapse_spaces=st.booleans(),
)
TEXTS = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="aA ΑΣσ'\u0301\u0323\u00a0\t\r\n가ᄀ\u1161\u11a8ﬁ中か\u3099İ.Å\u00ad", max_size=60),
)
MARKS = "\u0301\u0323\u0344\u0f71\u0f73\uff9e\u3099\u0345\u05b0"
TOY = [
    *("--n-layer", "1", "--n-embd", "16", "--n-head", "2", "--block-size", "16", "--batch-size"),
    *("4", "--steps", "2"),
]
CHARS = "".join(LOOKALIKES) + ELLIPSIS + ".aé"


@given(
    st.text(alphabet=f"aé가か\u0b95{MARKS}", min_size=LONG_ROW, max_size=3 * LONG_ROW),
    st.sampled_from(["NFC", "NFKC"]),
)
def test_long_rows_of_marks_become_what_unicode_says(text: str, form: str) -> None:
    row = text.translate(dict.fromkeys(map(ord, "aé가か\u0b95")))
    for each in (text, f"e{row * 3}a", row):
        assert normal_form(each, form) == unicodedata.normalize(form, each)  # type: ignore[arg-type]


def test_rows_of_marks_without_end_take_a_time_that_grows_with_them(charlm: Callable[..., Result]) -> None:
    """With the square of their number these would take minutes."""
    text = "".join(f"a{pair * 75_000}\n" for pair in ("\u0301\u0323", "\u0f73\u0f71")) + "some words\n" * 100
    Path("marks.txt").write_text(text, encoding="utf-8")
    assert normal_form(text, "NFKC")
    assert charlm("inspect", "marks.txt", "--normalize", "nfc").code == 0


@given(TEXTS, SETTINGS, st.data())
def test_in_blocks_as_at_once(text: str, config: TextConfig, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    blocks = list(normalize_blocks([Block.of(piece) for piece in pieces if piece], config))
    assert "".join(block.text for block in blocks) == normalize(text, config)
    assert all(block.utf8 == block.text.encode() for block in blocks)


@given(TEXTS, SETTINGS)
def test_it_does_what_the_settings_say_and_doing_it_twice_changes_nothing(
    text: str, config: TextConfig
) -> None:
    done = normalize(text, config)
    assert normalize(done, config) == done
    if config.normalize:
        assert unicodedata.is_normalized(config.normalize.upper(), done)  # type: ignore[arg-type]
    assert config.newlines == "keep" or "\r" not in done
    assert not config.lowercase or done == done.lower()
    assert not config.collapse_spaces or ("  " not in done and "\t" not in done)
    assert config != TextConfig() or done == text


def test_little_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    config = TextConfig(normalize="nfc", lowercase=True)
    for text in ("ACGT" * 10_000, "中文" * 10_000, "two words " * 4000, "line\n" * 10_000):
        blocks = [Block.of(text[i : i + 1000]) for i in range(0, len(text), 1000)]
        assert max(len(block.text) for block in normalize_blocks(blocks, config)) < 2000
    monkeypatch.setattr("charlm.data.normalize.LONGEST", 10_000)
    marks = "a" + "\u0301" * 10_010
    held = normalize_blocks([Block.of(marks)], TextConfig(normalize="nfc"))
    assert sum(len(block.text) for block in held) == len(marks) - 1


def test_a_corpus_is_of_the_changed_text(elsewhere: Path) -> None:
    text = "Ein  Café\r\n" * 30
    config = TextConfig(normalize="nfc", newlines="lf", lowercase=True, collapse_spaces=True, val=0.0)
    corpus = prepare(text, config)
    assert corpus.training_text() == "ein caf\u00e9\n" * 30
    Path("t.txt").write_bytes(text.encode())
    assert load(["t.txt"], config).corpus.key == corpus.key
    records = "".join(json.dumps({"t": t}) + "\n" for t in ("A\u0301", "\u0301B  "))
    Path("t.jsonl").write_text(records)
    apart = load(
        ["t.jsonl"], TextConfig(field="t", documents="line", normalize="nfc", collapse_spaces=True, val=0.0)
    )
    assert apart.corpus.vocabulary.decode(apart.corpus.train, "|") == "\u00c1\n|\u0301B \n|"


def test_prompts_and_scored_text_are_changed_alike_and_it_is_said(charlm: Callable[..., Result]) -> None:
    Path("t.txt").write_text("The Cat sat on the Mat.\n" * 60)
    Path("u.txt").write_text("THE CAT\r\n")
    assert charlm("train", "t.txt", "--lowercase", "--newlines", "lf", *TOY).code == 0
    sampled = charlm("sample", "--prompt", "THE\r\n", "--json", "--length", "3")
    assert json.loads(sampled.out)["prompt"] == "the\n"
    found = json.loads(charlm("eval", "u.txt", "--json").out)
    assert (found["chars"], found["unknown_chars"]) == (8, 0)
    assert any("--newlines, --lowercase" in said and "not comparable" in said for said in found["warnings"])
    assert any("not comparable" in said for said in json.loads(charlm("eval", "--json").out)["warnings"])


@given(st.text(alphabet=CHARS), st.sets(st.sampled_from(CHARS), min_size=1))
def test_only_what_a_vocabulary_lacks_becomes_only_what_it_has(text: str, known: set[str]) -> None:
    vocabulary = Vocabulary("".join(sorted(known)), b"", (1,) * len(known))
    found = find_lookalikes(text, vocabulary)
    assert not set(found) & known and set(found) <= set(text)
    assert set("".join(found.values())) <= known
    assert not find_lookalikes(text.translate(str.maketrans({**found})), vocabulary)
    rows = (*LOOKALIKES, ELLIPSIS + ".")
    assert all(any(char in row and set(other) <= set(row) for row in rows) for char, other in found.items())
    assert len(set("".join(LOOKALIKES))) == sum(map(len, LOOKALIKES)), "no character is in two rows"


def test_sample_offers_look_alikes_and_maps_them(charlm: Callable[..., Result]) -> None:
    Path("t.txt").write_text("it's the cat's mat - yes.\n" * 40)
    assert charlm("train", "t.txt", *TOY).code == 0
    sample = ("sample", "--json", "--length", "2", "--prompt")
    offered = charlm(*sample, "it\u2019s")
    assert "U+2019" in offered.err and "--map-lookalikes" in offered.err
    assert json.loads(offered.out)["prompt"] == "it\u2019s"
    mapped = charlm(*sample, "it\u2019s \u2014", "--map-lookalikes")
    assert json.loads(mapped.out)["prompt"] == "it's -" and "reading" in mapped.err and "U+2014" in mapped.err
    assert "lookalikes" not in charlm(*sample, "it's \u00e9").err
