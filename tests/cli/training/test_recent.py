"""Recent n-grams through the commands: a run learns their strength, says so, and can do without."""

from pathlib import Path

import pytest

import charlm as api
from tests.cli.training.conftest import TEXT, Charlm, tiny

TRAIN = ("train", "ducks.txt", "--steps=4", *tiny())
HELD_OUT = TEXT[-900:] * 2


@pytest.fixture(autouse=True)
def _held_out(charlm: Charlm) -> None:
    Path("held.txt").write_text(HELD_OUT)


def bits(charlm: Charlm, *words: str, run: str = "r") -> float:
    result = charlm("eval", "held.txt", f"--run={run}", "--json", *words)
    assert result.code == 0, result.err
    return float(result.json["bits_per_char"])


def test_a_run_learns_their_strength_says_so_and_predicts_better(charlm: Charlm) -> None:
    trained = charlm(*TRAIN, "--run=r", "--reserved-chars=400")
    assert trained.code == 0, trained.err
    assert "with recent n-grams of the last 4,096 characters" in trained.err
    said = charlm("info", "r").out
    assert "recent n-grams" in said and "without them" in said
    assert "n-grams of the last 4,096 characters" in charlm("eval", "held.txt", "--run=r").out
    found = bits(charlm)
    assert float(bits(charlm, "--online")) < found + 0.2
    assert charlm(*TRAIN, "--run=without", "--reserved-chars=400", "--recent-chars=0").code == 0
    assert "recent n-grams" not in charlm("info", "without").out
    assert bits(charlm, run="without") > found + 0.5


def test_the_text_comes_back_as_it_was_compressed(charlm: Charlm) -> None:
    assert charlm(*TRAIN, "--run=r", "--reserved-chars=400").code == 0
    assert charlm("compress", "held.txt", "--out=small", "--run=r").code == 0
    assert Path("small").stat().st_size < len(HELD_OUT) * bits(charlm) / 8 * 1.2 + 500
    assert charlm("decompress", "small", "--out=back.txt", "--run=r").code == 0
    assert Path("back.txt").read_text() == HELD_OUT


def test_samples_are_drawn_without_them(charlm: Charlm, monkeypatch: pytest.MonkeyPatch) -> None:
    """On its own text a model would repeat itself."""
    for limit in ("LEAST_SHIFT", "MOST_SHIFT"):  # else the temperature of one is the recent n-grams'
        monkeypatch.setattr(f"charlm.training.calibrate.{limit}", 1.0)
    assert charlm(*TRAIN, "--run=r", "--reserved-chars=400").code == 0
    assert charlm(*TRAIN, "--run=without", "--reserved-chars=400", "--recent-chars=0").code == 0
    run, without, prompt = (
        api.load("r"),
        api.load("without"),
        "3 little ducks went swimming, 3 little ducks went",
    )
    assert run.sample(prompt, length=60, seed=7) == without.sample(prompt, length=60, seed=7)
    found = run.next(prompt)
    assert sum(found.values()) == pytest.approx(1, abs=1e-5)
    assert found[" "] > without.next(prompt)[" "] + 0.1


def test_they_can_be_left_out_and_need_text_to_learn_on(charlm: Charlm) -> None:
    assert charlm(*TRAIN, "--run=r", "--reserved-chars=400", "--plain").code == 0
    assert "recent n-grams" not in charlm("info", "r").out
    refused = charlm(*TRAIN, "--run=without", "--recent-chars=100")
    assert refused.code == 2 and "--recent-chars 100 needs text to learn its strength on" in refused.err
