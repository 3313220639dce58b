"""`charlm doctor` on the machine and on damaged runs, and `charlm explain`, every topic of it."""

import re
import shutil
from pathlib import Path

import pytest

from tests.cli.kept import TEXT, TOY, Charlm, bring, data, files_below, refused, rows

OF_CHECKPOINT = (
    *("MANIFEST.json", "model.safetensors", "train_state.safetensors", "config.json", "state.json"),
)
OF_RUN = ("run.json", "vocabulary.json")
TOPICS = (
    *("perplexity", "calibration", "softmax", "embedding"),
    *("sequence", "causal", "autoregressive", "recurrent", "convolution", "simple-attention", "equivariance"),
    *("attention", "window", "locality", "documents", "learned", "sinusoidal", "relative", "rotary", "alibi"),
    *("none", "block", "kneser-ney", "ngram-prior", "ngram-embeddings", "muon"),
)


@pytest.fixture
def saved(charlm: Charlm, tmp_path_factory: pytest.TempPathFactory) -> Charlm:
    """The command, beside the run `toy` with checkpoints of the steps 3 and 6."""
    often = ("--steps", "6", "--save-every", "0", "--eval-every", "3")
    bring(charlm, tmp_path_factory, ("train", "ducks.txt", "--run", "toy", *often, *TOY))
    return charlm


def test_the_machine_as_data_and_as_a_table(charlm: Charlm) -> None:
    found = data(charlm("doctor", "--json"))
    assert found["schema"] == 1 and found["threads"] > 0 and found["cpus"]["machine"] > 0
    for key in ("charlm", "python", "system", "torch", "device"):
        assert isinstance(found[key], str) and found[key]
    assert isinstance(found["bf16"], bool)
    assert {place["what"] for place in found["places"]} == {"checkpoints", "cache"}
    for place in found["places"]:
        assert place["problem"] is None and place["free_bytes"] > 0 and place["path"]
    assert {"n-gram rows", "sampling"} <= {part["purpose"] for part in found["kernels"]}
    for part in found["kernels"]:  # where there is no compiler, that is said and no error
        assert set(part) == {"purpose", "clone", "instead", "reason"} and (part["clone"] or part["reason"])
    assert set(found["terminal"]) == {"encoding", "is_terminal", "colour", "shows_all"}
    shown = charlm("doctor")
    assert shown.code == 0
    for key in ("torch", "python", "charlm", "device"):
        assert found[key] in shown.out
    assert not list(Path().iterdir()), "what it wrote to try the folders is gone"


def test_a_place_that_cannot_be_written_has_its_code(charlm: Charlm) -> None:
    Path("file").write_text("")
    for words, env, what in (
        (("--checkpoints", "file/below"), {}, "checkpoints"),
        ((), {"CHARLM_CACHE": str(Path("file").absolute())}, "cache"),
    ):
        found = data(charlm("doctor", "--json", *words, env=env), 6)
        problems = {place["what"]: place["problem"] for place in found["places"]}
        assert [name for name, problem in problems.items() if problem] == [what]


def test_a_whole_run_is_whole_and_examining_it_writes_nothing(saved: Charlm) -> None:
    before = files_below("checkpoints")
    found = data(saved("doctor", "toy", "--json"))
    assert set(found) == {"schema", "run", "healthy", "resumes_from", "usable", "problems", "files"}
    assert (found["schema"], found["run"], found["healthy"], found["problems"]) == (1, "toy", True, [])
    assert found["resumes_from"] == 6 and found["usable"] == sorted(found["usable"])
    assert {file["name"] for file in found["files"]} == {*OF_CHECKPOINT, *OF_RUN}
    assert {file["step"] for file in found["files"]} == set(found["usable"])
    assert all(file["problem"] is None for file in found["files"])
    assert "step 6" in saved("doctor", "toy").out
    assert saved("doctor", "--run", "toy").out == saved("doctor", "toy").out
    assert files_below("checkpoints") == before


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
@pytest.mark.parametrize("name", OF_CHECKPOINT)
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_gone_on_from(
    saved: Charlm, name: str, damage: str
) -> None:
    before = data(saved("doctor", "toy", "--json"))["usable"][-2]
    path = Path("checkpoints/toy/step-00000006") / name
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[:-2])
    elif damage == "changed":
        path.write_bytes(content[:-1] + b"\x7f")
    else:
        path.unlink()
    found = data(saved("doctor", "toy", "--json"), 4)
    assert not found["healthy"] and found["resumes_from"] == before
    named = {(file["step"], file["name"]) for file in found["files"] if file["problem"]}
    assert (6, name) in named and {step for step, _ in named} == {6}
    shown = saved("doctor", "toy")
    assert shown.code == 4 and name in shown.out and f"step {before}" in shown.out
    if damage == "cut":  # it promises what resume does
        resumed = saved("resume", "toy", "--steps", "1")
        assert resumed.code == 0 and f"from step {before} " in resumed.err


