"""`charlm info` and `charlm runs`: a run as data, the command that makes it again, and removing runs."""

import hashlib
import os
import re
import shlex
import shutil
import signal
from pathlib import Path

import pytest

from tests.cli.kept import TEXT, TOY, Charlm, bring, data, files_below, refused, rows

RUN_KEYS = {
    *("schema", "run", "path", "problem", "text", "created", "step", "nats_per_char", "standard_error"),
    *(
        "evaluated_chars",
        "evaluated_model",
        "baseline_nats_per_char",
        "difference_from_baseline",
        "difference_error",
    ),
    *("best_step", "seconds", "finished", "returns", "state", "corpus", "versions", "command"),
    *("text_settings", "model", "training", "members", "calibration", "from", "teacher", "old_text"),
}
INFO_KEYS = RUN_KEYS | {"weights_sha256", "ngram_bytes", "ngram_sha256", "checkpoints", "repeat_command"}
TRAIN = ("train", "ducks.txt", "--steps", "4", *TOY)
NEEDS_POSIX = pytest.mark.skipif(os.name == "nt", reason="links and signals of POSIX")


@pytest.fixture
def three(charlm: Charlm, tmp_path_factory: pytest.TempPathFactory) -> Charlm:
    """The command, beside the runs a, b (another seed) and c (of counts alone), and the comparison both."""
    bring(
        charlm,
        tmp_path_factory,
        (*TRAIN, "--run", "a"),
        (*TRAIN, "--run", "b", "--seed", "2", "--dropout", "0.1", "--position", "alibi"),
        ("train", "ducks.txt", "--run", "c", "--model", "ngram", "--threads", "1"),
        ("compare", "ducks.txt", "--vary", "position=none,rotary", "--steps", "2", *TOY, "--run", "both"),
    )
    return charlm


def there() -> list[str]:
    return sorted(path.name for path in Path("checkpoints").iterdir())


def test_a_run_as_data(three: Charlm) -> None:
    found = data(three("info", "a", "--json"))
    assert set(found) == INFO_KEYS and found["schema"] == 1
    assert (found["run"], found["step"], found["state"], found["problem"]) == ("a", 4, "finished", None)
    assert Path(found["path"]) == Path("checkpoints/a") and found["text"] == "ducks.txt"
    assert found["nats_per_char"] > 0 and found["evaluated_chars"] == len(TEXT) - int(len(TEXT) * 0.9)
    assert found["difference_from_baseline"] == pytest.approx(
        found["nats_per_char"] - found["baseline_nats_per_char"]
    )
    corpus = found["corpus"]
    assert corpus["sha256"] == hashlib.sha256(TEXT.encode()).hexdigest() and corpus["chars"] == len(TEXT)
    assert Path(corpus["sources"][0]).name == "ducks.txt" and Path(corpus["sources"][0]).is_absolute()
    assert {"charlm", "torch", "python"} <= set(found["versions"])
    assert found["command"].startswith("charlm train ducks.txt --steps 4 ")
    model, training = found["model"], found["training"]
    assert (model["n_layer"], model["n_embd"], model["n_head"], model["block_size"]) == (1, 16, 2, 16)
    assert (training["batch_size"], training["seed"], training["threads"]) == (4, 1, 1)
    assert found["text_settings"]["val"] == 0.1 and found["from"] is None
    assert found["checkpoints"][-1] == 4 == max(found["checkpoints"])


