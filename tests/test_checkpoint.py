"""Checkpoints: what is read is what was saved, or one clear error."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from charlm.checkpoint import safe_io
from charlm.checkpoint.run_folder import RunFolder, check_name, free_name
from charlm.checkpoint.safe_io import dump_tensors, load_tensors
from charlm.checkpoint.snapshot import read_snapshot
from charlm.data.corpus import Corpus
from charlm.errors import CheckpointError, UsageError
from charlm.strict_json import MAX_BYTES, dump_json, parse_json
from charlm.training.state import overview
from charlm.training.trainer import Trainer
from tests.conftest import Never, toy_run


@pytest.fixture
def run(tmp_path: Path, corpus: Corpus) -> RunFolder:
    folder, session = toy_run(tmp_path / "runs", corpus, 12)
    list(Trainer(session, folder).run(Never()))
    folder.unlock()
    return folder


def vouch_again(run: RunFolder, step: int) -> None:
    """Make the manifest fit what now lies there: so that what stands behind the hash is tried."""
    folder = run.folder(step)
    contents = {name: (folder / name).read_bytes() for name in safe_io.CHECKPOINT_FILES}
    shared = {name: (run.path / name).read_bytes() for name in safe_io.RUN_FILES}
    (folder / safe_io.MANIFEST).write_bytes(safe_io.make_manifest(contents, shared))


def test_a_flipped_bit_anywhere_is_caught(run: RunFolder) -> None:
    folder = run.folder(12)
    for name in (*safe_io.CHECKPOINT_FILES, *safe_io.RUN_FILES):
        path = (run.path if name in safe_io.RUN_FILES else folder) / name
        good = path.read_bytes()
        for place in (0, len(good) // 2, len(good) - 1):
            bad = bytearray(good)
            bad[place] ^= 4
            path.write_bytes(bad)
            with pytest.raises(CheckpointError, match="its hash differs"):
                read_snapshot(run, "latest", training=True)
        path.write_bytes(good)
    read_snapshot(run, "latest", training=True)


def edit(path: Path, change: Callable[[dict], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


HOSTILE: dict[str, Callable[[Path], object]] = {
    "a layer more than there is": lambda f: edit(f / "config.json", lambda d: d["model"].update(n_layer=2)),
    "a model too large": lambda f: edit(f / "config.json", lambda d: d["model"].update(n_embd=10**9)),
    "a model incomplete": lambda f: edit(f / "config.json", lambda d: d["model"].update(n_embd=None)),
    "a setting there is not": lambda f: edit(f / "config.json", lambda d: d["model"].update(evil=1)),
    "a number that is a text": lambda f: edit(f / "config.json", lambda d: d["training"].update(seed="1")),
    "a truth that is a number": lambda f: edit(f / "config.json", lambda d: d["model"].update(n_layer=True)),
    "another step": lambda f: edit(f / "state.json", lambda d: d.update(step=7)),
    "a list for an object": lambda f: (f / "state.json").write_text("[]"),
    "a key twice": lambda f: (f / "config.json").write_text('{"model": {}, "model": {}, "training": {}}'),
    "not a number": lambda f: (f / "state.json").write_text('{"step": NaN}'),
    "infinite by a detour": lambda f: (f / "state.json").write_text('{"step": 1e999}'),
    "a run that says nothing of its text": lambda f: edit(
        f.parent / "run.json", lambda d: d.update(corpus=3)
    ),
    "deep": lambda f: (f / "state.json").write_text("[" * 100_000),
    "no JSON": lambda f: (f / "config.json").write_bytes(b"\xff\x00"),
    "a vocabulary in another order": lambda f: edit(
        f.parent / "vocabulary.json", lambda d: d.update(chars=d["chars"][::-1])
    ),
    "a vocabulary too short": lambda f: edit(
        f.parent / "vocabulary.json", lambda d: (d.update(chars=d["chars"][:-1]), d["counts"].pop())
    ),
    "weights cut off": lambda f: (f / "model.safetensors").write_bytes(
        (f / "model.safetensors").read_bytes()[:-4]
    ),
    "weights without a header": lambda f: (f / "model.safetensors").write_bytes(b"\x00" * 4),
    "a header as long as the world": lambda f: (f / "model.safetensors").write_bytes(
        struct.pack("<Q", 2**62) + b"{}"
    ),
    "other tensors": lambda f: (f / "model.safetensors").write_bytes(dump_tensors({"x": torch.ones(3)})),
    "no tensors for training": lambda f: (f / "train_state.safetensors").write_bytes(dump_tensors({})),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_hostile_files_give_one_clear_error(run: RunFolder, how: str) -> None:
    HOSTILE[how](run.folder(12))
    vouch_again(run, 12)
    with pytest.raises(CheckpointError):
        read_snapshot(run, "latest", training=True)


def test_weights_of_another_shape_type_or_not_finite(run: RunFolder) -> None:
    good = read_snapshot(run, "latest").weights
    for change in (torch.Tensor.double, torch.Tensor.flatten, lambda w: w * float("nan")):
        weights = {name: change(w) if name == "embedding.weight" else w for name, w in good.items()}
        (run.folder(12) / "model.safetensors").write_bytes(dump_tensors(weights))
        vouch_again(run, 12)
        with pytest.raises(CheckpointError, match=r"embedding|needs"):
            read_snapshot(run, "latest")


@pytest.mark.skipif(os.name == "nt", reason="links and pipes")
def test_links_and_pipes_are_refused(run: RunFolder, tmp_path: Path) -> None:
    weights = run.folder(12) / "model.safetensors"
    elsewhere = tmp_path / "elsewhere"
    weights.rename(elsewhere)
    weights.symlink_to(elsewhere)
    with pytest.raises(CheckpointError, match="regular"):
        read_snapshot(run, "latest")
    weights.unlink()
    os.mkfifo(weights)
    with pytest.raises(CheckpointError, match="regular"):
        read_snapshot(run, "latest")


@pytest.mark.parametrize("pointer", ["../../etc", "step-00000012/../..", "", "step-x", "/"])
def test_pointers_stay_inside(run: RunFolder, pointer: str) -> None:
    (run.path / "latest").write_text(pointer)
    with pytest.raises(CheckpointError, match="names no checkpoint"):
        read_snapshot(run, "latest")


def test_a_reader_whose_folder_is_pruned_follows_the_pointer_again(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = iter([99, 12])
    monkeypatch.setattr(RunFolder, "resolve", lambda self, which: next(steps))
    assert read_snapshot(run, "latest").step == 12


def test_the_last_two_and_the_best_are_kept(tmp_path: Path, corpus: Corpus) -> None:
    folder, session = toy_run(tmp_path, corpus, 30, eval_every=10, save_every=0.0, patience=0)
    session.state.early_stopping.update(0, [-1.0])  # nothing that follows will be better
    list(Trainer(session, folder).run(Never()))
    assert folder.steps()[-2:] == [29, 30]
    assert set(folder.steps()) <= {folder.pointed("best"), 29, 30}


def test_serialising_is_deterministic_and_comes_back() -> None:
    weights = {"b": torch.randn(3, 4), "a": torch.randn(2, dtype=torch.float64)}
    data = dump_tensors(weights)
    assert data == dump_tensors(dict(reversed(weights.items())))
    back = load_tensors(data, weights, "x")
    assert all(torch.equal(back[name], weights[name]) for name in weights)


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "..", "a\nb", "a" * 101, "-x", "\x1b[31m"])
def test_names_a_run_cannot_have(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be named"):
        check_name(name)


def test_free_names_are_free(tmp_path: Path) -> None:
    assert free_name(tmp_path, "my poems!") == "my-poems"
    (tmp_path / "my-poems").mkdir()
    assert free_name(tmp_path, "my poems!") == "my-poems-2"
    assert free_name(tmp_path, "\x1b") == "run"
    check_name(free_name(tmp_path, "日本語"))


def test_an_overview_says_what_is_wrong_instead_of_failing(run: RunFolder) -> None:
    assert overview(run)["problem"] is None
    (run.folder(12) / "state.json").write_text("{}")
    assert "its hash differs" in overview(run)["problem"]


def test_strict_json() -> None:
    assert parse_json(dump_json({"a": [1, 2.5, None]}), "x") == {"a": [1, 2.5, None]}
    with pytest.raises(CheckpointError, match="limit"):
        parse_json(b" " * (MAX_BYTES + 1), "x")
