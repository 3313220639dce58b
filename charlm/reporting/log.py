"""Write and read a run's logs in JSON Lines: every event in `metrics.jsonl`, samples in `samples.jsonl`."""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from charlm import files
from charlm.errors import CheckpointError
from charlm.strict_json import parse_json, read_as, replace_nonfinite
from charlm.training.events import Evaluated, Event, Saved

METRICS, SAMPLES = "metrics.jsonl", "samples.jsonl"
LONGEST_LINE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What the model wrote at an evaluation."""

    step: int
    text: str


KINDS: dict[str, type[Event]] = {kind.__name__: kind for kind in get_args(Event)}


class MetricsLog:
    """A listener that logs every event. The log of a resumed run is first cut back to the step resumed from."""

    def __init__(self, run: Path, first_step: int) -> None:
        self._path = run / METRICS
        cut_log(self._path, first_step)

    def __call__(self, event: Event) -> None:
        """Write one event."""
        _append(self._path, {"event": type(event).__name__, **asdict(event)})


class SampleLog:
    """A listener that logs a sample at each evaluation, for the report; `text` is the newest."""

    def __init__(self, run: Path, first_step: int, write: Callable[[], str] | None) -> None:
        """`write` makes a sample; if it is None, there are none."""
        self._path = run / SAMPLES
        cut_log(self._path, first_step)
        self._write = write
        self.text = ""

    def __call__(self, event: Event) -> None:
        """Write a sample at an evaluation."""
        if isinstance(event, Evaluated) and self._write is not None:
            self.text = self._write()
            _append(self._path, {"step": event.step, "text": self.text})


def _append(path: Path, row: dict[str, Any]) -> None:
    """Append a line; a full disk costs the log that line, never the run."""
    with suppress(OSError):
        files.append(path, json.dumps(replace_nonfinite(row), allow_nan=False).encode() + b"\n")


def row_of(event: Event) -> dict[str, Any]:
    """Return an event as `charlm train --json` prints it: its type, such as `went_back`, and its fields."""
    kind = re.sub(r"(?<!^)([A-Z])", r"_\1", type(event).__name__).lower()
    return {"type": kind, **asdict(event)}


def cut_log(path: Path, step: int) -> None:
    """Cut a log back to where `step` was saved, else to the lines of steps up to it; damaged lines are kept."""
    lines = _lines(path)
    found = [_parse(line) for line in lines]
    saves = [i for i, row in enumerate(found) if isinstance(row, Saved) and row.step == step]
    if saves:
        kept = lines[: saves[-1] + 1]
    else:
        kept = [line for line, row in zip(lines, found, strict=True) if row is None or row.step <= step]
    with suppress(OSError):  # a full disk costs the log, never the run
        files.replace(path, b"".join(line + b"\n" for line in kept))


def read_log(path: Path, damaged: Callable[[str], None] = lambda said: None) -> list[Event | Sample]:
    """Read what was logged so far. Damaged lines are skipped; `damaged` is told how many there are."""
    found = [_parse(line) for line in _lines(path)]
    if skipped := found.count(None):
        damaged(f"{skipped:,} damaged line{'s' * (skipped > 1)} of {path.name}, skipped")
    return [row for row in found if row is not None]


def _lines(path: Path) -> list[bytes]:
    """Read the non-empty lines of a log; none if it is not a regular file in the run's folder, or cannot be read."""
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


def _parse(line: bytes) -> Event | Sample | None:
    """Parse a line; None if it is damaged."""
    try:
        row = parse_json(line[: LONGEST_LINE + 1], "a line")
        kind: type[Event | Sample] = KINDS.get(str(row.pop("event")), Sample) if "event" in row else Sample
        return read_as(kind, row, "a line")
    except CheckpointError:
        return None
