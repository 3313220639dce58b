"""`--quiet`, before the name of a command and after it."""

from collections.abc import Callable
from pathlib import Path

from tests.commands import Command
from tests.conftest import Result

Charlm = Callable[..., Result]
SHAPE = ["--n-layer", "1", "--n-embd", "16", "--n-head", "2", "--block-size", "16", "--batch-size", "4"]
TRAIN = ["train", "ducks.txt", *SHAPE, "--steps", "3", "--eval-every", "1", "--save-every", "0"]


def quiet_ways(words: list[str]) -> list[list[str]]:
    return [["-q", *words], ["--quiet", *words], [words[0], "-q", *words[1:]], [*words, "--quiet"]]


def test_quiet_leaves_only_results(charlm: Charlm) -> None:
    for i, words in enumerate(quiet_ways(TRAIN)):
        result = charlm(*words, "--run", f"run-{i}")
        assert result.code == 0 and f"run-{i}" in result.out
        assert all(line.startswith("note: ") for line in result.err.splitlines())
    loud = charlm(*TRAIN, "--run", "loud")
    assert loud.code == 0 and "step 1" in loud.err
    assert len(loud.out.splitlines()) == len(result.out.splitlines())
    commands: list[list[str]] = [
        ["eval"],
        ["sample", "--length", "9", "--seed", "1"],
        ["compress", "ducks.txt", "-o", "c.clm", "--force"],
        ["decompress", "c.clm", "-o", "d.txt", "--force"],
        ["inspect", "ducks.txt", "--time", "5s"],
        ["info"],
        ["runs"],
        ["cache"],
        ["doctor"],
        ["doctor", "loud"],
        ["explain", "rotary"],
        ["data", "list"],
        ["resume", "loud", "--steps", "1"],
        ["compare", "ducks.txt", *SHAPE, "--steps", "1", "--vary", "position=none,rotary"],
    ]
    for words in commands:
        result = charlm("-q", *words)
        assert result.code == 0, result.err
        lines = result.err.splitlines()
        assert all(line.startswith("note: ") for line in lines), (words, lines)
        assert result.out or words[0] in ("decompress",)


def test_quiet_keeps_warnings_and_errors(charlm: Charlm) -> None:
    assert charlm(*TRAIN).code == 0
    result = charlm("-q", "sample", "--length", "3", "--prompt", "日")
    assert result.err.startswith("note: ") and "U+65E5" in result.err
    result = charlm("sample", "-q", "--run", "geese")
    assert result.code == 4 and result.err.startswith("error: ")
    assert "using latest" in charlm("sample", "--length", "3").err  # it does not last


def test_quiet_on_a_terminal_draws_no_bar(charlm: Charlm, tmp_path: Path) -> None:
    done = Command(("-q", *TRAIN), tmp_path).run_on_terminal(err_too=True)
    assert done.code == 0 and b"steps [" not in done.out and b"\r" not in done.out.replace(b"\r\n", b"")
