"""The README and the tables that stand in the documentation: short, complete, and as the code says."""

import re
import tomllib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from charlm.cli.main import COMMANDS
from charlm.model.mixers import MIXERS
from charlm.model.positions import POSITIONS
from charlm.training.sizes import SIZES, SIZES_WITH_PRIOR, Size

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
TEN_FILES = re.findall(r"^\d+\. `(charlm/\S+\.py)`", README, re.M)


def size_lines(sizes: Sequence[Size]) -> list[str]:
    """One of the planner's tables as it should stand."""
    header = "| layers | width | heads | block | batch | learning rate |"
    rows = ((s.n_layer, s.n_embd, s.n_head, s.block_size, s.batch_size, s.learning_rate) for s in sizes)
    return [
        header,
        "|---" * 6 + "|",
        *("| " + " | ".join(f"{value:g}" for value in row) + " |" for row in rows),
    ]


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 180


def test_the_table_of_sizes_is_the_planners() -> None:
    page = (ROOT / "docs/budget.md").read_text("utf-8")
    assert all("\n".join(size_lines(sizes)) in page for sizes in (SIZES, SIZES_WITH_PRIOR))


def test_the_commands_are_those_there_are() -> None:
    section = README.split("## The commands")[1].split("\n## ")[0]
    assert set(re.findall(r"^charlm (\w+)", section, re.M)) == set(COMMANDS) - {"completion"}


def test_every_idea_that_can_be_chosen_is_named() -> None:
    page = (ROOT / "docs/comparing.md").read_text("utf-8").split("## The ideas")[1].split("\n## ")[0]
    for word in (*MIXERS, *POSITIONS):
        assert f"`{word}`" in page


def test_the_ten_files_are_there_and_fit_into_one_sitting() -> None:
    assert len(TEN_FILES) == 10
    lines = [len((ROOT / name).read_text("utf-8").splitlines()) for name in TEN_FILES]
    assert sum(lines) <= 3000


def rows_of_folders() -> list[set[str]]:
    """The table of folders: the names in each row, without `/` and `.py`."""
    section = README.split("## Folders")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]*) \|", section, re.M)
    return [
        {name.removesuffix("/").removesuffix(".py") for name in re.findall(r"`([\w/.]+)`", row)}
        for row in rows
    ]


def test_the_folders_are_those_there_are() -> None:
    named = set.union(*rows_of_folders())
    folders = {path.parent.name for path in (ROOT / "charlm").glob("*/__init__.py")}
    assert folders <= named
    assert named <= folders | {path.stem for path in (ROOT / "charlm").glob("*.py")}
    assert len(rows_of_folders()) == 10


def test_the_order_of_the_folders_is_the_import_linters() -> None:
    layers: list[str] = PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    level = {
        name.strip().removeprefix("charlm."): i
        for i, layer in enumerate(layers)
        for name in re.split(r"[|:]", layer)
    }
    levels = [{level[name] for name in row if name in level} for row in rows_of_folders()]
    for above, below in pairwise(levels):
        assert max(above) < min(below)


def test_the_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_ci_runs_the_readmes_test_commands() -> None:
    commands = ['pip install -c constraints.txt -e ".[dev]"', "pytest"]
    assert "\n".join(f"    {command}" for command in commands) in README
    assert "\n".join(commands) in (ROOT / ".ci" / "run").read_text("utf-8").replace(" -q", "")


@pytest.mark.parametrize("page", ["README.md", *sorted(p.as_posix() for p in (ROOT / "docs").rglob("*.md"))])
def test_the_commands_work_in_every_shell(page: str) -> None:
    """PowerShell 5.1 knows no `&&`, and cmd no single quotes."""
    text = (ROOT / page).read_text("utf-8")
    blocks = re.findall(r"^```(?:bash|console)\n(.*?)^```|^( {4}(?:charlm|pip) [^\n]*)$", text, re.M | re.S)
    lines = "\n".join(fenced or indented for fenced, indented in blocks).splitlines()
    commands = [line for line in lines if re.match(r"(    |\$ )?(charlm|pip) ", line)]
    assert not [line for line in commands if "&&" in line or "'" in line.split("#")[0]]


def test_constraints_pin_every_dependency() -> None:
    pinned = {
        line.split("==")[0].lower()
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
        if "==" in line
    }
    project = PROJECT["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    assert {re.split(r"[<>=]", name)[0].lower() for name in wanted} <= pinned
    bounded = [name for name in wanted if "==" in name.split(";")[0] or "<" in name.split(";")[0]]
    assert bounded == ["typer>=0.20,<0.29"], "lower bounds only, but for that, which pyproject.toml explains"