def test_the_hash_is_of_the_file_of_weights(three: Charlm) -> None:
    found = data(three("info", "a", "--json"))
    weights = Path("checkpoints/a/step-00000004/model.safetensors").read_bytes()
    assert found["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    shown = three("info", "a")
    for fact in (
        found["weights_sha256"],
        found["corpus"]["sha256"],
        found["command"],
        found["repeat_command"],
    ):
        assert fact in shown.out


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_the_command_that_it_gives_makes_the_same_weights(three: Charlm, name: str) -> None:
    found = data(three("info", name, "--json"))
    first, *again = shlex.split(found["repeat_command"])
    assert first == "charlm" and f"\n{found['repeat_command']}".strip() in three("info", name).out
    if "--run" in again:
        again[again.index("--run") + 1] = "again"
    else:
        again += ["--run", "again"]
    assert three(*again).code == 0
    made = data(three("info", "again", "--json"))
    for key in ("weights_sha256", "ngram_sha256", "ngram_bytes", "nats_per_char", "step"):
        assert made[key] == found[key], key


def test_a_run_under_a_time_is_made_again_from_its_steps(three: Charlm) -> None:
    assert three("train", "ducks.txt", "--time", "5s", "--run", "timed", *TOY[:-2]).code == 0
    found = data(three("info", "timed", "--json"))
    assert "--time 5s" in found["command"] and "--time" not in found["repeat_command"]
    assert three(*shlex.split(found["repeat_command"])[1:], "--run", "again").code == 0
    assert data(three("info", "again", "--json"))["weights_sha256"] == found["weights_sha256"]


def test_without_a_name_it_is_the_newest_run(three: Charlm) -> None:
    newest = rows(three("runs", "--json"))[0]["run"]
    assert data(three("info", "--json"))["run"] == newest
    by_option, by_argument = three("info", "--run", "a"), three("info", "a")
    assert by_option.code == 0 and by_option.out == by_argument.out
    refused(three("info", "a", "--run", "b"), 2, "a", "--run b")


def test_runs_as_data_are_one_object_a_line_the_newest_first(three: Charlm) -> None:
    listed = rows(three("runs", "--json"))
    assert sorted(row["run"] for row in listed) == ["a", "b", "c"]
    for row in listed:
        assert set(row) == RUN_KEYS and row["schema"] == 1
        whole = data(three("info", row["run"], "--json"))
        assert row == {key: whole[key] for key in row}
    made = [row["created"] for row in listed]
    assert made == sorted(made, reverse=True)
    shown = three("runs")
    lines = [line.split() for line in shown.out.splitlines()]
    assert shown.code == 0 and {"a", "b", "c"} == {line[0] for line in lines[1:]}
    assert "both" in shown.err + shown.out, "comparisons are named beside them"


def test_where_no_runs_are(charlm: Charlm) -> None:
    result = charlm("runs")
    assert (result.code, result.out) == (0, "") and "charlm train" in result.err
    assert charlm("runs", "--json").out == "" and not Path("checkpoints").exists()
    refused(charlm("info"), 4, "charlm train")


def test_runs_live_where_they_are_said_to(three: Charlm) -> None:
    Path("checkpoints").rename("elsewhere")
    assert rows(three("runs", "--json")) == []
    by_option = rows(three("runs", "--json", "--checkpoints", "elsewhere"))
    by_variable = rows(three("runs", "--json", env={"CHARLM_CHECKPOINTS": "elsewhere"}))
    assert by_option == by_variable and len(by_option) == 3
    assert Path(by_option[0]["path"]).parent == Path("elsewhere")


def test_a_damaged_run_is_listed_with_its_problem(three: Charlm) -> None:
    Path("checkpoints/b/run.json").write_text("{")
    result = three("runs", "--json")
    by_name = {row["run"]: row for row in rows(result)}
    assert by_name["b"]["problem"] and by_name["a"]["problem"] is None
    assert three("runs").code == 0 and "b" in three("runs").out
    refused(three("info", "b"), 4)


def test_what_names_no_run_is_refused_with_those_there_are(three: Charlm) -> None:
    refused(three("info", "geese"), 4, "geese", "a", "b", "c")
    refused(three("info", "checkpoints/A"), 4)
    refused(three("info", "both"), 4, "both", "comparison")


def test_runs_are_removed_with_yes_and_what_it_frees_is_said(three: Charlm) -> None:
    size = sum(map(len, files_below("checkpoints/a").values()))
    refused(three("runs", "--remove", "a", "b"), 2, "--yes", "a", "b")
    assert there() == ["a", "b", "both", "c"]
    found = data(three("runs", "--remove", "a", "--yes", "--json"))
    assert found == {"schema": 1, "removed": ["a"], "freed_bytes": pytest.approx(size, abs=99)}
    assert there() == ["b", "both", "c"]
    result = three("runs", "b", "c", "b", "--remove", "-y")
    assert result.code == 0 and re.search(r"\bb\b.*\bc\b", result.err) and there() == ["both"]


def test_a_comparison_is_removed_whole_or_not_at_all(three: Charlm) -> None:
    name = "position-none.seed-1"
    inside = three("runs", "--checkpoints", "checkpoints/both", "--remove", name, "--yes")
    refused(inside, 2, name, "both")
    refused(three("runs", "--remove", "both"), 2, "--yes", "both")
    assert len(rows(three("runs", "--checkpoints", "checkpoints/both", "--json"))) == 2
    found = data(three("runs", "--remove", "both", "--yes", "--json"))
    assert found["removed"] == ["both"] and there() == ["a", "b", "c"]


@NEEDS_POSIX
def test_an_open_run_stays_and_so_do_all_that_were_named(three: Charlm) -> None:
    """One that another process trains, alone or in a comparison, is neither removed nor trained twice."""
    from tests.commands import Child, Command  # which need POSIX

    endless = ("--json", "--steps", "100000", "--patience", "0", "--compile", "off", *TOY)
    with Child(Command(("train", "ducks.txt", "--run", "open", *endless), Path.cwd())) as trained:
        assert any(b'"stepped"' in row for row in trained.out)  # the rest waits for a reader
        refused(three("runs", "--remove", "a", "open", "--yes"), 4, "open")
        refused(three("resume", "open", "--steps", "1"), 4, "open")
        assert {"a", "open"} <= set(there())
        states = {row["run"]: row["state"] for row in rows(three("runs", "--json"))}
        assert states["open"] != "finished" and states["a"] == "finished"
        trained.signal(signal.SIGTERM)
        assert trained.end().code == 143
    assert three("runs", "--remove", "open", "--yes").code == 0 and there() == ["a", "b", "both", "c"]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        *(("../out", 2), ("..", 2), (".", 2), ("", 2), ("a/step-00000004", 2), ("empty", 2)),
        *(("nope", 4), ("file", 4), pytest.param("link", 2, marks=NEEDS_POSIX)),
    ],
)
def test_nothing_but_runs_is_removed(three: Charlm, name: str, code: int) -> None:
    Path("checkpoints/empty").mkdir()
    Path("checkpoints/file").write_text("")
    shutil.copytree("checkpoints/b", "out")
    if os.name != "nt":
        os.symlink(Path("out").absolute(), "checkpoints/link")
    before = there()
    refused(three("runs", "--remove", "a", name, "--yes"), code)
    assert there() == before and Path("out/run.json").exists()


@NEEDS_POSIX
def test_a_link_within_a_run_is_removed_and_not_followed(three: Charlm) -> None:
    Path("out").mkdir()
    Path("out/kept").write_text("kept")
    os.symlink(Path("out").absolute(), "checkpoints/a/link")
    assert three("runs", "--remove", "a", "--yes").code == 0
    assert Path("out/kept").read_text() == "kept" and "a" not in there()


def test_names_and_yes_do_nothing_without_remove(three: Charlm) -> None:
    for words in (("a",), ("--yes",)):
        refused(three("runs", *words), 2, "--remove")
    refused(three("runs", "--remove", "--yes"), 2, "--remove")
    assert there() == ["a", "b", "both", "c"]
