"""The step in C: compiled while the program starts, where there is a compiler, for this process alone.

Nothing compiled is kept, so that nothing found on disk is ever run.
"""

import ctypes
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O2", "-ftree-vectorize", "-march=native", "-ffast-math", "-shared", "-fPIC")
SOURCE = Path(__file__).with_name("step.c")
SECONDS = 20.0


class Compiling:
    """A compiler at work."""

    def __init__(self, compiler: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="charlm-")
        self._target = Path(self._folder.name, "step.so")
        command = [compiler, *FLAGS, "-o", str(self._target), str(SOURCE), "-lm"]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdin=quiet, stdout=quiet, stderr=quiet)

    def library(self) -> ctypes.CDLL | None:
        """What came of it, waited for; None where it failed."""
        try:
            if self._process.wait(SECONDS):
                return None
            return ctypes.CDLL(str(self._target))
        except (OSError, subprocess.TimeoutExpired):
            return None
        finally:
            self._process.kill()
            self._process.wait()
            self._folder.cleanup()


@cache
def begin() -> Compiling | None:
    """Start compiling, so that what is to be imported meanwhile hides the time; None without a compiler."""
    compiler = next((found for name in COMPILERS if (found := shutil.which(name))), None)
    try:
        return Compiling(compiler) if compiler else None
    except OSError:
        return None


@cache
def library() -> ctypes.CDLL | None:
    """The compiled step, or None where there is none."""
    compiling = begin()
    return compiling.library() if compiling else None
