"""The command itself: help, version, mistakes, exit codes, colours, quiet, and readers that leave."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.kept import COMMANDS, TEXT, TOY, Charlm, bring, process, refused

LONG = ("train", "compare", "inspect")
"""The commands whose short help leaves options out."""
ESCAPE = "\x1b"
EVERYWHERE = "--help --quiet --no-color"
TEXTS = (
    "--val --test --val-file --split --documents --separator --normalize --newlines --lowercase "
    "--collapse-spaces --include --exclude --strip --field --encoding --units --min-count"
)
MODEL = (
    "--n-layer --n-head --n-embd --block-size --dropout --mixer --position --n-kv-head --window --locality "
    "--ngram-embeddings --ngram-embedding-rows --ngram-embedding-dropout --plain --prior --prior-order --prior-dropout --causal"
)
TRAINING = (
    "--batch-size --grad-accum --learning-rate --optimizer --muon-lr --ngram-embedding-lr --ngram-embedding-accumulator "
    "--weight-decay --grad-clip --schedule --seed --eval-every --eval-chars --patience --save-every --device "
    "--threads --precision --compile --prior-memory --prior-chars"
)
OPTIONS = {
    "train": f"--time --steps --run --config --dry-run --json --checkpoints --from --from-text --resume-if-exists --ranks --gpus --shard --report-to {MODEL} {TRAINING} {TEXTS}",
    "play": "--run --prompt --prompt-file --length --seed --temperature --top-k --top-p --min-p --stop --checkpoint --checkpoints --threads",
    "inspect": f"--time --threads --json {TEXTS}",
    "resume": "--run --time --steps --ranks --gpus --shard --threads --report-to --json --checkpoints --text --val-file",
    "sample": "--run --prompt --prompt-file --prompts --field --regex --verbatim --text --val-file --length --seed --samples --temperature --top-k --top-p --min-p --stop --one-document --map-lookalikes --checkpoint --checkpoints --json --threads --device",
    "eval": "--run --part --stride --online --checkpoint --checkpoints --json --threads --device --text --field --encoding",
    "surprisal": "--by --words --space --context --groups --best --base --format --out --run --part --stride --checkpoint --checkpoints --threads --device --text --val-file --field --encoding",
    "page": "--run --ngram-mb --checkpoint --checkpoints --out --threads",
    "serve": "--port --all --run --checkpoint --checkpoints --threads",
    "export": "--to --dtype --run --checkpoint --checkpoints --out",
    "compress": "--out --run --force --checkpoint --checkpoints --json --threads",
    "decompress": "--out --force --run --checkpoints --threads",
    "runs": "--remove --yes --json --checkpoints",
    "info": "--run --json --checkpoints",
    "compare": f"--vary --time --steps --seeds --run --name --share --ranks --on --text --json --checkpoints {MODEL} {TRAINING} {TEXTS}",
    "cache": "--clear --yes --json",
    "data": "--to --json",
    "explain": "--threads --json",
    "doctor": "--run --threads --json --checkpoints",
}


@pytest.mark.parametrize("words", [("help",), ("-h",), ("--help",)])
def test_without_a_command_the_help_is_the_result(charlm: Charlm, words: tuple[str, ...]) -> None:
    result = charlm(*words)
    assert (result.code, result.err) == (0, "")
    assert result.out == charlm().out
    for word in (*COMMANDS, "--version", "--quiet", "--no-color", "--help"):
        assert re.search(rf"(?<![\w-]){word}(?![\w-])", result.out), word
    for code in range(7):
        assert re.search(rf"\b{code}\b", result.out), "the exit codes are told"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_comes_in_every_way_it_is_asked_for(charlm: Charlm, name: str) -> None:
    expected = charlm(name, "--help")
    assert expected.code == 0 and expected.err == "" and f"charlm {name}" in expected.out
    for words in (("help", name), (name, "help"), (name, "-h")):
        result = charlm(*words)
        assert (result.code, result.out, result.err) == (0, expected.out, ""), words


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_every_option(charlm: Charlm, name: str) -> None:
    said = charlm(name, "--help-all" if name in LONG else "--help").out
    listed = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", said))
    lacking = {*OPTIONS[name].split(), *EVERYWHERE.split()} - listed
    assert not lacking


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_that_help_lists_is_taken(charlm: Charlm, name: str) -> None:
    """The first unknown one is refused, and it is never of these."""
    for option in OPTIONS[name].split():
        refused(charlm(name, option, "1", "--no-such-thing"), 2, "no option --no-such-thing")


def test_the_version(charlm: Charlm) -> None:
    for words in (("--version",), ("-V",)):
        result = charlm(*words)
        assert result.code == 0 and re.fullmatch(r"charlm \d+\.\d+\S*\n", result.out)
    whole = charlm("--version", "--verbose")
    assert whole.code == 0 and whole.out.startswith(result.out) and "torch" in whole.out
    refused(charlm("--verbose", "runs"), 2, "--verbose", "--version")


@pytest.mark.parametrize("words", [("--help",), ("compare", "--help-all"), ("trian",), ("runs", "--jsn")])
def test_help_version_and_mistakes_wait_for_no_heavy_library(words: tuple[str, ...]) -> None:
    done = process(*words, python=("-X", "importtime"))
    _, err = done.communicate()
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in err.decode().splitlines()}
    assert "charlm" in imported and not imported & {"torch", "numpy", "safetensors", "textual"}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("trian", "charlm train"), ("Sample", "charlm sample"), ("infoo", "charlm info"), ("compair", "charlm compare"),
        ("generate", "charlm sample"), ("evaluate", "charlm eval"), ("continue", "charlm resume"), ("ls", "charlm runs"),
        ("rm", "charlm runs --remove"), ("download", "charlm data get"), ("ducks.txt", "charlm train ducks.txt"),
    ],
)  # fmt: skip
def test_a_mistyped_command_gets_the_one_that_was_meant(charlm: Charlm, typed: str, meant: str) -> None:
    Path("ducks.txt").write_text(TEXT)
    refused(charlm(typed), 2, typed, meant)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("--hlep", "--help"), ("train --n-layr 3", "--n-layer"), ("train --lr 3", "--learning-rate"), ("train --n_embd 3", "--n-embd"),
        ("compare --n-layr 3", "--n-layer"), ("runs --jsn", "--json"), ("info --name x", "--run"), ("sample --max-tokens 3", "--length"),
        ("doctor --checkpoits x", "--checkpoints"), ("cache --claer", "--clear"), ("data --output x", "--to"), ("eval --prompt x", "sample"),
        ("explain --jason", "--json"), ("inspect --encodng x", "--encoding"),
    ],
)  # fmt: skip
def test_a_mistyped_option_gets_the_one_that_was_meant(charlm: Charlm, words: str, meant: str) -> None:
    result = charlm(*words.split())
    typed = next(word for word in words.split() if word.startswith("--"))
    refused(result, 2, typed)
    assert meant in result.err.replace(typed, "", 1)


@pytest.mark.parametrize(
    ("words", "code", "facts"),
    [
        ("nonsense-of-no-kind", 2, ("nonsense-of-no-kind", "train")),
        ("--quiet", 2, ()),
        ("train --n-layer", 2, ("--n-layer",)),
        ("train ducks.txt --n-layer x", 2, ("--n-layer", "x")),
        ("train ducks.txt --n-layer 0", 2, ("0", "1 to 128")),
        ("train ducks.txt --steps 1e3", 2, ("--steps", "1e3", "1000")),
        ("train ducks.txt --time 1s", 2, ("--time", "5 s")),
        ("train ducks.txt --time soon", 2, ("soon", "60s")),
        ("train ducks.txt --val 2", 2, ("val", "0.9")),
        ("train ducks.txt --position rope", 2, ("rope", "rotary")),
        ("runs --json=false", 2, ("--json",)),
        ("doctor --threads 0", 2, ("--threads", "0", "1 to 1024")),
        ("info a b", 2, ("b",)),
        ("info a --run b", 2, ("a", "--run b")),
        ("explain rotary alibi", 2, ("alibi",)),
        ("train missing.txt", 3, ("missing.txt",)),
        ("inspect missing.txt", 3, ("missing.txt",)),
        ("train https://example.org/a.txt", 3, ("https://example.org/a.txt",)),
        ("info", 4, ("charlm train",)),
        ("info geese", 4, ("charlm train",)),
        ("sample", 4, ("charlm train",)),
        ("resume", 4, ("charlm train",)),
        ("train ducks.txt --steps 1 --checkpoints ducks.txt/below", 6, ("ducks.txt/below",)),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_sentence_and_a_code(
    charlm: Charlm, words: str, code: int, facts: tuple[str, ...]
) -> None:
    Path("ducks.txt").write_text(TEXT)
    refused(charlm(*words.split()), code, *facts)
    assert sorted(os.listdir()) == ["ducks.txt"], "nothing is written"


def test_what_was_set_by_a_variable_is_said_to_be(charlm: Charlm) -> None:
    Path("ducks.txt").write_text(TEXT)
    wrong = charlm("train", "ducks.txt", "--dry-run", env={"CHARLM_SEED": "x"})
    refused(wrong, 2, "--seed", "'x'", "CHARLM_SEED")
    unknown = charlm("runs", env={"CHARLM_SEEDD": "3"})
    assert unknown.code == 0 and "CHARLM_SEEDD" in unknown.err and "CHARLM_SEED?" in unknown.err


def test_quiet_leaves_only_results(charlm: Charlm, tmp_path_factory: pytest.TempPathFactory) -> None:
    bring(charlm, tmp_path_factory, ("train", "ducks.txt", "--steps", "4", *TOY))
    for words in (("info",), ("runs",), ("doctor", "ducks"), ("explain", "rotary"), ("data", "list")):
        loud = charlm(*words)
        for quiet in (("-q", *words), ("--quiet", *words), (*words, "-q"), (words[0], "--quiet", *words[1:])):
            result = charlm(*quiet)
            assert (result.code, result.out, result.err) == (0, loud.out, ""), quiet
    assert "error: " in charlm("-q", "info", "geese").err


def test_no_colours_where_no_terminal_is(charlm: Charlm) -> None:
    forced = dict.fromkeys(("FORCE_COLOR", "TTY_COMPATIBLE", "CLICOLOR_FORCE", "TTY_INTERACTIVE"), "1")
    plain = "--help,train --help,runs,cache,doctor,explain,explain rotary,data list,trian,eval"
    for words in plain.split(","):
        result = charlm(*words.split(), env=dict(forced))
        assert ESCAPE not in result.out + result.err


@pytest.mark.skipif(os.name == "nt", reason="terminals of POSIX")
@pytest.mark.parametrize(
    ("words", "env", "coloured"),
    [
        (("trian",), {}, True),
        (("trian",), {"NO_COLOR": ""}, True),
        (("trian",), {"NO_COLOR": "0", "FORCE_COLOR": "1"}, False),
        (("--no-color", "trian"), {}, False),
        (("runs", "--jsn", "--no-color"), {}, False),
    ],
)
def test_colours_on_a_terminal_can_be_refused(
    words: tuple[str, ...], env: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pty  # which Windows lacks

    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    ours, theirs = pty.openpty()
    started = process(*words, env={"TERM": "xterm-256color", **env}, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 1 << 16):
            said += piece
    except OSError:  # on Linux the end of a terminal is an error
        pass
    os.close(ours)
    assert started.wait() == 2 and b"error: " in said
    assert (ESCAPE.encode() in said) == coloured


@pytest.mark.parametrize("words", [("--help",), ("data", "list", "--json"), ("--version",)])
def test_a_reader_that_leaves_ends_it_quietly(words: tuple[str, ...]) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    started = process(*words, stdout=writes)
    os.close(writes)
    _, err = started.communicate()
    assert (started.returncode, err) == (0, b"")


@pytest.mark.skipif(os.name == "nt", reason="descriptors of POSIX")
@pytest.mark.parametrize(
    ("closed", "words", "code"), [(1, ("--help",), 0), (1, ("data", "list"), 0), (2, ("trian",), 2)]
)
def test_a_stream_that_is_closed_is_done_without(closed: int, words: tuple[str, ...], code: int) -> None:
    shell = f'exec "{sys.executable}" -m charlm {" ".join(words)} {closed}>&-'
    done = subprocess.run(["/bin/sh", "-c", shell], capture_output=True, timeout=300)
    assert done.returncode == code and b"Traceback" not in done.stdout + done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("words", [("--help",), ("data", "list")])
def test_a_full_disk_under_standard_output_has_its_code(words: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        started = process(*words, stdout=full)
        _, err = started.communicate()
    assert started.returncode == 6 and err.startswith(b"error: ") and err.count(b"\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_with_its_code(number: signal.Signals, code: int) -> None:
    started = process("inspect", "-", stdin=-1)  # which waits for its standard input
    assert started.stderr is not None
    assert started.stderr.readline().startswith(b"reading")
    started.send_signal(number)
    _, err = started.communicate()
    assert started.returncode == code and b"Traceback" not in err
