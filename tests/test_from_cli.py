"""`charlm train --from RUN` as it is typed: what is said, what is refused, and what can be repeated."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from charlm.reporting.log import read_log
from tests.conftest import TEXT, Result, repeat_words
from tests.test_compare_cli import TOY
from tests.test_going_on import NEW


@pytest.fixture
def charlm(charlm: Callable[..., Result]) -> Callable[..., Result]:
    """The same beside another text."""
    Path("ankor.txt").write_text(NEW)
    return charlm


def info(charlm: Callable[..., Result], name: str) -> dict[str, object]:
    return dict(json.loads(charlm("info", name, "--json").out))


@pytest.mark.parametrize("counts", ["--prior", "--no-prior"])
def test_a_run_on_another_text(charlm: Callable[..., Result], counts: str) -> None:
    charlm("train", "ducks.txt", "--steps", "8", "--run", "old", counts, *TOY)
    weights = info(charlm, "old")["weights_sha256"]
    result = charlm("train", "ankor.txt", "--from", "old", "--steps", "6")
    assert result.code == 0, result.err
    assert "fine-tuning old, step 8" in result.err
    assert re.search(r"plus \d+ new: \S", result.err)
    assert len(re.findall(r"held-out text of old: \d\.\d{4} bits/char before", result.err)) == 2
    assert "held-out text of old" in result.out and ("forgotten" in result.out or "gained" in result.out)
    assert ("the n-gram prior counts this text and ducks.txt" in result.err) == (counts == "--prior")
    assert info(charlm, "old")["weights_sha256"] == weights
    row = info(charlm, "ankor")
    assert row["from"] == {"run": "old", "step": 8, "weights_sha256": weights}
    assert isinstance(row["old_text"], dict) and "before_sums" not in row["old_text"]
    said = charlm("info", "ankor").out
    assert "fine-tuned from" in said and "old, step 8" in said and "held-out text of old" in said
    logged = [line for line in read_log(Path("checkpoints/ankor")) if line["event"] == "Remembered"]
    assert [line["step"] for line in logged] == [0, 6]
    assert "held-out text of old" in Path("checkpoints/ankor/report.html").read_text()
    again = repeat_words(charlm)
    assert "--from old --checkpoint 8" in " ".join(again)
    assert charlm(*again, "--run", "again").code == 0
    assert info(charlm, "again")["weights_sha256"] == row["weights_sha256"]
    assert charlm("sample", "--run", "ankor", "--length", "20").code == 0
    assert charlm("eval", "--run", "ankor").code == 0
    assert charlm("doctor", "ankor").code == 0


def test_new_symbols_are_named(charlm: Callable[..., Result]) -> None:
    new = [chr(0x430 + i) for i in range(32)]
    Path("new.txt").write_text(" ".join(new) * 40, "utf-8")
    charlm("train", "ducks.txt", "--steps", "2", "--run", "old", *TOY)
    said = charlm("train", "new.txt", "--from", "old", "--steps", "2", "--dry-run").err
    assert f"plus {len(new)} new: {''.join(new[:20])}...\n" in said


def test_a_text_that_has_grown_keeps_what_was_held_out(charlm: Callable[..., Result]) -> None:
    charlm("train", "ducks.txt", "--steps", "3", "--run", "old", *TOY)
    Path("ducks.txt").write_text(TEXT + NEW)
    result = charlm("train", "ducks.txt", "--from", "old", "--steps", "3", "--run", "new")
    assert "the text begins with that of old: its held-out part stays held out" in result.err
    held_out = round(0.1 * len(TEXT)) + round(0.1 * len(NEW))
    corpus = info(charlm, "new")["corpus"]
    assert isinstance(corpus, dict) and abs(corpus["held_out_chars"] - held_out) <= 2
    result = charlm("resume", "new", "--steps", "2")
    assert result.code == 0 and len(re.findall("held-out text of old: ", result.err)) == 1


def test_runs_that_differ_in_their_held_out_file_only_are_told_apart(charlm: Callable[..., Result]) -> None:
    """By the division of what is trained on then, and by the length of the text in the run's record."""
    noise = ["".join(Random(seed).choices("abcdefgh \n", k=700)) for seed in (1, 2)]
    for name, text in zip("vw", noise, strict=True):
        Path(f"{name}.txt").write_text(text)
        charlm("train", "ducks.txt", "--val-file", f"{name}.txt", "--steps", "2", "--run", name, *TOY)
    Path("both.txt").write_text(noise[1] + NEW)
    left_out = [charlm("train", "both.txt", "--from", name, "--dry-run").err for name in "vw"]
    assert "left out of training" not in left_out[0] and "100 % of what w held out" in left_out[1]
    Path("ducks.txt").write_text(TEXT + NEW[:2000])
    charlm("train", "ducks.txt", "--steps", "2", "--run", "old", *TOY)
    Path("ducks.txt").write_text(TEXT + NEW)
    charlm("train", "ducks.txt", "--from", "old", "--val-file", "v.txt", "--steps", "2", "--run", "more")
    Path("ducks.txt").write_text(TEXT + NEW + noise[1])
    result = charlm("train", "ducks.txt", "--from", "more", "--dry-run")
    assert "the text begins with that of more" in result.err


def test_what_was_taken_over_and_told_otherwise_is_repeated(charlm: Callable[..., Result]) -> None:
    charlm("train", "ducks.txt", "--steps", "2", "--run", "old", "--val", "0.2", *TOY)
    charlm("train", "ankor.txt", "--from", "old", "--val", "0.1", "--steps", "2")
    again = repeat_words(charlm)
    assert "--val 0.1" in " ".join(again)


