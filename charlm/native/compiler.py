"""Compiles the C kernels while the program starts, if there is a compiler, for this process only.

No compiled file is kept or loaded from disk, so nothing that somebody else put there is ever run.
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
DECODER = Path(__file__).parent / "decoder.c"
NGRAM_ROWS = Path(__file__).parent / "ngram_rows.c"
FLAGS_OF = {
    DECODER: ("-ffast-math", "-funroll-loops"),
    NGRAM_ROWS: ("-ffp-contract=off",),  # no fused operations: the rows must equal NumPy's bit for bit
}
PURPOSE = {DECODER: "sampling", NGRAM_ROWS: "n-gram rows"}
SECONDS, PATIENCE = 20.0, 60.0
"""How long the program waits for a compiler, and how long one may run in the background."""
_unreported: list[tuple[Path, str]] = []  # sources that could not be compiled, and why


class Compilation:
    """Compiler processes in the background, one for each source.

    A source that fails is tried again without the processor's own instructions, then with the next compiler. Each source
    that compiles is used, whether or not the others do.
    """

    def __init__(self, compilers: Sequence[str], sources: Sequence[Path] = (DECODER, NGRAM_ROWS)) -> None:
        assert compilers
        # Windows cannot delete a loaded library: then the folder stays.
        self._folder = tempfile.TemporaryDirectory(prefix="charlm-", ignore_cleanup_errors=True)
        self._attempts = [(each, flags) for each in compilers for flags in (OWN_PROCESSOR, ())]
        self.compiler = compilers[0]
        self.failures: dict[Path, str] = {}  # the reason for each source that failed
        self._lock = threading.Lock()
        self._found: ctypes.CDLL | None = None
        self._processes: dict[Path, subprocess.Popen[bytes]] = {}
        self._finished = False
        atexit.register(self._end)
        self._begun = 0.0
        self._begin(sources)

    @property
    def waits(self) -> bool:
        """Whether `library` would have to wait for the compiler, which is given up after PATIENCE."""
        return monotonic() < self._begun + PATIENCE and any(
            p.poll() is None for p in self._processes.values()
        )

    def library(self) -> ctypes.CDLL | None:
        """Wait for the compiler and load the library; None if nothing could be compiled."""
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
                _unreported.extend(self.failures.items())
            return self._found

    def _compiled(self) -> list[Path]:
        """Wait for the compilers, retry what failed, and return the sources that compiled."""
        made: list[Path] = []
        while self._processes:
            running, hung, until = self._processes, False, self._until()
            for source, process in running.items():
                why = self._why_failed(process, until, self._log(source), self._object(source))
                if why is None:
                    made.append(source)
                    self.failures.pop(source, None)
                else:
                    self.failures.setdefault(source, why)  # report the first compiler's reason
                    hung |= process.returncode is None
            left = [source for source in running if source not in made]
            for source in left:
                _kill(running[source])
            self._processes = {}
            if left and self._attempts and not hung:
                self._begin(left)
        return made

    def _linked(self, made: Sequence[Path]) -> ctypes.CDLL | None:
        """Link the object files; without -ffast-math, which at link time would change how the whole process computes."""
        if not made:
            return None
        target, log = Path(self._folder.name, "kernels.so"), Path(self._folder.name, "link.log")
        command = [self.compiler, "-shared", "-o", str(target), *map(str, map(self._object, made)), "-lm"]
        linking = self._processes[target] = _logging(command, log)
        self._begun = monotonic()
        why = self._why_failed(linking, self._until(), log, target)
        if why is not None:
            self.failures |= dict.fromkeys(made, why)
            return None
        return ctypes.CDLL(str(target))

    def _begin(self, sources: Sequence[Path]) -> None:
        """Start the next attempt, skipping compilers that cannot be started."""
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
        """When to stop waiting for the current attempt."""
        return min(monotonic() + SECONDS, self._begun + PATIENCE)

    def _why_failed(
        self, process: subprocess.Popen[bytes], until: float, log: Path, target: Path
    ) -> str | None:
        """Wait for a compiler, and return its complaint in one line, or None if it succeeded."""
        name = Path(self.compiler).name
        try:
            code = process.wait(max(0.0, until - monotonic()))
        except subprocess.TimeoutExpired:
            return f"{name} did not finish in {monotonic() - self._begun:.0f} seconds"
        if code == 0 and target.exists():
            return None
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        complaint = next((line for line in lines if "error" in line.lower()), lines[0] if lines else None)
        return f"{name}: {complaint or f'no output file, exit code {code}'}"

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
    """The paths of the installed compilers, without duplicates under other names.

    Without Apple's developer tools, a compiler in /usr/bin on macOS only opens a dialog that offers to install them.
    """
    found = [path for name in names if (path := shutil.which(name))]
    if sys.platform == "darwin" and not _has_developer_tools():
        found = [path for path in found if not path.startswith("/usr/bin/")]
    return list({os.path.realpath(path): path for path in reversed(found)}.values())[::-1]


def start_compiling(*sources: Path) -> Compilation | None:
    """Start compiling sources, by default those a model needs, while the program imports torch. None without a compiler."""
    found = compilers()
    try:
        return Compilation(found, sources or (DECODER, NGRAM_ROWS)) if found else None
    except OSError as error:
        _unreported.extend(
            (source, f"{Path(found[0]).name}: {error}") for source in sources or (DECODER, NGRAM_ROWS)
        )
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
class KernelStatus:
    """Whether a kernel runs in C, or in NumPy because it could not be compiled."""

    purpose: str
    compiler: str | None  # None: NumPy is used
    problem: str | None  # why it could not be compiled

    def __str__(self) -> str:
        return f"{self.purpose} in NumPy ({self.problem})" if self.problem else f"{self.purpose} in C"


def check_kernels() -> tuple[KernelStatus, ...]:
    """Compile each kernel, to see which can be compiled."""
    statuses = []
    for source, compiling in [(source, start_compiling(source)) for source in PURPOSE]:
        if compiling is not None:
            compiling.library()
            problem = compiling.failures.get(source)
        elif compilers():
            problem = dict(_unreported)[source]
        else:
            problem = f"there is no C compiler: none of {', '.join(COMPILERS)}"
        compiler = Path(compiling.compiler).name if compiling is not None and problem is None else None
        statuses.append(KernelStatus(purpose=PURPOSE[source], compiler=compiler, problem=problem))
    _unreported.clear()
    return tuple(statuses)


def has_failures() -> bool:
    """Whether `take_failures` would return any."""
    return bool(_unreported)


def take_failures() -> list[tuple[str, str]]:
    """Kernels that an installed compiler failed to compile: purpose and reason. Each is returned once."""
    told = dict(_unreported)
    _unreported.clear()
    return [(PURPOSE[source], why) for source, why in told.items()]


@cache
def compile_ngram_rows() -> Compilation | None:
    """Start compiling the n-gram kernel only, once per process; it takes a third of the time of all."""
    return start_compiling(NGRAM_ROWS)


def _logging(command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Run a command in its own process group, with standard error written to a file."""
    with log.open("wb") as file:
        nothing = subprocess.DEVNULL
        return subprocess.Popen(
            command, stdin=nothing, stdout=nothing, stderr=file, start_new_session=os.name != "nt"
        )


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Stop a compiler that still runs, and the programs that it started."""
    if process.poll() is None and os.name != "nt":
        os.killpg(process.pid, signal.SIGTERM)  # so that it removes its temporary files
        with suppress(subprocess.TimeoutExpired):
            process.wait(1)
    if process.poll() is None and os.name != "nt":
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()
