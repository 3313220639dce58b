"""`charlm sample --verbatim`: what of a sample stands in the training text, beside what is usual."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.kept import refused
from tests.cli.models import ALIKE, TEXT, Charlm, Models


@pytest.fixture
def models(charlm: Charlm, tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(charlm, tmp_path_factory)


def rows(models: Models, kind: str, *words: str) -> list[dict[str, Any]]:
    result = models(kind, "sample", "--json", *words)
    assert result.code == 0, result.err
    return sorted(
        map(json.loads, result.out.splitlines()), key=lambda row: (row["prompt_index"], row["sample"])
    )


@pytest.mark.parametrize("kind", ["counts", "prior", "bytes", "lines"])
def test_each_sample_has_its_longest_passage_and_what_is_usual(models: Models, kind: str) -> None:
    words = ("--length", "150", "-n", "3", "--seed", "4")
    plain = rows(models, kind, *words)
    for row, same in zip(rows(models, kind, *words, "--verbatim"), plain, strict=True):
        found, usual = row["verbatim"], row["verbatim"]["held_out"]
        assert row["text"] == same["text"] and "verbatim" not in same
        assert set(found) == {"longest", "passage", "offset", "share", "held_out"}
        assert set(usual) == {"symbols", "windows", "longest", "share"}
        assert found["passage"] in row["text"] and found["longest"] == len(found["passage"]) > 3
        if kind != "lines":  # whose document ends in the text are no characters
            assert TEXT[found["offset"] :].startswith(found["passage"])
            longer = found["longest"] + 1
            training = TEXT[: int(0.8 * len(TEXT))]
            pieces = (row["text"][i : i + longer] for i in range(150 - longer + 1))
            assert kind == "bytes" or not any(piece in training for piece in pieces)
        assert 0 <= found["share"] <= 1 and 0 <= usual["share"] <= 1
        assert usual["windows"] > 3 and usual["longest"] > 3


def test_as_text_a_table_follows_the_samples(models: Models) -> None:
    words = ("--length", "150", "-n", "2", "--seed", "4")
    plain = models("counts", "sample", *words).out
    shown = models("counts", "sample", *words, "--verbatim").out
    assert shown.startswith(plain + "--- verbatim ---\n")
    head, first, second, usual = shown.removeprefix(plain).splitlines()[1:]
    assert "longest" in head and "32 or more" in head
    for line, row in zip((first, second), rows(models, "counts", *words, "--verbatim"), strict=True):
        found = row["verbatim"]
        number, longest, share, at = re.findall(r"[\d.,]+", line)[:4]
        assert (int(number), int(longest)) == (row["sample"] + 1, found["longest"])
        assert float(share) == round(100 * found["share"], 1) and int(at.replace(",", "")) == found["offset"]
    assert "held-out" in usual


def test_with_prompts_every_row_has_its_own(models: Models) -> None:
    Path("prompts.txt").write_text("The \nOne day\n")
    made = rows(models, "counts", "--prompts", "prompts.txt", "--length", "60", "--seed", "1", "--verbatim")
    assert len(made) == 2 and all(row["verbatim"]["passage"] in row["text"] for row in made)


def test_a_run_whose_text_is_gone_says_so_before_it_writes(models: Models, charlm: Charlm) -> None:
    Path("text.txt").write_text(TEXT)
    env = {**ALIKE, "CHARLM_CACHE": str(Path("cache").absolute())}
    assert charlm("train", "text.txt", "--run", "moved", "--model", "ngram", "-q", env=env).code == 0
    shutil.rmtree("cache")
    Path("text.txt").rename("elsewhere.txt")
    words = ("sample", "moved", "--length", "60", "--seed", "1", "--json")
    refused(charlm(*words, "--verbatim", env=env), 4, "text.txt", "--text")
    found = charlm(*words, "--verbatim", "--text", "elsewhere.txt", env=env)
    assert found.code == 0 and found.json["verbatim"]["longest"] > 3
    refused(charlm(*words, "--text", "elsewhere.txt", env=env), 2, "--text", "--verbatim")
    refused(charlm(*words, "--val-file", "elsewhere.txt", env=env), 2, "--val-file", "--verbatim")
