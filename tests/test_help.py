"""Help pages and shell completion."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from charlm.cli.options import in_colours
from charlm.config import ModelConfig, TrainingConfig
from charlm.data.text_config import TextConfig
from charlm.settings import settings_of

COMMANDS = "train inspect resume sample play eval page serve export compress decompress runs info compare cache data explain doctor"


def test_the_help_of_train_is_short_and_help_all_has_every_setting(charlm, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("COLUMNS", "80")
    short, whole = charlm("train", "--help"), charlm("train", "--help-all")
    assert short.code == whole.code == 0 and short.err == whole.err == ""
    assert short.out.count("\n") <= 50 and "--help-all" in short.out
    assert len(set(re.findall(r"^  (--[a-z-]+)", short.out, re.M))) == 15
    for kind in (ModelConfig, TrainingConfig, TextConfig):
        for setting in settings_of(kind):
            assert re.search(rf"^  {setting.option}(?![\w-])", whole.out, re.M), setting.name


def test_no_summary_of_a_command_is_cut(charlm, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("COLUMNS", "80")
    shown = charlm("--help").out
    assert "..." not in shown.partition("Commands:")[2] and "CHARLM_N_LAYER" in shown


@pytest.mark.parametrize("command", COMMANDS.split())
def test_ranges_and_defaults_are_written_one_way(charlm, command: str) -> None:  # type: ignore[no-untyped-def]
    shown = charlm(command, "--help-all" if command in ("train", "compare", "inspect") else "--help").out
    for other in ("Default:", "<=x", "x>=", "]  [", "<str>", "<int", "env var", "{"):
        assert other not in shown, other


def test_colours_only_on_a_terminal(charlm) -> None:  # type: ignore[no-untyped-def]
    plain = charlm("train", "--help").out
    assert "\x1b" not in plain
    coloured = in_colours(plain)
    assert "\x1b[1mModel:" in coloured and "\x1b[36m  --n-layer" in coloured
    assert re.sub(r"\x1b\[\d*m", "", coloured) == plain


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (["charlm", "tr"], ["train"]),
        (["charlm", ""], COMMANDS.split()),
        (["charlm", "train", "--position", "r"], ["relative", "rotary"]),
        (["charlm", "train", "--grad"], ["--grad-accum", "--grad-clip"]),
        (["charlm", "completion", "f"], ["fish"]),
        (["charlm", "train", "cor"], []),
    ],
)
def test_bash_completes(charlm, tmp_path: Path, typed: list[str], words: list[str]) -> None:  # type: ignore[no-untyped-def]
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    (tmp_path / "c.bash").write_text(charlm("completion", "bash").out)
    given = " ".join(f"'{word}'" for word in typed)
    script = f"source c.bash; COMP_WORDS=({given}); COMP_CWORD={len(typed) - 1}; _charlm; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=300
    )
    assert set(words) <= set(done.stdout.split()) and (words or not done.stdout.strip())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_every_command_and_its_syntax_is_right(charlm, tmp_path: Path, shell: str) -> None:  # type: ignore[no-untyped-def]
    made = charlm("completion", shell)
    assert made.code == 0 and made.err == ""
    assert all(re.search(rf"\b{name}\b", made.out) for name in COMMANDS.split())
    assert "n-layer" in made.out and "sinusoidal" in made.out
    if shutil.which(shell):
        (tmp_path / "made").write_text(made.out)
        subprocess.run([shell, "-n", "made"], cwd=tmp_path, check=True, timeout=300)


def test_a_shell_there_is_not_is_refused(charlm) -> None:  # type: ignore[no-untyped-def]
    result = charlm("completion", "tcsh")
    assert result.code == 2 and "tcsh" in result.err and "fish" in result.err and result.out == ""
