"""`charlm train --members` and `--plan-from`: the same members, sizes and steps again, here or elsewhere."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.cli.training.conftest import Charlm

MANY = ("--members", "no-prior,prior,ngram", "--reserved-chars", "300")
SIZE = ("--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--block-size", "16", "--batch-size", "4")


def weights(charlm: Charlm, run: str) -> str:
    return str(charlm("info", run, "--json").json["weights_sha256"])


def test_a_timed_run_of_several_members_is_repeated_by_the_command_that_info_gives(charlm: Charlm) -> None:
    """Its plan was decided by the clock; the repetition follows it, and looks at no clock."""
    first = charlm("train", "ducks.txt", "--time", "8s", "--run", "first", *MANY, *SIZE)
    assert first.code == 0, first.err
    shown = re.search(r"^reproduce this run:  charlm (.*)$", charlm("info", "first").out, re.M)
    assert shown and "--plan-from first" in shown[1]
    again = charlm(*shlex.split(shown[1]), "--run", "again")
    assert again.code == 0, again.err
    assert weights(charlm, "again") == weights(charlm, "first")
    assert charlm("eval", "--run", "again", "--json").json["kind"] == "mixture"


def test_a_plan_is_taken_from_a_file_for_another_text(charlm: Charlm) -> None:
    assert charlm("train", "ducks.txt", "--steps", "6", "--run", "first", *MANY, *SIZE).code == 0
    Path("plan.json").write_bytes(Path("checkpoints/first/plan.json").read_bytes())
    Path("more.txt").write_text(Path("ducks.txt").read_text() * 2)
    made = charlm("train", "more.txt", "--plan-from", "plan.json", "--run", "second", "--seed", "7")
    assert made.code == 0, made.err
    plan = json.loads(Path("checkpoints/second/plan.json").read_text())["decisions"][0]
    assert [member["end"] for member in plan["members"]] == [3, 6]
    assert {member["training"]["seed"] for member in plan["members"]} == {7}


def test_a_plan_from_elsewhere_says_nothing_of_what_was_measured_and_extended_there(charlm: Charlm) -> None:
    assert charlm("train", "ducks.txt", "--steps", "6", "--run", "first", *MANY, *SIZE).code == 0
    plan = json.loads(Path("checkpoints/first/plan.json").read_text())
    first = plan["decisions"][0] | {"forecast": {"seconds": 50.0, "ratio": 0.5}}
    members = [member | {"end": 100 * member["end"]} for member in first["members"]]
    guess = first | {"schedule": "0:0,1:1,300:0/300:0,301:1,600:0", "members": members}
    extended = plan["decisions"][0] | {"decided": "more training", "at_step": 3}
    Path("plan.json").write_text(json.dumps({"decisions": [guess, extended]}))
    made = charlm("train", "ducks.txt", "--plan-from", "plan.json", "--run", "second")
    assert made.code == 0, made.err
    assert "more time" not in made.out and "the first plan" not in made.out
    assert "--plan-from second" in charlm("info", "second").out
    extended["members"] = [member | {"end": 6} for member in extended["members"]]
    Path("plan.json").write_text(json.dumps({"decisions": [guess, extended]}))
    refused = charlm("train", "ducks.txt", "--plan-from", "plan.json")
    assert (
        refused.code == 2
        and "holds no plan: the schedule ends at step 6, the members at [6, 6]" in refused.err
    )


@pytest.mark.parametrize(("steps", "ends"), [(3, [2, 3]), (5, [2, 5]), (7, [4, 7])])
def test_no_step_is_lost_or_added_where_they_are_divided(charlm: Charlm, steps: int, ends: list[int]) -> None:
    made = charlm("train", "ducks.txt", "--steps", str(steps), *MANY, *SIZE, "--dry-run", "--json").json
    assert [member["end"] for member in made["members"]] == [*ends, None]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--n-layer", "2"), "--n-layer 2"),
        (("--steps", "9"), "steps"),
        (("--time", "9s"), "time"),
        (("--members", "prior"), "members"),
    ],
)
def test_what_the_plan_decides_is_refused_beside_it(
    charlm: Charlm, words: tuple[str, ...], named: str
) -> None:
    Path("plan.json").write_text("{}")
    refused = charlm("train", "ducks.txt", "--plan-from", "plan.json", *words)
    assert refused.code == 2 and named in refused.err and "Traceback" not in refused.err


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "not json",
        json.dumps({"decisions": [{"schedule": "0:1,5:0", "eval_every": 1, "eval_chars": 1}]}),
        json.dumps(
            {"decisions": [{"schedule": "0:1,5:0", "eval_every": 1, "eval_chars": 1, "members": [{}]}]}
        ),
    ],
)
def test_a_plan_that_is_none_is_refused_in_one_sentence(charlm: Charlm, content: str) -> None:
    Path("plan.json").write_text(content)
    refused = charlm("train", "ducks.txt", "--plan-from", "plan.json")
    assert refused.code != 0 and "plan" in refused.err and "Traceback" not in refused.err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--members", "ngram"), "--model ngram"),
        (("--members", "prior,no-prior", "--no-prior"), "contradicts"),
        (("--members", "prior", "--plain"), "contradicts"),
        (("--members", "prior,no-prior", "--schedule", "0:1,9:0"), "schedule"),
        (("--members", "prior,no-prior", "--reserved-chars", "0"), "reserved"),
        (("--reserved-chars", "4000"), "reserved"),
        (("--reserved-chars", "1"), "from 2 up to half"),
        (
            ("--members", ",".join(["prior", "no-prior"] * 4), "--reserved-chars", "300", "--steps", "7"),
            "at least 8 steps",
        ),
    ],
)
def test_members_that_cannot_be_are_refused(charlm: Charlm, words: tuple[str, ...], named: str) -> None:
    refused = charlm("train", "ducks.txt", "--steps", "9", *words)
    assert refused.code == 2 and named in refused.err and not Path("checkpoints").exists()
