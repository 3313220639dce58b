"""Counts as they are typed: what is said of them, what is refused, and variants with and without."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from tests.conftest import Result, repeat_words
from tests.test_compare_cli import TOY


def test_what_they_are_made_of_is_said_and_the_run_can_be_repeated(charlm: Callable[..., Result]) -> None:
    err = charlm("train", "ducks.txt", "--steps", "5", "--prior", *TOY).err
    assert "n-gram prior of 4 characters" in err and "by n-grams of 4 characters" in err
    again = repeat_words(charlm)
    assert "--prior" in again
    charlm(*again)
    infos = [json.loads(charlm("info", name, "--json").out) for name in ("ducks", "ducks-2")]
    assert infos[0]["weights_sha256"] == infos[1]["weights_sha256"]
    size = Path("checkpoints/ducks/ngram.safetensors").stat().st_size
    assert infos[0]["counts_bytes"] == size
    assert f"{size / 1e6:.1f} MB on disk" in charlm("info").out
    figures = json.loads(charlm("eval", "--run", "ducks", "--json").out)
    assert 0 < figures["nats_per_char"] < 2
    assert charlm("sample", "--run", "ducks", "--length", "20").code == 0


def test_a_short_text_is_not_counted_and_that_can_be_repeated(charlm: Callable[..., Result]) -> None:
    err = charlm("train", "ducks.txt", "--steps", "3", *TOY).err
    assert "on counts" not in err and "--no-prior" in repeat_words(charlm)
    assert json.loads(charlm("info", "--json").out)["counts_bytes"] is None


def test_with_and_without_are_compared(charlm: Callable[..., Result]) -> None:
    result = charlm("compare", "ducks.txt", "--vary", "prior=on,off", "--steps", "5", *TOY)
    assert result.code == 0, result.err
    rows = result.out.splitlines()
    assert [row.split()[0] for row in rows[1:3]] == ["on", "off"]  # five steps do not beat any counts


CONTRADICTIONS = {
    "--plain": (
        *("--prior", "--prior-order 5", "--prior-dropout 0.1", "--prior-chars 900", "--ngram-embeddings 3"),
        *(
            "--ngram-embedding-rows 64",
            "--ngram-embedding-dropout 0.1",
            "--ngram-embedding-lr 0.1",
            "--ngram-embedding-accumulator 2",
        ),
    ),
    "--no-prior": ("--prior-order 5", "--prior-dropout 0.1", "--prior-chars 900"),
}


@pytest.mark.parametrize(
    ("off", "more"), [(off, more) for off, some in CONTRADICTIONS.items() for more in some]
)
def test_what_contradicts_them_is_refused_by_name(charlm: Callable[..., Result], off: str, more: str) -> None:
    result = charlm("train", "ducks.txt", "--steps", "3", off, *more.split(), *TOY)
    name = more.split()[0].removeprefix("--").replace("-", "_")
    assert result.code == 2 and f"{name} is" in result.err and "Traceback" not in result.err
    assert off.removeprefix("--").replace("-", " ") in result.err


def test_whose_counts_are_to_be_beaten_is_said(charlm: Callable[..., Result]) -> None:
    beside = charlm("train", "ducks.txt", "--steps", "3", "--prior-order", "2", *TOY)
    assert "by n-grams of 2 characters, the model's prior" in beside.err
    assert re.search("kneser-ney, for comparison .* 2 characters of context", beside.out)
    alone = charlm("train", "ducks.txt", "--steps", "3", "--no-prior", *TOY)
    assert "by n-grams of 4 characters, chosen on the end of the training part" in alone.err
    evaluated = charlm("eval", "--run", "ducks").out
    assert "4 characters of context, chosen on the end of the training part" in evaluated


def test_where_fewer_symbols_fit_a_key_that_is_said(charlm: Callable[..., Result]) -> None:
    """Of 600 symbols each takes ten bits: six of them, five of context, fit 64."""
    chars = [chr(0x4E00 + i) for i in range(600)]
    Path("many.txt").write_text("".join(chars + Random(1).choices(chars, k=6000)), "utf-8")
    beside = charlm("train", "many.txt", "--steps", "1", "--prior-order", "8", *TOY).err
    assert "n-gram prior of 5 characters," in beside and "by n-grams of 5 characters" in beside
    alone = charlm("train", "many.txt", "--model", "ngram", "--prior-order", "8").err
    assert "n-gram model of 5 characters" in alone and "memory" not in alone
    assert "5 symbols of context instead of 8, as many as fit a 64-bit key" in alone


def test_a_changed_table_is_refused(charlm: Callable[..., Result]) -> None:
    charlm("train", "ducks.txt", "--steps", "3", "--prior", *TOY)
    table = Path("checkpoints/ducks/ngram.safetensors")
    data = bytearray(table.read_bytes())
    data[-9] ^= 1
    table.write_bytes(data)
    for words in (("sample",), ("eval",), ("resume", "--steps", "2")):
        result = charlm(*words)
        assert result.code != 0 and "ngram.safetensors" in result.err and "Traceback" not in result.err
