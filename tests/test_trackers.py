"""Trackers get what a training does, once; and whatever they do, the training goes on."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from importlib.util import find_spec
from math import log
from pathlib import Path
from time import sleep
from typing import Any

import pytest
from filelock import FileLock

import charlm as api
from charlm.reporting import trackers
from charlm.reporting.trackers import process
from charlm.reporting.trackers.messages import BackTo, Begin, End, Numbers
from charlm.reporting.trackers.worker import Deliveries
from tests.cli.kept import TOY, refused, rows
from tests.cli.kept import process as started
from tests.conftest import TEXT, Result

Charlm = Callable[..., Result]
TRAIN = (
    "train",
    "ducks.txt",
    *TOY,
    "--no-prior",
    "--ngram-embeddings",
    "2",
    "--eval-every",
    "4",
    "--run",
    "poems",
)
STEPS = 12


@pytest.fixture
def wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for wandb; the file of the calls that it gets."""
    package = tmp_path / "packages" / "wandb"
    package.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("fake_wandb.py"), package / "__init__.py")
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("FAKE_CALLS", str(tmp_path / "calls.jsonl"))
    for name in ("WANDB_PROJECT", "WANDB_NAME", "FAKE_TROUBLE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "calls.jsonl"


def calls(file: Path, call: str) -> list[Any]:
    found = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [row for row in found if row["call"] == call]


def delivered(run: str, *names: str) -> None:
    """Wait until what a training has left behind is delivered."""
    for name in names:
        with FileLock(Path("checkpoints", run, "trackers", f"{name}.lock"), timeout=60):
            pass


def logged(run: str, event: str) -> list[dict[str, Any]]:
    """The events of a kind that the run's own log has."""
    lines = Path("checkpoints", run, "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["event"] == event]


class Board:
    """What TensorBoard's own reader finds in a run's folder."""

    def __init__(self, folder: Path) -> None:
        pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        self._read = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
        self._read.Reload()
        self.names = self._read.Tags()["scalars"]

    def curve(self, name: str) -> dict[int, float]:
        """Step to value; each step is there once."""
        found = [(event.step, event.value) for event in self._read.Scalars(name)]
        assert len(dict(found)) == len(found), f"{name} has steps twice"
        return dict(found)

    def texts(self, name: str) -> list[str]:
        return [event.tensor_proto.string_val[0].decode() for event in self._read.Tensors(name)]

    def hyperparameters(self) -> dict[str, Any]:
        from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

        content = self._read.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        values = HParamsPluginData.FromString(content).session_start_info.hparams
        return {name: getattr(value, value.WhichOneof("kind")) for name, value in values.items()}


def near(values: list[float]) -> Any:
    return pytest.approx(values, rel=1e-5)  # TensorBoard keeps 32 bits


def test_tensorboard_reads_back_what_the_run_s_own_log_has(charlm: Charlm) -> None:
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    trained = charlm(*TRAIN, "--steps", str(STEPS), "--report-to", "tensorboard")
    assert trained.code == 0, trained.err
    assert trained.err.count("reporting to tensorboard: tensorboard --logdir") == 1
    assert "nothing more is reported" not in trained.err
    folder = Path("checkpoints", "poems")
    board, steps, evaluations = Board(folder), logged("poems", "Stepped"), logged("poems", "Evaluated")
    facts = json.loads((folder / "run.json").read_text())["corpus"]
    assert facts["train_chars"] == board.hyperparameters()["text/train_chars"]
    per_char = 1.0  # every character of this text is a symbol
    for name, values in {
        "train/nats_per_char": [row["loss"] * per_char for row in steps],
        "train/bits_per_char": [row["loss"] * per_char / log(2) for row in steps],
        "train/learning_rate": [row["learning_rate"] for row in steps],
        "train/grad_norm": [row["grad_norm"] for row in steps],
        "train/chars_per_second": [16 * 4 / row["seconds"] for row in steps],
    }.items():
        assert list(board.curve(name)) == list(range(1, STEPS + 1))
        assert list(board.curve(name).values()) == near(values), name
    for name, values in {
        "held_out/nats_per_char": [row["nats_per_char"] for row in evaluations],
        "held_out/bits_per_char": [row["nats_per_char"] / log(2) for row in evaluations],
        "held_out/standard_error_nats_per_char": [row["standard_error"] for row in evaluations],
    }.items():
        assert list(board.curve(name)) == [row["step"] for row in evaluations] == [4, 8, 12]
        assert list(board.curve(name).values()) == near(values), name
    assert board.curve("final/bits_per_char")[STEPS] == board.curve("held_out/bits_per_char")[STEPS]
    assert {"train/muon_learning_rate", "train/ngram_embedding_learning_rate"} <= set(board.names)
    samples = [json.loads(line)["text"] for line in (folder / "samples.jsonl").read_text().splitlines()]
    shown = board.texts("sample") + board.texts("final/sample")
    assert [text.replace("    ", "", 1).strip("\n") for text in shown] == [
        text.rstrip("\n") for text in samples
    ]
    assert {"n_layer": 1, "n_embd": 16, "mixer": "attention"}.items() <= board.hyperparameters().items()
    assert str((folder / "report.html").absolute()) in board.texts("report")[0]


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_run_that_was_killed_continues_its_curves_without_doubled_steps(
    charlm: Charlm, wandb: Path
) -> None:
    """It goes back to the save of an evaluation, and takes steps that it has reported again."""
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    words = (*TRAIN, "--steps", "1200", "--eval-every", "200", "--report-to", "tensorboard,wandb", "--json")
    from tests.commands import Child, Command  # which need POSIX

    states = [Path("checkpoints/poems/trackers", f"{name}.json") for name in ("tensorboard", "wandb")]
    with Child(Command(words, Path.cwd())) as training:
        while json.loads(training.out.readline()).get("step", 0) < 250:
            pass
        while not all(state.exists() for state in states):
            sleep(0.05)  # meanwhile it waits for a reader, after some 500 steps
    delivered("poems", "tensorboard", "wandb")
    assert [row["exit_code"] for row in calls(wandb, "finish")] == [1]
    reported = max(row["step"] for row in calls(wandb, "log"))
    resumed = charlm("resume", "poems")
    assert resumed.code == 0, resumed.err
    first = int(resumed.err.split("training from step ")[1].split()[0])
    assert first < reported < 1200, "else nothing comes again"
    steps, evaluations = list(range(1, 1201)), list(range(200, 1201, 200))
    board, own = (
        Board(Path("checkpoints", "poems")),
        [row["loss"] / log(2) for row in logged("poems", "Stepped")],
    )
    assert list(board.curve("train/bits_per_char")) == steps
    assert list(board.curve("train/bits_per_char").values()) == near(own)
    assert list(board.curve("held_out/bits_per_char")) == evaluations
    for name in board.names:
        assert board.curve(name)
    seen: dict[str, list[int]] = {}
    for row in calls(wandb, "log"):
        for name in row["values"]:
            seen.setdefault(name, []).append(row["step"])
    assert seen["train/bits_per_char"] == steps
    assert seen["held_out/bits_per_char"] == evaluations and seen["sample"] == evaluations[:-1]
    order = [row["step"] for row in calls(wandb, "log")]
    assert order == sorted(order), "wandb ignores a step that is lower than the one before"
    assert [row["id"] for row in calls(wandb, "init")] == ["made-up"] * 2, "the same run goes on"


def test_wandb_gets_settings_samples_and_the_report(charlm: Charlm, wandb: Path) -> None:
    trained = charlm(*TRAIN, "--steps", str(STEPS), "--report-to", "wandb", "--json")
    assert trained.code == 0, trained.err
    assert rows(trained)[-1]["type"] == "result", "what a tracker prints is no result"
    assert "what wandb prints" not in trained.out + trained.err
    assert "wandb sync" in trained.err
    (begun,) = calls(wandb, "init")
    assert (begun["project"], begun["name"], begun["resume"], begun["silent"]) == (
        "charlm",
        "poems",
        "allow",
        True,
    )
    assert {"n_layer": 1, "n_embd": 16}.items() <= begun["config"].items()
    assert [row["step"] for row in calls(wandb, "log") if "sample" in row["values"]] == [4, 8]
    (report,) = calls(wandb, "artifact")
    assert report["html"] and report["type"] == "report"
    assert calls(wandb, "finish") == [{"call": "finish", "exit_code": 0}]


@pytest.mark.parametrize("trouble", ["init", "log", "exit", "hang"])
def test_a_tracker_that_fails_or_hangs_is_said_once_and_ends_no_training(
    charlm: Charlm, wandb: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setenv("FAKE_TROUBLE", trouble)
    if trouble == "hang":
        monkeypatch.setattr(process, "LAST_PATIENCE", 1.0)
    trained = charlm(*TRAIN, "--steps", str(STEPS), "--report-to", "wandb")
    assert trained.code == 0, trained.err
    assert len(logged("poems", "Stepped")) == STEPS and "report.html" in trained.out
    said = {
        "init": "RuntimeError: no connection",
        "log": "RuntimeError",
        "exit": "code 9",
        "hang": "not answered",
    }
    (line,) = [line for line in trained.err.splitlines() if "nothing more is reported" in line]
    assert line.startswith("note: wandb: ") and said[trouble] in line


def test_a_tracker_that_hangs_during_the_training_is_given_up_on_before_its_end(
    charlm: Charlm, wandb: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_TROUBLE", "hang")
    monkeypatch.setattr(process, "PATIENCE", 0.0)
    trained = charlm(*TRAIN, "--steps", str(STEPS), "--report-to", "wandb")
    assert trained.code == 0 and trained.err.count("has not answered for 0 seconds") == 1
    assert trained.err.index("has not answered") < trained.err.index("step 12: ")


@pytest.mark.skipif(os.name == "nt", reason="needs SIGINT")
def test_ctrl_c_waits_for_no_tracker_that_hangs(charlm: Charlm, wandb: Path) -> None:
    from tests.commands import Child, Command  # which need POSIX

    words = (*TRAIN, "--steps", "100000", "--patience", "0", "--report-to", "wandb", "--json")
    with Child(Command(words, Path.cwd(), {"FAKE_TROUBLE": "hang"})) as training:
        assert any(json.loads(line)["type"] == "evaluated" for line in training.out)
        training.signal(signal.SIGINT)
        done = training.end()
    assert done.code == 130 and "stopped by SIGINT" in done.err
    assert "not answered" not in done.err, "it was not given up on, but left"


def deliveries(name: str, folder: Path, step: int = 0) -> Deliveries:
    begin = Begin(run="poems", folder=str(folder), step=step, settings={"n_layer": 1})
    return Deliveries(name, begin)


def figures(steps: range, value: float) -> list[Any]:
    return [Numbers(step=step, time=1.0, values={"loss": value}) for step in steps]


def test_steps_that_come_again_replace_those_before_where_a_tracker_can_forget(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    reported = deliveries("tensorboard", tmp_path)
    reported.deliver([*figures(range(1, 11), 1.0), BackTo(step=5), *figures(range(6, 9), 2.0)])
    reported.deliver([End(status="stopped", report=None)])
    assert Board(tmp_path).curve("loss") == {step: 1.0 if step < 6 else 2.0 for step in range(1, 9)}


def test_steps_that_come_again_are_left_out_where_a_tracker_cannot_forget(
    tmp_path: Path, wandb: Path
) -> None:
    reported = deliveries("wandb", tmp_path)
    reported.deliver([*figures(range(1, 11), 1.0), BackTo(step=5), *figures(range(6, 13), 2.0)])
    again = deliveries("wandb", tmp_path, step=8)
    again.deliver(figures(range(9, 15), 3.0))
    for module in ("wandb", "charlm.reporting.trackers.wandb"):
        del sys.modules[module]
    found = [(row["step"], row["values"]["loss"]) for row in calls(wandb, "log")]
    assert found == [*((s, 1.0) for s in range(1, 11)), (11, 2.0), (12, 2.0), (13, 3.0), (14, 3.0)]


def test_a_mixture_and_counts_alone_are_reported_too(charlm: Charlm) -> None:
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    kinds = (
        "--members",
        "prior,no-prior,ngram",
        "--reserved-chars",
        "200",
        "--prior-order",
        "2",
        "--compile",
        "off",
    )
    mixed = charlm(
        "train", "ducks.txt", *TOY, *kinds, "--steps", "8", "--run", "mixed", "--report-to", "tensorboard"
    )
    assert mixed.code == 0, mixed.err
    board = Board(Path("checkpoints", "mixed"))
    assert set(board.curve("train/member").values()) == {1.0, 2.0}
    weights = [board.curve(name)[8] for name in board.names if name.startswith("calibration/weight_")]
    assert len(weights) == 3 and sum(weights) == pytest.approx(1.0, abs=1e-5)
    assert "member 2/n_layer" in board.texts("settings")[-1]
    counted = charlm(
        "train", "ducks.txt", "--model", "ngram", "--run", "counted", "--report-to", "tensorboard"
    )
    assert counted.code == 0, counted.err
    board = Board(Path("checkpoints", "counted"))
    assert len(board.curve("final/bits_per_char")) == 1 and board.hyperparameters()["model"] == "ngram"


@pytest.mark.parametrize("name", trackers.TRACKERS)
def test_a_missing_extra_gets_one_sentence_with_the_command_that_installs_it(
    charlm: Charlm, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda package: None)
    refused(charlm(*TRAIN, "--report-to", name), 2, f'pip install "charlm-cli[{name}]"')
    assert not Path("checkpoints").exists(), "it is refused before anything is read or written"
    with pytest.raises(api.UsageError, match="pip install"):
        api.train("ducks.txt", steps=1, report_to=[name])


def test_a_folder_of_a_package_s_name_is_no_package(charlm: Charlm) -> None:
    """wandb keeps its offline runs in a folder `wandb` where the command is run."""
    if find_spec("wandb") is not None:
        pytest.skip("wandb is installed")
    Path("wandb").mkdir()
    done = started(
        *TRAIN, "--report-to", "wandb", env={"PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    )
    _, err = done.communicate()
    assert done.returncode == 2 and b"not installed" in err


def test_what_is_no_choice_of_trackers_is_refused(charlm: Charlm, wandb: Path) -> None:
    refused(charlm(*TRAIN, "--report-to", "tensorbord"), 2, "tensorbord", "did you mean tensorboard")
    refused(charlm(*TRAIN, "--report-to", "wandb,wandb"), 2, "twice")
    refused(charlm(*TRAIN, "--report-to", "wandb,none"), 2, "none alone")
    refused(charlm(*TRAIN, "--report-to", ""), 2, "--report-to '' is unknown")


def test_a_resumed_run_goes_on_with_its_trackers_or_with_others(
    charlm: Charlm, wandb: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = (*TRAIN, "--steps", "4", "--report-to", "wandb")
    assert charlm(*train).code == 0
    assert charlm("resume", "poems", "--steps", "2").code == 0
    assert [row["id"] for row in calls(wandb, "init")] == ["made-up"] * 2
    with monkeypatch.context() as patch:
        patch.setattr(trackers, "find_spec", lambda package: None)
        elsewhere = charlm("resume", "poems", "--steps", "2")
        assert elsewhere.code == 0 and elsewhere.err.count('pip install "charlm-cli[wandb]"') == 1
    assert charlm("resume", "poems", "--steps", "2", "--report-to", "none").code == 0
    assert charlm("resume", "poems", "--steps", "2").code == 0
    assert len(calls(wandb, "init")) == 2
    Path("checkpoints/poems/trackers/chosen.json").write_text('{"trackers": ["os"]}')
    damaged = charlm("resume", "poems", "--steps", "2")
    assert damaged.code == 0 and damaged.err.count("chosen.json") == 1


def test_the_python_interface_reports_too(elsewhere: Path, wandb: Path) -> None:
    Path("ducks.txt").write_text(TEXT)
    toy = {
        "n_layer": 1,
        "n_embd": 16,
        "n_head": 2,
        "block_size": 16,
        "batch_size": 4,
        "threads": 1,
        "prior": False,
    }
    api.train("ducks.txt", steps=2, run="poems", report_to=["wandb"], **toy)
    assert [row["step"] for row in calls(wandb, "log") if "train/grad_norm" in row["values"]] == [1, 2]
    for event in api.train_events("ducks.txt", steps=9, run="left", report_to="wandb", **toy):
        if type(event).__name__ == "Stepped":
            break
    assert [row["exit_code"] for row in calls(wandb, "finish")] == [0, 1]
    delivered("left", "wandb")
    api.resume("left")
    assert [row["exit_code"] for row in calls(wandb, "finish")] == [0, 1, 0]
