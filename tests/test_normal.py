"""Normalisation: asked for, the same in blocks as at once, stored, applied to prompts and scored text alike."""

import json
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.cli.main import run as main
from charlm.config import TextConfig
from charlm.data.load import load
from charlm.data.normalize import LONG_ROW, LONGEST, normal_form, normalize, normalize_blocks
from charlm.data.prepare import prepare
from charlm.data.stream import Block
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
    text = "".join(f"a{pair * 150_000}\n" for pair in ("\u0301\u0323", "\u0f73\u0f71")) + "some words\n" * 100
    Path("marks.txt").write_text(text, encoding="utf-8")
    for command in ("train", "inspect"):
        words = ("--dry-run",) if command == "train" else ()
        for form in ((), ("--normalize", "nfc"), ("--normalize", "nfkc")):
            assert charlm(command, "marks.txt", *form, *words).code == 0


@given(TEXTS, SETTINGS, st.data())
def test_in_blocks_as_at_once(text: str, config: TextConfig, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    blocks = list(normalize_blocks([Block(piece.encode(), piece) for piece in pieces if piece], config))
    assert "".join(block.text for block in blocks) == normalize(text, config)
    assert all(block.utf8 == block.text.encode() for block in blocks)


@given(TEXTS, SETTINGS)
def test_it_says_what_it_does_and_is_done_once(text: str, config: TextConfig) -> None:
    done = normalize(text, config)
    assert normalize(done, config) == done
    if config.normalize:
        assert unicodedata.is_normalized(config.normalize.upper(), done)  # type: ignore[arg-type]
    assert config.newlines == "keep" or "\r" not in done
    assert not config.lowercase or done == done.lower()
    assert not config.collapse_spaces or ("  " not in done and "\t" not in done)
    if config == TextConfig():
        assert done == text


@pytest.mark.parametrize("text", ["ACGT" * 20_000, "中文" * 20_000, "two words " * 9_000, "line\n" * 20_000])
def test_little_is_held(text: str) -> None:
    blocks = [Block(text[i : i + 1000].encode(), text[i : i + 1000]) for i in range(0, len(text), 1000)]
    sizes = [
        len(block.text) for block in normalize_blocks(blocks, TextConfig(normalize="nfc", lowercase=True))
    ]
    assert max(sizes) < 2_000
    marks = "a" + "\u0301" * (LONGEST + 10)
    assert (
        len(
            "".join(
                b.text for b in normalize_blocks([Block(marks.encode(), marks)], TextConfig(normalize="nfc"))
            )
        )
        == len(marks) - 1
    )


def test_a_corpus_is_of_the_changed_text_and_old_settings_change_nothing(elsewhere: Path) -> None:
    text = "Ein  Café\r\n" * 30
    config = TextConfig(normalize="nfc", newlines="lf", lowercase=True, collapse_spaces=True, val=0.0)
    corpus = prepare(text, config)
    assert corpus.training_text() == "ein caf\u00e9\n" * 30
    Path("t.txt").write_bytes(text.encode())
    assert load(["t.txt"], config).corpus.key == corpus.key
    old = {"val": 0.1, "val_file": None, "encoding": None, "min_count": None}
    assert prepare(text, TextConfig.from_json(old)).training_text() == text[:297]
    records = "".join(json.dumps({"t": t}) + "\n" for t in ("A\u0301", "\u0301B  "))
    Path("t.jsonl").write_text(records)
    apart = load(
        ["t.jsonl"], TextConfig(field="t", documents="line", normalize="nfc", collapse_spaces=True, val=0.0)
    )
    assert apart.corpus.vocabulary.decode(apart.corpus.train, "|") == "\u00c1\n|\u0301B \n|"


def test_prompts_and_scored_text_are_changed_alike_and_it_is_said(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("t.txt").write_text("The Cat sat on the Mat.\n" * 60)
    Path("u.txt").write_text("THE CAT\r\n")

    def charlm(words: list[str]) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["charlm", *words])
        assert main(perf_counter()) == 0
        return capsys.readouterr()

    shape = "--n-layer 1 --n-embd 16 --n-head 2 --block-size 16 --batch-size 4"
    charlm(f"train t.txt --steps 3 --lowercase --newlines lf {shape}".split())
    assert (
        json.loads(charlm(["sample", "--prompt", "THE\r\n", "--json", "--length", "3"])[0])["prompt"]
        == "the\n"
    )
    found = json.loads(charlm(["eval", "u.txt", "--json"])[0])
    assert (found["chars"], found["unknown_chars"]) == (8, 0)
    assert any("--newlines, --lowercase" in said and "not comparable" in said for said in found["warnings"])
    assert any("not comparable" in said for said in json.loads(charlm(["eval", "--json"])[0])["warnings"])
