"""`charlm compare`: variants trained side by side, resumed, shown; and two trained runs on one text."""

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from tests.cli.kept import TEXT, TOY, Charlm, bring, data, files_below, prose, refused, rows

VARIED = ("compare", "ducks.txt", "--vary", "position=none,rotary", "--steps", "4", *TOY)
COMPARISON_KEYS = {
    *("schema", "kind", "comparison", "text_sha256", "chars", "units", "seconds", "steps", "seeds"),
    *("baselines", "ngram_by_order", "rows", "says"),
}
ROW_KEYS = {
    *("values", "bits_per_char", "ci95_bits_per_char", "difference_from_first", "ci95_difference"),
    *("larger_than_noise", "problem", "weights", "reach", "chars_per_second", "chars_read", "seeds"),
}
TWO_KEYS = {
    *("schema", "kind", "runs", "difference_bits_per_char", "ci95_difference", "seed_noise_included"),
    "better",
}


@pytest.fixture
def compared(charlm: Charlm, tmp_path_factory: pytest.TempPathFactory) -> Charlm:
    """The command, beside the comparison `both` of two variants with two seeds."""
    bring(charlm, tmp_path_factory, (*VARIED, "--seeds", "2", "--run", "both"))
    return charlm


@pytest.fixture
def pair(charlm: Charlm, tmp_path_factory: pytest.TempPathFactory) -> Charlm:
    """The command, beside a run of few steps, one of many, and one of another text."""
    bring(
        charlm,
        tmp_path_factory,
        ("train", "ducks.txt", "--run", "short", "--steps", "3", *TOY),
        ("train", "ducks.txt", "--run", "long", "--steps", "60", *TOY),
        ("train", "geese.txt", "--run", "geese", "--steps", "2", *TOY),
        geese=TEXT.replace("duck", "goose"),
    )
    return charlm


def figures(found: dict[str, Any]) -> dict[str, Any]:
    """What of a comparison does not depend on the machine's speed."""
    plain = [{key: value for key, value in row.items() if key != "chars_per_second"} for row in found["rows"]]
    return {**found, "rows": plain, "comparison": ""}


def test_a_comparison_as_data(compared: Charlm) -> None:
    found = data(compared("compare", "both", "--json"))
    assert set(found) == COMPARISON_KEYS and found["schema"] == 1 and found["kind"] == "comparison"
    assert (found["comparison"], found["steps"], found["seconds"]) == ("both", 4, None)
    assert found["seeds"] == [1, 2] and re.fullmatch("[0-9a-f]{64}", found["text_sha256"])
    assert found["chars"] == len(TEXT) - int(len(TEXT) * 0.9)
    for name in ("uniform", "unigram"):
        assert found["baselines"][name]["bits_per_char"] > 0
    assert all(isinstance(said, str) for said in found["says"])
    assert [row["values"]["position"] in ("none", "rotary") for row in found["rows"]] == [True, True]
    for row in found["rows"]:
        assert set(row) == ROW_KEYS and row["problem"] is None
        assert set(row["seeds"]) == {"1", "2"}
        assert row["weights"] > 0 and row["chars_per_second"] > 0 and row["reach"] == 16
        assert row["chars_read"] == 4 * 4 * 16, "steps, batch, block"
        assert all(seed["checkpoint"] in ("latest", "best") for seed in row["seeds"].values())


def test_the_best_stands_first_and_differences_are_from_it(compared: Charlm) -> None:
    first, second = data(compared("compare", "both", "--json"))["rows"]
    assert first["bits_per_char"] < second["bits_per_char"]
    for row in (first, second):
        assert row["bits_per_char"] == pytest.approx(
            fmean(seed["bits_per_char"] for seed in row["seeds"].values())
        )
    assert first["difference_from_first"] is None and first["ci95_difference"] is None
    assert second["difference_from_first"] == pytest.approx(
        second["bits_per_char"] - first["bits_per_char"], abs=1e-9
    )
    # Two seeds, and a short text: no claim.
    assert second["ci95_difference"] is None and second["larger_than_noise"] is None


