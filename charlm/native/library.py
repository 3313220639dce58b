"""What is there in C too: compiled while the program starts, where there is a compiler, for this process alone.

Nothing compiled is kept, so that nothing found on disk is ever run.
"""

import atexit
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import monotonic

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O2", "-ftree-vectorize", "-fPIC")
OWN_PROCESSOR = ("-march=native",)
STEP = Path(__file__).parent / "step.c"
ROWS = Path(__file__).parent / "rows.c"
FLAGS_OF = {
    STEP: ("-ffast-math", "-funroll-loops"),
    ROWS: ("-ffp-contract=off",),  # no two operations made one: the rows are NumPy's, bit for bit
}
PURPOSE = {STEP: "sampling", ROWS: "n-gram counts"}
SECONDS, PATIENCE = 20.0, 60.0
"""How long the program waits for a compiler, and how long one may take beside other work."""
_not_told: list[tuple[Path, str]] = []  # sources that could not be compiled, and why


class Compiling:
    """A compiler at work, on each source beside the others.

    What fails is tried again without the processor's own instructions, then by the next compiler. What can
    be compiled is used, whatever becomes of the rest.
    """

    def __init__(self, compilers: Sequence[str], sources: Sequence[Path] = (STEP, ROWS)) -> None:
        assert compilers
        # Windows removes no library that is loaded: then the folder stays.
        self._folder = tempfile.TemporaryDirectory(prefix="charlm-", ignore_cleanup_errors=True)
        self._attempts = [(each, flags) for each in compilers for flags in (OWN_PROCESSOR, ())]
        self.compiler = compilers[0]
        self.failures: dict[Path, str] = {}  # why a source could not be compiled, once that is known
        self._lock = threading.Lock()
        self._found: ctypes.CDLL | None = None
        self._processes: dict[Path, subprocess.Popen[bytes]] = {}
        self._finished = False
        atexit.register(self._end)
        self._begun = 0.0
        self._begin(sources)

    @property
    def waits(self) -> bool:
        """Would `library` have to wait for the compiler? One that hangs is given up after PATIENCE."""
        return monotonic() < self._begun + PATIENCE and any(
            p.poll() is None for p in self._processes.values()
        )

    def library(self) -> ctypes.CDLL | None:
        """What came of it, waited for; None where nothing could be compiled."""
        with self._lock:
            if not self._finished:
                self._finished = True
                sources = list(self._processes)
                try:
                    self._found = self._linked(self._compiled())
                except OSError as error:
                    self.failures |= {source: f"{Path(self.compiler).name}: {error}" for source in sources}
                finally:
                    self._end()
                _not_told.extend(self.failures.items())
            return self._found

    def _compiled(self) -> list[Path]:
        """The sources that became object files."""
        made: list[Path] = []
        while self._processes:
            running, hung, until = self._processes, False, self._until()
            for source, process in running.items():
                why = self._why_failed(process, until, self._log(source), self._object(source))
                if why is None:
                    made.append(source)
                    self.failures.pop(source, None)
                else:
                    self.failures.setdefault(source, why)  # the first compiler's reason is the one to mend
                    hung |= process.returncode is None
            left = [source for source in running if source not in made]
            for source in left:
                _kill(running[source])
            self._processes = {}
            if left and self._attempts and not hung:
                self._begin(left)
        return made

    def _linked(self, made: Sequence[Path]) -> ctypes.CDLL | None:
        """Linked apart from compiling: with -ffast-math, that would change how the whole process computes."""
        if not made:
            return None
        target, log = Path(self._folder.name, "step.so"), Path(self._folder.name, "link.log")
        command = [self.compiler, "-shared", "-o", str(target), *map(str, map(self._object, made)), "-lm"]
        linking = self._processes[target] = _logging(command, log)
        self._begun = monotonic()
        why = self._why_failed(linking, self._until(), log, target)
        if why is not None:
            self.failures |= dict.fromkeys(made, why)
            return None
        return ctypes.CDLL(str(target))

    def _begin(self, sources: Sequence[Path]) -> None:
        """Start the next attempt. A compiler that cannot be started is passed over."""
        while self._attempts and not self._processes:
            self.compiler, own = self._attempts.pop(0)
            self._begun = monotonic()
            try:
                for source in sources:
                    flags = [*FLAGS, *own, *FLAGS_OF[source]]
                    command = [self.compiler, "-c", *flags, "-o", str(self._object(source)), str(source)]
                    self._processes[source] = _logging(command, self._log(source))
            except OSError as error:
                for process in self._processes.values():
                    _kill(process)
                self._processes = {}
                for source in sources:
                    self.failures.setdefault(source, f"{Path(self.compiler).name}: {error}")

    def _until(self) -> float:
        """How long to wait for what was begun last."""
        return min(monotonic() + SECONDS, self._begun + PATIENCE)

    def _why_failed(
        self, process: subprocess.Popen[bytes], until: float, log: Path, target: Path
    ) -> str | None:
        """Wait for a compiler; what it complained of, in a line, or None where its file is there."""
        name = Path(self.compiler).name
        try:
            code = process.wait(max(0.0, until - monotonic()))
        except subprocess.TimeoutExpired:
            return f"{name} did not finish in {monotonic() - self._begun:.0f} seconds"
        if code == 0 and target.exists():
            return None
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        said = next((line for line in lines if "error" in line.lower()), lines[0] if lines else None)
        return f"{name}: {said or f'it made nothing, with exit code {code}'}"

    def _object(self, source: Path) -> Path:
        return Path(self._folder.name, f"{source.stem}.o")

    def _log(self, source: Path) -> Path:
        return Path(self._folder.name, f"{source.stem}.log")

    def _end(self) -> None:
        atexit.unregister(self._end)
        for process in self._processes.values():
            _kill(process)
        self._processes = {}
        self._folder.cleanup()


