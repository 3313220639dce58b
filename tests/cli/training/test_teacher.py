"""`charlm train --plain --teacher RUN`: a plain decoder learns a run's probabilities beside the text."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.kept import thinned
from tests.cli.training.conftest import TEXT, Charlm, Result, tiny
from tests.cli.training.test_finetune import digest

TEACHERS: dict[str, list[str]] = {
    "prior": ["--steps=8", *tiny(prior=True)],
    "no-prior": ["--steps=8", *tiny()],
    "mixture": ["--steps=8", *tiny(members="prior,no-prior,ngram", reserved_chars=400)],
    "recurrent": ["--steps=8", *tiny(mixer="recurrent", n_head=None)],
    "ngram": ["--model=ngram", "--threads=1"],
}


def teach(charlm: Charlm, kind: str, *words: str) -> Result:
    result = charlm("train", "ducks.txt", "--run=big", *TEACHERS[kind], *words)
    assert result.code == 0, result.err
    return result


def learn(charlm: Charlm, *words: str, run: str = "small", watch: Any = None, **changes: Any) -> Result:
    model = tiny(plain=True, **changes)
    words = ("train", "ducks.txt", f"--run={run}", "--steps=12", "--json", *model, *words)
    return charlm(*words, watch=watch)


def weights(run: Path | str) -> bytes:
    return Path("checkpoints", run, "step-00000012", "model.safetensors").read_bytes()


@pytest.mark.parametrize("kind", thinned(TEACHERS, "prior", "recurrent"))
def test_a_run_of_any_kind_teaches_and_a_killed_student_ends_as_one_that_was_not(
    charlm: Charlm, kind: str
) -> None:
    def copy(row: dict[str, Any]) -> None:
        if row["type"] == "stepped" and row["step"] == 8:
            shutil.copytree("checkpoints", "killed", dirs_exist_ok=True)

    teach(charlm, kind)
    before = digest(Path("checkpoints/big"))
    whole = learn(charlm, "--teacher=big", watch=copy, dropout=0.2, grad_accum=2)
    assert whole.code == 0, whole.err
    assert digest(Path("checkpoints/big")) == before
    resumed = charlm("resume", "small", "--checkpoints=killed", "--json")
    assert resumed.code == 0 and resumed.of("begun")[0]["step"] == 5, resumed.err
    assert weights("../killed/small") == weights("small")
    assert learn(charlm, run="alone", dropout=0.2, grad_accum=2).code == 0
    assert weights("alone") != weights("small")

    big, small = (charlm("info", run, "--json").json for run in ("big", "small"))
    names = ("weights_sha256", "ngram_sha256")
    assert small["teacher"] == {"run": "big", "step": big["step"], **{name: big[name] for name in names}}
    assert json.loads(Path("checkpoints/small/run.json").read_text())["teacher"] == small["teacher"]
    assert big["teacher"] is None and f"big, step {big['step']}" in charlm("info", "small").out
    _, *again = small["repeat_command"].split()
    assert charlm(*(word for word in again if word not in ("--run", "small")), "--run=again").code == 0
    assert weights("again") == weights("small")


def test_a_student_that_is_trained_needs_no_teacher_until_it_is_trained_further(charlm: Charlm) -> None:
    teach(charlm, "prior")
    assert learn(charlm, "--teacher=big").code == 0
    shutil.move("checkpoints/big", "big")
    Path("checkpoints/small/report.html").unlink()
    for words in (["sample", "--length=5"], ["eval"], ["info"], ["resume"]):
        result = charlm(*words, *([] if words == ["info"] else ["--run"]), "small")
        assert result.code == 0, result.err
    plan = Path("checkpoints/small/plan.json").read_bytes()
    gone = charlm("resume", "small", "--steps=2")
    assert gone.code == 4 and "its teacher, big, at step 8" in gone.err, gone.err
    teach(charlm, "prior", "--seed=2")
    other = charlm("resume", "small", "--steps=2")
    assert other.code == 4 and "its teacher, big, at step 8" in other.err and "others" in other.err
    assert Path("checkpoints/small/plan.json").read_bytes() == plan
    shutil.rmtree("checkpoints/big")
    shutil.move("big", "checkpoints/big")
    more = charlm("resume", "small", "--steps=2", "--json")
    assert more.code == 0 and more.json["step"] == 14, more.err


@pytest.mark.slow
def test_what_it_learns_is_the_text_the_teacher_or_both(charlm: Charlm) -> None:
    """The teacher knows no context: who believes it alone learns none either."""
    teach(charlm, "ngram", "--prior-order=0")
    text, none = (
        learn(charlm, *words, run=run).json["nats_per_char"]
        for run, words in {"text": [], "none": ["--teacher=big", "--teacher-weight=0"]}.items()
    )
    assert none == pytest.approx(text, rel=1e-4)
    losses = {}
    for weight in (0, 0.5, 1):
        words = ["--teacher=big", f"--teacher-weight={weight}", "--patience=0"]
        steps = ["--steps=300", "--learning-rate=0.01"]
        losses[weight] = learn(charlm, *words, *steps, run=f"w{weight}").json["nats_per_char"]
    assert losses[0] < losses[0.5] - 0.1 < losses[1] - 0.3, losses
    alone = charlm("info", "big", "--json").json["nats_per_char"]
    assert losses[1] == pytest.approx(alone, abs=0.1)


def test_the_teacher_can_be_asked_about_a_part_of_the_text(charlm: Charlm) -> None:
    teach(charlm, "prior")
    for chars in (1, 500, 5000):
        assert learn(charlm, "--teacher=big", f"--teacher-chars={chars}", run=f"c{chars}").code == 0
    learn(charlm, "--teacher=big", run="all")
    assert weights("c5000") == weights("all") != weights("c500") != weights("c1")


def test_a_plan_with_a_teacher_is_taken_with_one(charlm: Charlm) -> None:
    teach(charlm, "no-prior")
    assert learn(charlm, "--teacher=big", "--teacher-weight=0.7").code == 0
    words = ["train", "ducks.txt", "--run=again", "--threads=1", "--precision=fp32"]
    alone = charlm(*words, "--plan-from=small")
    assert alone.code == 2 and "has a teacher" in alone.err, alone.err
    idle = charlm(*words, "--plan-from=big", "--teacher=big")
    assert idle.code == 2 and "has no teacher" in idle.err, idle.err
    assert charlm(*words, "--plan-from=small", "--teacher=big").code == 0
    assert weights("again") == weights("small")


def test_the_checkpoint_that_is_named_teaches(charlm: Charlm) -> None:
    teach(charlm, "no-prior")
    result = learn(charlm, "--teacher=big", "--checkpoint=5")
    assert result.code == 0 and charlm("info", "small", "--json").json["teacher"]["step"] == 5, result.err
    dry = charlm("train", "ducks.txt", "--plain", "--teacher=big", "--checkpoint=5", "--steps=9", "--dry-run")
    assert "--teacher big --checkpoint 5" in dry.out and "--teacher-weight" in dry.out


@pytest.mark.parametrize(
    ("words", "code", "facts"),
    [
        (["--teacher=big", "--no-plain"], 2, ["--teacher", "--plain"]),
        (["--teacher=big", "--from=big"], 2, ["--from", "--teacher"]),
        (["--teacher=bag"], 4, ["bag", "did you mean big"]),
        (["--teacher-weight=0.3"], 2, ["--teacher-weight 0.3", "--teacher"]),
        (["--teacher-chars=300"], 2, ["--teacher-chars 300", "--teacher"]),
        (["--teacher=big", "--teacher-weight=1.5"], 2, ["1.5", "0 to 1"]),
        (["--checkpoint=5"], 2, ["--checkpoint 5", "--from", "--teacher"]),
        (["--teacher=big", "--val=0.2"], 2, ["big", "other parts of ducks.txt"]),
        (["--teacher=big", "--split=blocks"], 2, ["big", "other parts of ducks.txt"]),
        (["--teacher=big", "--units=bytes"], 2, ["big", "other parts of ducks.txt"]),
    ],
)
def test_what_is_refused(charlm: Charlm, words: list[str], code: int, facts: list[str]) -> None:
    teach(charlm, "no-prior")
    result = charlm("train", "ducks.txt", "--run=small", "--steps=2", *tiny(plain=True), *words)
    assert result.code == code and all(fact in result.err for fact in facts), result.err
    assert "Traceback" not in result.err and result.err.splitlines()[-1].startswith("error: ")
    assert not Path("checkpoints/small").exists()


def test_a_teacher_of_another_text_is_refused(charlm: Charlm) -> None:
    teach(charlm, "no-prior")
    Path("ducks.txt").write_bytes((TEXT + "?!").encode())
    result = learn(charlm, "--teacher=big")
    assert result.code == 2 and "big cannot be the teacher" in result.err and "SHA-256" in result.err
    varied = charlm("compare", "ducks.txt", "--plain", "--teacher-weight=0.5", "--vary=seed=1,2", "--steps=2")
    assert varied.code == 2


def test_files_that_contradict_each_other_are_damaged(charlm: Charlm) -> None:
    """A teacher is neither forgotten nor made up."""
    teach(charlm, "no-prior")
    assert learn(charlm, "--teacher=big").code == 0
    run = Path("checkpoints/small")
    facts = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**facts, "teacher": None}))
    data = (run / "run.json").read_bytes()
    for path in run.glob("step-*/MANIFEST.json"):
        manifest = json.loads(path.read_text())
        manifest["run_files"]["run.json"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        path.write_text(json.dumps(manifest))
    result = charlm("resume", "small", "--steps=2")
    assert result.code == 4 and "damaged" in result.err and "teacher" in result.err, result.err
