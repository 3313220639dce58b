"""The folder of a run: its checkpoints, the pointers to them, its lock, and its summary for lists."""

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from charlm import files
from charlm.checkpoint import safe_io as manifest
from charlm.checkpoint.safe_io import parse, read_vouched
from charlm.errors import CharlmError, CheckpointError, ResourceError, UsageError
from charlm.suggestions import name_meant
from charlm.terminal import one_line

STEP_NAME = re.compile(r"step-(\d{8,12})")
KEEP_LAST = 2
RUN_NAME = re.compile(r"[^\W_.](?:[\w.+-]{0,98}[\w+-])?")
RESERVED = re.compile(r"(?:con|prn|aux|nul|(?:com|lpt)[0-9¹²³])(?:\..*)?", re.IGNORECASE)
"""Names that Windows keeps for devices. Like a last dot, no run has them anywhere: its folder may be copied there."""
LONGEST_NAME = 200
"""Bytes of a run's name: file systems take 255, and names of unfinished folders are longer than the run's."""
LONGEST_ENTRY = 255
SHOWN = 5
"""Unreadable folders that are named; of more, how many."""


class RunFolder:
    """One run on disk. Reading needs no lock; only a trainer that holds the lock writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path / ".lock")

    @property
    def name(self) -> str:
        """The run's name, safe to print."""
        return one_line(self.path.name)

    @classmethod
    def create(cls, root: Path, name: str, *, shared_name: bool = False) -> "RunFolder":
        """Make the folder of a new run and lock it; UsageError if the name is taken.

        With a `shared_name`, which others may be given too, CheckpointError if one of them is just at it.
        """
        check_free(root, name)
        run = cls(root / name)
        try:
            files.make_folder(run.path)
        except OSError as error:
            raise ResourceError(f"{one_line(str(run.path))} cannot be made: {error.strerror}") from None
        try:
            run.lock()
        except CheckpointError:  # another process is just beginning a run of that name
            if shared_name:
                raise
            raise _taken(name) from None
        check_free(root, name)
        return run

    @classmethod
    def create_like(cls, root: Path, wanted: str) -> "RunFolder":
        """The same under the first name like `wanted` that is free, others being at it too."""
        while True:
            name = free_name(root, wanted)
            try:
                return cls.create(root, name)
            except UsageError:
                continue

    def lock(self) -> None:
        """Keep other trainers out until this process ends; CheckpointError if one is at work."""
        if (self.path / ".lock").is_symlink():  # what it points to would be emptied
            raise CheckpointError(f"{one_line(str(self.path / '.lock'))} is a symbolic link; remove it")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise CheckpointError(f"the run {self.name} is being trained by another process") from None
        except OSError as error:
            raise ResourceError(f"the run {self.name} cannot be locked: {error.strerror}") from None
        with suppress(OSError):  # what cannot be cleared away takes room, and does no other harm
            files.remove_temporaries(self.path)

    def unlock(self) -> None:
        """Let others train it."""
        self._lock.release()

    def write_run_files(self, contents: Mapping[str, bytes]) -> None:
        """Write what stays the same for the whole run. Raises OSError."""
        for name in sorted(contents, key=manifest.RUN_FILES.__contains__):  # what makes it a run comes last
            files.replace(self.path / name, contents[name])

    def save(
        self, step: int, contents: Mapping[str, bytes], shared: Mapping[str, bytes], *, best: bool
    ) -> Path:
        """Write a checkpoint, point to it, then remove those no longer needed. Raises OSError.

        `shared` is what the run's own files hold: the manifest vouches for that, not for what has
        become of them on the disk.
        """
        size = sum(map(len, contents.values()))
        if files.free_space(self.path) < size + (1 << 20):
            raise OSError(28, f"no space left on the disk: {size} bytes are needed")
        folder = self.folder(step)
        files.publish_folder(folder, {**contents, manifest.NAME: manifest.describe(contents, shared)})
        for pointer in ("latest", "best") if best else ("latest",):
            files.replace(self.path / pointer, folder.name.encode() + b"\n")
        with suppress(OSError, CheckpointError):  # the checkpoint stands, whatever else is wrong here
            self._prune()
        return folder

    def point_to_best(self, step: int | None) -> None:
        """Point to the best checkpoint that a run's state names, should its last save have been cut short."""
        with suppress(OSError, CheckpointError):
            if step is not None and self.pointed("best") != step and self.folder(step).is_dir():
                files.replace(self.path / "best", self.folder(step).name.encode() + b"\n")

    def folder(self, step: int) -> Path:
        """Where the checkpoint of a step lies, or would."""
        return self.path / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, in order."""
        with self._reading():
            names = [STEP_NAME.fullmatch(path.name) for path in self.path.iterdir() if path.is_dir()]
        return sorted(int(match[1]) for match in names if match)

    def pointed(self, pointer: str) -> int | None:
        """The step that `latest` or `best` points to, if it is there."""
        path = self.path / pointer
        with self._reading():
            if not path.exists():
                return None
        match = STEP_NAME.fullmatch(manifest.read_regular(path, 64).decode("ascii", "replace").strip())
        if match is None:
            raise CheckpointError(f"{one_line(str(path))} is damaged: it names no checkpoint of this run")
        with self._reading():
            return int(match[1]) if self.folder(int(match[1])).is_dir() else None

    def resolve(self, which: str) -> int:
        """The step that `latest`, `best` or a number means; CheckpointError where there is none."""
        steps = self.steps()
        if not steps:
            raise no_checkpoint(self)
        if which in ("latest", "best"):
            pointed = self.pointed(which)
            if pointed is None and which == "best":
                raise CheckpointError(f"the run {self.name} has no best checkpoint: it was never evaluated")
            return steps[-1] if pointed is None else pointed
        if not which.isascii() or not which.isdigit() or int(which) not in steps:
            raise UsageError(
                f"the run {self.name} has no checkpoint {one_line(which)}; it has latest, best and the "
                f"steps {', '.join(map(str, steps))}"
            )
        return int(which)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Within it, what the system refuses is a CheckpointError."""
        try:
            yield
        except OSError as error:
            raise CheckpointError(f"the run {self.name} cannot be read: {error.strerror}") from None

    def _prune(self) -> None:
        steps = self.steps()
        keep = {*steps[-KEEP_LAST:], self.pointed("latest"), self.pointed("best")}
        for step in steps:
            if step not in keep:
                files.remove_tree(self.folder(step))


