"""The checks of `charlm doctor`: whether this machine can train, and whether a run is undamaged."""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

import charlm
from charlm import files
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.safe_io import find_problems
from charlm.checkpoint.snapshot import Snapshot, read_snapshot
from charlm.data.corpus_cache import cache_folder
from charlm.errors import CharlmError
from charlm.native.library import KernelStatus, statuses
from charlm.terminal import one_line
from charlm.threads import limits
from charlm.training.device import has_bf16, pick_device
from charlm.training.plan import read_plan
from charlm.training.run_corpus import corpus_of

PROBE = b"charlm doctor\n"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder that charlm writes to, or its nearest existing parent."""

    what: str
    path: str
    free_bytes: int | None
    problem: str | None


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The hardware and software that charlm uses on this machine, and where it writes."""

    charlm: str
    python: str
    system: str
    torch: str
    device: str
    threads: int
    cpus: dict[str, int]  # allowed by each of machine, affinity, cgroup and environment
    bf16: bool
    kernels: tuple[KernelStatus, ...]
    places: tuple[Place, ...]


@dataclass(frozen=True, kw_only=True)
class CheckedFile:
    """A file of a run; `problem` says what is wrong with it."""

    step: int  # of the checkpoint whose manifest lists it
    name: str
    problem: str | None


@dataclass(frozen=True, kw_only=True)
class Examination:
    """The files of a run, other problems, and the step that it resumes from."""

    run: str
    files: tuple[CheckedFile, ...]
    problems: tuple[str, ...]
    usable: tuple[int, ...]  # steps whose checkpoint is intact
    resumes_from: int | None

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems and not any(file.problem for file in self.files)


def machine(checkpoints: Path) -> Machine:
    """Examine this machine. Writes a few bytes to the folders that charlm writes to, and removes them."""
    device = pick_device("auto")
    return Machine(
        charlm=charlm.__version__,
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        torch=str(torch.__version__),
        device=device.type,
        threads=torch.get_num_threads(),
        cpus=limits(),
        bf16=has_bf16(device),
        kernels=statuses(),
        places=(_place("checkpoints", checkpoints), _place("cache", cache_folder())),
    )


def examine(
    run: RunFolder, watch: Callable[[str, int, int], None] = lambda what, done, of: None
) -> Examination:
    """Verify every file of a run, and find the step that it resumes from. Writes nothing.

    `watch` is told how many checkpoints are verified.
    """
    found: list[CheckedFile] = []
    wrong: list[str] = []
    newest: Snapshot | None = None
    usable: list[int] = []
    steps = run.steps()
    for i, step in enumerate(steps):
        watch("verifying", i, len(steps))
        of_step = find_problems(run.folder(step))
        found += [CheckedFile(step=step, name=name, problem=said) for name, said in of_step.items()]
        try:
            newest = read_snapshot(run, str(step), training=True)
            newest.kneser_ney()
            usable.append(step)
        except CharlmError as error:
            if not any(of_step.values()):  # its files are intact, and yet no valid checkpoint
                wrong.append(f"the checkpoint of step {step} cannot be used: {error}")
    beside, resumable = _beside(run, newest)
    return Examination(
        run=run.name,
        files=tuple(found),
        problems=(*wrong, *beside),
        usable=tuple(usable),
        resumes_from=usable[-1] if usable and resumable else None,
    )


def _beside(run: RunFolder, newest: Snapshot | None) -> tuple[list[str], bool]:
    """Find problems with the plan, the pointers and the text. Return them, and whether the run can be resumed despite them."""
    wrong, resumable = [], True
    if not run.steps():
        wrong.append("it has no checkpoint yet")
    for pointer in ("latest", "best"):
        try:
            if run.pointed(pointer) is None and (run.path / pointer).exists():
                wrong.append(f"{pointer} points to a missing checkpoint")
        except CharlmError as error:
            wrong.append(str(error))
    needed: dict[str, Callable[[], object]] = {"plan": lambda: read_plan(run)}
    if newest is not None:
        needed["text"] = lambda: corpus_of(newest)
    for what, read in needed.items():
        try:
            read()
        except CharlmError as error:
            wrong.append(f"its {what}: {error}")
            resumable = False
    left = sum(1 for _ in run.path.glob(files.TEMPORARY + "*"))
    if left:
        wrong.append(
            f"{left} unfinished, from a crash or from active training; the next start removes leftovers"
        )
    return wrong, resumable


def _place(what: str, folder: Path) -> Place:
    """Try to write to a folder, or to its nearest existing parent."""
    there = folder.absolute()
    while not there.exists() and there != there.parent:
        there = there.parent
    problem, free = None, None
    probe = files.temporary_path(there / "doctor")
    try:
        free = files.free_space(there)
        files.write_synced(probe, PROBE)
        if probe.read_bytes() != PROBE:
            problem = "the file does not read back as it was written"
    except OSError as error:
        problem = error.strerror or str(error)
    finally:
        try:
            probe.unlink(missing_ok=True)
        except OSError as error:
            problem = problem or error.strerror or str(error)
    return Place(what=what, path=one_line(str(there)), free_bytes=free, problem=problem)
