"""What is there in C too: compiled while the program starts, where there is a compiler, for this process alone.

Nothing compiled is kept, so that nothing found on disk is ever run.
"""

import atexit
import ctypes
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O2", "-ftree-vectorize", "-march=native", "-fPIC")
STEP = Path(__file__).parent / "model" / "step.c"
ROWS = Path(__file__).parent / "counts" / "rows.c"
CODES = Path(__file__).parent / "text" / "codes.c"
FLAGS_OF = {
    STEP: ("-ffast-math", "-funroll-loops"),
    ROWS: ("-ffp-contract=off",),  # no two operations made one: the rows are NumPy's, bit for bit
    CODES: ("-O3",),  # whose loops over eight bytes are to be unrolled
}
SECONDS = 20.0


class Compiling:
    """A compiler at work, on each source beside the others."""

    def __init__(self, compiler: str, sources: Sequence[Path] = (STEP, ROWS)) -> None:
        # Windows removes no library that is loaded: then the folder stays.
        self._folder = tempfile.TemporaryDirectory(prefix="charlm-", ignore_cleanup_errors=True)
        self._target = str(Path(self._folder.name, "step.so"))
        parts = [str(Path(self._folder.name, f"{source.stem}.o")) for source in sources]
        # Linked apart: with -ffast-math, that would change how the whole process computes.
        self._link = [compiler, "-shared", "-o", self._target, *parts, "-lm"]
        self._lock = threading.Lock()
        self._found: ctypes.CDLL | None = None
        self._processes: list[subprocess.Popen[bytes]] = []
        atexit.register(self._end)
        for source, part in zip(sources, parts, strict=True):
            command = [compiler, "-c", *FLAGS, *FLAGS_OF[source], "-o", part, str(source)]
            self._processes.append(_quietly(command))

    @property
    def waits(self) -> bool:
        """Would `library` have to wait for the compiler?"""
        return any(process.poll() is None for process in self._processes)

    def library(self) -> ctypes.CDLL | None:
        """What came of it, waited for; None where it failed."""
        with self._lock:
            if self._processes:
                try:
                    self._found = self._linked()
                except (OSError, subprocess.TimeoutExpired):
                    pass
                finally:
                    self._end()
            return self._found

    def _linked(self) -> ctypes.CDLL | None:
        if any(process.wait(SECONDS) for process in self._processes):
            return None
        self._processes.append(_quietly(self._link))
        return None if self._processes[-1].wait(SECONDS) else ctypes.CDLL(self._target)

    def _end(self) -> None:
        atexit.unregister(self._end)
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes = []
        self._folder.cleanup()


def begin(*sources: Path) -> Compiling | None:
    """Start compiling these, by default what a model needs, so that what is imported meanwhile hides the time.

    None without a compiler.
    """
    compiler = find_compiler(COMPILERS)
    try:
        return Compiling(compiler, sources or (STEP, ROWS)) if compiler else None
    except OSError:
        return None


def find_compiler(names: Sequence[str]) -> str | None:
    """The first of these compilers that is installed.

    Without Apple's developer tools, those in /usr/bin on macOS only open a dialog that offers to install them.
    """
    found = [path for name in names if (path := shutil.which(name))]
    if sys.platform == "darwin" and not _has_developer_tools():
        found = [path for path in found if not path.startswith("/usr/bin/")]
    return found[0] if found else None


@cache
def _has_developer_tools() -> bool:
    """Whether Apple's developer tools are installed."""
    try:
        return _quietly(["/usr/bin/xcode-select", "-p"]).wait(SECONDS) == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


@cache
def codes_alone() -> Compiling | None:
    """What reads long texts; begun once in a process."""
    return begin(CODES)


@cache
def rows_alone() -> Compiling | None:
    """The counts' rows alone, which takes a third of the time; begun once in a process, whoever asks."""
    return begin(ROWS)


def _quietly(command: list[str]) -> subprocess.Popen[bytes]:
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)