def test_what_was_held_out_and_stands_elsewhere_is_said(charlm: Callable[..., Result]) -> None:
    charlm("train", "ducks.txt", "--steps", "3", "--run", "old", *TOY)
    Path("both.txt").write_text(NEW + TEXT + NEW)
    result = charlm("train", "both.txt", "--from", "old", "--steps", "3", "--run", "new")
    assert re.search(
        r"[\d,]+ characters of the text, \d+ % of what old held out, are left out of training", result.err
    )


def test_settings_of_the_text_are_taken_over(charlm: Callable[..., Result]) -> None:
    charlm("train", "ducks.txt", "--steps", "3", "--run", "old", "--lowercase", "--val", "0.2", *TOY)
    assert charlm("train", "ankor.txt", "--from", "old", "--steps", "3", "--run", "new").code == 0
    settings = json.loads(Path("checkpoints/new/run.json").read_text())["text"]
    assert settings["lowercase"] is True and settings["val"] == 0.2
    told = charlm("train", "ankor.txt", "--from", "old", "--steps", "3", "--run", "again", "--val", "0.3")
    assert told.code == 0
    assert json.loads(Path("checkpoints/again/run.json").read_text())["text"]["val"] == 0.3


def test_what_contradicts_the_old_run_is_refused_by_name(charlm: Callable[..., Result]) -> None:
    charlm("train", "ducks.txt", "--steps", "3", "--run", "old", *TOY)
    for words, said in (
        (("--lowercase",), "lowercase is True, but False in old"),
        (("--normalize", "nfc"), "normalize is nfc, but None in old"),
        (("--n-layer", "7"), "n_layer is 7, but 1 in old"),
        (("--plain",), "plain is True, but False in old"),
        (("--split", "documents", "--documents", "line"), "split is documents, but tail in old"),
        (("--from", "nobody"), "there is no run named nobody"),
        (("--checkpoint", "77"), "has no checkpoint 77"),
    ):
        result = charlm("train", "ankor.txt", "--from", "old", "--steps", "3", *words)
        assert result.code in (2, 4) and said in result.err, result.err
        assert not Path("checkpoints/ankor").exists()


def test_the_units_are_those_of_the_old_run(charlm: Callable[..., Result]) -> None:
    charlm("train", "ducks.txt", "--steps", "3", "--run", "old", "--units", "bytes", *TOY)
    Path("ankor.txt").write_text(NEW.replace("ö", "o\u0308"))
    result = charlm("train", "ankor.txt", "--from", "old", "--steps", "3")
    assert result.code == 0, result.err
    assert json.loads(Path("checkpoints/ankor/run.json").read_text())["text"]["units"] == "bytes"
    assert len(re.findall(r"held-out text of old: \d\.\d{4} bits/", result.err)) == 2
    refused = charlm("train", "ankor.txt", "--from", "old", "--steps", "3", "--units", "chars")
    assert refused.code == 2 and "units is chars, but bytes in old" in refused.err


def test_documents_can_be_told_apart_from_now_on(charlm: Callable[..., Result]) -> None:
    charlm("train", "ducks.txt", "--steps", "3", "--run", "old", "--prior", *TOY)
    result = charlm("train", "ankor.txt", "--from", "old", "--steps", "3", "--documents", "line")
    assert result.code == 0, result.err
    assert charlm("sample", "--run", "ankor", "--one-document", "--length", "30").code == 0


def test_a_checkpoint_needs_a_run_to_be_of(charlm: Callable[..., Result]) -> None:
    result = charlm("train", "ducks.txt", "--checkpoint", "best", "--steps", "3")
    assert result.code == 2 and "has no effect without --from" in result.err


def test_it_keeps_to_a_time(charlm: Callable[..., Result]) -> None:
    charlm("train", "ducks.txt", "--steps", "3", "--run", "old", *TOY)
    assert charlm("train", "ankor.txt", "--from", "old", "--time", "5s", "--dry-run").code == 0


def test_it_can_be_said_in_a_file(charlm: Callable[..., Result]) -> None:
    charlm("train", "ducks.txt", "--steps", "3", "--run", "old", *TOY)
    Path("settings.toml").write_text('from = "old"\nsteps = 2\nrun = "new"\n')
    assert charlm("train", "ankor.txt", "--config", "settings.toml").code == 0
    assert info(charlm, "new")["from"]


def test_without_the_old_text_that_is_said_and_it_goes_on(charlm: Callable[..., Result]) -> None:
    charlm("train", "ducks.txt", "--steps", "3", "--run", "old", "--prior", *TOY)
    assert charlm("cache", "--clear").code == 0
    Path("ducks.txt").unlink()
    result = charlm("train", "ankor.txt", "--from", "old", "--steps", "3")
    assert result.code == 0 and "so forgetting of it cannot be measured" in result.err
    assert "the n-gram prior counts this text alone, since the old one is gone" in result.err
    assert "bits/char before" not in result.err and info(charlm, "ankor")["old_text"] is None


def test_when_what_is_kept_of_the_text_is_gone_it_is_read_again(charlm: Callable[..., Result]) -> None:
    charlm("train", "ducks.txt", "--steps", "3", "--run", "old", *TOY)
    Path("both.txt").write_text(NEW + TEXT + NEW)
    charlm("train", "both.txt", "--from", "old", "--steps", "3", "--run", "new")
    charlm("cache", "--clear")
    result = charlm("resume", "new", "--steps", "2")
    assert result.code == 0, result.err
    assert "held-out text of old" in result.err


def test_a_comparison_cannot_go_on_from_a_run(charlm: Callable[..., Result]) -> None:
    result = charlm(
        "compare", "ducks.txt", "--vary", "position=none,learned", "--from", "old", "--steps", "2", *TOY
    )
    assert result.code == 2 and "no option --from" in result.err
