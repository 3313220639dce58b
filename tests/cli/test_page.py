"""`charlm page`: one file that holds everything, the same bytes each time, and what it refuses."""

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import Charlm
from tests.cli.models import Models

HASHED = re.compile(r"<script>(.*?)</script>", re.DOTALL)


@pytest.fixture
def models(charlm: Charlm, tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Runs of every kind."""
    return Models(charlm, tmp_path_factory)


def page_of(models: Models, kind: str, *words: str) -> str:
    """The page of a run of a kind."""
    made = models(kind, "page", "-o", "page.html", *words)
    assert made.code == 0, made.err
    assert made.out == ""
    return Path("page.html").read_text("utf-8")


def test_a_page_names_nothing_outside_itself_and_is_the_same_each_time(models: Models) -> None:
    html = page_of(models, "mixture")
    assert html == page_of(models, "mixture")
    markup = re.sub(r"<(script|style)\b.*?</\1>", "", html, flags=re.DOTALL)
    assert re.findall(r"""(?:src|href|action)\s*=\s*["']?(?!#|data:)([^"'>\s]+)""", markup) == []
    assert not re.search(r"fetch\(|XMLHttpRequest|WebSocket|sendBeacon|importScripts", html)
    assert "http://www.w3.org/2000/svg" in html  # a name, which nobody asks for
    assert len(re.findall("https?://", html)) == 1
    assert "/checkpoints" not in html and str(Path.cwd()) not in html
    assert html.count("</script>") == len(HASHED.findall(html)) + 2


def test_it_says_where_it_is_and_how_large(models: Models) -> None:
    made = models("plain", "page")
    assert made.code == 0 and Path("plain.html").exists()
    assert "written: plain.html" in made.err and " MB" in made.err


def test_standard_output_takes_it_too(models: Models) -> None:
    made = models("plain", "page", "-o", "-")
    assert made.out == page_of(models, "plain")


def test_fewer_n_grams_cost_bits_and_the_page_says_how_many(models: Models) -> None:
    whole = page_of(models, "counts")
    made = models("counts", "page", "-o", "small.html", "--ngram-mb", "0.002")
    assert made.code == 0, made.err
    small = Path("small.html").read_text("utf-8")
    assert len(small) < len(whole)
    notes = json.loads(re.findall(r'id="page-data">(.*?)</script>', small)[0])["notes"]
    assert any(
        re.search(r"Rare n-grams .* costs \+[\d.]+ ± [\d.]+ bits per character", note) for note in notes
    )
    assert "Rare n-grams" not in whole
    assert "Rare n-grams" in made.err


def test_what_cannot_be_is_one_sentence(models: Models, charlm: Charlm) -> None:
    for words, said in (
        (("-o", "nowhere/page.html"), "-o nowhere/page.html is in a folder that does not exist"),
        (("--ngram-mb", "0"), "--ngram-mb is 0.0; allowed: 0.001 to 1000"),
        (("--checkpoint", "77"), "77"),
    ):
        refused = models("plain", "page", *words)
        assert refused.code in (2, 4) and said in refused.err, refused.err
    assert charlm("page", "poems").code == 4
    assert charlm("page", "poems", "--run", "novels").code == 2


def test_a_run_of_the_checkpoint_that_is_asked_for(models: Models) -> None:
    assert page_of(models, "plain", "--checkpoint", "30") == page_of(models, "plain")
