"""`charlm compare` as it is typed: variants trained, two runs side by side, what is refused."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from charlm.cli.main import run as main
from tests.conftest import TEXT, Result

TOY = (
    *("--n-layer", "1", "--n-embd", "16", "--n-head", "2", "--block-size", "8"),
    *("--batch-size", "2", "--threads", "1"),
)


def test_variants_are_trained_ranked_and_shown(charlm: Callable[..., Result]) -> None:
    result = charlm("compare", "ducks.txt", "--vary", "position=none,learned,rotary", "--steps", "8", *TOY)
    assert result.code == 0, result.err
    rows = result.out.splitlines()
    assert rows[0].split()[:2] == ["position", "bits/char"]
    assert sorted(row.split()[0] for row in rows[1:4]) == ["learned", "none", "rotary"]
    figures = [float(row.split()[1]) for row in rows[1:4]]
    assert figures == sorted(figures)
    assert "baselines: uniform" in result.out and "unigram" in result.out
    assert "Seed noise is unknown" in result.out
    assert "run 3 of 3" in result.err
    page = Path("checkpoints/ducks-position/comparison.html").read_text()
    for words in (
        "learned",
        "rotary",
        "Loss by position in the context",
        "Held-out loss against time",
        "seconds of training",
    ):
        assert words in page
    assert len(list(Path("checkpoints/ducks-position").glob("*/report.html"))) == 3
    again = charlm("compare", "ducks-position")
    assert again.code == 0 and again.out == result.out
    resumed = charlm("resume", "ducks-position")
    assert resumed.code == 0 and resumed.out == result.out


def test_the_data_of_a_comparison(charlm: Callable[..., Result]) -> None:
    command = (
        "compare",
        "ducks.txt",
        "--vary",
        "mixer=attention,simple-attention",
        "--vary",
        "window=auto,4",
    )
    result = charlm(*command, "--seeds", "2", "--steps", "4", "--run", "mixed", "--json", *TOY)
    data = json.loads(result.out)
    assert data["schema"] == 1 and data["kind"] == "comparison" and data["comparison"] == "mixed"
    assert data["seeds"] == [1, 2] and data["steps"] == 4 and data["seconds"] is None
    assert len(data["rows"]) == 4
    assert {json.dumps(row["values"]) for row in data["rows"]} == {
        json.dumps({"mixer": mixer, "window": window})
        for mixer in ("attention", "simple-attention")
        for window in (None, 4)
    }
    first = data["rows"][0]
    assert first["difference_from_first"] is None and set(first["seeds"]) == {"1", "2"}
    assert first["weights"] > 0 and first["chars_per_second"] > 0
    assert {row["reach"] for row in data["rows"]} == {4, 8}
    assert charlm("sample", "--checkpoints", "checkpoints/mixed", "--length", "5").code == 0
    assert charlm("train", "ducks.txt", "--run", "mixed", "--steps", "1", *TOY).code == 2


def test_a_comparison_under_a_time_measures_the_machine_once(charlm: Callable[..., Result]) -> None:
    options = ("--vary", "position=none,rotary", "--time", "5s", "--threads", "1")
    result = charlm("compare", "ducks.txt", *options)
    assert result.code == 0, result.err
    plans = [json.loads(p.read_text()) for p in Path("checkpoints").glob("*/*/plan.json")]
    assert len({plan["decisions"][0]["gflops"] for plan in plans}) == 1
    assert all(plan["decisions"][0]["seconds"] == 5 for plan in plans)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two comparisons of two variants with two seeds on different texts, and one that was stopped early on."""
    folder = tmp_path_factory.mktemp("compared")
    (folder / "ducks.txt").write_text(TEXT)
    (folder / "geese.txt").write_text(TEXT.replace("duck", "goos"))
    here = os.getcwd()
    try:
        os.chdir(folder)
        for name, text, steps in (("cp", "ducks", "4"), ("other", "geese", "4"), ("longer", "ducks", "5")):
            sys.argv = [
                "charlm",
                "compare",
                f"{text}.txt",
                "--vary",
                "n_layer=1,2",
                "--seeds",
                "2",
                "--run",
                name,
            ]
            sys.argv += ["--steps", steps, *TOY[2:]]
            assert main(0.0) == 0
    finally:
        os.chdir(here)
    return folder / "checkpoints"


ONE, TWO = Path("checkpoints/cp/n_layer-1.seed-1"), Path("checkpoints/cp/n_layer-2.seed-1")


def replaced(path: Path, by: Path, *, result: bool = True) -> None:
    shutil.rmtree(path)
    shutil.copytree(by, path)
    if not result:
        (path / "result.json").unlink()


def swapped(a: Path, b: Path) -> None:
    a.rename("aside")
    b.rename(a)
    Path("aside").rename(b)


def moved_and_linked(path: Path) -> None:
    path.rename("elsewhere")
    path.symlink_to(Path("elsewhere").absolute())


