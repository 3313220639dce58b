"""The trackers themselves, where they are installed, read back from their local or offline stores; nothing is sent."""

import json
import os
import struct
from collections.abc import Iterator
from math import log
from pathlib import Path
from typing import Any

import pytest

from tests.cli.kept import TOY
from tests.test_trackers import Charlm, logged, near

TRAIN = ("train", "ducks.txt", *TOY, "--no-prior", "--eval-every", "4", "--steps", "6", "--run", "poems")
STEPS = list(range(1, 11))
Curves = dict[str, list[tuple[int, float]]]


@pytest.fixture(autouse=True)
def _kept_here(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that a tracker keeps is kept below here."""
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "WANDB_", "TRACKIO_", "HF_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(elsewhere / "home"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(elsewhere / "trackio"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def train_and_resume(charlm: Charlm, tracker: str) -> None:
    """Six steps, and four more in another process of the tracker."""
    pytest.importorskip(tracker, reason=f"the extra `{tracker}` is not installed")
    for words in ((*TRAIN, "--report-to", tracker), ("resume", "poems", "--steps", "4")):
        done = charlm(*words)
        assert done.code == 0 and "nothing more is reported" not in done.err, done.err
        assert f"reporting to {tracker}: " in done.err


def check(curves: Curves, settings: dict[str, Any]) -> None:
    """Each step is there once, with the figures of the run's own log."""
    losses = [row["loss"] / log(2) for row in logged("poems", "Stepped")]
    assert [step for step, _ in curves["train/bits_per_char"]] == STEPS
    assert [value for _, value in curves["train/bits_per_char"]] == near(losses)
    evaluated = [(row["step"], row["nats_per_char"]) for row in logged("poems", "Evaluated")]
    assert [step for step, _ in curves["held_out/nats_per_char"]] == [step for step, _ in evaluated]
    assert [value for _, value in curves["held_out/nats_per_char"]] == near([value for _, value in evaluated])
    names = {"train/learning_rate", "train/grad_norm", "train/chars_per_second", "final/bits_per_char"}
    assert names | {"held_out/standard_error_bits_per_char"} <= set(curves)
    assert str(settings["n_layer"]) == "1" and str(settings["optimizer"]) == "muon"


def samples() -> dict[int, str]:
    rows = [json.loads(line) for line in Path("checkpoints/poems/samples.jsonl").read_text().splitlines()]
    return {row["step"]: row["text"] for row in rows}


def records(file: Path) -> Iterator[bytes]:
    """The records of wandb's file: seven bytes of its own, then LevelDB's log format."""
    data, at, record = file.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def test_wandb(charlm: Charlm) -> None:
    train_and_resume(charlm, "wandb")
    from wandb.proto import wandb_internal_pb2 as proto

    curves, settings, ids, kinds = Curves(), dict[str, Any](), set[str](), list[str]()
    for file in sorted(Path("wandb").glob("offline-run-*/*.wandb")):
        for data in records(file):
            record = proto.Record.FromString(data)
            kinds.append(record.WhichOneof("record_type"))
            if kinds[-1] == "run":
                ids.add(record.run.run_id)
                settings |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
                assert (record.run.project, record.run.display_name) == ("charlm", "poems")
            elif kinds[-1] == "history":
                row = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
                for name, value in row.items():
                    curves.setdefault(name, []).append((record.history.step.num, value))
    assert len(ids) == 1 and {"artifact", "exit"} <= set(kinds)
    check(curves, settings)
    assert [step for step, _ in curves["sample/path"]] == [4, 8]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of SQLAlchemy, about mlflow
def test_mlflow(charlm: Charlm) -> None:
    train_and_resume(charlm, "mlflow")
    import mlflow

    client = mlflow.MlflowClient("sqlite:///mlflow.db")
    experiment = client.get_experiment_by_name("charlm")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("poems", "FINISHED")
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
    check({name: [(m.step, m.value) for m in found] for name, found in histories.items()}, run.data.params)
    kept = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert {"report.html", "sample"} <= kept
    text = mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/sample/step-00000004.txt")
    assert text == samples()[4]


def test_trackio(charlm: Charlm) -> None:
    train_and_resume(charlm, "trackio")
    import sqlite3

    (base,) = Path("trackio").glob("charlm*.db")
    with sqlite3.connect(base) as database:
        found = database.execute("select step, metrics, run_id from metrics order by id").fetchall()
        configs = [json.loads(row[0]) for row in database.execute("select config from configs")]
    database.close()
    curves = Curves()
    for step, metrics, _ in found:
        for name, value in json.loads(metrics).items():
            curves.setdefault(name, []).append((step, value))
    assert len({run for *_, run in found}) == 1
    check(curves, configs[0])
    assert [step for step, _ in curves["sample"]] == [4, 8]
    assert samples()[4].split()[0] in str(curves["sample"][0][1])
    assert list(Path("trackio").rglob("blobs/**/*"))
