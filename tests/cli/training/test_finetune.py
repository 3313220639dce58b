"""`charlm train --from RUN`: the weights of a run go on on another text, and the run stays as it is."""

import hashlib
import json
import math
import re
import shutil
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.cli.training.conftest import TEXT, Charlm, Result, tiny

Trained = tuple[Charlm, Result]
NEW = "".join(
    f"Anchor {i % 7}: the ship ömega sails for {'the harbour ' * (i % 4)}at dawn!\n" for i in range(50)
)
HOW = ["--threads=1", "--precision=fp32", "--compile=off", "--eval-every=5"]
REMEMBERED = {"step": int, "nats_per_char": float, "standard_error": float, "chars": int}


@pytest.fixture
def old(charlm: Charlm, trained: Trained) -> Charlm:
    """The command beside a copy of the trained run, and another text with new characters."""
    shutil.copytree(trained[0].folder / "checkpoints", "checkpoints")
    Path("new.txt").write_bytes(NEW.encode())
    return charlm


def tune(charlm: Charlm, *words: str, text: str = "new.txt") -> Result:
    return charlm("train", text, "--from", "ducks", "--run", "new", "--steps", "6", "--json", *HOW, *words)


def digest(folder: Path) -> str:
    """Over all files of a run."""
    whole = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != ".lock":
            whole.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return whole.hexdigest()


def weights(run: str, step: int = 6) -> bytes:
    return Path("checkpoints", run, f"step-{step:08d}", "model.safetensors").read_bytes()


def test_the_vocabulary_grows_and_the_old_run_stays(old: Charlm) -> None:
    before = digest(Path("checkpoints/ducks"))
    result = tune(old)
    assert result.code == 0, result.err
    assert digest(Path("checkpoints/ducks")) == before
    was, now = (
        json.loads(Path("checkpoints", name, "vocabulary.json").read_text("utf-8"))["chars"]
        for name in ("ducks", "new")
    )
    assert set(now) == set(was) | set(NEW)
    done = result.json
    assert (done["from"]["run"], done["from"]["step"]) == ("ducks", 12)
    assert done["from"]["weights_sha256"] == old("info", "ducks", "--json").json["weights_sha256"]
    assert done["step"] == 6 and math.isfinite(done["nats_per_char"])
    for name in ("n_layer", "n_head", "n_embd", "block_size", "ngram_embeddings", "position"):
        assert done["model"][name] == old("info", "ducks", "--json").json["model"][name]
    found = old("info", "new", "--json").json
    _, *again = found["repeat_command"].split()
    assert "--from ducks --checkpoint 12" in found["repeat_command"]
    again = [word for word in again if word not in ("--run", "new")]
    assert old(*again, "--run", "again").code == 0
    assert old("info", "again", "--json").json["weights_sha256"] == found["weights_sha256"]


def test_what_is_forgotten_is_measured_before_and_after(old: Charlm, trained: Trained) -> None:
    result = tune(old)
    rows = result.of("remembered")
    assert [row["step"] for row in rows] == [0, 6]
    for row in rows:
        assert {name: type(row.get(name)) for name in REMEMBERED} == REMEMBERED
        assert row["chars"] == trained[1].json["corpus"]["held_out_chars"]
    # New characters take some of the probability from the old ones before anything is learned.
    assert 0 < rows[0]["nats_per_char"] - trained[1].json["nats_per_char"] < 0.3
    assert isinstance(result.json["old_text"], dict)
    report = Path("checkpoints/new/report.html").read_text("utf-8")
    assert "ducks" in report


def test_it_begins_where_the_old_weights_are(old: Charlm) -> None:
    """On the same text the first loss is near the old run's last; a run from random weights is far from it."""
    same = tune(old, text="ducks.txt")
    assert same.code == 0, same.err
    fresh = old("train", "ducks.txt", "--run", "fresh", "--steps", "6", "--json", *tiny())
    last = old("info", "ducks", "--json").json["nats_per_char"]
    first = [result.of("stepped")[0]["loss"] for result in (same, fresh)]
    assert abs(first[0] - last) < 0.25 < abs(first[1] - last)


def test_the_checkpoint_that_is_named_is_gone_on_from(old: Charlm) -> None:
    latest = tune(old, "--checkpoint", "latest")
    assert latest.json["from"]["step"] == 12
    for which, step in (("best", 12), ("10", 10)):
        result = old(
            "train",
            "new.txt",
            "--from=ducks",
            f"--checkpoint={which}",
            f"--run={which}x",
            "--steps=6",
            "--json",
            *HOW,
        )
        assert result.code == 0 and result.json["from"]["step"] == step, result.err
    assert weights("bestx") == weights("new") != weights("10x")


