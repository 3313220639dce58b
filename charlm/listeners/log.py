"""`metrics.jsonl`: every event of a run, a JSON object a line."""

import json
import re
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from charlm import files
from charlm.checkpoint.strict_json import finite
from charlm.training.events import Event

NAME = "metrics.jsonl"


class MetricsLog:
    """Writes events as they come. A log that goes on is first cut back to the step resumed from."""

    def __init__(self, run: Path, first_step: int) -> None:
        self._path = run / NAME
        cut_log(run, NAME, first_step)

    def __call__(self, event: Event) -> None:
        """Write one event; a full disk costs the log a line, never the run."""
        with suppress(OSError):
            files.append(self._path, _line({"event": type(event).__name__, **asdict(event)}))


def row_of(event: Event) -> dict[str, Any]:
    """An event as `charlm train --json` prints it: `went_back` and the like as its type, and its fields."""
    kind = re.sub(r"(?<!^)([A-Z])", r"_\1", type(event).__name__).lower()
    return {"type": kind, **asdict(event)}


def cut_log(run: Path, name: str, step: int) -> None:
    """Cut a log back to where `step` was saved, or else to the lines of steps up to it."""
    lines = read_log(run, name)
    saves = [i for i, line in enumerate(lines) if line.get("event") == "Saved" and line.get("step") == step]
    kept = lines[: saves[-1] + 1] if saves else [line for line in lines if line.get("step", 0) <= step]
    with suppress(OSError):  # a full disk costs the log, never the run
        files.replace(run / name, b"".join(map(_line, kept)))


def read_log(run: Path, name: str = NAME) -> list[dict[str, Any]]:
    """The events logged so far; lines that are torn or foreign are passed over."""
    path = run / name
    lines = path.read_bytes().splitlines() if path.is_file() else []
    found = []
    for line in lines:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict) and isinstance(value.get("step", 0), int):
            found.append(value)
    return found


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(finite(value), allow_nan=False).encode() + b"\n"
