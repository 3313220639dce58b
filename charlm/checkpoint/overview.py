"""A run in a few plain values, for lists: read from small files, no weights loaded."""

from typing import Any

from charlm.checkpoint.manifest import read_vouched
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.strict_json import parse
from charlm.errors import CharlmError

STATES = {"done": "finished", "early": "stopped early", None: "unfinished"}


def overview(run: RunFolder) -> dict[str, Any]:
    """Name, text, step, last figure and state of a run; `problem` says why one cannot be read."""
    row: dict[str, Any] = {"schema": 1, "run": run.name, "path": str(run.path), "problem": None}
    try:
        step = run.resolve("latest")
        data = read_vouched(run.folder(step), ("run.json", "state.json", "config.json"))
        facts, state, config = (parse(data[name], name) for name in ("run.json", "state.json", "config.json"))
        figure = {name: float(value) for name, value in (state.get("last_figure") or {}).items()}
        return row | {
            "text": str(facts["corpus"]["label"]),
            "created": str(facts["created"]),
            "step": step,
            "nats_per_char": figure.get("nats_per_char"),
            "standard_error": figure.get("standard_error"),
            "best_step": state.get("best_step"),
            "seconds": state.get("seconds"),
            "state": STATES.get(state.get("finished"), "unfinished"),
            "corpus": dict(facts["corpus"]),
            "versions": dict(facts["versions"]),
            "command": str(facts.get("command", "")),
            "text_settings": dict(facts["text"]),
            "model": dict(config["model"]),
            "training": dict(config["training"]),
        }
    except (CharlmError, OSError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        return row | {"problem": str(error)}
