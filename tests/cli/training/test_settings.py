"""Options that are not typed: a `--config` file and `CHARLM_*` variables, and what is stronger."""

import codecs
import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.training.conftest import Charlm, Result

PLAN = ["train", "ducks.txt", "--dry-run", "--json"]
STEPS = ["--steps", "5"]


def plan(result: Result) -> dict[str, Any]:
    """All settings of model and training in the plan, and the steps."""
    assert result.code == 0, result.err
    row = result.json
    return row["model"] | row["training"] | {"steps": row["plan"]["decisions"][0]["steps"]}


def refused(result: Result, *facts: str) -> None:
    assert (result.code, result.out) == (2, ""), result.err
    assert all(fact in result.err for fact in facts) and "bug in" not in result.err, result.err


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("n_layer", "3", 3),
        ("n_embd", "24", 24),
        ("block_size", "12", 12),
        ("mixer", '"convolution"', "convolution"),
        ("position", '"learned"', "learned"),
        ("dropout", "0.25", 0.25),
        ("locality", "true", True),
        ("plain", "true", True),
        ("prior", "false", False),
        ("ngram_embeddings", "2", 2),
        ("batch_size", "3", 3),
        ("learning_rate", "0.125", 0.125),
        ("optimizer", '"adamw"', "adamw"),
        ("weight_decay", "1", 1.0),
        ("seed", "11", 11),
        ("patience", "0", 0),
        ("eval_every", "2", 2),
        ("threads", "1", 1),
        ("precision", '"fp32"', "fp32"),
        ("compile", '"off"', "off"),
        ("device", '"cpu"', "cpu"),
        ("steps", "9", 9),
    ],
)
def test_a_setting_acts_from_a_file_and_from_a_variable(
    charlm: Charlm, name: str, value: str, expected: object
) -> None:
    Path("c.toml").write_bytes(f"{name} = {value}\n".encode())
    words = PLAN if name == "steps" else [*PLAN, *STEPS]
    from_file = plan(charlm(*words, "--config", "c.toml"))
    from_variable = plan(charlm(*words, env={f"CHARLM_{name.upper()}": value.strip('"')}))
    assert from_file[name] == from_variable[name] == expected
    assert from_file == from_variable


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("lowercase", "true", True),
        ("val", "0.2", 0.2),
        ("units", '"bytes"', "bytes"),
        ("documents", '"line"', "line"),
        ("exclude", '["*.md"]', ["*.md"]),
    ],
)
def test_a_setting_of_the_text_acts_from_a_file(charlm: Charlm, name: str, value: str, key: object) -> None:
    shape = "n_layer = 1\nn_embd = 16\nn_head = 2\nblock_size = 8\nbatch_size = 4\nsteps = 1\n"
    Path("c.toml").write_bytes(f"{shape}run = 'named'\n{name} = {value}\n".encode())
    Path("texts").mkdir()
    Path("ducks.txt").rename("texts/ducks.txt")
    result = charlm("train", "texts", "--config", "c.toml", "--json")
    assert result.code == 0, result.err
    assert result.json["text_settings"][name] == key
    assert (result.json["run"], result.json["step"]) == ("named", 1)


def test_what_is_typed_is_stronger_than_a_variable_and_that_than_a_file(charlm: Charlm) -> None:
    Path("c.toml").write_bytes(b"n_layer = 1\nn-embd = 16\nseed = 1\nsteps = 7\n")
    env = {"CHARLM_N_LAYER": "2", "CHARLM_SEED": "2"}
    found = plan(charlm(*PLAN, "--config", "c.toml", "--seed", "3", env=env))
    assert [found[name] for name in ("n_embd", "n_layer", "seed", "steps")] == [16, 2, 3, 7]
    assert plan(charlm(*PLAN, "--config", "c.toml", env={"CHARLM_STEPS": "8"}))["steps"] == 8
    assert (
        plan(charlm(*PLAN, "--config", "c.toml", "--time", "1h", env={"CHARLM_STEPS": "8"}))["steps"] is None
    )
    assert plan(charlm(*PLAN, *STEPS, env={"CHARLM_TIME": "1h"}))["steps"] == 5


@pytest.mark.parametrize(
    "data",
    [
        codecs.BOM_UTF8 + b"n_layer = 3\r\n",  # Windows Notepad
        "\ufeffn_layer = 3\r\n".encode("utf-16-le"),  # `>` in Windows PowerShell 5.1
        b"# three\n\nn-layer = 3",
    ],
)
def test_a_file_of_any_editor_is_read(charlm: Charlm, data: bytes) -> None:
    Path("c.toml").write_bytes(data)
    assert plan(charlm(*PLAN, *STEPS, "--config", "c.toml"))["n_layer"] == 3


