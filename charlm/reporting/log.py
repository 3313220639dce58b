"""`metrics.jsonl`: every event of a run, a JSON object a line."""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

from charlm import files
from charlm.strict_json import replace_nonfinite, unique_keys
from charlm.training.events import Event

NAME = "metrics.jsonl"
LONGEST_LINE = 1 << 20
MOST = 2**63 - 1


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
    """Cut a log back to where `step` was saved, or else to the lines of steps up to it; damaged lines stay."""
    lines = _lines(run / name)
    events = [_event(line) for line in lines]
    saves = [
        i
        for i, e in enumerate(events)
        if e is not None and e.get("event") == "Saved" and e.get("step") == step
    ]
    if saves:
        kept = lines[: saves[-1] + 1]
    else:
        kept = [line for line, e in zip(lines, events, strict=True) if e is None or e.get("step", 0) <= step]
    with suppress(OSError):  # a full disk costs the log, never the run
        files.replace(run / name, b"".join(line + b"\n" for line in kept))


def read_log(
    run: Path, name: str = NAME, damaged: Callable[[str], None] = lambda said: None
) -> list[dict[str, Any]]:
    """The events logged so far. Damaged lines are skipped; `damaged` is told how many there are."""
    found = [_event(line) for line in _lines(run / name)]
    if skipped := found.count(None):
        damaged(f"{skipped:,} damaged line{'s' * (skipped > 1)} of {name}, skipped")
    return [event for event in found if event is not None]


def _lines(path: Path) -> list[bytes]:
    """The lines of a log that are not empty; none where it is no file of the run's own, or cannot be read."""
    found = []
    try:
        if path.is_file() and not path.is_symlink():
            with open(path, "rb") as file:
                while line := file.readline(LONGEST_LINE + 2):
                    found.append(line.rstrip(b"\n"))
                    while not line.endswith(b"\n") and (line := file.readline(LONGEST_LINE)):
                        pass  # the rest of a line that is too long, and so damaged
    except OSError:
        return []
    return [line for line in found if line.strip()]


def _event(line: bytes) -> dict[str, Any] | None:
    """What a line says; None where it is damaged: no JSON object, or a value of a wrong kind."""
    try:
        if len(line) > LONGEST_LINE:
            return None
        value = json.loads(line.decode("utf-8"), object_pairs_hook=unique_keys)
        if not isinstance(value, dict):
            return None
        event = str(value.get("event"))
        fields, needed = FIELDS.get(event, SAMPLE), NEEDED.get(event, ())
        whole = all(value.get(name) is not None for name in (needed if "event" in value else SAMPLE))
        fits = all(_fits(value[name], fields[name]) for name in fields.keys() & value)
        return value if whole and fits else None
    except (ValueError, TypeError, RecursionError):
        return None


def _fits(value: Any, kind: Any) -> bool:
    """Is it of that kind? Of whole numbers, those that a machine's integers hold; null is no finite number."""
    if isinstance(kind, UnionType):
        return any(_fits(value, one) for one in get_args(kind))
    if kind is float:
        return value is None or isinstance(value, float) or (type(value) is int and abs(value) <= MOST)
    if kind is int:
        return type(value) is int and 0 <= value <= MOST
    return not isinstance(kind, type) or isinstance(value, kind)


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(replace_nonfinite(value), allow_nan=False).encode() + b"\n"


SAMPLE = {"step": int, "text": str}
NEEDED = {"Stepped": ("step", "loss", "learning_rate"), "Evaluated": ("step", "nats_per_char")}
"""What those who show a log cannot do without."""
FIELDS = {event.__name__: get_type_hints(event) for event in get_args(Event)}
"""The kind of each value of each event."""
