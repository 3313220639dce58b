"""The folder of a run: what run.json records, its checkpoints, the pointers to them, and its lock."""

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from charlm import files
from charlm.checkpoint.safe_io import MANIFEST, RUN_FILES, make_manifest, read_file, reading
from charlm.data.text_config import TextConfig
from charlm.errors import CheckpointError, ResourceError, UsageError
from charlm.suggestions import name_meant
from charlm.terminal import command_line, one_line

STEP_NAME = re.compile(r"step-(\d{8,12})")
KEEP_LAST = 2
RUN_NAME = re.compile(r"[^\W_.](?:[\w.+-]{0,98}[\w+-])?")
WINDOWS_DEVICE = re.compile(r"(?:con|prn|aux|nul|(?:com|lpt)[0-9¹²³])(?:\..*)?", re.IGNORECASE)
"""Device names on Windows, refused everywhere, like a final dot: the folder may be copied there."""
MAX_NAME = 200
"""Most bytes in a run's name: file systems take 255, and unfinished folders have longer names than the run."""
MAX_ENTRY = 255
LOCK = ".lock"
MAX_LISTED = 5
"""Most unreadable folders that a warning names."""


@dataclass(frozen=True, kw_only=True)
class DivisionFacts:
    """What the vocabulary and the split of a fine-tuning text depend on, besides the text itself."""

    vocabulary: dict[str, Any]  # of the parent, as in its file
    key: str  # of the parent's text
    sha256: str
    chars: int
    spans: dict[str, list[tuple[int, int]]] | None
    looked: bool  # whether the parent's held-out passages were searched for in the new text


@dataclass(frozen=True, kw_only=True)
class CorpusFacts:
    """Which text a run was trained on, and where it was read."""

    label: str
    sources: tuple[str, ...]
    key: str  # in the cache: a hash of the contents and of how they are split
    sha256: str
    chars: int = 0
    train_chars: int = 0
    held_out_chars: int = 0
    inherited_split: dict[str, Any] | None = None  # the split, if it keeps the parent's
    earlier: DivisionFacts | None = None