def altered(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


@pytest.mark.skipif(os.name == "nt", reason="links")
@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (lambda: replaced(ONE, Path("checkpoints/other") / ONE.name), "another text"),
        (lambda: replaced(ONE, Path("checkpoints/other") / ONE.name, result=False), "another text"),
        (lambda: replaced(ONE, TWO), "its n_layer is 2, not 1"),
        (lambda: replaced(ONE, TWO, result=False), "its n_layer is 2, not 1"),
        (lambda: replaced(ONE, ONE.with_name("n_layer-1.seed-2")), "its seed is 2, not 1"),
        (lambda: replaced(ONE, Path("checkpoints/longer") / ONE.name), "steps 5, not 4"),
        (lambda: replaced(ONE, Path("checkpoints/longer") / ONE.name, result=False), "steps 5, not 4"),
        (lambda: swapped(ONE, TWO), "its n_layer is"),
        (lambda: swapped(ONE / "result.json", TWO / "result.json"), "of another run"),
        (lambda: swapped(ONE / "step-00000004", TWO / "step-00000004"), "its n_layer is"),
        (lambda: altered(ONE / "result.json", lambda d: d.update(nats_per_char=0.1)), "was changed"),
        (lambda: altered(ONE / "result.json", lambda d: d.update(reach=9)), "was changed"),
        (lambda: moved_and_linked(ONE), "is a symbolic link"),
        (lambda: moved_and_linked(ONE.parent), "is a symbolic link"),
        (lambda: moved_and_linked(ONE / "result.json"), "is a symbolic link"),
        (lambda: moved_and_linked(ONE / "nats.safetensors"), "is a symbolic link"),
        (lambda: moved_and_linked(ONE / "metrics.jsonl"), "is a symbolic link"),
        (lambda: moved_and_linked(ONE / "report.html"), "is a symbolic link"),
        (lambda: moved_and_linked(ONE / "step-00000004"), "is a symbolic link"),
        (lambda: moved_and_linked(ONE.parent / "comparison.html"), "is a symbolic link"),
        (lambda: (shutil.rmtree(ONE), ONE.write_text("x")), "cannot be read: Not a directory"),
        (lambda: (shutil.rmtree(ONE), os.mkfifo(ONE)), "cannot be read: Not a directory"),
        (lambda: altered(ONE / "plan.json", lambda d: d["decisions"].append(d["decisions"][0])), "was changed"),
        (lambda: altered(ONE.parent / "comparison.json", lambda d: d.update(seeds=[2, 1, 0])), None),
        (lambda: altered(ONE.parent / "comparison.json", lambda d: d["budget"].update(steps=9)), "steps 4, not 9"),
        (lambda: altered(ONE.parent / "comparison.json", lambda d: d["corpus"].update(sha256="0" * 64)), "another text"),
        (lambda: altered(ONE.parent / "comparison.json", lambda d: d["text"].update(val=0.2)), "of other settings"),
        (lambda: altered(ONE.parent / "comparison.json", lambda d: d["variants"][0]["training"].update(grad_clip=0.5)), "its grad_clip is 1.0, not 0.5"),
    ],
)  # fmt: skip
def test_a_run_in_a_comparison_is_the_one_that_its_folder_names(
    charlm: Callable[..., Result], compared: Path, attack: Callable[[], object], said: str | None
) -> None:
    shutil.copytree(compared, "checkpoints")
    attack()
    before = {path: path.read_bytes() for path in Path("checkpoints").rglob("*") if path.is_file()}
    for words in (("compare", "cp"), ("resume", "cp")):
        result = charlm(*words)
        if said is None:  # a further seed, for which there is no run yet
            assert result.code == 0, result.err
            continue
        assert result.code == 4 and said in result.err, result.err
        assert result.err.count("error: ") == 1 and not result.out
        after = {path: path.read_bytes() for path in Path("checkpoints").rglob("*") if path.is_file()}
        assert after.items() >= before.items(), "nothing was removed or changed"


def test_scores_that_are_not_those_of_their_result_are_made_again(
    charlm: Callable[..., Result], compared: Path
) -> None:
    shutil.copytree(compared, "checkpoints")
    good = charlm("compare", "cp").out
    swapped(ONE / "nats.safetensors", TWO / "nats.safetensors")
    assert charlm("compare", "cp").out.count("1 of 2 runs are done") == 2
    assert charlm("resume", "cp").out == good


