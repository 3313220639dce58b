"""`charlm sample --prompts`: many prompts in one process, each continued as it would be alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.kept import refused
from tests.cli.models import SCORED, Charlm, Models

LINES = ["The ", "One day", "", "A fox went", "One old", "The ", "Café\tand \\n", "nobody's"]


@pytest.fixture
def models(charlm: Charlm, tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(charlm, tmp_path_factory)


def rows(models: Models, kind: str, *words: str, **how: Any) -> list[dict[str, Any]]:
    """The rows of --json, in the order of prompts and samples."""
    result = models(kind, "sample", "--json", *words, **how)
    assert result.code == 0, result.err
    return sorted(
        map(json.loads, result.out.splitlines()), key=lambda row: (row["prompt_index"], row["sample"])
    )


@pytest.mark.parametrize("kind", SCORED)
def test_each_prompt_is_continued_as_alone_with_the_seed_in_its_row(models: Models, kind: str) -> None:
    """Whatever is beside it: lines of the same length share a batch, others do not."""
    Path("prompts.txt").write_bytes("\n".join(LINES).encode())
    made = rows(models, kind, "--prompts", "prompts.txt", "-n", "2", "--length", "30", "--seed", "9")
    assert [(row["prompt"], row["prompt_index"], row["sample"], row["seed"]) for row in made] == [
        (line, i, sample, 9 + i) for i, line in enumerate(LINES) for sample in range(2)
    ]
    for i, line in enumerate(LINES):
        Path("one.txt").write_bytes(f"{line}\n".encode())
        alone = rows(models, kind, "--prompts", "one.txt", "-n", "2", "--length", "30", "--seed", str(9 + i))
        assert [row["text"] for row in alone] == [row["text"] for row in made if row["prompt_index"] == i]
    typed = rows(models, kind, "--prompt", "One day", "-n", "2", "--length", "30", "--seed", "10")
    assert [row["text"] for row in typed] == [row["text"] for row in made[2:4]]
    assert made[0]["text"] != made[10]["text"], "the same prompt again has noise of its own"


def test_more_prompts_than_are_written_at_once(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("prompts.txt").write_text("".join(f"{'ab'[i % 2] * (1 + i % 3)}\n" for i in range(150)))
    words = ("--prompts", "prompts.txt", "--length", "8", "--seed", "3")
    made = rows(models, "counts", *words)
    assert [row["prompt_index"] for row in made] == list(range(150))
    for at_once in (1, 7, 1000):
        monkeypatch.setattr("charlm.inference.generate.ROWS_AT_ONCE", at_once)
        assert [row["text"] for row in rows(models, "counts", *words)] == [row["text"] for row in made]


def test_prompts_come_from_lines_records_and_standard_input(models: Models) -> None:
    Path("prompts.txt").write_bytes(b"The \r\nOne\n")
    Path("prompts.jsonl").write_text('{"id": 1, "begin": "The "}\n{"id": 2, "begin": "One"}\n')
    Path("prompts.csv").write_text("id,begin\n1,The \n2,One\n")
    words = ("--length", "20", "--seed", "3")
    expected = [
        (row["prompt"], row["text"]) for row in rows(models, "prior", *words, "--prompts", "prompts.txt")
    ]
    assert [prompt for prompt, _ in expected] == ["The ", "One"]
    for given in (
        ("--prompts", "prompts.jsonl", "--field", "begin"),
        ("--prompts", "prompts.csv", "--field", "begin"),
        ("--prompts", "-"),
    ):
        found = rows(models, "prior", *words, *given, stdin="The \nOne")
        assert [(row["prompt"], row["text"]) for row in found] == expected
    Path("lines.jsonl").write_text(json.dumps({"begin": "The\nold\n\n"}) + "\n")
    [row] = rows(models, "prior", *words, "--prompts", "lines.jsonl", "--field", "begin")
    assert row["prompt"] == "The\nold\n\n"


def test_as_text_each_sample_says_which_prompt_it_belongs_to(models: Models) -> None:
    Path("prompts.txt").write_text("The \nOne\n")
    words = ("--prompts", "prompts.txt", "--length", "10", "--seed", "3")
    texts = [row["text"] for row in rows(models, "prior", *words)]
    shown = models("prior", "sample", *words).out
    assert shown == f"--- prompt 1 ---\nThe {texts[0]}\n--- prompt 2 ---\nOne{texts[1]}\n"
    two = models("prior", "sample", *words, "-n", "2").out
    heads = [line for line in two.splitlines() if line.startswith("---")]
    assert heads == [f"--- prompt {p}, sample {s} ---" for p in (1, 2) for s in (1, 2)]


def test_prompts_are_read_as_the_run_reads_text_and_what_it_lacks_is_named_once(models: Models) -> None:
    Path("prompts.txt").write_text("漢 a\nNobody’s 漢\n", "utf-8")
    result = models("prior", "sample", "--json", "--prompts", "prompts.txt", "--length", "5", "--seed", "1")
    first, second = sorted(map(json.loads, result.out.splitlines()), key=lambda row: row["prompt_index"])
    assert (first["prompt_unknown"], second["prompt_unknown"]) == ({"漢": 1}, {"’": 1, "漢": 1})
    assert "漢 (U+6F22) 2 times" in result.err and result.err.count("U+6F22") == 1
    mapped = rows(
        models, "prior", "--prompts", "prompts.txt", "--length", "5", "--seed", "1", "--map-lookalikes"
    )
    assert mapped[1]["prompt"] == "Nobody's 漢"


def test_the_other_options_hold_for_every_prompt(models: Models) -> None:
    Path("prompts.txt").write_text("The \nOne\n")
    words = ("--prompts", "prompts.txt", "--length", "200", "--seed", "3")
    for row in rows(models, "prior", *words, "--stop", "\\n", "-n", "3"):
        assert "\n" not in row["text"]
    for row in rows(models, "prior", *words, "--regex", "[a-z ]{4}", "-n", "3"):
        assert len(row["text"]) == 4
    greedy = rows(models, "prior", "--prompts", "prompts.txt", "--length", "20", "--temperature", "0")
    assert [row["seed"] for row in greedy] == [None, None]
    for row in rows(
        models, "lines", "--prompts", "prompts.txt", "--one-document", "--seed", "1", "--length", "2000"
    ):
        assert row["finish_reason"] == "document"


@pytest.mark.parametrize(
    ("words", "code", "facts"),
    [
        (("--prompts", "nosuch"), 3, ("nosuch",)),
        (("--prompts", "empty.txt"), 3, ("empty.txt", "empty")),
        (("--prompts", "p.txt", "--prompt", "a"), 2, ("--prompts", "--prompt", "not both")),
        (("--prompts", "p.txt", "--prompt-file", "p.txt"), 2, ("--prompts", "--prompt-file")),
        (("--field", "begin"), 2, ("--field begin", "--prompts")),
        (("--prompts", "p.jsonl", "--field", "end"), 3, ("p.jsonl", "end", "begin")),
        (("--prompts", "large.txt"), 2, ("--prompts large.txt", "16,777,217", "16,777,216")),
    ],
)
def test_prompts_that_cannot_be_read_are_refused(
    models: Models, words: tuple[str, ...], code: int, facts: tuple[str, ...]
) -> None:
    Path("p.txt").write_text("a\n")
    Path("empty.txt").write_text("")
    Path("p.jsonl").write_text('{"begin": "a"}\n')
    with open("large.txt", "wb") as file:
        file.truncate(16_777_217)
    refused(models("prior", "sample", *words), code, *facts)
