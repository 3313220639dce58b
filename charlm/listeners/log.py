"""`metrics.jsonl`: every event of a run, a JSON object a line."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from charlm import files
from charlm.training.events import Event

NAME = "metrics.jsonl"


class MetricsLog:
    """Writes events as they come. A log that goes on is first cut back to the step resumed from."""

    def __init__(self, run: Path, first_step: int) -> None:
        self._path = run / NAME
        kept = [line for line in read_log(run) if line.get("step", 0) <= first_step]
        files.replace(self._path, b"".join(map(_line, kept)))
        self._failed = False

    def __call__(self, event: Event) -> None:
        """Write one event; a full disk costs the log a line, never the run."""
        try:
            files.append(self._path, _line({"event": type(event).__name__, **asdict(event)}))
        except OSError:
            self._failed = True


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
    return json.dumps(value).encode() + b"\n"
