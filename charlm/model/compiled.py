"""What sampling has in C: compiled while the program starts, where there is a compiler, for this process alone.

Nothing compiled is kept, so that nothing found on disk is ever run.
"""

import atexit
import ctypes
import shutil
import subprocess
import tempfile
from pathlib import Path

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O2", "-ftree-vectorize", "-funroll-loops", "-march=native", "-ffast-math", "-fPIC")
SOURCES = (Path(__file__).with_name("step.c"), Path(__file__).parents[1] / "counts" / "rows.c")
SECONDS = 20.0


class Compiling:
    """A compiler at work."""

    def __init__(self, compiler: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="charlm-")
        self._target = str(Path(self._folder.name, "step.so"))
        parts = [str(Path(self._folder.name, f"{source.stem}.o")) for source in SOURCES]
        # Linked apart: with -ffast-math, that would change how the whole process computes.
        self._link = [compiler, "-shared", "-o", self._target, *parts, "-lm"]
        self._process = _quietly([compiler, "-c", *FLAGS, *map(str, SOURCES)], self._folder.name)
        atexit.register(self._end)

    def library(self) -> ctypes.CDLL | None:
        """What came of it, waited for; None where it failed."""
        try:
            if self._process.wait(SECONDS):
                return None
            self._process = _quietly(self._link)
            return None if self._process.wait(SECONDS) else ctypes.CDLL(self._target)
        except (OSError, subprocess.TimeoutExpired):
            return None
        finally:
            self._end()

    def _end(self) -> None:
        atexit.unregister(self._end)
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()


def begin() -> Compiling | None:
    """Start compiling, so that what is imported meanwhile hides the time; None without a compiler."""
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    try:
        return Compiling(compiler) if compiler else None
    except OSError:
        return None


def _quietly(command: list[str], folder: str | None = None) -> subprocess.Popen[bytes]:
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=folder, stdin=quiet, stdout=quiet, stderr=quiet)
