"""What `charlm sample` starts from: escapes, characters the model lacks, the newline of a file, the seed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.data.documents import separator_of
from charlm.data.text_config import TextConfig
from charlm.terminal import one_line, unescaped, visible
from tests.cli.kept import TOY
from tests.conftest import Result

Charlm = Callable[..., Result]
TRAIN = (*TOY, "--steps", "2", "--no-prior")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (r"a\nb", "a\nb"),
        (r"a\tb\r", "a\tb\r"),
        (r"a\\nb", r"a\nb"),
        (r"a\\\nb", "a\\\nb"),
        ("a\\", "a\\"),
        (r"a\b\q\0", r"a\b\q\0"),
        (r"\x41\xe9", "Aé"),
        (r"\x4 \xg1 \u12 \u", r"\x4 \xg1 \u12 \u"),
        (r"\u65e5\U0001F986", "日🦆"),
        (r"\ud83e\udd86", "🦆"),
        (r"\ud83e \U00110000", r"\ud83e \U00110000"),
    ],
)
def test_one_set_of_escapes_everywhere(typed: str, meant: str) -> None:
    assert unescaped(typed) == meant
    assert separator_of(TextConfig(documents="separator", separator=typed)) == meant


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\\")))
def test_what_a_terminal_is_shown_can_be_typed_back(text: str) -> None:
    assert unescaped(visible(text)) == text
    assert unescaped(one_line(text, 10**6)) == text


def test_of_many_lacking_characters_the_first_are_named(charlm: Charlm) -> None:
    assert charlm("train", "ducks.txt", *TRAIN).code == 0
    result = charlm("sample", "--length", "3", "--prompt", "".join(map(chr, range(0x400, 0x450))))
    assert "80 characters of the prompt" in result.err and "and 70 more" in result.err


def test_training_with_one_seed_shows_the_same_previews(charlm: Charlm) -> None:
    samples = []
    for name in ("a", "b"):
        assert charlm("train", "ducks.txt", *TRAIN, "--eval-every", "1", "--run", name).code == 0
        samples.append(Path("checkpoints", name, "samples.jsonl").read_text())
    assert samples[0] and samples[0] == samples[1]


@pytest.mark.parametrize(
    ("stop", "said"),
    [
        ("\u2603!", "cannot occur: the model cannot write \u2603 (U+2603)"),
        ("\u00e9", "will be rare: the model can write \u00e9 (U+00E9) only as UTF-8 bytes"),
        ("b\\n", None),
    ],
)
def test_characters_of_a_stop_that_the_model_lacks_are_named(
    charlm: Charlm, elsewhere: Path, stop: str, said: str | None
) -> None:
    Path("t.txt").write_text("ab ba\n" * 200 + "caf\u00e9\n", encoding="utf-8")  # once: spelled in bytes
    assert charlm("train", "t.txt", *TRAIN, "--min-count", "3", "--val", "0").code == 0
    done = charlm("sample", "--stop", stop, "--length", "5", "--seed", "1")
    assert done.code == 0, done.err
    notes = [line for line in done.err.splitlines() if "--stop" in line]
    assert len(notes) == (said is not None)
    if said is not None:
        assert said in " ".join(done.err.split())
