"""What a user sees of a run that trains several members: each is named, and every figure says whose it is."""

import json
import os
import re
import shutil
from math import log
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Charlm, Result
from tests.cli.kept import data, rows
from tests.cli.models import prose
from tests.test_docs import ROOT

KINDS = ["prior", "no-prior", "ngram"]
MIXTURE = "mixture of prior, no-prior and ngram"
SIZE = ("--n-layer", "1", "--n-embd", "16", "--n-head", "2", "--block-size", "16", "--threads", "1")
STEPS = ("--steps", "24", "--eval-every", "5", *SIZE)
MEMBERS = ("--members", ",".join(KINDS))
RESERVED = 1080
"""A twentieth of the training text."""
_trained: dict[str, tuple[Path, Result]] = {}


@pytest.fixture
def several(charlm: Charlm, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """What training several members printed; the run `several` is here."""
    return trained(charlm, tmp_path_factory, "several", *MEMBERS)


@pytest.fixture
def single(charlm: Charlm, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """The same of a single transformer, the run `single`."""
    return trained(charlm, tmp_path_factory, "single")


def trained(charlm: Charlm, factory: pytest.TempPathFactory, name: str, *words: str) -> Result:
    """Train a run once in this process, and copy it here; its text stays where it was."""
    if name not in _trained:
        folder, here = factory.mktemp("members"), Path.cwd()
        (folder / "prose.txt").write_text(prose(24_000), "utf-8")
        os.chdir(folder)
        _trained[name] = folder, charlm("train", "prose.txt", *STEPS, *words, "--run", name)
        os.chdir(here)
    folder, result = _trained[name]
    assert result.code == 0, result.err
    shutil.copytree(folder, ".", dirs_exist_ok=True)
    return result


def cells(table: str) -> dict[str, str]:
    """A table of two columns."""
    parts = (re.split(r"  +", line.strip(), maxsplit=1) for line in table.splitlines())
    return {row[0]: row[1] for row in parts if len(row) == 2}


def bits(nats: float) -> str:
    return f"{nats / log(2):.4f} bits/char"


def test_the_first_lines_name_each_member_and_the_text_that_none_trains_on(several: Result) -> None:
    (line,) = [line for line in several.err.splitlines() if line.startswith("model: ")]
    assert line.startswith("model: mixture of prior (1 layer of width 16") and " and ngram (" in line
    assert "), no-prior (1 layer of width 16" in line
    assert (
        f"on {RESERVED:,} characters at the end of the training text, which no model trains on, temperature, "
        "weights and the strength of recent n-grams are learned" in line
    )


def test_every_evaluation_says_what_was_evaluated(several: Result) -> None:
    said = re.findall(r"^step (\d+), (.*?): \d\.\d+ .*bits/char held-out", several.err, re.M)
    assert said == [
        *(("5", "prior alone (member 1 of 2)"), ("10", "prior alone (member 1 of 2)")),
        ("12", "mixture of prior and ngram"),
        *(("17", "no-prior alone (member 2 of 2)"), ("22", "no-prior alone (member 2 of 2)")),
        ("24", MIXTURE),
    ]


def test_what_was_learned_on_the_reserved_text_is_said_once_it_is(several: Result, charlm: Charlm) -> None:
    said = [line for line in several.err.splitlines() if ": mixture learned on " in line]
    assert [line.split(":")[0] for line in said] == ["step 12", "step 24"]
    info = data(charlm("info", "several", "--json"))
    assert bits(info["calibration"]["nats_per_symbol"]) in said[-1]
    for member in info["members"]:
        figure = f"{member['kind']} {bits(member['nats_per_symbol'])} (weight {member['weight']:.2f})"
        assert figure in said[-1]


def test_the_table_at_the_end_info_and_the_page_show_each_member(several: Result, charlm: Charlm) -> None:
    info = data(charlm("info", "several", "--json"))
    assert [member["kind"] for member in info["members"]] == KINDS
    assert sum(member["weight"] for member in info["members"]) == pytest.approx(1)
    assert info["calibration"]["step"] == 24 and info["calibration"]["temperature"] is None
    best = min(member["nats_per_symbol"] for member in info["members"])
    assert info["calibration"]["nats_per_symbol"] <= best + 1e-3
    page = Path("checkpoints/several/report.html").read_text("utf-8")
    shown = cells(several.out), cells(charlm("info", "several").out)
    for number, member in enumerate(info["members"], 1):
        figure = f"{bits(member['nats_per_symbol'])} alone on the reserved text, mean weight {member['weight']:.2f}"
        size = "" if member["kind"] == "ngram" else "1 layer of width 16, blocks of 16; "
        for table in shown:
            assert table[f"member {number}, {member['kind']}"] == size + figure
        assert size + figure in page
    for table in shown:
        assert table["held-out"].endswith(f", {MIXTURE}")
        assert table["mixture"].startswith(bits(info["calibration"]["nats_per_symbol"]))
    for part in ("model", "training"):
        assert f"{part} of member 1, prior" in page and f"{part} of member 2, no-prior" in page
        text = charlm("info", "several").out
        assert f"{part} of member 1" in text and f"{part} of member 2" in text
    (listed,) = rows(charlm("runs", "--json"))
    assert listed["members"] == info["members"] and listed["calibration"] == info["calibration"]


def test_of_a_single_model_the_temperature_is_shown(single: Result, charlm: Charlm) -> None:
    assert (
        f"on {RESERVED:,} characters at the end of the training text, which no model trains on, the temp"
        in (" ".join(single.err.split()))
    )
    info = data(charlm("info", "single", "--json"))
    (member,), found = info["members"], info["calibration"]
    assert member["kind"] == "prior" and member["model"] == info["model"]
    temperature = f"{found['temperature']:.3f}, learned on "
    for shown in (
        single.out,
        charlm("info", "single").out,
        Path("checkpoints/single/report.html").read_text(),
    ):
        assert temperature in shown and "member 1" not in shown and "mixture" not in shown
    (said,) = [line for line in single.err.splitlines() if ": temperature " in line]
    assert temperature in said and bits(member["nats_per_symbol"]) in said
    assert not re.search(r"^step \d+, ", single.err, re.M)


def test_a_run_that_is_stopped_in_between_says_what_is_missing(several: Result, charlm: Charlm) -> None:
    """Its newest checkpoint is removed, as if the second member had not come to its end."""
    shutil.rmtree(Path("checkpoints/several") / newest())
    info = data(charlm("info", "several", "--json"))
    assert [member["kind"] for member in info["members"]] == KINDS
    assert [member["weight"] is None for member in info["members"]] == [False, True, False]
    assert cells(charlm("info", "several").out)["member 2, no-prior"].endswith("; not calibrated yet")
    assert cells(charlm("info", "several").out)["held-out"].endswith(", no-prior alone")
    result = charlm("resume", "several")
    assert result.code == 0 and "training from step 22 to 24, member 2 of 2, no-prior\n" in result.err
    assert cells(result.out)["mixture"] == cells(several.out)["mixture"]


def newest() -> str:
    return max(path.name for path in Path("checkpoints/several").iterdir() if path.name.startswith("step"))


def test_a_dry_run_shows_the_settings_and_the_schedule_of_each(several: Result, charlm: Charlm) -> None:
    shutil.copy(_trained["several"][0] / "prose.txt", "prose.txt")
    words = ("train", "prose.txt", *STEPS, *MEMBERS, "--dry-run")
    plan = data(charlm(*words, "--json"))
    assert [member["kind"] for member in plan["members"]] == KINDS
    first, second, ngram = plan["members"]
    assert (first["begin"], first["end"], second["begin"], second["end"]) == (0, 12, 12, 24)
    assert first["schedule"].startswith("0:0,") and second["schedule"].startswith("12:0,")
    assert ngram["model"] is None and first["model"]["prior"] and not second["model"]["prior"]
    assert (first["training"]["batch_size"], second["training"]["batch_size"]) == (8, 16)
    result = charlm(*words)
    shown = {line[:31].strip(): line[31:].split() for line in result.out.splitlines()}
    assert shown["--batch-size"] == ["8", "16"] and shown["--prior"] == ["--prior", "--no-prior"]
    assert shown["schedule"] == [first["schedule"], second["schedule"]]
    *_, command = result.out.splitlines()
    assert "--members prior,no-prior,ngram" in command and "--batch-size" not in command
    again = data(charlm(*command.split()[1:], "--dry-run", "--json"))
    assert again["members"] == plan["members"]


def test_a_mixture_is_evaluated_as_such(several: Result, charlm: Charlm) -> None:
    said = data(charlm("eval", "--run", "several", "--json"))
    assert said["kind"] == "mixture" and said["members"] == KINDS and said["prior_order"] == 5
    shown = cells(charlm("eval", "--run", "several").out)
    assert shown["model"] == MIXTURE
    assert shown["context"] == (
        "prior: 8 to 16 characters before each (block 16, stride 8) | no-prior: 8 to 16 characters before each "
        "(block 16, stride 8) | ngram: 5 characters before each"
    )
    assert shown["this mixture"] == f"{said['bits_per_char']:.4f}"
    assert data(charlm("info", "several", "--json"))["nats_per_char"] == pytest.approx(said["nats_per_char"])


def test_fine_tuning_takes_the_first_member_and_says_so(several: Result, charlm: Charlm) -> None:
    Path("new.txt").write_text(prose(3_000, seed=5), "utf-8")
    result = charlm("train", "new.txt", "--from", "several", "--steps", "2", "--dry-run", "--threads", "1")
    assert result.code == 0 and "fine-tuning the first of the 2 members of several" in result.err
    again = result.out.splitlines()[-1].split()[1:]
    assert charlm(*again, "--dry-run").out == result.out


def logged(name: str) -> list[dict[str, Any]]:
    lines = Path("checkpoints/several", name).read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_log_says_which_member_was_trained_and_what_was_evaluated(several: Result) -> None:
    log = logged("metrics.jsonl")
    steps = {row["step"]: row for row in log if row["event"] == "Stepped"}
    assert [row["member"] for row in steps.values()] == [1] * 12 + [2] * 12
    assert steps[12]["chars"] == 12 * 8 * 16 and steps[24]["chars"] == 12 * (8 + 16) * 16
    evaluated = [row for row in log if row["event"] == "Evaluated"]
    assert [row["mixed"] for row in evaluated if row["step"] in (5, 12, 17, 24)] == [
        *([], ["prior", "ngram"], [], KINDS)
    ]


def test_every_key_of_its_json_is_in_the_docs(several: Result, charlm: Charlm) -> None:
    """Settings have names of their own, and baselines are keys."""
    documented = (ROOT / "docs/json.md").read_text("utf-8")
    given = ("model", "training", "versions", "text_settings", "corpus", "decision", "baselines")

    def keys(value: Any) -> set[str]:
        if isinstance(value, list):
            return set[str]().union(*map(keys, value))
        return (
            set(value).union(*(keys(value[k]) for k in value if k not in given))
            if isinstance(value, dict)
            else set()
        )

    said = [data(charlm(*words, "several", "--json")) for words in (("info",), ("eval", "--run"))]
    found = keys([*logged("metrics.jsonl"), *logged("samples.jsonl"), *said])
    assert {"rises", "prior_order", "weight"} <= found
    assert not {key for key in found if f"`{key}`" not in documented}


def test_each_member_has_a_curve_of_its_own(several: Result) -> None:
    page = Path("checkpoints/several/report.html").read_text("utf-8")
    chart = re.findall(r"<svg.*?</svg>", page, re.S)[0]
    for kind in ("raw", "", "held"):
        pieces = re.findall(rf'<path class="{kind}" d="(M[^"]*L[^"]*)"', chart)
        assert len(pieces) == 2, kind
        ends = [[float(x) for x in re.findall(r"[ML]([\d.]+) ", piece)] for piece in pieces]
        assert ends[0][-1] < ends[1][0]
    (marks,) = re.findall(r'<path class="held closing" d="([^"]*)"', chart)
    assert marks.count("M") == 2, "the mixtures"
    assert "member 1, prior" in chart and "member 2, no-prior" in chart
    assert page.count(f">{MIXTURE}<") == 1 and "after step 24, by the " + MIXTURE in page


def test_a_sample_is_of_what_was_evaluated(several: Result, charlm: Charlm) -> None:
    last = logged("samples.jsonl")[-1]
    written = charlm("sample", "--run", "several", "--seed", "1", "--length", "120", "--threads", "1").out
    assert last["step"] == 24 and last["text"].strip() in written
