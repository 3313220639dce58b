"""Where a command writes what it makes: a file, a pipe or device, or standard output (`-`)."""

import os
import re
import stat
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from charlm.cli.console import say
from charlm.errors import ResourceError, UsageError
from charlm.terminal import one_line

STDOUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")
DESCRIPTOR = re.compile(r"/dev/stderr|(?:/dev|/proc/self)/fd/[0-9]+")
"""What a shell has opened already, such as `3> out`: it is written to as it is, whatever it leads to."""
LONGEST_NAME = 255


class Output:
    """The place that an option names, checked before the work begins. Raises UsageError."""

    def __init__(
        self,
        option: str,
        name: str,
        *,
        inputs: Sequence[str] = (),
        overwrite: bool = True,
        binary: bool = False,
    ) -> None:
        """`inputs` are the files that are read (`-` is standard input), which are never overwritten; others with `overwrite`.

        What is `binary` goes to a terminal only with `overwrite`, which is `--force` there.
        """
        self._named = f"{option} {one_line(name)}"
        self.is_stdout = name in STDOUT
        self._path: Path | None = None if self.is_stdout else Path(os.path.expanduser(name))
        self._special = False
        terminal = self.is_stdout and sys.stdout.isatty()
        if self._path is not None:
            terminal = self._check(self._path, inputs, overwrite)
        if terminal and binary and not overwrite:
            raise UsageError(
                f"{self._named} is a terminal, and this is no text; redirect it, name a file, or give --force"
            )

    def _check(self, path: Path, inputs: Sequence[str], overwrite: bool) -> bool:
        """Look at what stands there; whether it is a terminal."""
        try:
            mode = os.stat(path).st_mode
        except (OSError, ValueError):
            self._check_new(os.path.realpath(path))
            return False
        if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
            self._special = True
            return stat.S_ISCHR(mode) and _is_terminal(path)
        if not stat.S_ISREG(mode):
            raise UsageError(f"{self._named} is no regular file; name one, or a new one")
        self.refuse_inputs(inputs)
        if DESCRIPTOR.fullmatch(str(path)):
            self._special = True
        elif not overwrite:
            raise UsageError(f"{self._named} exists already; give another name, or --force to overwrite it")
        return False

    def refuse_inputs(self, inputs: Sequence[str]) -> None:
        """UsageError where it is one of the files that are read, or in a folder that is."""
        if self._path is None or not self._path.is_file():
            return
        for name in inputs:
            if _is_same(name, self._path):
                raise UsageError(f"{self._named} is the file that is read; give another name")
            if name != "-" and Path(os.path.realpath(name)) in Path(os.path.realpath(self._path)).parents:
                raise UsageError(
                    f"{self._named} exists in a folder that is read, {one_line(name)}; give another name"
                )

    def _check_new(self, path: str) -> None:
        """UsageError where no file of that name can be made."""
        folder, name = os.path.split(path)
        if not os.path.isdir(folder):
            raise UsageError(f"{self._named} is in a folder that does not exist; make it, or name another")
        if not os.access(folder, os.W_OK):
            raise UsageError(f"{self._named} is in a folder that cannot be written; name another")
        if len(os.fsencode(name)) > LONGEST_NAME:
            raise UsageError(f"{self._named} is too long a name; allowed: {LONGEST_NAME} bytes")

    def write(self, pieces: Iterable[bytes]) -> None:
        """Write all of it; a regular file appears whole or not at all. Raises ResourceError."""
        from charlm import files

        try:
            if self._path is None:
                _to_stdout(pieces)
                return
            # A link to a file is followed, not replaced.
            target = self._path if self._special else Path(os.path.realpath(self._path))
            with files.writing(target, synced=False) if self._special else files.replacing(target) as file:
                for piece in pieces:
                    file.write(piece)
        except BrokenPipeError:
            if self.is_stdout:
                raise
            raise ResourceError(f"{self._named} cannot be written: whoever read it has left") from None
        except OSError as error:
            raise ResourceError(f"{self._named} cannot be written: {error.strerror or error}") from None
        say(f"written: {one_line(str(self._path))}")


def _is_same(name: str, path: Path) -> bool:
    """Is the input of that name the file at `path`?"""
    try:
        return os.path.samestat(os.fstat(0) if name == "-" else os.stat(name), os.stat(path))
    except (OSError, ValueError):
        return False


def _is_terminal(path: Path) -> bool:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.isatty()
    except OSError:
        return False


def _to_stdout(pieces: Iterable[bytes]) -> None:
    stream = getattr(sys.stdout, "buffer", None)
    if stream is None:
        raise ResourceError("standard output is closed; connect it, or name a file")
    for piece in pieces:
        stream.write(piece)
    stream.flush()
