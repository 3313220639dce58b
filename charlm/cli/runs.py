"""`charlm runs`: the runs there are."""

from math import log
from typing import Any

from charlm.cli.console import checkpoints_root, count, print_json, say, table
from charlm.cli.options import AsJson, Checkpoints
from charlm.config import FEWEST_HELD_OUT

EXAMPLES = """Examples:
  charlm runs          the newest first
  charlm runs --json   as data"""


def command(
    as_json: AsJson = False,
    checkpoints: Checkpoints = None,
) -> None:
    """List the runs, the newest first."""
    from charlm.checkpoint.overview import overview  # here: torch is slow to import
    from charlm.checkpoint.run_folder import runs
    from charlm.studies.comparison import comparisons

    root = checkpoints_root(checkpoints)
    rows = [overview(run) for run in runs(root)]
    if as_json:
        for row in rows:
            print_json(row)
    elif rows:
        header = ("run", "text", "steps", "bits/char", "state")
        table([_cells(row) for row in rows], header=header, numbers=(2, 3))
    else:
        say("there are no runs yet; charlm train makes one")
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
