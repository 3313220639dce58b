"""Stops by a signal, `charlm resume` and `--resume-if-exists`: what was cut ends as what was never cut."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.training.conftest import TEXT, Charlm, Result, tiny

Trained = tuple[Charlm, Result]
STEPS = ["--steps", "12"]
LAST = "step-00000012"


def at_step(step: int, act: Callable[[], object], kind: str = "stepped") -> Callable[[dict[str, Any]], None]:
    """Does it once, when the row of that step is written."""
    waiting = [act]

    def watch(row: dict[str, Any]) -> None:
        if row["type"] == kind and row["step"] == step and waiting:
            waiting.pop()()

    return watch


def train(charlm: Charlm, *words: str, watch: Any = None, **changes: Any) -> Result:
    return charlm("train", "ducks.txt", "--run", "ducks", "--json", *tiny(**changes), *words, watch=watch)


def tensors(run: Path, step: str = LAST) -> dict[str, bytes]:
    """Everything that was learned, and all that training goes on from."""
    files = {path.name: path.read_bytes() for path in (run / step).glob("*.safetensors")}
    assert len(files) == 2
    return files


@pytest.fixture
def copied(charlm: Charlm, trained: Trained) -> Charlm:
    """The command beside a copy of the finished run."""
    shutil.copytree(trained[0].folder / "checkpoints", "checkpoints")
    return charlm


def assert_gives_code_and_names(result: Result, code: int, *facts: str) -> None:
    assert result.code == code, result.err
    assert all(fact in result.err for fact in facts), result.err
    assert "Traceback" not in result.err and "bug in" not in result.err


# Signals


@pytest.mark.parametrize(
    ("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGUSR1", 138), ("SIGHUP", 129)]
)
def test_a_signal_saves_and_gives_its_code_and_the_rest_is_the_same(
    charlm: Charlm, trained: Trained, name: str, code: int
) -> None:
    number = getattr(signal, name, None)
    if number is None or signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip(f"no {name} here")
    stopped = train(charlm, *STEPS, watch=at_step(7, lambda: signal.raise_signal(number)))
    assert_gives_code_and_names(stopped, 128 + number, "ducks", name)
    assert stopped.code == code or name == "SIGUSR1", "its number is another on other systems"
    assert (stopped.json["reason"], stopped.json["exit_code"]) == (name, stopped.code)
    at = stopped.json["step"]
    assert 7 <= at < 12 and Path("checkpoints/ducks", f"step-{at:08d}").is_dir()
    resumed = charlm("resume", "ducks", "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.of("begun")[0]["step"] == at
    assert [row["step"] for row in resumed.of("stepped")] == list(range(at + 1, 13))
    assert tensors(Path("checkpoints/ducks")) == tensors(trained[0].folder / "checkpoints" / "ducks")
    for key in ("nats_per_char", "standard_error", "best_step", "difference_from_baseline", "finished"):
        assert resumed.json[key] == trained[1].json[key]


def test_a_signal_before_the_first_step_leaves_nothing_unfinished(charlm: Charlm) -> None:
    watch = at_step(0, lambda: signal.raise_signal(signal.SIGINT), "begun")
    stopped = train(charlm, *STEPS, watch=watch)
    assert stopped.code == 130
    resumed = train(charlm, *STEPS, "--resume-if-exists")
    assert resumed.code == 0 and resumed.json["step"] == 12


@pytest.mark.parametrize(
    "changes",
    [
        {"dropout": 0.3, "prior": True, "prior_dropout": 0.3},
        {"mixer": "recurrent", "n_head": None, "grad_accum": 2},
        {"documents": "line", "optimizer": "adamw", "ngram_embedding_dropout": 0.2},
        {"mixer": "convolution", "n_head": None, "plain": None, "seed": 5},
        {"plain": True},
    ],
    ids=str,
)
def test_a_run_that_was_killed_ends_as_one_that_was_not(charlm: Charlm, changes: dict[str, Any]) -> None:
    """What a kill leaves is what is on the disk at that moment, a copy of which is gone on with."""
    killed = Path("killed/ducks")
    whole = train(
        charlm, *STEPS, watch=at_step(8, lambda: shutil.copytree("checkpoints/ducks", killed)), **changes
    )
    assert whole.code == 0, whole.err
    resumed = charlm("resume", "ducks", "--checkpoints", "killed", "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.of("begun")[0]["step"] == 5
    assert tensors(killed) == tensors(Path("checkpoints/ducks"))
    assert resumed.json["nats_per_char"] == whole.json["nats_per_char"]


# resume


def test_a_finished_run_is_refused_until_it_is_told_for_how_long(copied: Charlm) -> None:
    assert_gives_code_and_names(copied("resume", "ducks"), 2, "ducks", "12", "--time")
    Path("checkpoints").rename("elsewhere")
    by_path = copied("resume", "elsewhere/ducks")
    assert_gives_code_and_names(by_path, 2, "charlm resume ducks --checkpoints elsewhere --time 2m")
    Path("elsewhere").rename("checkpoints")
    more = copied("resume", "ducks", "--steps", "3", "--json")
    assert more.code == 0, more.err
    assert (more.of("begun")[0]["step"], more.of("begun")[0]["total_steps"]) == (12, 15)
    assert more.json["step"] == 15 and more.json["state"] == "finished"
    again = copied("resume", "--run", "ducks", "--steps", "1", "--threads", "1", "--quiet", "--json")
    assert again.json["step"] == 16
    assert copied("resume", "--steps", "1", "--json").json["step"] == 17, "the newest run"


@pytest.mark.slow
def test_more_time_is_more_steps(copied: Charlm) -> None:
    more = copied.process("resume", "ducks", "--time", "8s", "--json")
    assert more.code == 0, more.err
    assert more.json["step"] > 12


def test_a_report_that_is_missing_is_made(copied: Charlm) -> None:
    report = Path("checkpoints/ducks/report.html")
    report.unlink()
    done = copied("resume", "ducks", "--json")
    assert done.code == 0 and done.json["step"] == 12 and not done.of("stepped")
    assert "<html" in report.read_text("utf-8")


@pytest.mark.parametrize(
    ("words", "code", "facts"),
    [
        (["nobody"], 4, ["nobody", "ducks"]),
        (["duck"], 4, ["duck", "ducks"]),
        (["ducks", "--time", "3s", "--steps", "3"], 2, ["--time", "--steps"]),
        (["ducks", "--time", "soon"], 2, ["soon"]),
        (["ducks", "--steps", "0"], 2, ["steps", "0"]),
        (["ducks", "--steps", "x"], 2, ["steps", "x"]),
        (["ducks", "--threads", "0", "--steps", "1"], 2, ["threads", "1024"]),
        (["ducks", "--run", "other"], 2, ["ducks", "other"]),
        (["ducks", "--text", "gone.txt", "--steps", "1"], 3, ["gone.txt"]),
        (["ducks", "--n-layer", "2"], 2, ["--n-layer"]),
        (["--checkpoints", "elsewhere"], 4, ["elsewhere"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_refused(copied: Charlm, words: list[str], code: int, facts: list[str]) -> None:
    before = tensors(Path("checkpoints/ducks"))
    assert_gives_code_and_names(copied("resume", *words), code, *facts)
    assert tensors(Path("checkpoints/ducks")) == before


@pytest.fixture
def moved(tmp_path_factory: pytest.TempPathFactory) -> Charlm:
    """The command with a run whose text is where it was not, and no longer in the cache."""
    folder = tmp_path_factory.mktemp("moved")
    command = Charlm(folder, folder / "cache")
    assert train(command, "--steps", "2").code == 0
    shutil.rmtree(folder / "cache")
    (folder / "ducks.txt").rename(folder / "poem.txt")
    (folder / "other.txt").write_bytes(TEXT.replace("ducks", "geese").encode())
    return command


def test_a_text_that_was_moved_is_asked_for_and_checked(moved: Charlm) -> None:
    assert_gives_code_and_names(moved("resume", "ducks", "--steps", "2"), 4, "ducks.txt", "--text")
    wrong = moved("resume", "ducks", "--steps", "2", "--text", "other.txt")
    assert_gives_code_and_names(wrong, 4, "other.txt")
    right = moved("resume", "ducks", "--steps", "2", "--text", "poem.txt", "--json")
    assert right.code == 0 and right.json["step"] == 4, right.err


def test_a_held_out_file_that_was_moved_is_found(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("moved")
    command = Charlm(folder, folder / "cache")
    (folder / "held.txt").write_bytes(TEXT[:400].encode())
    assert train(command, "--steps", "2", "--val-file", "held.txt").code == 0
    shutil.rmtree(folder / "cache")
    (folder / "held.txt").rename(folder / "there.txt")
    assert_gives_code_and_names(command("resume", "ducks", "--steps", "1"), 4, "held.txt")
    found = command("resume", "ducks", "--steps", "1", "--val-file", "there.txt")
    assert found.code == 0, found.err


# Damage


def damage_weights(run: Path) -> None:
    path = run / LAST / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def cut_weights(run: Path) -> None:
    path = run / LAST / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def lose_state(run: Path) -> None:
    (run / LAST / "state.json").unlink()


DAMAGES = [damage_weights, cut_weights, lose_state]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_for_the_last_whole_one(
    copied: Charlm, trained: Trained, damage: Callable[[Path], None]
) -> None:
    damage(Path("checkpoints/ducks"))
    resumed = copied("resume", "ducks", "--json")
    assert resumed.code == 0, resumed.err
    assert "12" in resumed.err and resumed.of("begun")[0]["step"] == 10
    assert tensors(Path("checkpoints/ducks")) == tensors(trained[0].folder / "checkpoints" / "ducks")


@pytest.mark.parametrize("damage", DAMAGES)
def test_where_no_checkpoint_is_whole_it_is_refused(copied: Charlm, damage: Callable[[Path], None]) -> None:
    run = Path("checkpoints/ducks")
    damage(run)
    shutil.rmtree(run / "step-00000010")
    assert_gives_code_and_names(copied("resume", "ducks", "--steps", "2"), 4, "ducks")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("run.json", b"{"),
        ("run.json", b"[" * 100_000),
        ("run.json", b'{"format": 99}'),
        ("vocabulary.json", b'{"chars": 5}'),
        ("latest", b"../../../etc/passwd"),
        ("plan.json", b"\xff\xfe"),
    ],
    ids=lambda value: value[:20],
)
def test_a_hostile_file_of_the_run_is_refused(copied: Charlm, name: str, data: bytes) -> None:
    Path("checkpoints/ducks", name).write_bytes(data)
    result = copied("resume", "ducks", "--steps", "2")
    if name in ("latest", "plan.json"):  # is written anew
        assert result.code in (0, 4), result.err
    else:
        assert_gives_code_and_names(result, 4, "ducks")


def test_a_changed_table_of_counts_is_refused(charlm: Charlm) -> None:
    assert train(charlm, "--steps", "3", prior=True).code == 0
    table = Path("checkpoints/ducks/ngram.safetensors")
    data = bytearray(table.read_bytes())
    data[-9] ^= 1
    table.write_bytes(data)
    for words in (("sample",), ("eval",), ("resume", "--steps", "2")):
        assert_gives_code_and_names(charlm(*words), 4, "ngram.safetensors")


def test_weights_of_another_form_are_refused(copied: Charlm) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    for step in ("step-00000010", LAST):
        path = Path("checkpoints/ducks", step, "model.safetensors")
        path.write_bytes(len(header).to_bytes(8, "little") + header)
    assert_gives_code_and_names(copied("resume", "ducks", "--steps", "2"), 4, "ducks")


# The same command again and again


def test_the_same_command_begins_goes_on_and_succeeds(charlm: Charlm, trained: Trained) -> None:
    job = [*STEPS, "--resume-if-exists"]
    assert train(charlm, *job, watch=at_step(6, lambda: signal.raise_signal(signal.SIGINT))).code == 130
    second = train(charlm, *job)
    assert second.code == 0 and second.of("begun")[0]["step"] >= 6
    third = train(charlm, *job)
    assert third.code == 0 and [row["type"] for row in third.rows] == ["result"]
    assert third.json["step"] == 12 and third.json["exit_code"] == 0
    assert tensors(Path("checkpoints/ducks")) == tensors(trained[0].folder / "checkpoints" / "ducks")
    assert [path.name for path in Path("checkpoints").iterdir()] == ["ducks"]


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (["--seed=2"], ["seed", "2"]),
        (["--steps=13"], ["steps", "12", "13"]),
        (["--n-embd=32"], ["--n-embd", "16", "32"]),
        (["--lowercase"], ["lowercase"]),
    ],
    ids=lambda value: value[0],
)
def test_another_command_for_the_same_run_is_refused(
    copied: Charlm, words: list[str], facts: list[str]
) -> None:
    result = train(copied, *STEPS, "--resume-if-exists", *words)
    assert_gives_code_and_names(result, 2, "ducks", *facts)


def test_another_text_for_the_same_run_is_refused(copied: Charlm) -> None:
    Path("ducks.txt").write_bytes(TEXT.replace("ducks", "geese").encode())
    assert_gives_code_and_names(train(copied, *STEPS, "--resume-if-exists"), 4, "ducks")