def check_name(name: str) -> None:
    """UsageError if a run cannot have this name."""
    if RESERVED.fullmatch(name):
        raise UsageError(
            f"a run cannot be named {one_line(name)!r}, which is a device on Windows; choose another name"
        )
    if not RUN_NAME.fullmatch(name) or len(name.encode()) > LONGEST_NAME:
        raise UsageError(
            f"a run cannot be named {one_line(name)!r}; use letters, digits, and . + - _ after the first, "
            f"at most 100 characters and {LONGEST_NAME} bytes of UTF-8, no dot at the end"
        )


def check_free(root: Path, name: str) -> None:
    """UsageError if no new run can have this name; what was ended before its first save does not count."""
    check_name(name)
    run = RunFolder(root / name)
    try:
        begun = (run.path / "run.json").exists() and run.steps()
        taken = begun or (run.path / "comparison.json").exists()
    except OSError as error:
        raise ResourceError(f"{one_line(str(run.path))} cannot be used: {error.strerror}") from None
    if taken:
        raise _taken(name)


def no_checkpoint(run: RunFolder) -> CheckpointError:
    """What is said of a run that was ended, or is, before its first save."""
    return CheckpointError(
        f"the run {run.name} has no checkpoint: nothing of it was saved yet; `charlm train` with --run "
        f"{run.name} begins it again"
    )


def _taken(name: str) -> UsageError:
    return UsageError(
        f"a run or comparison named {name} exists already; go on with it by `charlm resume {name}`, or choose another name "
        "with --run"
    )


