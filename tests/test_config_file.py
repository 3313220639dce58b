"""Settings that are not typed: a `--config` file and CHARLM_* variables, and what is said of a mistake in them."""

import codecs
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from charlm.cli import config_file
from tests.conftest import TEXT, Result

Charlm = Callable[..., Result]
PLAN = ["train", "ducks.txt", "--steps", "5", "--dry-run"]


@pytest.mark.parametrize(
    "data",
    [
        codecs.BOM_UTF8 + b"n_layer = 3\r\n",  # Windows Notepad
        "\ufeffn_layer = 3\r\n".encode("utf-16-le"),  # `>` in Windows PowerShell 5.1
        "\ufeffn_layer = 3\n".encode("utf-16-be"),
        b"n-layer = 3",
    ],
)
def test_a_file_may_begin_with_a_byte_order_mark(charlm: Charlm, data: bytes) -> None:
    Path("c.toml").write_bytes(data)
    done = charlm(*PLAN, "--config", "c.toml")
    assert done.code == 0 and "3 layers" in done.err, done.err


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("seed = 1\nn_layer = 'two'", "c.toml, line 2: n_layer is 'two'; it takes a whole number"),
        ("n_layer = '2'", "takes a whole number, without quotes"),
        ("n_layer = 1e3", "n_layer is 1000.0; it takes a whole number"),
        ("n_layer = true", "n_layer is true; it takes a whole number"),
        ("n_layer = [2]", "n_layer is [2]; it takes a whole number"),
        ("seed = 2020-01-01", "seed is 2020-01-01; it takes a whole number"),
        ("val = 'much'", "val is 'much'; it takes a number"),
        ("locality = 1", "locality is 1; it takes true or false"),
        ("mixer = true", "mixer is true; it takes a text in quotes"),
        ("\nn_layer = 1000", "n_layer is 1000; allowed: 1 to 128; --n-layer was set in c.toml, line 2"),
        ("val = nan", "it takes a finite number; --val was set in c.toml, line 1"),
        ("val = inf", "it takes a finite number; --val was set in c.toml, line 1"),
        ("[model]\nn_layer = 2", "c.toml, line 1: model is a table"),
        ("model.n_layer = 2", "c.toml, line 1: model is a table"),
        ("n_layer = 1\nn_layer = 2", "is not TOML: Cannot overwrite a value"),
        ("n_layer = 1\nn-layer = 2", "c.toml, line 2: n-layer is set twice, also in line 1"),
        ("n_leyer = 1", "c.toml, line 1: 'n_leyer' is an unknown setting; did you mean n_layer?"),
        ("temperature = 1", "'temperature' is an option of charlm sample, not of charlm train"),
        ("dry_run = true", "'dry_run' can only be given on the command line"),
        ("n_embd = 65\nn_head = 2", "--n-head was set in c.toml, line 2; --n-embd was set in c.toml, line 1"),
        ("n_layer = 1\0", "is neither UTF-8 nor UTF-16 with a byte-order mark; save it as UTF-8"),
        ("# " + "x" * (1 << 16), "has more than 32,768 bytes; name a file of settings"),
    ],
)
def test_a_mistake_is_named_with_its_line(charlm: Charlm, written: str, said: str) -> None:
    Path("c.toml").write_text(written)
    done = charlm(*PLAN, "--config", "c.toml")
    assert (done.code, done.out) == (2, "") and said in done.err, done.err


def test_more_steps_than_can_be_counted_are_refused_by_their_option(charlm: Charlm) -> None:
    done = charlm("train", "ducks.txt", "--steps", "9" * 20, "--dry-run")
    assert done.code == 2 and "--steps is 99999999999999999999; allowed: 1 to 1000000000000" in done.err


@pytest.mark.skipif(os.name == "nt", reason="named pipes of POSIX")
def test_a_pipe_that_nobody_writes_to_is_given_up(charlm: Charlm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_file, "PATIENCE", 0.01)
    os.mkfifo("pipe")
    done = charlm(*PLAN, "--config", "pipe")
    assert done.code == 2 and "nothing came through this pipe" in done.err, done.err


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "CHARLM_SEED",
            "abc",
            "--seed is 'abc'; it takes a whole number; --seed was set by the variable CHARLM_SEED",
        ),
        ("CHARLM_SEED", "-1", "seed is -1; allowed: at least 0; --seed was set by the variable CHARLM_SEED"),
        (
            "CHARLM_LOCALITY",
            "perhaps",
            "--locality is 'perhaps'; allowed: true or false; --locality was set by",
        ),
        ("CHARLM_THREADS", "0", "threads is 0; allowed: 1 to 1024; --threads was set by the variable"),
        ("CHARLM_DEVICE", "gpu", "--device was set by the variable CHARLM_DEVICE"),
    ],
)
def test_a_wrong_variable_is_named(
    charlm: Charlm, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    done = charlm(*PLAN)
    assert done.code == 2 and said in done.err
    assert (
        said not in charlm(*PLAN, "--n-layer", "1000", "--seed", "1", "--no-locality", "--device", "cpu").err
    )


def test_an_empty_variable_is_none_and_an_unknown_one_is_said(
    charlm: Charlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CHARLM_SEED", "CHARLM_N_LAYER", "CHARLM_VAL_FILE", "CHARLM_CHECKPOINTS", "CHARLM_LOCALITY"):
        monkeypatch.setenv(name, "")
    assert "CHARLM" not in charlm(*PLAN).err
    monkeypatch.setenv("CHARLM_SED", "3")
    monkeypatch.setenv("CHARLM_XYZZY", "3")
    done = charlm(*PLAN)
    assert done.code == 0
    assert "CHARLM_SED is unknown and has no effect; did you mean CHARLM_SEED?" in done.err
    assert "CHARLM_XYZZY is unknown and has no effect\n" in done.err


def test_a_tilde_is_the_home_folder_in_files_and_variables(
    charlm: Charlm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "held.txt").write_text(TEXT[:900])
    (home / "c.toml").write_text('val_file = "~/held.txt"\ncheckpoints = "~/runs"\nrun = "a"\n')
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USERPROFILE", str(home))
    monkeypatch.setenv("CHARLM_CACHE", "~/cache")
    toy = ["train", "ducks.txt", "--steps=1", "--n-layer=1", "--n-embd=16", "--n-head=2", "--block-size=16"]
    done = charlm(*toy, "--config", "~/c.toml")
    assert done.code == 0 and "900 held out" in done.err, done.err
    assert (home / "runs" / "a" / "run.json").exists() and (home / "cache" / "corpora").is_dir()
    monkeypatch.setenv("CHARLM_CHECKPOINTS", "~/runs")
    assert "ducks.txt" in charlm("runs").out
    assert not Path("~").exists()
