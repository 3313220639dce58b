"""`charlm runs`: list and remove runs."""

import os
from contextlib import ExitStack, suppress
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.console import can_ask, confirm, count, print_json, say, table, warn
from charlm.cli.options import ROOT, AsJson, Checkpoints, Yes
from charlm.config import FEWEST_HELD_OUT
from charlm.errors import CheckpointError, ResourceError, UsageError
from charlm.terminal import one_line
from charlm.training.describe import several

if TYPE_CHECKING:
    from charlm.checkpoint.run_folder import RunFolder

EXAMPLES = """Examples:
  charlm runs                        the newest first
  charlm runs --json                 as JSON
  charlm runs --remove poems poems-2  remove two runs, after asking; --yes does not ask"""

COMPARISON = "comparison.json"
"""The file that marks a folder as a comparison."""


def command(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME...", help="Runs and comparisons to remove.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove the named runs and comparisons.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
    checkpoints: Checkpoints = ROOT,
) -> None:
    """List the runs, the newest first, or remove some.

    Removal cannot be undone; texts stay in the cache (see charlm cache).
    """
    root = checkpoints
    if remove:
        _remove(root, names or [], yes, as_json)
        return
    for given, said in ((names, "a name"), (yes, "--yes")):
        if given:
            raise UsageError(f"{said} has no effect without --remove; charlm info NAME shows one run")
    from charlm.checkpoint.run_folder import list_runs  # here: NumPy is slow to import
    from charlm.experiments.comparison import comparisons
    from charlm.training.state import overview

    rows = [overview(run) for run in list_runs(root, warn)]
    if as_json:
        for row in rows:
            print_json(row)
    elif rows:
        header = ("run", "text", "steps", "bits/char", "state")
        table([_cells(row) for row in rows], header=header, numbers=(2, 3))
    else:
        say("there are no runs yet; charlm train creates one")
    made = [folder.name for folder in comparisons(root)]
    if made:
        say(f"comparisons: {', '.join(made)}; charlm compare NAME shows one")


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    if row["problem"]:
        return row["run"], "", "", "", row["problem"]
    figure = row["nats_per_char"]
    few = row["evaluated_chars"] is not None and row["evaluated_chars"] < FEWEST_HELD_OUT
    bits = "" if figure is None else f"{figure / log(2):.3f}{' (too little text)' * few}"
    return row["run"], row["text"], count(row["step"]), bits, row["state"]


def _remove(root: Path, names: list[str], yes: bool, as_json: bool) -> None:
    """Remove runs and comparisons, once all named ones are found and nobody trains them."""
    from charlm import files

    if not names:
        raise UsageError("--remove needs the names of runs; charlm runs lists them")
    folders = [_removable(root, name) for name in dict.fromkeys(names)]
    sizes = [_bytes(folder.path) for folder in folders]
    what = ", ".join(
        f"{_kind(folder)} {folder.name} ({size / 1e6:,.1f} MB)"
        for folder, size in zip(folders, sizes, strict=True)
    )
    if not yes and not can_ask():
        raise UsageError(f"--remove would remove {what}; to confirm without a terminal, add --yes")
    with ExitStack() as locks:
        for folder in folders:
            for each in (folder, *_runs_within(folder)):
                each.lock()  # fails while it is being trained
                locks.callback(each.unlock)
        if not yes and not confirm(f"remove {what}? It cannot be undone"):
            say("nothing was removed")
            return
        if os.name == "nt":
            locks.close()  # on Windows a folder with an open file cannot be removed
        for folder in folders:
            try:
                files.remove_tree(folder.path)
            except OSError as error:
                raise ResourceError(f"{folder.name} cannot be removed: {error.strerror}") from None
    left = [each.name for each in folders if any(root.glob(f"{files.TEMPORARY}gone-{each.path.name}*"))]
    if left:
        raise ResourceError(f"{', '.join(left)} could not be removed completely")
    if as_json:
        print_json(
            {"schema": 1, "removed": [folder.path.name for folder in folders], "freed_bytes": sum(sizes)}
        )
    else:
        say(f"removed {what}: {sum(sizes) / 1e6:,.1f} MB freed")


def _removable(root: Path, name: str) -> "RunFolder":
    """Find the run or comparison of that name. Raises UsageError and CheckpointError."""
    from charlm.checkpoint.run_folder import RunFolder, check_name, has_run

    check_name(name)
    folder = RunFolder(root / name)
    if folder.path.is_symlink():
        raise UsageError(f"{folder.name} is a link; remove the link or its target yourself")
    if not folder.path.is_dir():
        raise CheckpointError(
            f"there is no run named {folder.name} in {one_line(str(root))}; charlm runs lists them"
        )
    if (root / COMPARISON).exists():
        raise UsageError(
            f"{folder.name} is part of the comparison {one_line(root.name)}, which can only be removed as a whole"
        )
    if not has_run(root, name):
        raise UsageError(
            f"{one_line(str(folder.path))} contains no run or comparison; charlm does not remove it"
        )
    return folder


def _runs_within(folder: "RunFolder") -> "list[RunFolder]":
    """List the runs of a comparison; empty for a run."""
    from charlm.checkpoint.run_folder import list_runs

    return list_runs(folder.path) if (folder.path / COMPARISON).is_file() else []


def _kind(folder: "RunFolder") -> str:
    within = len(_runs_within(folder))
    return (
        f"the comparison of {several(within, 'run')}" if (folder.path / COMPARISON).is_file() else "the run"
    )


def _bytes(folder: Path) -> int:
    """Return the size of the files in a folder, as far as they can be read; links are not followed."""
    found = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            found += 0 if path.is_dir() and not path.is_symlink() else path.lstat().st_size
    return found