@pytest.mark.parametrize(
    ("written", "facts"),
    [
        ("seed = 1\nn_layer = 'two'", ["line 2", "n_layer", "two"]),
        ("n_layer = 1e3", ["n_layer", "1000.0"]),
        ("n_layer = true", ["n_layer", "true"]),
        ("n_layer = [2]", ["n_layer", "[2]"]),
        ("val = 'much'", ["val", "much"]),
        ("val = nan", ["val", "nan"]),
        ("locality = 1", ["locality", "1"]),
        ("mixer = true", ["mixer", "true"]),
        ("include = 3", ["include", "3"]),
        ("\nn_layer = 1000", ["1000", "1 to 128", "line 2"]),
        ("n_embd = 65\nn_head = 2", ["65", "line 1", "line 2"]),
        ("[model]\nn_layer = 2", ["line 1", "model"]),
        ("n_layer = 1\nn_layer = 2", ["TOML"]),
        ("n_layer = 1\nn-layer = 2", ["line 2", "n-layer"]),
        ("n_leyer = 1", ["line 1", "n_leyer", "n_layer"]),
        ("temperature = 1", ["temperature", "sample"]),
        ("dry_run = true", ["dry_run"]),
        ("config = 'c.toml'", ["config"]),
        ("time = 'soon'", ["soon"]),
        ("n_layer = 1\0", ["UTF-8"]),
        ("n_layer", ["TOML"]),
        ("# " + "x" * (1 << 16), ["32,768"]),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)
def test_a_mistake_in_a_file_is_named_with_its_place(charlm: Charlm, written: str, facts: list[str]) -> None:
    Path("c.toml").write_bytes(written.encode())
    length = [] if written.startswith("time") else STEPS
    refused(charlm(*PLAN, *length, "--config", "c.toml"), "c.toml" if "time" not in written else "", *facts)


def test_a_file_that_is_missing_or_a_folder_is_refused(charlm: Charlm) -> None:
    Path("folder").mkdir()
    for name in ("missing.toml", "folder"):
        refused(charlm(*PLAN, *STEPS, "--config", name), name)


@pytest.mark.parametrize(
    ("name", "value", "facts"),
    [
        ("CHARLM_SEED", "abc", ["seed", "abc"]),
        ("CHARLM_SEED", "-1", ["seed", "-1", "at least 0"]),
        ("CHARLM_LOCALITY", "perhaps", ["locality", "perhaps"]),
        ("CHARLM_THREADS", "0", ["threads", "1 to 1024"]),
        ("CHARLM_DEVICE", "gpu", ["device", "gpu"]),
        ("CHARLM_TIME", "soon", ["soon"]),
        ("CHARLM_STEPS", "0", ["steps", "0"]),
    ],
)
def test_a_wrong_variable_is_named_and_what_is_typed_overrules_it(
    charlm: Charlm, name: str, value: str, facts: list[str]
) -> None:
    words = PLAN if name in ("CHARLM_TIME", "CHARLM_STEPS") else [*PLAN, *STEPS]
    refused(charlm(*words, env={name: value}), name, *facts)
    typed = ["--seed=1", "--no-locality", "--threads=1", "--device=cpu", "--steps=5"]
    assert charlm(*PLAN, *typed, env={name: value}).code == 0


def test_an_empty_variable_is_none_and_an_unknown_one_is_said(charlm: Charlm) -> None:
    names = ("CHARLM_SEED", "CHARLM_N_LAYER", "CHARLM_VAL_FILE", "CHARLM_CHECKPOINTS", "CHARLM_LOCALITY")
    empty = charlm(*PLAN, *STEPS, env=dict.fromkeys(names, ""))
    assert empty.code == 0 and "CHARLM_" not in empty.err
    said = charlm(*PLAN, *STEPS, env={"CHARLM_SED": "3", "CHARLM_XYZZY": "3"})
    assert said.code == 0 and "CHARLM_SEED" in said.err and "CHARLM_XYZZY" in said.err


def test_variables_say_where_runs_and_the_cache_are(charlm: Charlm) -> None:
    env = {"CHARLM_CHECKPOINTS": "here", "CHARLM_CACHE": "kept"}
    words = ["--n-layer=1", "--n-embd=16", "--n-head=2", "--block-size=8", "--steps=1", "--json"]
    result = charlm("train", "ducks.txt", *words, env=env)
    assert result.code == 0, result.err
    assert Path("here/ducks/run.json").is_file() and any(Path("kept").rglob("*"))
    assert json.loads(charlm("info", "ducks", "--json", env=env).out)["step"] == 1
    assert charlm("info", "ducks").code == 4