def compilers(names: Sequence[str] = COMPILERS) -> list[str]:
    """Those of these compilers that are installed, each once, whatever its names.

    Without Apple's developer tools, those in /usr/bin on macOS only open a dialog that offers to install them.
    """
    found = [path for name in names if (path := shutil.which(name))]
    if sys.platform == "darwin" and not _has_developer_tools():
        found = [path for path in found if not path.startswith("/usr/bin/")]
    return list({os.path.realpath(path): path for path in reversed(found)}.values())[::-1]


def begin(*sources: Path) -> Compiling | None:
    """Start compiling these, by default what a model needs, so that what is imported meanwhile hides the time.

    None without a compiler.
    """
    found = compilers()
    try:
        return Compiling(found, sources or (STEP, ROWS)) if found else None
    except OSError as error:
        _not_told.extend((source, f"{Path(found[0]).name}: {error}") for source in sources or (STEP, ROWS))
        return None


@cache
def _has_developer_tools() -> bool:
    """Whether Apple's developer tools are installed."""
    try:
        command, nothing = ["/usr/bin/xcode-select", "-p"], subprocess.DEVNULL
        return subprocess.run(command, stdout=nothing, stderr=nothing, timeout=SECONDS).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@dataclass(frozen=True, kw_only=True)
class Part:
    """What is done in C where it can be compiled, and in NumPy otherwise."""

    purpose: str
    compiler: str | None  # that compiled it; None: NumPy is used
    problem: str | None  # why it could not be compiled

    def __str__(self) -> str:
        """In words."""
        return f"{self.purpose} in NumPy ({self.problem})" if self.problem else f"{self.purpose} in C"


def examine() -> tuple[Part, ...]:
    """Compile each part, to see which can be."""
    parts = []
    for source, compiling in [(source, begin(source)) for source in PURPOSE]:
        if compiling is not None:
            compiling.library()
            problem = compiling.failures.get(source)
        elif compilers():
            problem = dict(_not_told)[source]
        else:
            problem = f"there is no C compiler: none of {', '.join(COMPILERS)}"
        compiler = Path(compiling.compiler).name if compiling is not None and problem is None else None
        parts.append(Part(purpose=PURPOSE[source], compiler=compiler, problem=problem))
    _not_told.clear()
    return tuple(parts)


def has_failures() -> bool:
    """Would `take_failures` give any?"""
    return bool(_not_told)


def take_failures() -> list[tuple[str, str]]:
    """What could not be compiled though a compiler is there: what it is for, and why. Each is given once."""
    told = dict(_not_told)
    _not_told.clear()
    return [(PURPOSE[source], why) for source, why in told.items()]


@cache
def rows_alone() -> Compiling | None:
    """The counts' rows alone, which takes a third of the time; begun once in a process, whoever asks."""
    return begin(ROWS)


def _logging(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """A command at work in a process group of its own, which writes what it says to a file."""
    with log.open("wb") as file:
        nothing = subprocess.DEVNULL
        return subprocess.Popen(
            command, stdin=nothing, stdout=nothing, stderr=file, start_new_session=os.name != "nt"
        )


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a compiler that is still at work, and the programs that it called."""
    if process.poll() is None and os.name != "nt":
        os.killpg(process.pid, signal.SIGTERM)  # then it removes its temporary files
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)
    if process.poll() is None and os.name != "nt":
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