def test_the_same_command_gives_the_same_and_a_cut_one_ends_the_same(old: Charlm) -> None:
    def copy(row: dict[str, Any]) -> None:
        if row["type"] == "stepped" and row["step"] == 6:
            shutil.copytree("checkpoints/new", "killed/new", dirs_exist_ok=True)

    words = ["train", "new.txt", "--from=ducks", "--run=new", "--steps=6", "--json", *HOW]
    assert old(*words, watch=copy).code == 0
    resumed = old("resume", "new", "--checkpoints", "killed", "--json")
    assert resumed.code == 0 and resumed.of("begun")[0]["step"] == 5, resumed.err
    assert Path("killed/new/step-00000006/model.safetensors").read_bytes() == weights("new")
    shutil.rmtree("checkpoints/new")
    again = old(*words)
    assert weights("new") == Path("killed/new/step-00000006/model.safetensors").read_bytes()
    assert again.json["nats_per_char"] == resumed.json["nats_per_char"]


def test_a_text_that_has_grown_keeps_what_was_held_out(old: Charlm) -> None:
    Path("ducks.txt").write_bytes((TEXT + NEW).encode())
    result = tune(old, text="ducks.txt")
    assert result.code == 0, result.err
    held_out = round(0.1 * len(TEXT)) + round(0.1 * len(NEW))
    assert abs(result.json["corpus"]["held_out_chars"] - held_out) <= 2


def test_how_the_text_is_read_is_taken_over(charlm: Charlm) -> None:
    Path("new.txt").write_bytes(NEW.encode())
    first = charlm(
        "train",
        "ducks.txt",
        "--run=ducks",
        "--steps=3",
        "--lowercase",
        "--val=0.2",
        "--documents=line",
        *tiny(),
    )
    assert first.code == 0, first.err
    settings = tune(charlm).json["text_settings"]
    assert settings.items() >= {"lowercase": True, "val": 0.2, "documents": "line"}.items()
    told = charlm("train", "new.txt", "--from=ducks", "--val=0.3", "--steps=3", "--json", *HOW)
    assert told.json["text_settings"]["val"] == 0.3


def test_runs_that_differ_in_their_held_out_file_only_are_told_apart(charlm: Charlm) -> None:
    """By the division of what is trained on then, and by the length of the text in the run's record."""
    noise = ["".join(Random(seed).choices("abcdefgh \n", k=700)) for seed in (1, 2)]
    for name, text in zip("vw", noise, strict=True):
        Path(f"{name}.txt").write_text(text)
        charlm("train", "ducks.txt", "--val-file", f"{name}.txt", "--steps=2", f"--run={name}", *tiny())
    Path("both.txt").write_bytes((noise[1] + NEW).encode())
    left_out = [charlm("train", "both.txt", "--from", name, "--dry-run").err for name in "vw"]
    assert "left out of training" not in left_out[0] and "100 % of what w held out" in left_out[1]
    Path("ducks.txt").write_bytes((TEXT + NEW[:2000]).encode())
    charlm("train", "ducks.txt", "--steps=2", "--run=old", *tiny())
    Path("ducks.txt").write_bytes((TEXT + NEW).encode())
    charlm("train", "ducks.txt", "--from=old", "--val-file=v.txt", "--steps=2", "--run=more")
    Path("ducks.txt").write_bytes((TEXT + NEW + noise[1]).encode())
    result = charlm("train", "ducks.txt", "--from=more", "--dry-run")
    assert "the text begins with that of more" in result.err


def test_what_was_held_out_and_stands_elsewhere_is_left_out_and_found_again(old: Charlm) -> None:
    Path("both.txt").write_bytes((NEW + TEXT + NEW).encode())
    result = tune(old, text="both.txt")
    assert re.search(r"[\d,]+ characters of the text, \d+ % of what ducks held out, are left out", result.err)
    assert old("cache", "--clear", "--yes").code == 0
    resumed = old("resume", "new", "--steps", "2", "--json")
    assert resumed.code == 0 and resumed.of("remembered"), resumed.err


