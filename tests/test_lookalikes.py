"""Look-alikes in prompts: said where the model has one, read instead where that is asked for."""

import json
import sys
from pathlib import Path
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.cli.main import run as main
from charlm.data.normalize import ELLIPSIS, LOOKALIKES, find_lookalikes, replace_lookalikes
from charlm.data.tokenizer import Vocabulary

MARKS = "".join(LOOKALIKES) + ELLIPSIS + ".aé"


@given(st.text(alphabet=MARKS), st.sets(st.sampled_from(MARKS), min_size=1))
def test_only_what_is_lacking_becomes_only_what_is_known(text: str, known: set[str]) -> None:
    vocabulary = Vocabulary("".join(sorted(known)), b"", (1,) * len(known))
    found = find_lookalikes(text, vocabulary)
    assert not set(found) & known and set(found) <= set(text)
    assert set("".join(found.values())) <= known
    assert not find_lookalikes(replace_lookalikes(text, found), vocabulary)
    alike = (*LOOKALIKES, ELLIPSIS + ".")
    assert all(any(char in row and set(other) <= set(row) for row in alike) for char, other in found.items())
    assert replace_lookalikes(text, {}) == text


def test_no_character_is_in_two_rows() -> None:
    assert len(set("".join(LOOKALIKES))) == sum(map(len, LOOKALIKES))


def test_sample_says_so_and_maps(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("t.txt").write_text("it's the cat's mat - yes.\n" * 40)

    def charlm(words: list[str]) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["charlm", *words])
        assert main(perf_counter()) == 0
        return capsys.readouterr()

    shape = "--n-layer 1 --n-embd 16 --n-head 2 --block-size 16 --batch-size 4"
    charlm(f"train t.txt --steps 2 {shape}".split())
    sample = ["sample", "--json", "--length", "2", "--prompt"]
    out, said = charlm([*sample, "it\u2019s"])
    assert "U+2019" in said and "--map-lookalikes" in said and json.loads(out)["prompt"] == "it\u2019s"
    out, said = charlm([*sample, "it\u2019s \u2014", "--map-lookalikes"])
    assert json.loads(out)["prompt"] == "it's -" and "reading" in said and "U+2014" in said
    assert "lookalikes" not in charlm([*sample, "it's \u00e9"])[1]
