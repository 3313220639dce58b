"""The README: its map is the folder, its table the plan's, its commands run."""

import ast
import gzip
import json
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import pytest

from charlm.cli.main import COMMANDS
from charlm.cli.main import run as main
from charlm.model.mixers import MIXERS
from charlm.model.positions import POSITIONS
from charlm.training.planner import SIZES, SIZES_WITH_COUNTS, Size
from tests.conftest import TEXT

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def map_lines() -> list[str]:
    """The map as it should stand: a line for each file, with the first line of its docstring."""
    lines = ["| File | What it does |", "|---|---|"]
    for path in sorted((ROOT / "charlm").rglob("*.py"), key=lambda p: (p.parent != ROOT / "charlm", str(p))):
        if path.name != "__init__.py":
            said = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").splitlines()[0]
            lines.append(
                f"| `{path.relative_to(ROOT / 'charlm').as_posix()}` | {said.replace('|', chr(92) + '|')} |"
            )
    return lines


def size_lines(sizes: Sequence[Size]) -> list[str]:
    """One of the plan's tables as it should stand."""
    header = "| from TFLOP | layers | width | heads | block | batch | learning rate |"
    rows = (
        (s.tflop, s.n_layer, s.n_embd, s.n_head, s.block_size, s.batch_size, s.learning_rate) for s in sizes
    )
    return [
        header,
        "|---" * 7 + "|",
        *("| " + " | ".join(f"{value:g}" for value in row) + " |" for row in rows),
    ]


def test_the_map_is_the_folder() -> None:
    assert "\n".join(map_lines()) in README


def test_the_table_of_sizes_is_the_plans() -> None:
    assert all("\n".join(size_lines(sizes)) in README for sizes in (SIZES, SIZES_WITH_COUNTS))


def test_the_commands_are_those_there_are() -> None:
    assert set(re.findall(r"^    charlm (\w+)", README, re.M)) == set(COMMANDS)


def commands() -> list[str]:
    section = README.split("## The commands")[1].split("\n## ")[0]
    return [line.split("#")[0].strip() for line in section.splitlines() if line.startswith("    charlm ")]


def test_the_commands_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("corpus.txt").write_text(TEXT)
    Path("chapter.txt").write_text(TEXT[:300])
    Path("poems").mkdir()
    Path("poems/one.txt").write_text(TEXT)
    Path("posts").mkdir()
    Path("posts/one.jsonl.gz").write_bytes(gzip.compress(json.dumps({"text": TEXT}).encode()))
    for name, value in {"N_LAYER": 1, "N_EMBD": 16, "N_HEAD": 2, "BLOCK_SIZE": 8, "BATCH_SIZE": 2}.items():
        monkeypatch.setenv(f"CHARLM_{name}", str(value))
    for command in sorted(commands(), key=lambda c: "--steps" not in c):  # so that there is a run
        words = shlex.split(command)[1:]
        if words[0] == "train" and "--steps" not in words:
            words.append("--dry-run")
        if words[0] == "resume":
            words += ["--steps", "5"]
        monkeypatch.setattr(sys, "argv", ["charlm", *words])
        assert main(perf_counter()) == 0, command
    assert "bits" in capsys.readouterr().out


def test_every_idea_that_can_be_chosen_is_named() -> None:
    section = README.split("## The ideas")[1].split("\n## ")[0]
    for word in (*MIXERS, *POSITIONS):
        assert f"`{word}`" in section


def test_ci_runs_the_readmes_test_commands() -> None:
    commands = ['pip install -c constraints.txt ".[dev]"', "pytest"]
    assert "\n".join(f"    {command}" for command in commands) in README
    assert "\n".join(commands) in (ROOT / ".ci" / "run").read_text().replace(" -q", "")


def test_the_readmes_commands_work_in_every_shell() -> None:
    """PowerShell 5.1 knows no `&&`, and cmd no single quotes."""
    commands = [
        line for line in README.splitlines() if line.startswith("    ") and not line.startswith("     ")
    ]
    assert not [line for line in commands if "&&" in line or "'" in line.split("#")[0]]


def test_constraints_pin_every_dependency() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {
        line.split("==")[0].lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert {re.split(r"[<>=]", name)[0].lower() for name in wanted} <= pinned
    assert not any("==" in name.split(";")[0] or "<" in name.split(";")[0] for name in wanted), (
        "lower bounds only"
    )


if __name__ == "__main__":
    print("\n".join(map_lines()), *map("\n".join, map(size_lines, (SIZES, SIZES_WITH_COUNTS))), sep="\n\n")
