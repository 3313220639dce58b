"""A run in a few plain values, for lists: read from small files, no weights loaded."""

from typing import Any

from charlm.checkpoint.manifest import read_vouched
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.strict_json import parse
from charlm.errors import CharlmError
from charlm.terminal import one_line

STATES = {"done": "finished", "early": "stopped early", None: "unfinished"}

NATS = ("before", "begun", "nats_per_char", "forgotten")
ERRORS = ("before_error", "standard_error")
COUNTED = ("step", "chars", "of_chars", "blocks")


FIGURES = (
    *("nats_per_char", "standard_error", "blocks"),
    *("baseline_nats_per_char", "difference", "difference_error"),
)
"""What is shown of a run's last evaluation."""


def overview(run: RunFolder) -> dict[str, Any]:
    """Name, text, step, last figure and state of a run; `problem` says why one cannot be read."""
    row: dict[str, Any] = {"schema": 1, "run": run.name, "path": str(run.path), "problem": None}
    try:
        step = run.resolve("latest")
        data = read_vouched(run.folder(step), ("run.json", "state.json", "config.json"))
        facts, state, config = (parse(data[name], name) for name in ("run.json", "state.json", "config.json"))
        kept = state.get("last_figure") or {}
        figure = {name: None if kept.get(name) is None else _number(kept[name]) for name in FIGURES}
        if figure.get("baseline_nats_per_char") is None:
            figure["difference"] = None
        corpus = dict(facts["corpus"])
        corpus |= {name: _whole(corpus[name]) for name in ("train_chars", "held_out_chars")}
        corpus |= {name: str(corpus[name]) for name in ("label", "sha256")}
        if figure.get("blocks") == 1:
            figure["standard_error"] = None  # older versions saved 0
        return row | {
            "text": corpus["label"],
            "created": str(facts["created"]),
            "step": step,
            "nats_per_char": figure.get("nats_per_char"),
            "standard_error": figure.get("standard_error"),
            "evaluated_chars": _whole(kept["chars"]) if kept else None,
            "baseline_nats_per_char": figure.get("baseline_nats_per_char"),
            "difference_from_baseline": figure.get("difference"),
            "difference_error": figure.get("difference_error"),
            "best_step": None if state.get("best_step") is None else _whole(state["best_step"]),
            "seconds": None if state.get("seconds") is None else _number(state["seconds"]),
            "finished": state.get("finished"),
            "returns": _whole(state.get("returns", 0)),
            "state": STATES.get(state.get("finished"), "unfinished"),
            "corpus": corpus,
            "versions": dict(facts["versions"]),
            "command": str(facts.get("command", "")),
            "text_settings": dict(facts["text"]),
            "model": dict(config["model"]),
            "training": dict(config["training"]),
            "from": _origin(facts.get("from")),
            "old_text": _old_text(state.get("old_text")),
        }
    except (CharlmError, OSError) as error:
        return row | {"problem": str(error)}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        return row | {"problem": f"run.json, state.json or config.json is damaged: {one_line(repr(error))}"}


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{one_line(repr(value))} is no number")
    return float(value)


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{one_line(repr(value))} is no number of characters or steps")
    return value


def _origin(facts: Any) -> dict[str, Any] | None:
    """The run that it goes on from: its name, the checkpoint and the hash of its weights."""
    if facts is None:
        return None
    return {
        "run": str(facts["run"]),
        "step": _whole(facts["step"]),
        "weights_sha256": str(facts["weights_sha256"]),
    }


def _old_text(kept: Any) -> dict[str, Any] | None:
    """What was forgotten of that run's held-out text, without the sums that it is computed from."""
    if kept is None:
        return None
    return {
        "run": str(kept["run"]),
        **{name: _number(kept[name]) for name in NATS},
        **{name: None if kept[name] is None else float(kept[name]) for name in ERRORS},
        **{name: _whole(kept[name]) for name in COUNTED},
    }
