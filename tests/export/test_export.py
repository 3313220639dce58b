"""`charlm export`: what it writes and refuses, and `charlm train --from` on what it wrote."""

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import charlm as api
from charlm import files
from charlm.checkpoint.exported import read_exported
from charlm.evaluation.score import score_text
from charlm.export.decoder import plain_decoder
from charlm.export.gguf import write_gguf
from charlm.inference.members import predictor_of
from tests.cli.conftest import Charlm, charlm
from tests.cli.models import TEXT, UNSEEN, Models

for extra in ("gguf", "tokenizers"):
    pytest.importorskip(extra, reason=f"needs {extra}")
__all__ = ["charlm"]
TINY = ("--n-layer", "1", "--n-embd", "16", "--n-head", "2", "--block-size", "16", "--batch-size", "4")


@pytest.fixture
def models(charlm: Charlm, tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Runs of every kind."""
    return Models(charlm, tmp_path_factory)


@pytest.fixture
def folder(models: Models) -> Path:
    """The run `plain`, exported for transformers."""
    made = models("plain", "export", "--to", "hf", "-o", "out")
    assert made.code == 0, made.err
    return Path("out")


def test_it_says_what_it_wrote_and_where(models: Models) -> None:
    made = models("plain", "export", "--to", "gguf")
    assert (made.code, made.out) == (0, "")
    assert "written: plain-gguf: Modelfile, plain.gguf; 0.1 MB" in made.err


def test_nothing_is_overwritten(models: Models) -> None:
    Path("kept").mkdir()
    made = models("plain", "export", "--to", "gguf", "-o", "kept")
    assert made.code == 0, "an empty folder is nothing"
    before = {path: path.read_bytes() for path in Path("kept").iterdir()}
    again = models("plain", "export", "--to", "hf", "-o", "kept")
    assert again.code == 2 and "-o kept exists already; give another name, or remove it" in again.err
    assert {path: path.read_bytes() for path in Path("kept").iterdir()} == before


def test_files_are_named_by_the_folder_of_the_run(models: Models) -> None:
    """What run.json says is no place to write to."""
    run = api.load("plain", checkpoints=models.root("plain"))
    run.snapshot.run = replace(run.snapshot.run, name="../../elsewhere")
    with files.building(Path("out")) as folder:
        write_gguf(plain_decoder(run), folder)
    assert sorted(path.name for path in Path("out").iterdir()) == ["Modelfile", "plain.gguf"]


def test_what_cannot_be_written_leaves_nothing(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    models.root("plain")

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    for error, code in ((full, 6), (_interrupt, 130)):
        with monkeypatch.context() as patch:
            patch.setattr(files, "write_synced", error)
            made = models("plain", "export", "--to", "gguf")
        assert made.code == code, made.err
        assert [path.name for path in Path.cwd().iterdir()] == []


def _interrupt(path: Path, data: bytes) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--to is missing; give one of hf, gguf, onnx"),
        (("--to", "tensorflow"), "allowed: hf, gguf, onnx"),
        (("--to", "hf", "--dtype", "f16"), "--dtype f16 has no effect with --to hf"),
        (("--to", "gguf", "-o", "nowhere/out"), "-o nowhere/out is in a folder that does not exist"),
        (("--to", "gguf", "-o", "kept/out"), "-o kept/out is in a folder that cannot be written"),
        (("--to", "gguf", "-o", "run/out"), "-o run/out is in the folder of a run"),
        (("--to", "gguf", "-o", "poems.gguf"), "an export is a folder of several files"),
        (("--to", "gguf", "-o", "-"), "-o -: an export is a folder of several files"),
        (("--to", "gguf", "--checkpoint", "77"), "77"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    models: Models, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    Path("kept").mkdir()
    Path("run").mkdir()
    Path("run/run.json").touch()
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path).name != "kept"
    )  # as root all can be written
    refused = models("plain", "export", *words)
    assert refused.code == 2 and said in refused.err.replace("\n", " "), refused.err


@pytest.mark.parametrize("module", ["tokenizers", "gguf", "onnx", "onnxscript"])
def test_a_missing_extra_is_one_sentence(
    models: Models, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    to = {"tokenizers": "hf", "onnxscript": "onnx"}.get(module, module)
    refused = models("plain", "export", "--to", to)
    assert refused.code == 2
    wanted = f'--to {to} needs the package {module}, which is not installed; install it with: pip install "charlm-cli[export]"'
    assert wanted in " ".join(refused.err.split())


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("prior", "prior is a mixture of prior and ngram|starts from an n-gram prior|recent n-grams"),
        ("counts", "counts is an n-gram model"),
        ("mixture", "mixture is a mixture of no-prior, prior and ngram"),
        ("recurrent", "n-gram prior|recurrent|recent n-grams"),
        ("lines", "n-gram"),
    ],
)
def test_what_only_charlm_computes_is_refused_by_name(models: Models, kind: str, why: str) -> None:
    refused = models(kind, "export", "--to", "hf")
    said = " ".join(refused.err.split())
    assert refused.code == 2 and re.search(why, said) and "which only charlm computes" in said, said
    assert re.search(rf"charlm train \S*text.txt .*--plain --teacher {kind}", said), said
    assert not Path(f"{kind}-hf").exists()


def test_the_command_that_it_names_trains_what_can_be_exported(
    models: Models,
    charlm: Charlm,
    tmp_path: Path,
) -> None:
    shutil.copytree(models.root("prior"), "runs")
    refused = charlm("export", "prior", "--checkpoints", "runs", "--to", "hf", env={"COLUMNS": "9999"})
    words = shlex.split(" ".join(refused.err.split()).split("export that: charlm ")[1])
    trained = charlm(*words, "--steps", "2", *TINY, "--run", "student", "-q")
    assert trained.code == 0, trained.err
    made = charlm("export", "student", "--checkpoints", "runs", "--to", "hf")
    assert made.code == 0 and Path("student-hf/model.safetensors").is_file(), made.err


def test_the_folder_holds_the_run(models: Models, folder: Path) -> None:
    snapshot, _ = read_exported(folder)
    run = api.load("plain", checkpoints=models.root("plain"))
    for name, weight in run.snapshot.weights.items():
        assert torch.allclose(snapshot.weights[name], weight, rtol=1e-6, atol=1e-7), name
    assert snapshot.vocabulary == run.tokenizer
    found = score_text(predictor_of(snapshot), "", UNSEEN).bits
    assert np.abs(found - run.score(UNSEEN)).max() < 1e-3
    card = (folder / "README.md").read_text("utf-8")
    assert "held-out characters" in card and "± is one standard error" in card


def test_training_goes_on_from_a_folder_as_from_its_run(models: Models, charlm: Charlm, folder: Path) -> None:
    Path("new.txt").write_text(UNSEEN + "Ω")
    root = str(models.root("plain"))
    words = ("train", "new.txt", "--steps", "3", "--threads", "1", "-q")
    for origin, where in (("out", "mine"), ("plain", root)):
        made = charlm(*words, "--from", origin, "--checkpoints", where, "--run", f"after-{origin}")
        assert made.code == 0, made.err
    infos = [
        charlm("info", f"after-{o}", "--checkpoints", w, "--json").json
        for o, w in (("out", "mine"), ("plain", root))
    ]
    assert abs(infos[0]["nats_per_char"] - infos[1]["nats_per_char"]) < 1e-3
    assert infos[0]["from"]["run"] == "out" and infos[0]["old_text"] is not None, "its text is in the cache"
    shutil.rmtree("out")
    assert charlm("resume", "after-out", "--checkpoints", "mine", "--steps", "2", "-q").code == 0


def test_before_its_first_step_a_run_and_its_folder_are_the_same_calibrated_model(charlm: Charlm) -> None:
    Path("old.txt").write_text(TEXT)
    Path("new.txt").write_text(UNSEEN)
    rest = ("--threads", "1", "-q")
    words = ("--plain", "--reserved-chars", "2000", "--steps", "9", "--learning-rate", "0.1")
    assert charlm("train", "old.txt", *words, *TINY, *rest, "--run", "old").code == 0
    assert charlm("export", "old", "--to", "hf", "-o", "out").code == 0
    found = []
    for origin in ("old", "out"):
        made = charlm("train", "new.txt", "--from", origin, "--steps", "1", "--run", f"after-{origin}", *rest)
        assert made.code == 0, made.err
        found.append(charlm("info", f"after-{origin}", "--json").json["old_text"])
    old = charlm("info", "old", "--json").json
    assert abs(old["calibration"]["temperature"] - 1) > 0.01
    assert [each["before"] for each in found] == pytest.approx([old["nats_per_char"]] * 2, abs=1e-5)
    assert found[0]["begun"] == pytest.approx(found[1]["begun"], abs=1e-5)


def _json(name: str, **values: object) -> Callable[[Path], object]:
    """A change of values in a JSON file of the folder."""

    def change(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}))

    return change


def _corpus_of(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "charlm.json").read_text("utf-8"))["corpus"]
    return found


def _trained(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    tensors["lm_head.weight"] += 0.01
    safetensors.torch.save_file(tensors, path)


def _without_a_tensor(folder: Path) -> None:
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    del tensors["model.norm.weight"]
    safetensors.torch.save_file(tensors, path)


def _linked(folder: Path) -> None:
    os.rename(folder / "model.safetensors", folder / "weights")
    os.symlink("weights", folder / "model.safetensors")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "another shape": (_json("config.json", hidden_size=64), "config.json was changed: `hidden_size` is 64"),
    "code": (
        _json("config.json", model_type="mine", auto_map={"AutoModel": "evil.py"}),
        "`model_type` is 'mine'",
    ),
    "not ours": (lambda folder: (folder / "charlm.json").unlink(), "has no charlm.json"),
    "no division": (
        lambda folder: _json("charlm.json", corpus=_corpus_of(folder) | {"inherited_split": {}})(folder),
        "the division of its text is damaged: missing fields in it: 'begins', 'found', 'spans'",
    ),
    "a later format": (_json("charlm.json", format=9), "has format 9"),
    "an unknown field": (_json("charlm.json", more=1), "unknown fields in it: 'more'"),
    "no number": (
        lambda folder: (folder / "charlm.json").write_text('{"format": NaN}'),
        "NaN is not a JSON number",
    ),
    "a temperature of zero": (_json("charlm.json", temperature=0.0), "charlm.json is damaged"),
    "another model": (
        _json("charlm.json", model={"model": "ngram", "prior_order": 3}),
        "is no plain decoder",
    ),
    "no vocabulary": (
        _json("charlm.json", vocabulary={"chars": "ba", "counts": [1, 1], "bytes": []}),
        "in order, each once",
    ),
    "cut off": (
        lambda folder: os.truncate(folder / "model.safetensors", 999),
        "model.safetensors is damaged",
    ),
    "a pickle": (lambda folder: torch.save({}, folder / "model.safetensors"), "model.safetensors is damaged"),
    "too few": (_without_a_tensor, "does not hold the tensors that its configuration needs"),
    "trained elsewhere": (_trained, "lm_head.weight was changed after charlm wrote it"),
    "a link": (_linked, "model.safetensors cannot be read"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_or_hostile_folder_is_one_sentence(charlm: Charlm, folder: Path, kind: str) -> None:
    change, said = DAMAGE[kind]
    change(folder)
    Path("new.txt").write_text(TEXT)
    refused = charlm("train", "new.txt", "--from", "out", "--steps", "2")
    assert refused.code == 4 and said in " ".join(refused.err.split()), refused.err
    assert "Traceback" not in refused.err and refused.err.count("error:") == 1


def test_a_folder_has_one_checkpoint(charlm: Charlm, folder: Path) -> None:
    Path("new.txt").write_text(TEXT)
    refused = charlm("train", "new.txt", "--from", "out", "--checkpoint", "best", "--steps", "2")
    assert refused.code == 2 and "out has no checkpoint best; it has step 30 alone" in " ".join(
        refused.err.split()
    )