@pytest.mark.slow
def test_with_three_seeds_and_enough_text_what_is_larger_than_noise_is_said(charlm: Charlm) -> None:
    Path("prose.txt").write_text(prose(900), "utf-8")
    words = ("compare", "prose.txt", "--val", "0.5", "--seeds", "3", "--steps", "40", "--no-prior", *TOY)
    found = data(charlm(*words, "--vary", "learning_rate=0.0001,0.02", "--json"))
    first, second = found["rows"]
    assert first["values"] == {"learning_rate": 0.02}
    low, high = second["ci95_difference"]
    assert 0 < low < second["difference_from_first"] < high and second["larger_than_noise"] is True
    for row in found["rows"]:
        low, high = row["ci95_bits_per_char"]
        assert low < row["bits_per_char"] < high


def test_the_table_is_the_result_and_comes_again(compared: Charlm) -> None:
    shown = compared("compare", "both")
    header, *lines = shown.out.splitlines()
    assert shown.code == 0 and header.split()[:2] == ["position", "bits/char"]
    found = data(compared("compare", "both", "--json"))
    for line, row in zip(lines, found["rows"], strict=False):
        assert line.split()[:2] == [row["values"]["position"], f"{row['bits_per_char']:.4f}"]
    for name in found["baselines"]:
        assert name in shown.out
    again = compared("resume", "both")
    assert again.code == 0 and again.out == shown.out


def test_the_page_loads_nothing_from_elsewhere(compared: Charlm) -> None:
    page = Path("checkpoints/both/comparison.html").read_text("utf-8")
    assert page.lower().startswith("<!doctype html>") and "<svg" in page and "<table" in page
    for word in ("none", "rotary", *(f"{row['bits_per_char']:.4f}" for row in data(compared("compare", "both", "--json"))["rows"])):  # fmt: skip
        assert word in page
    assert not re.search(r"<(script|iframe|object|embed|link|img)\b", page, re.I)
    assert not re.search(r"\b(src|href|action)\s*=\s*[\"']?\s*(https?:)?//", page, re.I)
    assert not re.search(r"url\(\s*[\"']?(?!#)|@import", page, re.I)
    assert "default-src 'none'" in page, "and a browser would refuse it"


def test_each_run_of_a_comparison_is_a_run(compared: Charlm) -> None:
    inside = ("--checkpoints", "checkpoints/both")
    listed = rows(compared("runs", "--json", *inside))
    assert len(listed) == 4 and {row["step"] for row in listed} == {4}
    name = listed[0]["run"]
    assert compared("sample", *inside, "--run", name, "--length", "5").code == 0
    assert (Path("checkpoints/both") / name / "report.html").is_file()
    assert len(compared("runs", "--json").out.splitlines()) == 0
    refused(compared("info", "both"), 4, "both", "comparison")
    refused(compared("sample", "--run", "both"), 4, "both", "comparison")
    refused(compared("train", "ducks.txt", "--run", "both", "--steps", "1", *TOY), 2, "both")
    refused(compared("resume", "both", "--steps", "9"), 2, "comparison")
    for ranks in ((), ("--ranks", "2")):
        refused(compared("resume", "both", "--shard", *ranks), 2, "--shard has no effect on a comparison")
    refused(compared("resume", name, *inside, "--steps", "9"), 2, "comparison")
    refused(compared("compare", "both", "--on", "ducks.txt"), 2, "--on")


def test_every_combination_of_two_settings_is_trained(charlm: Charlm) -> None:
    Path("ducks.txt").write_text(TEXT)
    words = ("compare", "ducks.txt", "--vary", "position=none,alibi", "--vary", "window=auto,4")
    found = data(charlm(*words, "--steps", "2", "--json", *TOY))
    assert {(row["values"]["position"], row["values"]["window"]) for row in found["rows"]} == {
        (position, window) for position in ("none", "alibi") for window in (None, 4)
    }
    assert {row["values"]["window"]: row["reach"] for row in found["rows"]} == {None: 16, 4: 4}
    bits = [row["bits_per_char"] for row in found["rows"]]
    assert bits == sorted(bits)
    assert [path.name for path in Path("checkpoints").iterdir()] == [found["comparison"]]


