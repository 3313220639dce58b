"""The trackers' state in a run's folder: which trackers it reports to, and each one's run and last reported steps.

`trackers/chosen.json` is written by the training, `trackers/NAME.json` by the tracker's process alone.
"""

from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock

from charlm import files
from charlm.checkpoint.safe_io import read_json
from charlm.errors import CheckpointError
from charlm.reporting.trackers import TRACKERS
from charlm.strict_json import dump_json, read_as, to_json

FOLDER, CHOSEN = "trackers", "chosen.json"
LONGEST_ID = 128


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The trackers that a run reports to, also when it is resumed."""

    trackers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [name for name in self.trackers if name not in TRACKERS]
        if unknown or len(set(self.trackers)) < len(self.trackers):
            raise ValueError(f"trackers must be different ones of {', '.join(TRACKERS)}")


@dataclass(frozen=True, kw_only=True)
class TrackerState:
    """The progress of a tracker."""

    id: str | None = None  # of the tracker's run
    last: dict[str, int] = field(default_factory=dict)  # the last step that was reported under each name

    def __post_init__(self) -> None:
        if self.id is not None and not (0 < len(self.id) <= LONGEST_ID and self.id.isprintable()):
            raise ValueError(f"id must have 1 to {LONGEST_ID} printable characters")


def read_chosen(run: Path) -> tuple[str, ...]:
    """Read which trackers a run reports to. Raises CheckpointError where the file is damaged."""
    path = run / FOLDER / CHOSEN
    return read_as(Chosen, read_json(path), f"{FOLDER}/{CHOSEN}").trackers if path.exists() else ()


def write_chosen(run: Path, trackers: tuple[str, ...]) -> None:
    """Write which trackers a run reports to. Raises OSError."""
    _write(run / FOLDER / CHOSEN, Chosen(trackers=trackers))


def state_path(run: Path, tracker: str) -> Path:
    """Return the file with the state of a tracker of a run."""
    return run / FOLDER / f"{tracker}.json"


def lock_of(run: Path, tracker: str) -> FileLock:
    """Return the lock held while delivering to a tracker. Raises CheckpointError for links, whose targets would be emptied."""
    path = state_path(run, tracker).with_suffix(".lock")
    if path.parent.is_symlink() or path.is_symlink():
        raise CheckpointError(f"{FOLDER}/{path.name} leads out of the run's folder; remove the link")
    files.make_folder(path.parent)
    return FileLock(path)


def read_state(run: Path, tracker: str) -> TrackerState:
    """Read the state of a tracker, empty if nothing was reported to it. Raises CheckpointError where it is damaged."""
    path = state_path(run, tracker)
    return (
        read_as(TrackerState, read_json(path), f"{FOLDER}/{path.name}") if path.exists() else TrackerState()
    )


def write_state(run: Path, tracker: str, state: TrackerState) -> None:
    """Write the state of a tracker. Raises OSError."""
    _write(state_path(run, tracker), state)


def _write(path: Path, value: Chosen | TrackerState) -> None:
    if not path.parent.is_symlink():
        files.make_folder(path.parent)
        files.replace(path, dump_json(to_json(value)))
