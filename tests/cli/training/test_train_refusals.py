"""What `charlm train` refuses: by which code, and naming what."""

import hashlib
import json
import os
import re
from pathlib import Path

import pytest

from tests.cli.training.conftest import Charlm, tiny

BESIDE_PLAIN = {
    "prior": "",
    "prior-order": "5",
    "prior-dropout": "0.1",
    "prior-chars": "900",
    "ngram-embeddings": "2",
    "ngram-embedding-rows": "64",
    "ngram-embedding-dropout": "0.1",
    "ngram-embedding-lr": "0.1",
    "ngram-embedding-accumulator": "2",
}
"""What acts on what a plain model lacks."""


def test_a_model_that_reads_ahead_cannot_be_trained(charlm: Charlm) -> None:
    result = charlm("train", "ducks.txt", "--steps", "2", "--no-causal", *tiny())
    assert result.code == 2 and "causal" in result.err


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (["--mixer=recurrent", "--n-head=2"], ["n_head", "recurrent"]),
        (["--mixer=recurrent", "--position=rotary"], ["position", "rotary"]),
        (["--mixer=recurrent", "--window=4"], ["window", "recurrent"]),
        (["--mixer=convolution", "--locality"], ["locality", "convolution"]),
        (["--mixer=attention,recurrent", "--n-layer=1"], ["mixer", "n_layer"]),
        (["--model=ngram,transformer"], ["ngram,transformer"]),
        (["--model=ngram", "--no-prior"], ["prior"]),
        *(
            (["--plain", f"--{name}={value}"] if value else ["--plain", f"--{name}"], [name, "plain"])
            for name, value in BESIDE_PLAIN.items()
        ),
        (
            ["--ngram-embeddings=1", "--ngram-embedding-rows=64"],
            ["ngram_embedding_rows", "ngram_embeddings 1"],
        ),
        *(
            (["--no-prior", f"--{name}={BESIDE_PLAIN[name]}"], [f"--{name}", "prior"])
            for name in ("prior-order", "prior-dropout", "prior-chars")
        ),
        (["--optimizer=adamw", "--muon-lr=0.1"], ["muon_lr", "adamw"]),
        (["--split=documents"], ["split", "documents"]),
        (["--documents=separator"], ["separator"]),
        (["--val=0.2", "--val-file=ducks.txt"], ["val", "val_file"]),
        (["--val=0.9", "--test=0.5"], ["0.9", "0.5", "0.95"]),
        (["--units=bytes", "--min-count=2"], ["min_count", "bytes"]),
        (["--resume-if-exists"], ["--run"]),
        (["--no-such-option"], ["--no-such-option"]),
        (["missing.txt"], ["missing.txt"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_cannot_be_together_is_refused_by_name(
    charlm: Charlm, words: list[str], facts: list[str]
) -> None:
    result = charlm("train", "ducks.txt", "--steps=2", *words)
    assert result.code == (3 if words == ["missing.txt"] else 2), result.err
    assert all(re.search(re.sub("[_-]", "[-_ ]", fact), result.err) for fact in facts), result.err
    assert not Path("checkpoints").exists()


def test_a_name_that_is_taken_is_refused_and_the_run_left(charlm: Charlm) -> None:
    command = ["train", "ducks.txt", "--steps", "2", "--run", "mine", *tiny()]
    assert charlm(*command).code == 0
    saved = Path("checkpoints/mine/step-00000002/model.safetensors")
    before = hashlib.sha256(saved.read_bytes()).hexdigest()
    again = charlm(*command)
    assert again.code == 2 and "mine" in again.err
    assert json.loads(Path("checkpoints/mine/run.json").read_text("utf-8"))["name"] == "mine"
    assert hashlib.sha256(saved.read_bytes()).hexdigest() == before


def test_weights_that_go_wrong_end_with_a_code_of_their_own(charlm: Charlm) -> None:
    wild = {
        "optimizer": "adamw",
        "learning_rate": 10.0,
        "ngram_embedding_lr": 10.0,
        "weight_decay": 10.0,
        "grad_clip": 1e6,
    }
    words = tiny(**wild, schedule="0:1,300:1", eval_every=20, patience=0)
    result = charlm("train", "ducks.txt", "--steps", "300", "--json", *words)
    assert result.of("went_back") and result.of("skipped")
    assert result.code == 5, result.err


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
@pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_refused(charlm: Charlm) -> None:
    Path("locked").mkdir(mode=0o500)
    result = charlm("train", "ducks.txt", "--steps", "2", "--checkpoints", "locked/runs", *tiny())
    assert result.code == 6 and "locked" in result.err


def test_a_file_where_runs_should_be_is_refused(charlm: Charlm) -> None:
    result = charlm("train", "ducks.txt", "--steps", "2", "--checkpoints", "ducks.txt", *tiny())
    assert result.code == 6 and "ducks.txt" in result.err


@pytest.mark.parametrize(
    ("option", "value", "facts"),
    [
        ("--time", "soon", ["soon"]),
        ("--time", "4s", ["4", "5"]),
        ("--time", "99999999999999h", ["at most 1000000000 s"]),
        ("--steps", "0", ["0", "1"]),
        ("--steps", "1e3", ["1e3"]),
        ("--from", "nobody", ["checkpoints"]),
        ("--from-text", "ducks.txt", ["--from"]),
        ("--checkpoint", "best", ["best", "--from"]),
        ("--config", "none.toml", ["none.toml"]),
        ("--run", "a/b", ["a/b"]),
        ("--run", "con", ["con"]),
        ("--n-layer", "0", ["1 to 128"]),
        ("--n-layer", "two", ["two"]),
        ("--n-head", "3", ["3", "16"]),
        ("--n-embd", "8193", ["8193", "2 to 8192"]),
        ("--block-size", "0", ["1 to 65536"]),
        ("--dropout", "0.95", ["0.95", "0 to 0.9"]),
        ("--dropout", "nan", ["nan"]),
        ("--mixer", "atention", ["atention", "attention"]),
        ("--position", "rotory", ["rotory", "rotary"]),
        ("--n-kv-head", "3", ["3", "2"]),
        ("--window", "17", ["17", "16"]),
        ("--ngram-embeddings", "9", ["9", "1 to 8"]),
        ("--ngram-embedding-rows", "100", ["100", "power of two"]),
        ("--ngram-embedding-dropout", "1", ["0 to 0.9"]),
        ("--prior-order", "64", ["64", "0 to 63"]),
        ("--prior-dropout", "-1", ["-1", "0 to 0.9"]),
        ("--batch-size", "0", ["1 to 65536"]),
        ("--grad-accum", "3", ["3", "4"]),
        ("--learning-rate", "11", ["11", "10"]),
        ("--optimizer", "sgd", ["sgd", "muon", "adamw"]),
        ("--muon-lr", "0", ["10"]),
        ("--ngram-embedding-lr", "0", ["10"]),
        ("--ngram-embedding-accumulator", "-1", ["-1", "at least 0"]),
        ("--weight-decay", "11", ["11", "0 to 10"]),
        ("--grad-clip", "0", ["at least 1e-06"]),
        ("--schedule", "wild", ["wild"]),
        ("--seed", "-1", ["-1", "at least 0"]),
        ("--eval-every", "0", ["at least 1"]),
        ("--eval-chars", "0", ["at least 1"]),
        ("--patience", "-1", ["at least 0"]),
        ("--save-every", "-1", ["at least 0"]),
        ("--device", "gpu", ["gpu", "cuda"]),
        ("--threads", "0", ["1 to 1024"]),
        ("--precision", "fp64", ["fp64", "fp32"]),
        ("--compile", "maybe", ["maybe", "off"]),
        ("--prior-memory", "0", ["at least 1"]),
        ("--prior-chars", "0", ["at least 1"]),
        ("--val", "90", ["90", "0.9"]),
        ("--test", "0.6", ["0.6", "0.5"]),
        ("--val-file", "none.txt", ["none.txt"]),
        ("--split", "head", ["head", "tail"]),
        ("--documents", "page", ["page", "line"]),
        ("--separator", "---", ["---", "documents"]),
        ("--normalize", "nfd", ["nfd", "nfc"]),
        ("--newlines", "crlf", ["crlf", "lf"]),
        ("--strip", "html", ["html", "gutenberg"]),
        ("--field", "text", ["ducks.txt"]),
        ("--encoding", "utf-99", ["utf-99"]),
        ("--units", "words", ["words", "bytes"]),
        ("--min-count", "0", ["at least 1"]),
    ],
)
def test_a_wrong_value_is_refused_by_name(charlm: Charlm, option: str, value: str, facts: list[str]) -> None:
    length = [] if option in ("--time", "--steps") else ["--steps=2"]
    result = charlm("train", "ducks.txt", *length, "--json", *tiny(), f"{option}={value}")
    code = {"--from": 4, "--val-file": 3, "--field": 3}.get(option, 2)
    assert (result.code, result.out) == (code, ""), result.err
    assert "Traceback" not in result.err and "bug" not in result.err
    for fact in facts:
        assert fact in result.err
    named = option[2:].replace("-", "[-_ ]")
    assert option in ("--from", "--run", "--val-file") or re.search(named, result.err)
    assert not Path("checkpoints").exists()
