"""The messages from training to a tracker's process, as lines of JSON, and the contract of a tracker."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

PROJECT = "charlm"
"""The project, or experiment, of all runs, unless the tracker's own environment variables name another."""
Setting = bool | int | float | str


@dataclass(frozen=True, kw_only=True)
class Begin:
    """The first message: which run begins, or is resumed at `step`."""

    run: str
    folder: str  # of the run
    step: int
    settings: dict[str, Setting]
    id: str | None = None  # of the tracker's run to resume, which its process remembers; None: a new one


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Figures of one step, by name."""

    step: int
    time: float  # seconds since the epoch
    values: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text of one step."""

    step: int
    time: float
    name: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All settings again, since some have changed: another member is trained, or with another size."""

    settings: dict[str, Setting]


@dataclass(frozen=True, kw_only=True)
class BackTo:
    """Training went back to its last checkpoint; the steps after it come again."""

    step: int


@dataclass(frozen=True, kw_only=True)
class End:
    """The last message: how the run ended, and its report."""

    status: str  # `done`, `stopped` (it can be resumed) or `failed`
    report: str | None  # the path of its page


Message = Begin | Numbers | Text | Settings | BackTo | End
KINDS: dict[str, type[Message]] = {
    kind.__name__: kind for kind in (Begin, Numbers, Text, Settings, BackTo, End)
}


def to_line(message: Message) -> bytes:
    """Serialise a message as a line of JSON."""
    return json.dumps([type(message).__name__, asdict(message)]).encode() + b"\n"


def from_line(line: bytes) -> Message:
    """Parse a line that `to_line` made."""
    kind, values = json.loads(line)
    return KINDS[kind](**values)


class Tracker(Protocol):
    """The contract of a tracker, in a process of its own. It is constructed from Begin, and may raise anything at any time."""

    id: str | None  # of its run, to be resumed later
    where: str  # its figures can be seen, for the user

    def numbers(self, rows: Sequence[Numbers]) -> None:
        """Record figures; each name gets a step at most once, and in rising order."""

    def text(self, text: Text) -> None:
        """Record a text."""

    def settings(self, settings: Mapping[str, Setting]) -> None:
        """Record settings that have changed."""

    def forget_after(self, step: int) -> bool:
        """Forget later steps, which come again, and return True; or return False if that is impossible: then they do not."""

    def end(self, end: End) -> None:
        """Record the end of the run, keep its report, and wait until everything is delivered."""