@dataclass(frozen=True, kw_only=True)
class ParentFacts:
    """The run that another was fine-tuned from."""

    run: str
    step: int
    weights_sha256: str
    block_size: int
    counted: bool  # whether its n-grams are counted in the new run's n-gram model
    corpus: CorpusFacts
    text: TextConfig

    def __post_init__(self) -> None:
        if self.block_size < 1:
            raise ValueError(f"block_size is {self.block_size}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class TeacherFacts:
    """The run that another was distilled from: it learned this one's probabilities."""

    run: str
    step: int
    weights_sha256: str
    ngram_sha256: str | None


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """The contents of run.json, written when a run begins; nothing in it changes later."""

    name: str
    command: str
    created: str
    corpus: CorpusFacts
    text: TextConfig
    versions: dict[str, str] = field(default_factory=dict)
    parent: ParentFacts | None = None
    teacher: TeacherFacts | None = None
    asked: dict[str, Any] | None = None  # the settings given by the user


class LockedError(CheckpointError):
    """A run that another process trains."""


class RunFolder:
    """One run on disk. Reading needs no lock; only a trainer that holds the lock writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(path / LOCK)

    @property
    def name(self) -> str:
        """The run's name, safe to print."""
        return one_line(self.path.name)

    @classmethod
    def create(cls, root: Path, name: str, *, shared_name: bool = False) -> "RunFolder":
        """Create and lock the folder of a new run. Raises UsageError if the name is taken.

        With `shared_name`, other processes may be given the same name: LockedError if one of them holds it.
        """
        check_free(root, name)
        run = cls(root / name)
        try:
            files.make_folder(run.path)
        except OSError as error:
            raise ResourceError(f"{one_line(str(run.path))} cannot be created: {error.strerror}") from None
        try:
            run.lock()
        except LockedError:  # another process is starting a run of that name
            if shared_name:
                raise
            raise _taken(run) from None
        check_free(root, name)
        return run

    @classmethod
    def create_like(cls, root: Path, wanted: str) -> "RunFolder":
        """Create the folder of a new run under the first free name like `wanted`: poems, poems-2, ..."""
        while True:
            name = free_name(root, wanted)
            try:
                return cls.create(root, name)
            except UsageError:
                continue

    def lock(self, *, wait: bool = False) -> None:
        """Lock the run until this process ends. Raises LockedError if another trains it, unless told to `wait` for that one."""
        if (self.path / LOCK).is_symlink():  # its target would be emptied
            raise CheckpointError(f"{one_line(str(self.path / '.lock'))} is a symbolic link; remove it")
        try:
            self._lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            raise LockedError(f"the run {self.name} is being trained by another process") from None
        except OSError as error:
            raise ResourceError(f"the run {self.name} cannot be locked: {error.strerror}") from None
        with suppress(OSError):  # leftovers take room and do no other harm
            files.remove_temporaries(self.path)

    def unlock(self) -> None:
        """Let other processes train the run, however often it was locked."""
        self._lock.release(force=True)

    def write_run_files(self, contents: Mapping[str, bytes]) -> None:
        """Write the files that all checkpoints share. Raises OSError."""
        for name in sorted(contents, key=RUN_FILES.__contains__):  # RUN_FILES, which make it a run, come last
            files.replace(self.path / name, contents[name])

    def save(
        self, step: int, contents: Mapping[str, bytes], shared: Mapping[str, bytes], *, best: bool
    ) -> Path:
        """Write a checkpoint, point to it, then remove old ones. Raises OSError.

        `shared`: the intended contents of the files that all checkpoints share, for the manifest's hashes.
        """
        self.check_space(sum(map(len, contents.values())))
        files.publish_folder(self.folder(step), {**contents, MANIFEST: make_manifest(contents, shared)})
        return self.point_to(step, best=best)

    def check_space(self, size: int) -> None:
        """Raise OSError if the disk has no room for so many bytes."""
        if files.free_space(self.path) < size + (1 << 20):
            raise OSError(28, f"no space left on the disk: {size} bytes are needed")

    def point_to(self, step: int, *, best: bool) -> Path:
        """Point to a checkpoint that has just been written, then remove old ones. Raises OSError."""
        folder = self.folder(step)
        for pointer in ("latest", "best") if best else ("latest",):
            files.replace(self.path / pointer, folder.name.encode() + b"\n")
        with suppress(OSError, CheckpointError):  # the checkpoint is safe, whatever else fails
            self._prune()
        return folder

    def point_to_best(self, step: int | None) -> None:
        """Repair the pointer to the best checkpoint, in case the last save was cut short."""
        with suppress(OSError, CheckpointError):
            if step is not None and self.pointed("best") != step and self.folder(step).is_dir():
                files.replace(self.path / "best", self.folder(step).name.encode() + b"\n")

    def forget_best(self) -> None:
        """Remove the pointer to the best checkpoint, since the training of the model begins again."""
        with suppress(OSError):
            (self.path / "best").unlink(missing_ok=True)

    def folder(self, step: int) -> Path:
        """The path of the checkpoint of a step."""
        return self.path / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, ascending. Raises CheckpointError."""
        with reading(f"the run {self.name}"):
            names = [STEP_NAME.fullmatch(path.name) for path in self.path.iterdir() if path.is_dir()]
        return sorted(int(match[1]) for match in names if match)

    def pointed(self, pointer: str) -> int | None:
        """The step that `latest` or `best` points to, None if it is missing. Raises CheckpointError."""
        path = self.path / pointer
        with reading(f"the run {self.name}"):
            if not path.exists():
                return None
        match = STEP_NAME.fullmatch(read_file(path, 64).decode("ascii", "replace").strip())
        if match is None:
            raise CheckpointError(f"{one_line(str(path))} is damaged: it names no checkpoint of this run")
        with reading(f"the run {self.name}"):
            return int(match[1]) if self.folder(int(match[1])).is_dir() else None

    def resolve(self, which: str) -> int:
        """The step that `latest`, `best` or a number stands for. Raises CheckpointError or UsageError."""
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

    def _prune(self) -> None:
        steps = self.steps()
        keep = {*steps[-KEEP_LAST:], self.pointed("latest"), self.pointed("best")}
        for step in steps:
            if step not in keep:
                files.remove_tree(self.folder(step))


def check_name(name: str) -> None:
    """Raise UsageError for an invalid run name."""
    if WINDOWS_DEVICE.fullmatch(name):
        raise UsageError(
            f"a run cannot be named {one_line(name)!r}, which is a device on Windows; choose another name"
        )
    if not RUN_NAME.fullmatch(name) or len(name.encode()) > MAX_NAME:
        raise UsageError(
            f"a run cannot be named {one_line(name)!r}; start with a letter or digit, then use letters, "
            "digits and . + - _, "
            f"at most 100 characters and {MAX_NAME} bytes of UTF-8, no dot at the end"
        )


def check_free(root: Path, name: str) -> None:
    """Raise UsageError if a new run cannot have this name. Runs without a checkpoint do not occupy theirs."""
    check_name(name)
    run = RunFolder(root / name)
    try:
        begun = (run.path / "run.json").exists() and run.steps()
        taken = begun or (run.path / "comparison.json").exists()
    except OSError as error:
        raise ResourceError(f"{one_line(str(run.path))} cannot be used: {error.strerror}") from None
    if taken:
        raise _taken(run)


def run_command(command: str, run: RunFolder, *words: str) -> str:
    """Return the command line of `charlm COMMAND` on a run, with further words."""
    name = run.path.name
    named = [name]
    if name.startswith("-"):
        named = [f"--run={name}"]
    elif command in ("sample", "eval", "train"):
        named = ["--run", name]
    return command_line(["charlm", command, *named, *folder_words(run), *words])


def folder_words(run: RunFolder) -> list[str]:
    """Return the option by which a run is found, if its folder is not in the default place."""
    usual = Path(os.path.expanduser(os.environ.get("CHARLM_CHECKPOINTS") or "checkpoints"))
    return [] if run.path.parent == usual else ["--checkpoints", str(run.path.parent)]


def no_checkpoint(run: RunFolder) -> CheckpointError:
    """The error for a run that was stopped before its first save."""
    return CheckpointError(
        f"the run {run.name} has no checkpoint yet; start it again with "
        f"`{one_line(run_command('train', run))}`"
    )


def _taken(run: RunFolder) -> UsageError:
    return UsageError(
        f"a run or comparison named {run.name} exists already; resume it with "
        f"`{one_line(run_command('resume', run))}`, or choose another name with --run"
    )


def free_name(root: Path, wanted: str) -> str:
    """Return the first unused name: `wanted` made valid, with a number appended if needed."""
    plain = re.sub(r"[^\w.+-]+", "-", wanted).strip("-._+")[:80].encode()
    base = plain[: MAX_NAME - 20].decode("utf-8", "ignore").rstrip(".") or "run"
    base = f"run-{base}" if WINDOWS_DEVICE.fullmatch(base) else base
    name, number = base, 2
    while (root / name).exists():
        name, number = f"{base}-{number}", number + 1
    return name


def has_run(root: Path, name: str) -> bool:
    """Whether there is a run or a comparison of that name."""
    return any(holds(root, name, file) for file in ("run.json", "comparison.json"))


def list_runs(root: Path, skipped: Callable[[str], None] = lambda why: None) -> list[RunFolder]:
    """List the runs in a folder, last saved first; `skipped` is called with a warning about unreadable ones."""
    found = [RunFolder(path) for path in folders_with(root, "run.json", skipped)]
    return sorted(found, key=lambda run: (_saved(run), run.path.name), reverse=True)


def folders_with(root: Path, name: str, skipped: Callable[[str], None] = lambda why: None) -> list[Path]:
    """List the folders in `root` that contain a file of that name; `skipped` is called with a warning about unreadable ones.

    Raises CheckpointError where `root` itself cannot be read.
    """
    with reading(str(root)):
        try:
            children = sorted(root.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
    found, unreadable = [], []
    for path in children:
        try:
            if not path.name.startswith(files.TEMPORARY) and (path / name).is_file():
                found.append(path)
        except OSError as error:
            unreadable.append(f"{one_line(path.name)} ({error.strerror})")
    if unreadable:
        more = f" and {len(unreadable) - MAX_LISTED} more" if len(unreadable) > MAX_LISTED else ""
        skipped(
            f"skipped in {one_line(str(root))} because unreadable: {', '.join(unreadable[:MAX_LISTED])}{more}"
        )
    return found


def holds(root: Path, name: str, file: str) -> bool:
    """Whether `root` has a folder `name` that contains `file`. Raises CheckpointError where it cannot be read."""
    with suppress(UnicodeEncodeError), reading(f"{name} in {root}"):
        plain = Path(name).name == name and name != ".." and len(os.fsencode(name)) <= MAX_ENTRY
        return plain and (root / name / file).is_file()
    return False


def find_run(root: Path, name: str | None, skipped: Callable[[str], None] = lambda why: None) -> RunFolder:
    """Find the run of that name, or the newest. Raises CheckpointError where there is none.

    With a name only its own folder is read; `skipped` is called with a warning about unreadable others.
    """
    place = one_line(str(root))
    if name is not None and holds(root, name, "comparison.json"):
        raise CheckpointError(
            f"{one_line(name)} is a comparison; name one of its runs, with --checkpoints {one_line(str(root / name))}"
        )
    if name is not None and holds(root, name, "run.json"):
        return RunFolder(root / name)
    found = list_runs(root, skipped)
    if not found:
        raise CheckpointError(f"there are no runs in {place}; `charlm train` creates one")
    if name is None:
        return found[0]
    meant = name_meant(name, [run.path.name for run in found])
    hint = f"did you mean {one_line(meant)}? " if meant else ""
    raise CheckpointError(
        f"there is no run named {one_line(name)} in {place}; {hint}existing runs: "
        + ", ".join(run.name for run in found[:10])
        + (f" and {len(found) - 10} more: charlm runs lists them" if len(found) > 10 else "")
    )


def _saved(run: RunFolder) -> float:
    latest = run.path / "latest"
    try:
        return (latest if latest.exists() else run.path / "run.json").stat().st_mtime
    except OSError:  # being removed, or unreadable, which reading it will report
        return 0.0
