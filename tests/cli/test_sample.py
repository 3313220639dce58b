"""`charlm sample`: which text comes of which options, and where it goes."""

import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.kept import refused
from tests.cli.models import ALIKE, SCORED, Charlm, Models

KEYS = {
    "prompt": str,
    "prompt_index": int,
    "prompt_unknown": dict,
    "text": str,
    "seed": int,
    "sample": int,
    "device": str,
    "finish_reason": str,
    "chars_per_second": float,
}


@pytest.fixture
def models(charlm: Charlm, tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(charlm, tmp_path_factory)


def samples(models: Models, kind: str, *words: str, **how: Any) -> list[dict[str, Any]]:
    """The rows of --json, by the number of the sample: they come as they are complete."""
    result = models(kind, "sample", "--json", *words, **how)
    assert result.code == 0, result.err
    return sorted(map(json.loads, result.out.splitlines()), key=lambda row: row["sample"])


def text(models: Models, kind: str, *words: str, **how: Any) -> str:
    """The text of one sample."""
    [row] = samples(models, kind, *words, **how)
    said: str = row["text"]
    return said


@pytest.mark.parametrize("kind", SCORED)
def test_the_seed_decides_the_text_and_each_sample_is_what_it_is_alone(models: Models, kind: str) -> None:
    words = ("--length", "60", "--prompt", "The ")
    three = samples(models, kind, "--seed", "5", "-n", "3", *words)
    assert [row["sample"] for row in three] == [0, 1, 2]
    assert len({row["text"] for row in three}) == 3
    for row in three:
        assert {name: type(value) for name, value in row.items()} == KEYS
        assert (row["prompt"], row["seed"], row["finish_reason"]) == ("The ", 5, "length")
        assert len(row["text"]) == 60 and row["prompt_unknown"] == {} and row["chars_per_second"] > 0
    for n in (1, 2):
        fewer = samples(models, kind, "--seed", "5", "--samples", str(n), *words)
        assert [row["text"] for row in fewer] == [row["text"] for row in three[:n]]
    assert text(models, kind, "--seed", "6", *words) != three[0]["text"]


@pytest.mark.parametrize("kind", SCORED)
def test_whatever_leaves_only_the_likeliest_writes_the_same_text(models: Models, kind: str) -> None:
    words = ("--length", "50", "--prompt", "A fox")
    [greedy] = samples(models, kind, "--temperature", "0", *words)
    assert greedy["seed"] is None  # it has no effect
    assert text(models, kind, "--temperature", "0", "--seed", "9", *words) == greedy["text"]
    for only in (("--top-k", "1"), ("--top-p", "0"), ("--min-p", "1")):
        for seed in ("1", "2"):
            assert text(models, kind, *only, "--seed", seed, "--temperature", "3", *words) == greedy["text"]


@pytest.mark.parametrize(
    "words", [("--temperature", "5"), ("--top-k", "2"), ("--top-p", "0.3"), ("--min-p", "0.5")]
)
def test_each_option_of_choosing_changes_the_text(models: Models, words: tuple[str, ...]) -> None:
    base = ("--seed", "4", "--length", "120")
    assert text(models, "plain", *base, *words) != text(models, "plain", *base)


def test_what_leaves_nothing_out_changes_nothing(models: Models) -> None:
    base = ("--seed", "4", "--length", "60")
    usual = text(models, "prior", *base)
    assert text(models, "prior", *base, "--temperature", "0.8", "--top-p", "1", "--min-p", "0") == usual
    result = models("prior", "sample", "--json", *base, "--top-k", "5000")
    assert result.json["text"] == usual
    assert "--top-k 5000" in result.err  # more than the model's symbols


def test_a_seed_that_is_drawn_is_told_and_writes_the_same_again(models: Models) -> None:
    first, other = (models("counts", "sample", "--length", "80") for _ in range(2))
    assert first.out != other.out
    told = first.err.split("--seed ")[1].split()[0]
    again = models("counts", "sample", "--length", "80", "--seed", told)
    assert again.out == first.out and "--seed" not in again.err
    [row] = samples(models, "counts", "--length", "80", "--seed", told)
    assert first.out == row["text"] + "\n" and row["seed"] == int(told)


def test_plain_text_is_the_prompt_and_what_follows(models: Models) -> None:
    words = ("--seed", "3", "--length", "40", "--prompt", "One day")
    two = [row["text"] for row in samples(models, "prior", "-n", "2", *words)]
    assert models("prior", "sample", *words).out == f"One day{two[0]}\n"
    shown = models("prior", "sample", "-n", "2", *words).out
    assert shown == f"--- 1 ---\nOne day{two[0]}\n--- 2 ---\nOne day{two[1]}\n"


def test_500_characters_and_one_sample_where_nothing_is_said(models: Models) -> None:
    [row] = samples(models, "counts")
    assert len(row["text"]) == 500 and row["prompt"] == "\n"
    assert (
        samples(models, "lines", "--length", "1")[0]["prompt"] == ""
    )  # a document, which begins with nothing


def test_the_length_is_of_characters_also_where_a_model_reads_bytes(models: Models) -> None:
    """Of `é`, which is two bytes, there is never a half."""
    row = text(models, "bytes", "--seed", "2", "--length", "400")
    assert len(row) == 400 and len(row.encode()) > 400
    start = text(models, "bytes", "--seed", "2", "--length", "33")
    assert start == row[:33]


@pytest.mark.parametrize("kind", ["prior", "bytes", "counts"])
def test_a_sample_ends_before_the_stop_text_that_is_complete_first(models: Models, kind: str) -> None:
    words = ("--seed", "8", "--length", "300")
    whole = text(models, kind, *words)
    line = whole.index("\n", 1)
    [row] = samples(models, kind, *words, "--stop", r"\n" if line else "e")
    assert (row["text"], row["finish_reason"]) == (whole[: whole.index("\n")], "stop")
    stops = [
        whole[100:104],
        whole[40:45],
        whole[43:45],
    ]  # the second contains the third, ending where it does
    first = min(whole.index(stop) + len(stop) for stop in stops)
    [row] = samples(models, kind, *words, *(word for stop in stops for word in ("--stop", stop)))
    longest = max(len(stop) for stop in stops if whole[:first].endswith(stop))
    assert row["text"] == whole[: first - longest] and row["finish_reason"] == "stop"
    [row] = samples(models, kind, *words, "--stop", "\x01 never")
    assert (row["text"], row["finish_reason"]) == (whole, "length")


def test_a_stop_text_that_the_model_cannot_write_is_noted(models: Models) -> None:
    result = models("prior", "sample", "--seed", "8", "--length", "5", "--stop", "漢")
    assert result.code == 0 and "--stop 漢" in result.err


def test_a_prompt_is_the_same_from_an_option_a_file_and_standard_input(models: Models) -> None:
    prompt, words = "The old\tfox\nwent é", ("--seed", "3", "--length", "30")
    Path("prompt.txt").write_bytes(prompt.encode())
    rows = [
        samples(models, "prior", *words, "--prompt", prompt),
        samples(models, "prior", *words, "--prompt", r"The old\tfox\nwent \u00e9"),
        samples(models, "prior", *words, "--prompt", r"\x54he old	fox\nwent \xe9"),
        samples(models, "prior", *words, "--prompt-file", "prompt.txt"),
        samples(models, "prior", *words, "--prompt-file", "-", stdin=prompt),
    ]
    assert {(row["prompt"], row["text"]) for [row] in rows} == {(prompt, rows[0][0]["text"])}
    assert text(models, "prior", *words, "--prompt", "Nobody") != rows[0][0]["text"]


def test_a_prompt_file_is_taken_as_it_is_and_its_last_newline_is_noted(models: Models) -> None:
    Path("prompt.txt").write_bytes(b"A \\n duck\n")
    result = models(
        "prior", "sample", "--json", "--seed", "1", "--length", "5", "--prompt-file", "prompt.txt"
    )
    assert result.json["prompt"] == "A \\n duck\n"
    assert "newline" in result.err and "--prompt" in result.err


def test_a_prompt_file_has_a_limit(models: Models) -> None:
    with open("large.txt", "wb") as file:
        file.truncate(16_777_217)  # a hole, not megabytes
    refused(
        models("prior", "sample", "--prompt-file", "large.txt"), 2, "large.txt", "16,777,217", "16,777,216"
    )


@pytest.mark.parametrize("kind", SCORED)
def test_unknown_characters_of_a_prompt_are_read_and_named(models: Models, kind: str) -> None:
    result = models(kind, "sample", "--json", "--seed", "1", "--length", "20", "--prompt", "漢漢 ducks ø")
    row = result.json
    assert (row["prompt"], row["prompt_unknown"]) == ("漢漢 ducks ø", {"漢": 2, "ø": 1})
    assert len(row["text"]) == 20
    assert all(fact in result.err for fact in ("漢", "U+6F22", "ø", "U+00F8"))


def test_look_alikes_are_read_as_what_the_model_has(models: Models) -> None:
    words = ("--seed", "1", "--length", "40")
    plain = models("prior", "sample", "--json", *words, "--prompt", "Nobody’s")
    assert plain.json["prompt_unknown"] == {"’": 1} and "--map-lookalikes" in plain.err
    mapped = models("prior", "sample", "--json", *words, "--map-lookalikes", "--prompt", "Nobody’s")
    assert mapped.json["prompt_unknown"] == {} and mapped.json["prompt"] == "Nobody's"
    assert mapped.json["text"] == text(models, "prior", *words, "--prompt", "Nobody's")
    refused(models("bytes", "sample", "--map-lookalikes", "--prompt", "’"), 2, "--map-lookalikes", "bytes")


def test_one_document_ends_where_the_model_ends_it(models: Models) -> None:
    rows = samples(models, "lines", "--seed", "3", "-n", "6", "--length", "2000", "--one-document")
    assert {row["finish_reason"] for row in rows} == {"document"}
    assert len({len(row["text"]) for row in rows}) > 1
    through = samples(models, "lines", "--seed", "3", "-n", "6", "--length", "2000")
    for row, longer in zip(rows, through, strict=True):
        assert longer["text"].startswith(row["text"]) and len(longer["text"]) == 2000
    short = samples(models, "lines", "--seed", "3", "--length", "3", "--one-document")
    assert short[0]["finish_reason"] == "length" and rows[0]["text"].startswith(short[0]["text"])


@pytest.mark.parametrize("kind", ["prior", "plain", "counts", "bytes", "recurrent"])
def test_one_document_is_refused_by_a_model_that_knows_none(models: Models, kind: str) -> None:
    refused(models(kind, "sample", "--one-document"), 2, "--documents")


def test_threads_may_be_named(models: Models) -> None:
    words = ("--seed", "3", "--length", "20")
    assert text(models, "prior", *words, "--threads", "1") == text(models, "prior", *words)


@pytest.mark.parametrize("which", ["latest", "best", "15", "30"])
def test_the_checkpoint_is_the_one_asked_for(models: Models, which: str) -> None:
    result = models("plain", "sample", "--checkpoint", which, "--seed", "1", "--length", "80", "--json")
    step = which if which.isdecimal() else "30" if which == "latest" else ""
    assert result.code == 0 and f"step {step}" in result.err and "plain" in result.err
    last = text(models, "plain", "--seed", "1", "--length", "80")
    assert (result.json["text"] == last) == (which != "15")


def test_the_run_is_an_argument_an_option_or_the_newest(models: Models, charlm: Charlm) -> None:
    root = models.root("counts")
    shutil.copytree(root, "checkpoints")

    def sample(*words: str, **env: str) -> Any:
        return charlm("sample", *words, "--seed", "1", "--length", "30", env={**ALIKE, **env})

    usual = models("counts", "sample", "--seed", "1", "--length", "30").out
    assert sample("counts").out == usual
    assert sample("counts", "--run", "counts").out == usual
    newest = sample()
    assert newest.out == usual and "counts" in newest.err
    shutil.rmtree("checkpoints")
    refused(sample(), 4, "checkpoints")
    there = {"CHARLM_CHECKPOINTS": str(root)}
    assert sample(**there).out == usual
    refused(sample("counts", "--run", "plain", **there), 2, "counts", "plain")
    refused(sample("To be", **there), 4, "To be", "--prompt")  # a prompt, not a run


def test_quiet_leaves_only_the_text_and_what_matters(models: Models) -> None:
    words = ("--seed", "1", "--length", "30")
    quiet = models("prior", "sample", "-q", *words)
    assert quiet.err == "" and quiet.out == models("prior", "sample", "--no-color", *words).out
    assert "U+6F22" in models("prior", "sample", "-q", *words, "--prompt", "漢").err


BAD = [
    (("--checkpoint", "7"), 2, ("7", "latest", "best", "15", "30")),
    (("--checkpoint", "nosuch"), 2, ("nosuch",)),
    (("--run", "nosuch"), 4, ("nosuch", "plain")),
    (("--prompt", "a", "--prompt-file", "b"), 2, ("--prompt", "--prompt-file")),
    (("--prompt", "\udc80"), 2, ("prompt", "0")),
    (("--prompt-file", "nosuch"), 3, ("nosuch",)),
    (("--prompt-file", "."), 3, (".",)),
    (("--length", "0"), 2, ("--length", "0", "at least 1")),
    (("--length", "many"), 2, ("--length", "many")),
    (("-n", "0"), 2, ("--samples", "0", "1 to 4096")),
    (("--samples", "4097"), 2, ("--samples", "4097", "1 to 4096")),
    (("--stop", ""), 2, ("--stop",)),
    (("--raw", "--json"), 2, ("--raw", "--json")),
    (("--threads", "0"), 2, ("--threads", "0", "1 to 1024")),
    (("--threads", "1025"), 2, ("--threads", "1025", "1 to 1024")),
    (("--temperature", "-0.1"), 2, ("temperature", "-0.1", "0 to 100")),
    (("--temperature", "101"), 2, ("temperature", "101", "0 to 100")),
    (("--temperature", "nan"), 2, ("temperature", "nan")),
    (("--top-k", "0"), 2, ("0", "at least 1")),
    (("--top-p", "1.5"), 2, ("1.5", "0 to 1")),
    (("--min-p", "-1"), 2, ("-1", "0 to 1")),
    (("--seed", "-1"), 2, ("seed", "-1", "at least 0")),
    (("--seed", "x"), 2, ("--seed", "x")),
    (("--nosuch",), 2, ("--nosuch",)),
    (("--checkpoints", "nowhere"), 4, ("nowhere",)),
]


@pytest.mark.parametrize(("words", "code", "facts"), BAD, ids=[ascii(" ".join(words)) for words, _, _ in BAD])
def test_a_wrong_value_is_refused_by_name(
    models: Models, words: tuple[str, ...], code: int, facts: tuple[str, ...]
) -> None:
    refused(models("plain", "sample", *words), code, *facts)


def on_terminal(models: Models, monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    """What the command writes to standard output where that is a terminal; less than its buffer."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    with open(theirs, "w", encoding="utf-8", newline="\n") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        assert models("controls", "sample", "--seed", "1", "--length", "120", *words).code == 0
        terminal.write("END")  # what is written arrives in pieces
    written = b""
    while not written.endswith(b"END"):
        written += os.read(ours, 1 << 16)
    os.close(ours)
    return written.decode().replace("\r\n", "\n").removesuffix("END")


def test_a_terminal_gets_no_control_characters_unless_it_asks_for_them(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = models("controls", "sample", "--seed", "1", "--length", "120", "--prompt", r"A\x1b]0;").out
    assert "\x1b[31m" in plain and "\x07" in plain and plain.startswith("A\x1b]0;")  # to a pipe, as it is
    words = ("--prompt", r"A\x1b]0;", "--no-color")
    shown = on_terminal(models, monkeypatch, *words)
    assert shown == plain.replace("\x1b", r"\x1b").replace("\x07", r"\x07")
    assert on_terminal(models, monkeypatch, *words, "--raw") == plain
    row = on_terminal(models, monkeypatch, *words, "--json")
    assert "\x1b" not in row and row.isascii()
    prompt = json.loads(row)["prompt"]
    assert prompt + json.loads(row)["text"] + "\n" == plain


@pytest.mark.skipif(os.name == "nt", reason="forks")
def test_text_streams_to_a_pipe_and_ends_when_its_reader_leaves(models: Models) -> None:
    """It is told to write for hours, so what is read was written before its end."""
    root = str(models.root("counts"))
    words = ("sample", "counts", "--checkpoints", root, "--length", "1000000000", "--seed", "1")
    from tests.commands import Child, Command

    with Child(Command(words, Path.cwd())) as running:
        start = running.out.read(1000)
        running.out.close()
        done = running.end()
        assert done.code == 0 and "error" not in done.err, done.err
    assert len(start) == 1000
    assert models("counts", "sample", "--length", "300", "--seed", "1").out[:300] in start.decode(
        "utf-8", "ignore"
    )


def test_a_stream_that_lacks_a_character_does_not_stop_it(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    assert models("counts", "sample", "--seed", "1", "--length", "5", "--prompt", "漢").code == 0
    sys.stdout.flush()
    assert raw.getvalue()