def test_documents_can_be_told_apart_from_now_on(old: Charlm) -> None:
    result = tune(old, "--documents", "line", "--val", "0.2")
    assert result.code == 0, result.err
    again = old("info", "new", "--json").json["repeat_command"]
    assert "--documents line" in again and "--val 0.2" in again
    assert old("sample", "--run", "new", "--one-document", "--length", "30").code == 0


@pytest.mark.parametrize(
    "changes", [{"prior": True}, {"units": "bytes"}, {"mixer": "recurrent", "n_head": None}], ids=str
)
def test_every_kind_of_run_can_be_gone_on_from(charlm: Charlm, changes: dict[str, Any]) -> None:
    Path("new.txt").write_bytes(NEW.encode())
    first = charlm("train", "ducks.txt", "--run=ducks", "--steps=3", "--json", *tiny(**changes))
    assert first.code == 0, first.err
    result = tune(charlm)
    assert result.code == 0, result.err
    said = result.json["model"] | result.json["text_settings"]
    assert said.items() >= {name: value for name, value in changes.items() if value is not None}.items()
    for command in (
        ["sample", "--run", "new", "--length", "20"],
        ["eval", "--run", "new"],
        ["doctor", "new"],
    ):
        assert charlm(*command).code == 0


def test_a_dry_run_shows_the_plan_and_writes_nothing(old: Charlm) -> None:
    result = tune(old, "--dry-run")
    assert result.code == 0 and result.json["type"] == "plan" and result.json["model"]["n_embd"] == 16
    assert [path.name for path in Path("checkpoints").iterdir()] == ["ducks"]
    timed = old(
        "train", "new.txt", "--from", "ducks", "--time", "5s", "--threads", "1", "--dry-run", "--json"
    ).json
    first = timed["plan"]["decisions"][0]
    assert first["timed"] and first["forecast"] is None, "of a model that has learned before no law speaks"


@pytest.mark.parametrize(
    ("words", "code", "facts"),
    [
        (["--lowercase"], 2, ["lowercase", "ducks"]),
        (["--normalize=nfc"], 2, ["normalize", "nfc", "ducks"]),
        (["--units=bytes"], 2, ["units", "bytes", "ducks"]),
        (["--n-layer=7"], 2, ["--n-layer 7", "1"]),
        (["--n-embd=32"], 2, ["--n-embd 32", "16"]),
        (["--mixer=recurrent"], 2, ["mixer", "recurrent"]),
        (["--model=ngram"], 2, ["model", "ngram"]),
        (["--plain"], 2, ["plain"]),
        (["--split=documents", "--documents=line"], 2, ["split", "documents"]),
        (["--checkpoint=77"], 2, ["77", "12"]),
        (["--checkpoint=newest"], 2, ["newest", "latest"]),
        (["--from=nobody"], 4, ["nobody", "ducks"]),
        (["--from-text=gone.txt"], 3, ["gone.txt"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_contradicts_the_old_run_is_refused_by_name(
    old: Charlm, words: list[str], code: int, facts: list[str]
) -> None:
    result = tune(old, *words)
    assert (result.code, result.out) == (code, ""), result.err
    assert all(fact in result.err for fact in facts) and "bug in" not in result.err, result.err
    assert [path.name for path in Path("checkpoints").iterdir()] == ["ducks"]


def test_a_damaged_run_is_refused(old: Charlm) -> None:
    for step in ("step-00000010", "step-00000012"):
        path = Path("checkpoints/ducks", step, "model.safetensors")
        path.write_bytes(path.read_bytes()[:-5])
    result = tune(old)
    assert result.code == 4 and "ducks" in result.err and not Path("checkpoints/new").exists()


def test_an_old_text_that_was_moved_is_found_or_done_without(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("moved")
    command = Charlm(folder, folder / "cache")
    assert command("train", "ducks.txt", "--run=ducks", "--steps=3", *tiny(prior=True)).code == 0
    shutil.rmtree(folder / "cache")
    (folder / "ducks.txt").rename(folder / "poem.txt")
    (folder / "new.txt").write_bytes(NEW.encode())
    without = tune(command)
    assert without.code == 0 and not without.of("remembered") and "--from-text" in without.err
    assert "the n-gram prior is built from this text alone, because the old text is missing" in without.err
    assert without.json["old_text"] is None
    found = command("train", "new.txt", "--from=ducks", "--from-text=poem.txt", "--steps=3", "--json", *HOW)
    assert found.code == 0 and len(found.of("remembered")) == 2, found.err
