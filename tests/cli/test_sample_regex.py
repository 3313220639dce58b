"""`charlm sample --regex`: every sample matches, with the model's own probabilities among what can still match."""

import json
import re
from collections import Counter
from typing import Any

import pytest

from tests.cli.kept import refused
from tests.cli.models import SCORED, Charlm, Models

PATTERNS = [
    r"[A-Z][a-z]+( [a-z]+){1,3}[.!?]",
    r"\w{1,20}",
    r"(the|one) (old|little) (duck|fox)",
    r"[^\n]{30}",
    r"(?i)NOBODY'S \w+",
    r"^caf.( and caf.)*$",
    r"na.ve[\s\S]{0,10}",
    r"(\b\w+\b ?)+",
    r"(a|r)*a(a|r){12}",  # 2^13 states of a DFA
    r"(\w+\s?)+\.",  # where backtracking takes forever, if nothing matches
]


@pytest.fixture
def models(charlm: Charlm, tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(charlm, tmp_path_factory)


def rows(models: Models, kind: str, *words: str) -> list[dict[str, Any]]:
    result = models(kind, "sample", "--json", *words)
    assert result.code == 0, result.err
    return list(map(json.loads, result.out.splitlines()))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_thousand_samples_all_match(models: Models, pattern: str) -> None:
    made = rows(models, "counts", "--regex", pattern, "-n", "1000", "--length", "40", "--seed", "5")
    assert len(made) == 1000
    for row in made:
        assert re.fullmatch(pattern, row["text"]) and len(row["text"]) <= 40, row
        assert row["finish_reason"] == ("length" if len(row["text"]) == 40 else "match")
    assert len({row["text"] for row in made}) > 1


@pytest.mark.parametrize("kind", SCORED)
@pytest.mark.parametrize(
    "how",
    [
        ("--temperature", "0"), ("--temperature", "3"), ("--top-k", "1"), ("--top-p", "0.1"), ("--min-p", "1"),
        ("--top-k", "3", "--top-p", "0.9", "--min-p", "0.01"),
    ],
)  # fmt: skip
def test_no_model_and_no_filter_gets_stuck(models: Models, kind: str, how: tuple[str, ...]) -> None:
    """The filters choose among what can still match, so there is always something to choose."""
    seed = () if how == ("--temperature", "0") else ("--seed", "1")
    pattern = r"[A-Z]\w+ café naïve( \w+)?\n?"
    for row in rows(models, kind, "--regex", pattern, "-n", "4", "--length", "30", *how, *seed):
        assert re.fullmatch(pattern, row["text"]), row


@pytest.mark.parametrize("kind", ["bytes", "spelled"])
def test_characters_that_are_spelled_in_bytes_match_as_characters(models: Models, kind: str) -> None:
    pattern = r"[éï]{2}[a-z]é|ï{5,}"
    made = rows(models, kind, "--regex", pattern, "-n", "50", "--length", "12", "--seed", "2")
    assert all(re.fullmatch(pattern, row["text"]) for row in made)
    assert {row["text"][0] for row in made} == {"é", "ï"}


@pytest.mark.parametrize(
    ("pattern", "prompt"),
    [
        (r"[a-z]+", "The "),
        pytest.param(r"[A-Z][a-z' ]*", "\\n", marks=pytest.mark.slow),
        pytest.param(r"[df].*", "old ", marks=pytest.mark.slow),
    ],
)
def test_the_distribution_is_that_of_plain_samples_that_match(
    models: Models, pattern: str, prompt: str
) -> None:
    """Where only the first character can rule out a match, that given the start is that given the whole.

    Of plain samples the longest beginning counts that the pattern takes; those that begin otherwise are left out.
    """
    words = ("-n", "4096", "--length", "12", "--prompt", prompt, "--temperature", "1.1")
    constrained = Counter(
        row["text"] for row in rows(models, "counts", "--regex", pattern, "--seed", "1", *words)
    )
    plain: Counter[str] = Counter()
    for seed in range(2, 8):
        for row in rows(models, "counts", "--seed", str(seed), *words):
            found = re.match(pattern, row["text"])
            if found is not None:
                plain[found[0]] += 1
    n, m = constrained.total(), plain.total()
    assert n == 4096 and m > 300
    keys, statistic, freedom = {*constrained, *plain}, 0.0, 0
    rare = [key for key in keys if (constrained[key] + plain[key]) * min(n, m) / (n + m) < 8]
    cells = [(constrained[key], plain[key]) for key in keys if key not in rare]
    cells += [(sum(constrained[key] for key in rare), sum(plain[key] for key in rare))] if rare else []
    for a, b in cells:
        pooled = (a + b) / (n + m)
        statistic += (a - n * pooled) ** 2 / (n * pooled) + (b - m * pooled) ** 2 / (m * pooled)
        freedom += 1
    freedom -= 1
    assert freedom >= 4
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5, (statistic, freedom)  # of a chi-square, 5 sigma


def test_a_sample_ends_where_the_model_leaves_the_pattern_or_nothing_may_follow(models: Models) -> None:
    """A pattern that takes all that the model writes changes nothing, and one that takes a line ends at its end."""
    words = ("--seed", "6", "--length", "120", "--prompt", "The ")
    [plain] = rows(models, "prior", *words)
    [same] = rows(models, "prior", *words, "--regex", r"[\s\S]*")
    assert (same["text"], same["finish_reason"]) == (plain["text"], "length")
    [line] = rows(models, "prior", *words, "--regex", r"[^\n]*")
    assert (line["text"], line["finish_reason"]) == (plain["text"].split("\n")[0], "match")
    [empty] = rows(models, "prior", *words, "--regex", "")
    assert (empty["text"], empty["finish_reason"]) == ("", "match")


def test_samples_of_a_pattern_do_not_depend_on_those_beside_them(models: Models) -> None:
    words = ("--seed", "6", "--length", "60", "--regex", r"(\w+ )+\w+\.")
    by_sample = {row["sample"]: row["text"] for row in rows(models, "prior", *words, "-n", "7")}
    assert [row["text"] for row in rows(models, "prior", *words)] == [by_sample[0]]
    assert (
        models("prior", "sample", *words, "--prompt", "A").out
        == f"A{rows(models, 'prior', *words, '--prompt', 'A')[0]['text']}\n"
    )


def test_a_model_of_documents_writes_within_one(models: Models) -> None:
    pattern = r"[A-Z][^.!?]*[.!?]\n?"
    made = rows(models, "lines", "--regex", pattern, "-n", "20", "--length", "200", "--seed", "1")
    assert all(re.fullmatch(pattern, row["text"]) for row in made)
    assert {row["finish_reason"] for row in made} == {"match"}


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (("--regex", "(a"), ("--regex (a", "unterminated")),
        (("--regex", "(?=a)b"), ("--regex", "lookahead")),
        (("--regex", "漢+"), ("--regex", "lacks", "漢")),
        (("--regex", "a{501}"), ("501", "--length", "500")),
        (("--regex", "a{9}", "--length", "8"), ("9", "--length", "8")),
        (("--regex", "(a{999}){999}"), ("--regex", "too large")),
        (("--regex", "a", "--stop", "b"), ("--regex", "--stop")),
    ],
)  # fmt: skip
def test_a_pattern_that_cannot_be_met_is_refused(
    models: Models, words: tuple[str, ...], facts: tuple[str, ...]
) -> None:
    refused(models("plain", "sample", *words), 2, *facts)


def test_one_document_is_refused_with_a_pattern(models: Models) -> None:
    refused(models("lines", "sample", "--regex", "a", "--one-document"), 2, "--one-document", "--regex")