@pytest.mark.parametrize("name", [*OF_RUN, "plan.json"])
def test_what_all_checkpoints_share_keeps_a_run_from_going_on(saved: Charlm, name: str) -> None:
    Path("checkpoints/toy", name).write_bytes(b"{}")
    found = data(saved("doctor", "toy", "--json"), 4)
    assert not found["healthy"] and found["resumes_from"] is None
    refused(saved("resume", "toy", "--steps", "1"), 4)


def test_what_a_crash_left_and_pointers_to_nothing_are_said(saved: Charlm) -> None:
    Path("checkpoints/toy/.tmp-step-00000007").mkdir()
    Path("checkpoints/toy/latest").write_text("step-00000099\n")
    found = data(saved("doctor", "toy", "--json"), 4)
    assert len(found["problems"]) == 2 and found["resumes_from"] == 6
    assert "latest" in " ".join(found["problems"])


def test_a_text_that_is_gone_or_another_is_said(saved: Charlm, tmp_path: Path) -> None:
    """Nowhere else is the text kept in this test, so the run cannot go on by itself."""
    own = {"CHARLM_CACHE": str(tmp_path / "cache")}
    Path("ducks.txt").write_text(TEXT)
    assert saved("train", "ducks.txt", "--run", "own", "--steps", "2", *TOY, env=own).code == 0
    shutil.rmtree("cache")
    Path("ducks.txt").write_text(TEXT[::-1])
    found = data(saved("doctor", "own", "--json", env=own), 4)
    assert found["resumes_from"] is None and len(found["problems"]) == 1
    assert "ducks.txt" in found["problems"][0]


def test_counts_are_examined_too(charlm: Charlm) -> None:
    Path("ducks.txt").write_text(TEXT * 2)
    made = charlm("train", "ducks.txt", "--run", "counted", "--model", "ngram", "--threads", "1")
    assert made.code == 0, made.err
    found = data(charlm("doctor", "counted", "--json"))
    (name,) = {file["name"] for file in found["files"]} - {*OF_CHECKPOINT, *OF_RUN}
    path = Path("checkpoints/counted", name)
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    found = data(charlm("doctor", "counted", "--json"), 4)
    assert found["resumes_from"] is None
    assert {file["name"] for file in found["files"] if file["problem"]} == {name}


def test_what_is_no_run_is_refused(saved: Charlm) -> None:
    for name in ("geese", "TOY"):
        refused(saved("doctor", name), 4, name, "toy")
    Path("checkpoints/never").mkdir()  # as a kill before the first save leaves it
    assert saved("doctor", "never").code == 4


def test_the_topics_as_data_and_as_a_table(charlm: Charlm) -> None:
    listed = rows(charlm("explain", "--json"))
    assert tuple(row["topic"] for row in listed) == TOPICS
    assert all(row["schema"] == 1 and row["text"] for row in listed)
    shown = charlm("explain")
    assert (shown.code, shown.err) == (0, "")
    assert tuple(line.split()[0] for line in shown.out.splitlines()[1:]) == TOPICS


@pytest.mark.parametrize("topic", TOPICS)
def test_a_topic_has_a_text_a_source_an_example_and_its_place_in_the_code(charlm: Charlm, topic: str) -> None:
    found = data(charlm("explain", topic, "--json"))
    assert set(found) == {"schema", "topic", "text", "example", "place", "command", "instead"}
    assert (found["schema"], found["topic"]) == (1, topic)
    assert re.search(r"\b(19|20)\d\d\b", found["text"]), "who found it, and when"
    example = found["example"]
    assert set(example) == {"says", "header", "rows"} and example["says"] and example["rows"]
    assert all(len(row) == len(example["header"]) for row in example["rows"])
    # The code is beside these tests, so the place can be looked up.
    path, line = re.fullmatch(r"(\S+\.py), line (\d+)", found["place"]).groups()  # type: ignore[union-attr]
    code = (Path(__file__).parents[2] / path).read_text("utf-8").splitlines()
    assert code[int(line) - 1].lstrip().startswith(("class ", "def ", "@"))
    assert (found["command"] is None) != (found["instead"] is None)
    if found["command"]:
        assert re.fullmatch(r"charlm compare \S+ (--plain )?--vary \w+=\S+,\S+", found["command"])
    shown = charlm("explain", topic)
    lines = shown.out.splitlines()
    assert (
        (shown.code, shown.err) == (0, "")
        and len(lines) <= 40
        and max(len(line) for line in lines if not line.startswith("compare")) <= 100
    )
    assert shown.out.startswith(found["text"]) and found["place"] in shown.out
    cells = {" ".join(line.split()) for line in lines}
    assert all(" ".join(" ".join(row).split()) in cells for row in example["rows"])


@pytest.mark.parametrize(
    ("given", "meant"), [("rotry", "rotary"), ("Causal", "causal"), ("rope", "rotary"), ("\x1b[2J", "causal")]
)
def test_an_unknown_topic_is_refused_with_those_there_are(charlm: Charlm, given: str, meant: str) -> None:
    result = charlm("explain", given)
    refused(result, 2, meant, *TOPICS)
    assert "\x1b" not in result.err
