"""What a user gets who types what other tools call it, or forgets something: the right name, in one sentence."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import typer.main

from charlm import suggestions
from charlm.cli.main import COMMANDS, make_app
from charlm.settings import settings_of
from tests.cli.kept import TOY
from tests.conftest import TEXT, Result

Charlm = Callable[..., Result]
APP = typer.main.get_command(make_app(0.0))
OPTIONS = {
    name: {o.lstrip("-") for p in command.params for o in (*p.opts, *p.secondary_opts)}
    for name, command in APP.commands.items()  # type: ignore[attr-defined]
}


@pytest.fixture
def trained(charlm: Charlm) -> Charlm:
    """The command, with a run named poems."""
    assert charlm("train", "ducks.txt", "--steps", "2", "--run", "poems", *TOY).code == 0
    return charlm


@pytest.mark.parametrize(
    ("words", "lacks"),
    [
        (("compress",), "FILE"),
        (("compress", "ducks.txt"), "-o OUT"),
        (("compress", "-o", "x"), "FILE"),
        (("decompress",), "FILE"),
        (("data", "get"), "name"),
        (("compare",), "two runs"),
        (("train", "--n-layer"), "--n-layer N"),
    ],
)
def test_what_is_missing_is_said_with_an_example(charlm: Charlm, words: tuple[str, ...], lacks: str) -> None:
    result = charlm(*words)
    assert result.code == 2 and result.out == "" and result.err.count("\n") == 1
    assert lacks in result.err and re.search(rf"charlm {words[0]} |charlm {words[0]}\n", result.err)


OTHER_NAMES = [
    "",
    "train --lr:--learning-rate --max-iters:--steps --max_iters:--steps --batch:--batch-size --batch_size:--batch-size",
    "train --epochs:--steps --epochs:--time --num_train_epochs:--time --max_steps:--steps --learning_rate:--learning-rate",
    "train --n_layer:--n-layer --init_from:--from --out_dir:--checkpoints --output_dir:--checkpoints --dtype:--precision",
    "train --wandb_log:metrics.jsonl --fp16:--precision --bf16:--precision --context:--block-size --ctx-size:--block-size",
    "train --per_device_train_batch_size:--batch-size --layers:--n-layer --heads:--n-head --hidden:--n-embd --dim:--n-embd",
    "train --iters:--steps --gpu:--device --cpu:--device --input:charlm --file:charlm --name:--run --model:--from --resume:resume",
    "train --help-all:--help --verbose:standard --top-k:sample --prompt:sample --weight_decay:--weight-decay --json_:--json",
    "train -rnn_size:--n-embd -num_layers:--n-layer -seq_length:--block-size -lr:--learning-rate --grad_clip:--grad-clip",
    "train --eval_interval:--eval-every --warmup_iters:--schedule --d_model:--n-embd --gradient_accumulation_steps:--grad-accum",
    "train --early-stopping:--patience --val-split:--val --num-workers:--threads --column:--field --rope:--position",
    "sample --top_k:--top-k --num-samples:--samples --max-new-tokens:--length --n-predict:--length -primetext:--prompt",
    "sample -temperature:--temperature --temp:--temperature --model:--run --start:--prompt --output:standard --file:--prompt-file",
    "sample --steps:train --lr:train --learning-rate:train --n-layr:train --gpu:--device --cpu:--device --greedy:--temperature -num_layers:train",
    "eval --model:--run --input:charlm --surprisal:surprisal --per-char:surprisal --ckpt:--checkpoint --format:--json --context:--stride",
    "compress --gpu:CPU --cpu:CPU --device:eval --output:--out --model:--run --overwrite:--force --prompt:sample",
    "info --jsn:--json --name:--run",
    "resume --max_steps:--steps --epochs:--steps --minutes:--time --lr:train",
    "compare --lr:--learning-rate --against:charlm",
    "",
]


@pytest.mark.parametrize("line", [line for line in OTHER_NAMES if line])
def test_an_option_of_another_tool_gets_ours(charlm: Charlm, line: str) -> None:
    command, *pairs = line.split()
    required = ["ducks.txt", "-o", "x"] if command == "compress" else []
    for pair in pairs:
        typed, _, meant = pair.partition(":")
        if plainly_there(command, typed):
            continue
        for words in ([typed, "3"], [f"{typed}=3"]):
            result = charlm(command, *required, *words)
            assert result.code == 2 and result.out == "", (command, words)
            said = result.err.partition(";")[2]
            assert re.search(rf"(?<![\w-]){meant}(?![\w-])", said), (command, words, result.err)


def plainly_there(command: str, typed: str) -> bool:
    """Is it an option of the command after all?"""
    return typed.lstrip("-") in OPTIONS[command]


def test_the_table_suggests_only_what_there_is() -> None:
    everywhere = set().union(*OPTIONS.values()) | {"help", "version"}
    coming = {"quiet", "no-color", "resume-if-exists", "exclude", "remove", "yes"}
    for name, meant in suggestions.OPTIONS.items():
        assert name == suggestions.plain(name) or ":" in name, name
        options = [
            o.split()[0] for one in meant.split("|") if not one.startswith("=") for o in one.split(" + ")
        ]
        assert set(options) <= everywhere | coming, (name, meant)
    for name, meant in suggestions.COMMANDS.items():
        assert name not in COMMANDS, name
        first, *rest = meant.split()
        assert first in COMMANDS or first == "--version", (name, meant)
        assert {word[2:] for word in rest if word.startswith("--")} <= OPTIONS.get(first, set()) | coming
    choices = {s.name: s for kind in _kinds() for s in settings_of(kind)}
    for (setting, name), meant in suggestions.VALUES.items():
        words = choices[setting].limit.words  # type: ignore[union-attr]
        assert meant in (*words, "") and name not in words, name


def _kinds() -> list[type]:
    from charlm.config import ModelConfig, TrainingConfig
    from charlm.data.text_config import TextConfig
    from charlm.evaluation.surprisal_config import SurprisalConfig

    return [ModelConfig, TextConfig, TrainingConfig, SurprisalConfig]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("generate", "sample"), ("evaluate", "eval"), ("test", "eval"), ("score", "eval"), ("finetune", "train FILE --from RUN"),
        ("continue", "resume"), ("list", "runs"), ("ls", "runs"), ("delete", "runs"), ("rm", "runs"), ("show", "info"),
        ("version", "--version"), ("init", "train"), ("new", "train"), ("fit", "train"), ("predict", "sample"),
        ("perplexity", "eval"), ("rescore", "surprisal"), ("encode", "compress"), ("stats", "inspect"),
        ("analyze", "inspect"), ("download", "data get NAME"), ("trian", "train"), ("Sample", "sample"), ("ducks.txt", "train ducks.txt"),
    ],
)  # fmt: skip
def test_a_command_of_another_tool_gets_ours(charlm: Charlm, typed: str, meant: str) -> None:
    result = charlm(typed)
    assert result.code == 2 and result.out == ""
    assert f"charlm {meant}" in result.err


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("--device gpu", "cuda"), ("--device CUDA", "cuda"), ("--precision float16", "bf16"), ("--precision bfloat16", "bf16"),
        ("--precision FP32", "fp32"), ("--mixer transformer", "attention"), ("--mixer lstm,attn", "recurrent,attention"),
        ("--position rope", "rotary"), ("--position ALiBi", "alibi"), ("--units char", "chars"), ("--units words", "no words"),
        ("--documents lines", "line"), ("--split random", "blocks"), ("--compile False", "off"), ("--compile=True", "on"),
        ("--optimizer Adam", "adamw"), ("--normalize NFC", "nfc"), ("--time 1:30", "1m30s"), ("--time 00:10:00", "10m"),
        ("--time 10min", "10m"), ("--time 60 s", "--time 60s"), ("60s", "--time 60s"), ("500", "--steps 500"), ("--val 10%", "0.1"),
        ("--val 10", "0.1"), ("--val 0,2", "0.2"), ("--steps 10,000", "10000"), ("--steps 1e3", "1000"), ("--n-layer 4.0", "4"),
        ("--prior=False", "--no-prior"), ("--prior=true", "--prior"), ("--lowercase=false", "--no-lowercase"),
    ],
)  # fmt: skip
def test_a_value_of_another_tool_gets_ours(charlm: Charlm, words: str, meant: str) -> None:
    result = charlm("train", "ducks.txt", *words.split(" "))
    assert result.code == 2 and result.out == ""
    assert re.search(
        rf"(did you mean |write |has |as |(for|to set) a [^:]*: |word: ){re.escape(meant)}(\W|$)", result.err
    ), result.err


def test_the_same_advice_comes_from_a_file_and_for_vary(charlm: Charlm) -> None:
    Path("c.toml").write_text("lr = 0.1\n")
    assert "did you mean learning_rate?" in charlm("train", "ducks.txt", "--config", "c.toml").err
    Path("c.toml").write_text('position = "rope"\n')
    assert "did you mean rotary?" in charlm("train", "ducks.txt", "--config", "c.toml").err
    assert "did you mean learning_rate?" in charlm("compare", "ducks.txt", "--vary", "lr=1,2").err
    assert "did you mean rotary?" in charlm("compare", "ducks.txt", "--vary", "position=none,rope").err
    assert "did you mean rotary?" in charlm("explain", "rope").err


def test_what_is_no_file_and_no_run_is_told_where_it_belongs(trained: Charlm) -> None:
    for words, code, said in (
        (["sample", "To be"], 4, "charlm sample --prompt 'To be'"),
        (["sample", "To", "be"], 2, "charlm sample --prompt 'To be'"),
        (["sample", "ducks.txt"], 4, "--prompt-file ducks.txt"),
        (["sample", "poem"], 4, "did you mean the run poems?"),
        (["eval", "poems"], 2, "charlm eval --run poems"),
        (["compress", "poems", "-o", "x"], 2, "--run poems"),
        (["train", "poems"], 2, "--from poems"),
        (["inspect", "poems"], 2, "charlm info poems"),
        (["compare", "poems"], 2, "charlm compare poems RUN"),
        (["eval", "--run", "poem"], 4, "did you mean poems?"),
        (["info", "POEMS"], 4, "did you mean poems?"),
        (["train", "ducks.txt", "--from", "peoms"], 4, "did you mean poems?"),
        (["compare", "poem", "poems"], 4, "did you mean poems?"),
        (["train", "duck.txt"], 3, "did you mean ducks.txt?"),
        (["eval", "ducks"], 3, "did you mean ducks.txt?"),
        (["train", "tinyshakespeare"], 3, "charlm data get tinyshakespeare"),
        (["runs", "poems"], 2, "charlm info"),
        (["data", "tinyshakespeare"], 2, "charlm data get tinyshakespeare"),
        (["runs", "--json=false"], 2, "leave it out"),
        (["data", "get", "shakespeare"], 2, "did you mean tinyshakespeare?"),
    ):
        result = trained(*words)
        assert (result.code, result.out) == (code, ""), (words, result.err)
        assert said in result.err, (words, result.err)
    Path("poems").write_text(TEXT)  # a file wins over a run of that name
    assert trained("eval", "poems").code == 0


@pytest.mark.parametrize(
    "address", ["ftp://example.org/a?b=*", "sftp://bucket/a", "www.example.org/a", "FILE:///tmp/x"]
)
def test_an_address_that_is_not_read_is_told_so(trained: Charlm, address: str) -> None:
    for words in (
        ("train", address),
        ("train", "ducks.txt", "--val-file", address),
        ("eval", address),
        ("inspect", address),
        ("compare", address, "--vary", "locality=on,off"),
        ("compare", "poems", "poems", "--on", address),
        ("compress", address, "-o", "x"),
        ("sample", "--prompt-file", address),
    ):
        result = trained(*words)
        assert result.code == 3 and result.out == ""
        assert "is an address" in result.err, words
    for address in ("https://example.org/a", "s3://bucket/a"):  # which others read
        done = trained("compress", address, "-o", "x")
        assert done.code == 3 and "this reads only local files" in " ".join(done.err.split())


def test_a_file_whose_name_begins_with_a_dash_is_no_option(charlm: Callable[..., Result]) -> None:
    Path("-dash.txt").write_text("To be\n")
    done = charlm("train", "-dash.txt", "--dry-run")
    assert done.code == 2
    assert "there is no option -dash.txt; to name the file, write ./-dash.txt" in " ".join(done.err.split())


def test_p_of_sample_is_taken_for_the_prompt(charlm: Callable[..., Result]) -> None:
    assert "did you mean --prompt?" in charlm("sample", "-p", "To be").err