def test_a_combination_that_cannot_be_is_left_out_and_said(charlm: Charlm) -> None:
    """A convolution has no positions."""
    Path("ducks.txt").write_text(TEXT)
    words = (
        *("compare", "ducks.txt", "--vary", "mixer=attention,convolution", "--vary"),
        "position=none,rotary",
    )
    result = charlm(*words, "--steps", "2", "--json", *TOY[:4], *TOY[6:])
    values = [row["values"] for row in data(result)["rows"]]
    assert {"mixer": "convolution", "position": "rotary"} not in values and len(values) == 3
    assert any("convolution" in line and "rotary" in line for line in result.err.splitlines())


def test_the_same_comparison_gives_the_same_figures(compared: Charlm) -> None:
    again = data(compared(*VARIED, "--seeds", "2", "--run", "again", "--json"))
    assert figures(again) == figures(data(compared("compare", "both", "--json")))
    seed = data(compared(*VARIED, "--seed", "2", "--run", "second", "--json"))
    assert seed["seeds"] == [2]
    by_values = {json.dumps(row["values"]): row["seeds"]["2"] for row in again["rows"]}
    assert by_values == {json.dumps(row["values"]): row["seeds"]["2"] for row in seed["rows"]}


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_comparison_that_was_cut_off_ends_as_if_it_had_not_been(
    compared: Charlm, number: signal.Signals, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Stopped at the fifth step of its second run; the first one is kept."""
    from tests.commands import Command  # which, like the next, needs POSIX
    from tests.ranks import stopped_at

    words = ("compare", "ducks.txt", "--vary", "position=none,rotary", "--steps", "60", *TOY)
    bring(compared, tmp_path_factory, (*words, "--run", "whole"))
    whole = data(compared("compare", "whole", "--json"))
    cut = Command((*words, "--run", "cut"), Path.cwd(), before=lambda: stopped_at(65, number)(0)).run()
    assert cut.code == (-9 if number == signal.SIGKILL else 143), cut.err
    assert number == signal.SIGKILL or "charlm resume cut" in cut.err
    between = {row["problem"]: row for row in data(compared("compare", "cut", "--json"))["rows"]}
    assert len(between) == 2 and between.pop(None)["bits_per_char"] > 0
    (lacking,) = between.values()
    assert lacking["bits_per_char"] is None
    kept = {path: path.stat().st_mtime_ns for path in Path("checkpoints/cut").glob("*/*60/model.safetensors")}
    resumed = data(compared("resume", "cut", "--json"))
    assert figures(resumed) == figures(whole)
    assert kept and {path: path.stat().st_mtime_ns for path in kept} == kept, (
        "what was done is not done again"
    )
    assert Path("checkpoints/cut/comparison.html").is_file()


ONE, TWO = (Path("checkpoints/both", f"position-{name}.seed-1") for name in ("none", "rotary"))


@pytest.fixture
def three(charlm: Charlm, tmp_path_factory: pytest.TempPathFactory) -> Charlm:
    """The same comparison, beside one of another text and one of more steps."""
    more = ("--vary", "position=none,rotary", "--seeds", "2", *TOY)
    bring(
        charlm,
        tmp_path_factory,
        ("compare", "ducks.txt", *more, "--steps", "4", "--run", "both"),
        ("compare", "geese.txt", *more, "--steps", "4", "--run", "other"),
        ("compare", "ducks.txt", *more, "--steps", "5", "--run", "longer"),
        geese=TEXT.replace("duck", "goos"),
    )
    return charlm


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
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))


PLAN, RECORD = ONE / "plan.json", ONE.parent / "comparison.json"
LINKED = (
    *(ONE, ONE.parent, RECORD.with_suffix(".html")),
    *(ONE / name for name in ("result.json", "nats.safetensors", "metrics.jsonl", "report.html", "step-00000004")),
)  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="links and pipes")
@pytest.mark.parametrize(
    ("attack", "fact"),
    [
        (lambda: replaced(ONE, Path("checkpoints/other") / ONE.name), "another text"),
        (lambda: replaced(ONE, Path("checkpoints/other") / ONE.name, result=False), "another text"),
        (lambda: replaced(ONE, TWO), "position is rotary, not none"),
        (lambda: replaced(ONE, TWO, result=False), "position is rotary, not none"),
        (lambda: replaced(ONE, ONE.with_name("position-none.seed-2")), "seed is 2, not 1"),
        (lambda: replaced(ONE, Path("checkpoints/longer") / ONE.name), "steps 5, not 4"),
        (lambda: replaced(ONE, Path("checkpoints/longer") / ONE.name, result=False), "steps 5, not 4"),
        (lambda: swapped(ONE, TWO), "position is"),
        (lambda: swapped(ONE / "result.json", TWO / "result.json"), "to another run"),
        (lambda: swapped(ONE / "step-00000004", TWO / "step-00000004"), "position is"),
        (lambda: altered(ONE / "result.json", lambda d: d.update(nats_per_char=0.1)), "was changed"),
        (lambda: altered(ONE / "result.json", lambda d: d.update(reach=9)), "was changed"),
        *(
            pytest.param(
                lambda path=path: moved_and_linked(path),
                "is a symbolic link",
                marks=[pytest.mark.slow] * (path not in LINKED[:4]),
            )
            for path in LINKED
        ),
        (lambda: (shutil.rmtree(ONE), ONE.write_text("x")), "cannot be read"),
        (lambda: (shutil.rmtree(ONE), os.mkfifo(ONE)), "cannot be read"),
        (lambda: altered(PLAN, lambda d: d["decisions"].append(d["decisions"][0])), "was changed"),
        (lambda: altered(RECORD, lambda d: d["budget"].update(steps=9)), "steps 4, not 9"),
        (lambda: altered(RECORD, lambda d: d["corpus"].update(sha256="0" * 64)), "text"),
        (lambda: altered(RECORD, lambda d: d["text"].update(val=0.2)), "other settings"),
        (lambda: altered(RECORD, lambda d: d["variants"][0]["training"].update(grad_clip=0.5)), "grad_clip"),
    ],
)  # fmt: skip
def test_a_run_in_a_comparison_is_the_one_that_its_folder_names(
    three: Charlm, attack: Callable[[], object], fact: str
) -> None:
    attack()
    before = files_below("checkpoints")
    for words in (("compare", "both"), ("resume", "both")):
        refused(three(*words), 4, fact)
        assert files_below("checkpoints").items() >= before.items(), "nothing was removed or changed"


def test_a_seed_that_a_record_adds_is_one_that_there_is_no_run_for_yet(three: Charlm) -> None:
    altered(RECORD, lambda found: found.update(seeds=[2, 1, 0]))
    assert three("compare", "both").code == three("resume", "both").code == 0


def test_scores_that_are_not_those_of_their_result_are_made_again(compared: Charlm) -> None:
    good = compared("compare", "both").out
    swapped(ONE / "nats.safetensors", TWO / "nats.safetensors")
    assert compared("compare", "both").out.count("1 of 2 runs are done") == 2
    assert compared("resume", "both").out == good


@pytest.mark.slow
def test_a_comparison_under_a_time_measures_the_machine_once(charlm: Charlm) -> None:
    Path("ducks.txt").write_text(TEXT)
    result = charlm("compare", "ducks.txt", *VARIED[2:4], "--time", "5s", "--threads", "1")
    assert result.code == 0, result.err
    plans = [json.loads(path.read_text()) for path in Path("checkpoints").glob("*/*/plan.json")]
    assert len({str(plan["decisions"][0]["timed"]) for plan in plans}) == 1
    assert plans[0]["decisions"][0]["timed"]
    assert all(plan["decisions"][0]["seconds"] == 5 for plan in plans)


def test_a_comparison_without_its_text_is_shown_without_baselines(compared: Charlm, tmp_path: Path) -> None:
    shutil.copy("ducks.txt", "kept.txt")
    made = json.loads(Path("checkpoints/both/comparison.json").read_text())
    made["corpus"]["sources"] = [str(tmp_path / "gone.txt")]
    Path("checkpoints/both/comparison.json").write_text(json.dumps(made))
    empty = {"CHARLM_CACHE": str(tmp_path / "no-cache")}
    found = data(compared("compare", "both", "--json", env=empty))
    assert found["baselines"] == {} and found["rows"][0]["bits_per_char"] > 0
    named = data(compared("compare", "both", "--text", "kept.txt", "--json", env=empty))
    assert set(named["baselines"]) >= {"uniform", "unigram"}
    Path("other.txt").write_text(TEXT[::-1])
    empty = {"CHARLM_CACHE": str(tmp_path / "still-no-cache")}
    refused(compared("compare", "both", "--text", "other.txt", env=empty), 4, "other.txt")


def test_two_runs_as_data(pair: Charlm) -> None:
    found = data(pair("compare", "long", "short", "--json"))
    assert set(found) == TWO_KEYS and found["schema"] == 1 and found["kind"] == "two runs"
    bits = {row["run"]: row["bits_per_char"] for row in found["runs"]}
    assert list(bits) == ["long", "short"] and found["difference_bits_per_char"] < 0
    assert bits["long"] - bits["short"] == pytest.approx(found["difference_bits_per_char"])
    assert found["ci95_difference"] is None and found["seed_noise_included"] is False
    other = data(pair("compare", "short", "long", "--json"))
    assert other["difference_bits_per_char"] == pytest.approx(-found["difference_bits_per_char"])
    assert other["better"] == {
        "first": [{**p, "bits": p["bits"][::-1]} for p in found["better"]["second"]],
        "second": [{**p, "bits": p["bits"][::-1]} for p in found["better"]["first"]],
    }
    for row in found["runs"]:
        alone = data(pair("eval", "--run", row["run"], "--json"))
        assert row["bits_per_char"] == pytest.approx(alone["bits_per_char"])
        assert row["chars"] == alone["chars"]


def test_where_one_run_is_the_better_one(pair: Charlm) -> None:
    best = data(pair("compare", "long", "short", "--json"))["better"]["first"]
    held_out = TEXT[int(len(TEXT) * 0.9) :]
    assert best
    for passage in best:
        assert set(passage) == {"file", "offset", "text", "bits"}
        assert held_out[passage["offset"] :][:60] == passage["text"]
        assert passage["bits"][0] < passage["bits"][1]
    saved = [p["bits"][1] - p["bits"][0] for p in best]
    assert saved == sorted(saved, reverse=True)
    assert all(b - a >= 60 for a, b in pairwise(sorted(p["offset"] for p in best))), "no passage twice"
    shown = pair("compare", "short", "long")
    assert shown.code == 0 and "long is better than short" in shown.out


def test_two_runs_on_another_text(pair: Charlm) -> None:
    Path("other.txt").write_text("ten little ducks\n" * 3)
    found = data(pair("compare", "long", "short", "--on", "other.txt", "--json"))
    assert [row["chars"] for row in found["runs"]] == [51, 51]
    refused(pair("compare", "long", "geese"), 2, "--on FILE")
    assert data(pair("compare", "long", "geese", "--on", "other.txt", "--json"))["runs"][1]["run"] == "geese"
    refused(pair("compare", "long", "short", "--on", "missing.txt"), 3, "missing.txt")
    Path("empty.txt").write_text("")
    refused(pair("compare", "long", "short", "--on", "empty.txt"), 3)
    enough = prose(500)
    Path("enough.txt").write_text(enough, "utf-8")
    found = data(pair("compare", "long", "short", "--on", "enough.txt", "--json"))
    low, high = found["ci95_difference"]
    assert low < found["difference_bits_per_char"] < high and found["runs"][0]["chars"] == len(enough)


@pytest.mark.parametrize(
    ("words", "code", "facts"),
    [
        ("", 2, ("--vary",)),
        ("ducks.txt", 2, ("--vary",)),
        ("short", 2, ("short",)),
        ("a b c", 2, ("--vary",)),
        ("long geeese", 4, ("geeese", "geese")),
        ("long short --seeds 3", 2, ("--seeds", "--vary")),
        ("long short --n-layer 3", 2, ("--n-layer", "--vary")),
        ("long short --encoding cp1252", 2, ("--encoding", "--on")),
        ("ducks.txt --vary position=none", 2, ("position=none",)),
        ("ducks.txt --vary position=none,rope", 2, ("rope", "rotary")),
        ("ducks.txt --vary positions=none,rotary", 2, ("positions", "position")),
        ("ducks.txt --vary patience=1,2", 2, ("patience",)),
        ("ducks.txt --vary position=none,rotary --position alibi", 2, ("--position", "--vary")),
        ("ducks.txt --vary position=none,rotary --vary position=alibi,none", 2, ("--vary",)),
        ("ducks.txt --vary position=none,rotary --steps 2 --time 9s", 2, ("--time", "--steps")),
        ("ducks.txt --vary position=none,rotary --on ducks.txt", 2, ("--on", "--vary")),
        ("ducks.txt --vary position=none,rotary --val 0", 2, ("--val",)),
        ("ducks.txt --vary position=none,rotary --run ../x --steps 2", 2, ("../x",)),
        ("ducks.txt --vary position=none,rotary --no-causal --steps 2", 2, ()),
        ("ducks.txt --vary n_embd=16,15 --n-head 2 --steps 2", 2, ("--n-embd is 15", "--n-head 2")),
        ("ducks.txt --vary window=4,99 --block-size 8 --steps 2", 2, ("window", "99", "8")),
        ("ducks.txt --vary dropout=0.1,0.2 --seeds 0", 2, ("--seeds", "0", "1 to 1000")),
        ("ducks.txt --vary position=none,rotary --mixer recurrent", 2, ("recurrent",)),
        ("--vary position=none,rotary --encoding cp1252", 2, ("--encoding", "manual")),
        ("ducks.txt --vary dropout=0.1,0.2 --seed 9223372036854775807 --seeds 2", 2, ("seed",)),
        ("ducks.txt --vary position=none,rotary --schedule 0:1,9:0", 2, ("--schedule",)),
        ("ducks.txt --vary position=none,learned --from long --steps 2", 2, ("--from",)),
        ("missing.txt --vary dropout=0.1,0.2 --steps 2", 3, ("missing.txt",)),
    ],
)
def test_what_cannot_be_compared_is_said_and_nothing_is_written(
    pair: Charlm, words: str, code: int, facts: tuple[str, ...]
) -> None:
    before = files_below("checkpoints")
    refused(pair("compare", *words.split()), code, *facts)
    assert files_below("checkpoints") == before


def test_one_run_is_not_compared_with_itself(charlm: Charlm) -> None:
    refused(charlm("compare", "one", "one"), 2, "one", "two different runs")


def test_the_prior_is_said_to_hide_what_an_architecture_changes(charlm: Charlm) -> None:
    Path("ducks.txt").write_text(TEXT)
    words = ("compare", "ducks.txt", "--vary", "position=none,rotary", "--steps", "1", *TOY)
    assert "--plain" in charlm(*words, "--prior").err
    assert "--plain" not in charlm(*words, "--no-prior", "--run", "two").err
