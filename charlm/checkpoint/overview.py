"""A run in a few plain values, for lists: read from small files, no weights loaded."""

from typing import Any

from charlm.checkpoint.manifest import read_vouched
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.strict_json import parse
from charlm.errors import CharlmError

STATES = {"done": "finished", "early": "stopped early", None: "unfinished"}

NATS = ("before", "begun", "nats_per_char", "forgotten")
ERRORS = ("before_error", "standard_error")
COUNTED = ("step", "chars", "of_chars", "blocks")


def overview(run: RunFolder) -> dict[str, Any]:
    """Name, text, step, last figure and state of a run; `problem` says why one cannot be read."""
    row: dict[str, Any] = {"schema": 1, "run": run.name, "path": str(run.path), "problem": None}
    try:
        step = run.resolve("latest")
        data = read_vouched(run.folder(step), ("run.json", "state.json", "config.json"))
        facts, state, config = (parse(data[name], name) for name in ("run.json", "state.json", "config.json"))
        kept = state.get("last_figure") or {}
        figure = {name: None if value is None else float(value) for name, value in kept.items()}
        if figure.get("blocks") == 1:
            figure["standard_error"] = None  # older versions saved 0
        return row | {
            "text": str(facts["corpus"]["label"]),
            "created": str(facts["created"]),
            "step": step,
            "nats_per_char": figure.get("nats_per_char"),
            "standard_error": figure.get("standard_error"),
            "evaluated_chars": int(kept["chars"]) if kept else None,
            "baseline_nats_per_char": figure.get("baseline_nats_per_char"),
            "difference_from_baseline": figure.get("difference"),
            "difference_error": figure.get("difference_error"),
            "best_step": state.get("best_step"),
            "seconds": state.get("seconds"),
            "finished": state.get("finished"),
            "returns": int(state.get("returns", 0)),
            "state": STATES.get(state.get("finished"), "unfinished"),
            "corpus": dict(facts["corpus"]),
            "versions": dict(facts["versions"]),
            "command": str(facts.get("command", "")),
            "text_settings": dict(facts["text"]),
            "model": dict(config["model"]),
            "training": dict(config["training"]),
            "from": _origin(facts.get("from")),
            "old_text": _old_text(state.get("old_text")),
        }
    except (CharlmError, OSError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        return row | {"problem": str(error)}


def _origin(facts: Any) -> dict[str, Any] | None:
    """The run that it goes on from: its name, the checkpoint and the hash of its weights."""
    if facts is None:
        return None
    return {
        "run": str(facts["run"]),
        "step": int(facts["step"]),
        "weights_sha256": str(facts["weights_sha256"]),
    }


def _old_text(kept: Any) -> dict[str, Any] | None:
    """What was forgotten of that run's held-out text, without the sums that it is computed from."""
    if kept is None:
        return None
    return {
        "run": str(kept["run"]),
        **{name: float(kept[name]) for name in NATS},
        **{name: None if kept[name] is None else float(kept[name]) for name in ERRORS},
        **{name: int(kept[name]) for name in COUNTED},
    }