def test_two_runs_side_by_side(charlm: Callable[..., Result]) -> None:
    charlm("train", "ducks.txt", "--run", "short", "--steps", "3", *TOY)
    charlm("train", "ducks.txt", "--run", "long", "--steps", "60", *TOY)
    result = charlm("compare", "short", "long")
    assert result.code == 0, result.err
    assert "long is better than short by" in result.out and "where long is better than short" in result.out
    data = json.loads(charlm("compare", "long", "short", "--json").out)
    assert data["kind"] == "two runs" and data["difference_bits_per_char"] < 0
    best = data["better"]["first"]
    assert best and all(p["bits"][0] < p["bits"][1] and len(p["text"]) == 60 for p in best)
    spans = sorted(p["offset"] for p in best)
    assert all(b - a >= 60 for a, b in pairwise(spans)), "no passage twice"
    saved = [p["bits"][1] - p["bits"][0] for p in best]
    assert saved == sorted(saved, reverse=True)
    bits = {e["run"]: e["bits_per_char"] for e in data["runs"]}
    assert bits["long"] - bits["short"] == pytest.approx(data["difference_bits_per_char"])
    Path("other.txt").write_text("ten little ducks\n" * 3)
    assert (
        json.loads(charlm("compare", "long", "short", "--on", "other.txt", "--json").out)["runs"][0]["chars"]
        == 51
    )


def test_two_runs_on_different_texts_need_one_for_both(charlm: Callable[..., Result]) -> None:
    Path("geese.txt").write_text(TEXT.replace("duck", "goose"))
    charlm("train", "ducks.txt", "--run", "a", "--steps", "2", *TOY)
    charlm("train", "geese.txt", "--run", "b", "--steps", "2", *TOY)
    result = charlm("compare", "a", "b")
    assert result.code == 2 and "--on FILE" in result.err
    assert charlm("compare", "a", "b", "--on", "geese.txt").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "say what to compare"),
        (("ducks.txt",), "say what to compare"),
        (("a", "b", "c"), "say what to compare"),
        (("a", "b"), "there are no runs"),
        (
            ("ducks.txt", "--vary", "position=none,rotary", "--on", "ducks.txt"),
            "--on compares two trained runs",
        ),
        (("ducks.txt", "--vary", "position=none,rotary", "--steps", "2", "--time", "9s"), "both given"),
        (
            ("ducks.txt", "--vary", "position=none,rotary", "--mixer", "recurrent"),
            "no effect with mixer recurrent",
        ),
        (
            ("ducks.txt", "--vary", "position=none,rotary", "--vary", "position=alibi,none"),
            "the same setting twice",
        ),
        (("ducks.txt", "--vary", "positions=none,rotary"), "did you mean position"),
        (("ducks.txt", "--vary", "position=none,rotary", "--val", "0"), "nothing is held out"),
        (
            ("ducks.txt", "--vary", "window=4,99", "--block-size", "8", "--steps", "2"),
            "window is 99 and block_size 8",
        ),
        (
            ("ducks.txt", "--vary", "n_embd=16,15", "--n-head", "2", "--steps", "2"),
            "n_embd is 15 and n_head 2",
        ),
        (("ducks.txt", "--vary", "position=none,rotary", "--run", "../x", "--steps", "2"), "cannot be named"),
        (("ducks.txt", "--vary", "position=none,rotary", "--no-causal", "--steps", "2"), "causal is False"),
        (
            ("ducks.txt", "--vary", "position=none,rotary", "--position", "alibi"),
            "--position has no effect, since --vary",
        ),
        (
            ("--vary", "position=none,rotary", "--encoding", "cp1252"),
            "--encoding has no effect on the bundled manual",
        ),
        (("ducks.txt", "--vary", "dropout=0.1,0.2", "--seed", str(2**63 - 1), "--seeds", "2"), "seed is"),
        (("a", "b", "--seeds", "3"), "--seeds has no effect without --vary"),
        (("a", "b", "--n-layer", "3"), "--n-layer has no effect without --vary"),
        (("a", "b", "--encoding", "cp1252"), "--encoding has no effect without --on"),
        (("ducks.txt", "--vary", "position=none,rotary", "--schedule", "0:1,9:0"), "--schedule names steps"),
    ],
)
def test_what_cannot_be_compared_is_said_and_nothing_is_written(
    charlm: Callable[..., Result], words: tuple[str, ...], said: str
) -> None:
    result = charlm("compare", *words)
    assert result.code in (2, 4) and said in result.err, result.err
    assert not Path("checkpoints").exists()


def test_a_comparison_has_one_budget(charlm: Callable[..., Result]) -> None:
    charlm("compare", "ducks.txt", "--vary", "position=none,rotary", "--steps", "2", "--run", "c", *TOY)
    result = charlm("resume", "c", "--steps", "5")
    assert result.code == 2 and "has no effect on a comparison" in result.err
    inside = ("--checkpoints", "checkpoints/c", "--steps", "5")
    result = charlm("resume", "position-none.seed-1", *inside)
    assert result.code == 2 and "part of a comparison" in result.err
    assert charlm("compare", "c", "--on", "ducks.txt").code == 2
    result = charlm("sample", "--run", "c")
    assert result.code == 4 and "c is a comparison" in result.err
