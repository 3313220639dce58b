"""`charlm info`: show everything about one run."""

from math import log
from typing import Any

from charlm.cli.console import count, print_json, table, warn
from charlm.cli.options import ROOT, AsJson, Checkpoints, RunName, RunOption, one_run
from charlm.config import acts
from charlm.errors import CharlmError, CheckpointError
from charlm.terminal import one_line

EXAMPLES = """Examples:
  charlm info              the newest run
  charlm info poems --json  as JSON"""


def command(
    run: RunName = None,
    run_option: RunOption = None,
    as_json: AsJson = False,
    checkpoints: Checkpoints = ROOT,
) -> None:
    """Show everything about one run.

    The details are its text, model, training, checkpoints, versions, command, and the SHA-256 of its weights.
    """
    from charlm.checkpoint.run_folder import find_run
    from charlm.checkpoint.safe_io import (  # here: torch is slow to import
        NGRAM_FILE,
        read_manifest,
        read_verified,
    )
    from charlm.training.state import overview

    folder = find_run(checkpoints, one_run(run, run_option), warn)
    row = overview(folder)
    if row["problem"]:
        raise CheckpointError(row["problem"])
    step = row["step"]
    try:
        read_verified(folder.folder(step), ("model.safetensors",))
    except FileNotFoundError:
        raise CheckpointError(f"the checkpoint of step {step} of {folder.name} is missing") from None
    manifest = read_manifest(folder.folder(step))
    row["weights_sha256"] = manifest.weights_sha256
    ngram = manifest.run_files.get(NGRAM_FILE)
    row["ngram_bytes"], row["ngram_sha256"] = (ngram.size, ngram.sha256) if ngram else (None, None)
    row["checkpoints"] = folder.steps()
    row["repeat_command"], why = _repeat(folder, row)
    if as_json:
        print_json(row)
        return
    table(_rows(row), longest=10**6)
    print(f"command:             {one_line(row['command'], 10**6)}")  # not in the table, which would wrap it
    print(f"reproduce this run:  {row['repeat_command'] or why}")


def _repeat(folder: Any, row: dict[str, Any]) -> tuple[str | None, str]:
    """Return the command that reproduces the run, or None and why there is none."""
    from charlm.config import ModelConfig, TrainingConfig
    from charlm.reporting.commands import repeat_command, why_not_repeatable
    from charlm.training.plan import read_plan
    from charlm.training.state import read_facts

    try:
        plan = read_plan(folder)
        why = why_not_repeatable(row["finished"], row["returns"], plan)
        if why is not None:
            return None, why
        model, training = ModelConfig.from_json(row["model"]), TrainingConfig.from_json(row["training"])
        facts = read_facts(folder, row["step"])
        return repeat_command(folder, facts, model, training, plan), ""
    except (CharlmError, ValueError, TypeError, LookupError) as error:
        return None, f"cannot be determined: {one_line(str(error))}"


def _rows(row: dict[str, Any]) -> list[tuple[str, str]]:
    from charlm.data.tokenizer import UNIT_NOUNS
    from charlm.evaluation.bootstrap import plus_minus, too_few
    from charlm.reporting.run_summary import forgetting_rows, member_rows  # here: NumPy is slow to import

    corpus, figure = row["corpus"], row["nats_per_char"]
    rows = [
        ("run", row["run"]),
        ("folder", row["path"]),
        ("state", f"{row['state']}, step {count(row['step'])}"),
    ]
    if figure is not None:
        few = too_few(row["evaluated_chars"])
        of = f", {row['evaluated_model']}" if row["evaluated_model"] else ""
        rows.append(("held-out", f"{plus_minus(figure, row['standard_error'])} bits/char{few}{of}"))
    if row["difference_from_baseline"] is not None:
        change = plus_minus(row["difference_from_baseline"], row["difference_error"], sign="+")
        baseline = row["baseline_nats_per_char"] / log(2)
        rows.append(("n-gram baseline", f"{baseline:.4f} bits/char on the same text; difference {change}"))
    for title, other in (("fine-tuned from", row["from"]), ("teacher", row["teacher"])):
        if other is not None:
            found = f"{other['run']}, step {count(other['step'])}, weights {other['weights_sha256']}"
            rows.append((title, found))
    unit = UNIT_NOUNS.get(row["text_settings"].get("units"), "symbol")
    rows += member_rows(row["members"], row["calibration"], unit)
    rows += forgetting_rows(row["old_text"])
    parts = (
        f"{count(corpus['train_chars'])} characters to train on, {count(corpus['held_out_chars'])} held out"
    )
    units = row["text_settings"].get("units", "chars")
    parts += f", read in {units}" * (units != "chars")
    rows += [("text", f"{row['text']}: {parts}"), ("text's SHA-256", corpus["sha256"])]
    kind, several = str(row["model"].get("model")), len(row["members"]) > 1
    for member in row["members"]:
        of = f" of member {member['number']}" * several
        for title in ("model", "training"):
            if member[title] is not None:
                said = [f"{k} {v}" for k, v in member[title].items() if v is not None and acts(kind, k)]
                rows.append((f"{title}{of}", ", ".join(said)))
    if row["ngram_bytes"] is not None:
        rows.append(
            ("n-gram model", f"{row['ngram_bytes'] / 1e6:.1f} MB on disk and about as much in memory")
        )
    rows.append(("checkpoints", ", ".join(map(str, row["checkpoints"])) + f"; best {row['best_step']}"))
    rows.append(("weights' SHA-256", row["weights_sha256"]))
    if row["ngram_sha256"] is not None:
        rows.append(("n-gram SHA-256", row["ngram_sha256"]))
    rows.append(
        ("created", f"{row['created']}, " + ", ".join(f"{k} {v}" for k, v in row["versions"].items()))
    )
    return rows