def free_name(root: Path, wanted: str) -> str:
    """A name like `wanted` that no run has: itself, or with a number behind it."""
    plain = re.sub(r"[^\w.+-]+", "-", wanted).strip("-._+")[:80].encode()
    base = plain[: LONGEST_NAME - 20].decode("utf-8", "ignore").rstrip(".") or "run"
    base = f"run-{base}" if RESERVED.fullmatch(base) else base
    name, number = base, 2
    while (root / name).exists():
        name, number = f"{base}-{number}", number + 1
    return name


def has_run(root: Path, name: str) -> bool:
    """Is there a run, or a comparison, of that name?"""
    return any(holds(root, name, file) for file in ("run.json", "comparison.json"))


def runs(root: Path, skipped: Callable[[str], None] = lambda why: None) -> list[RunFolder]:
    """The runs below a folder, the one saved to last first; `skipped` is told of what cannot be read."""
    found = [RunFolder(path) for path in folders_with(root, "run.json", skipped)]
    return sorted(found, key=lambda run: (_saved(run), run.path.name), reverse=True)


def folders_with(root: Path, name: str, skipped: Callable[[str], None] = lambda why: None) -> list[Path]:
    """The folders below `root` that hold a file of that name; `skipped` is told of those that cannot be read.

    CheckpointError where `root` itself cannot be read.
    """
    try:
        children = sorted(root.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise CheckpointError(f"{one_line(str(root))} cannot be read: {error.strerror}") from None
    found, unreadable = [], []
    for path in children:
        try:
            if not path.name.startswith(files.TEMPORARY) and (path / name).is_file():
                found.append(path)
        except OSError as error:
            unreadable.append(f"{one_line(path.name)} ({error.strerror})")
    if unreadable:
        more = f" and {len(unreadable) - SHOWN} more" if len(unreadable) > SHOWN else ""
        skipped(
            f"skipped in {one_line(str(root))}, since it cannot be read: {', '.join(unreadable[:SHOWN])}{more}"
        )
    return found


def holds(root: Path, name: str, file: str) -> bool:
    """Is there a folder of that name below `root`, with such a file? CheckpointError where it cannot be read."""
    try:
        plain = Path(name).name == name and name != ".." and len(os.fsencode(name)) <= LONGEST_ENTRY
        return plain and (root / name / file).is_file()
    except UnicodeEncodeError:
        return False
    except OSError as error:
        raise CheckpointError(
            f"{one_line(name)} in {one_line(str(root))} cannot be read: {error.strerror}"
        ) from None


def find(root: Path, name: str | None, skipped: Callable[[str], None] = lambda why: None) -> RunFolder:
    """The run of that name, or the newest; CheckpointError where there is none.

    For a name only its own folder is looked at; `skipped` is told of others that cannot be read.
    """
    place = one_line(str(root))
    if name is not None and holds(root, name, "comparison.json"):
        raise CheckpointError(
            f"{one_line(name)} is a comparison; name one of its runs, with --checkpoints {one_line(str(root / name))}"
        )
    if name is not None and holds(root, name, "run.json"):
        return RunFolder(root / name)
    found = runs(root, skipped)
    if not found:
        raise CheckpointError(f"there are no runs in {place}; `charlm train` makes one")
    if name is None:
        return found[0]
    meant = name_meant(name, [run.path.name for run in found])
    hint = f"did you mean {one_line(meant)}? " if meant else ""
    raise CheckpointError(
        f"there is no run named {one_line(name)} in {place}; {hint}there are: "
        + ", ".join(run.name for run in found[:10])
        + (f" and {len(found) - 10} more: charlm runs lists them" if len(found) > 10 else "")
    )


def _saved(run: RunFolder) -> float:
    latest = run.path / "latest"
    try:
        return (latest if latest.exists() else run.path / "run.json").stat().st_mtime
    except OSError:  # it is being removed, or cannot be read: whoever reads it says so
        return 0.0


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
