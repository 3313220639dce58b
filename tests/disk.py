"""A disk that fails on purpose: at any call an error or a crash, after which only what was synced is certain."""

import builtins
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from charlm import files

CALLS = ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir", "remove")
"""The functions of `os` that change a disk, or wait for it; pathlib and shutil call them too."""
LOSSES = ("dropped", "truncated", "zeroed", "torn", "kept")
"""What becomes of that which was not synced: names and contents gone, contents halved, only zeros, zeros in
their second half; or nothing, since only the process was killed."""


class Died(BaseException):
    """The process was killed here: every later call raises it too, so nothing is tidied up."""


class Disk:
    """Watches what is done below `root`, makes call number `k` fail or crash, and can lose what wasn't synced.

    `error` is the number of the OSError that call `k` raises; None: it crashes. With `lasting`, all
    later calls that need room fail as well, as on a full disk.
    """

    def __init__(self, root: Path, k: int, error: int | None = None, *, lasting: bool = False) -> None:
        self.root, self.k, self.error, self.lasting = root, k, error, lasting
        self.calls = 0
        self.log: list[str] = []
        self._held: dict[int, int] = {}  # open descriptors, so that no number is given to another file
        self._contents: dict[int, bytes] = {}  # of files, as last synced
        self._names: dict[int, dict[str, int]] = {}  # of folders, as last synced
        for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
            self._names[self._hold(folder)] = self._listed(folder)
        for number in self._files():
            self._contents[number] = self._content(number)

    # --- watching -----------------------------------------------------------------------------

    @contextmanager
    def watching(self, monkeypatch: pytest.MonkeyPatch) -> Iterator["Disk"]:
        """All calls go through here while this lasts; a crash ends it quietly."""
        with monkeypatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, self._counted(name, getattr(os, name)))
            patch.setattr(files, "open", self._open, raising=False)
            self._real_scratch = files.scratch
            patch.setattr(files, "scratch", self._scratch)
            with suppress(Died):
                yield self

    def call(self, name: str) -> None:
        """One more call: it may fail, or be the last."""
        self.calls += 1
        self.log.append(name)
        if self.error is None and self.calls >= self.k:
            raise Died
        needs_room = name not in ("unlink", "rmdir", "remove")
        if self.error is not None and (
            self.calls == self.k or (self.lasting and self.calls > self.k and needs_room)
        ):
            raise OSError(self.error, os.strerror(self.error))

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            self.call(name)
            result = real(*args, **named)
            if name == "fsync":
                self._synced(args[0])
            if name == "mkdir":
                self._hold(Path(args[0]))
            return result

        return call

    def _open(self, path: Any, mode: str = "r", *args: Any, **named: Any) -> Any:
        if not set(mode) & set("wax+"):
            return builtins.open(path, mode, *args, **named)
        self.call("open")
        file = builtins.open(path, mode, *args, **named)  # noqa: SIM115  whoever called closes it
        self._hold(Path(path))
        return _File(file, self)

    def _scratch(self, *args: Any, **named: Any) -> Any:
        return _File(self._real_scratch(*args, **named), self)

    def _hold(self, path: Path | str, within: int | None = None) -> int:
        number = os.lstat(path, dir_fd=within).st_ino
        if number not in self._held:
            self._held[number] = os.open(path, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=within)
        return number

    def _listed(self, folder: Path) -> dict[str, int]:
        return {path.name: self._hold(path) for path in folder.iterdir()}

    def _files(self) -> list[int]:
        return [number for number, held in self._held.items() if not _is_folder(held)]

    def _content(self, number: int) -> bytes:
        held = self._held[number]
        return os.pread(held, os.fstat(held).st_size, 0)

    def _synced(self, descriptor: int) -> None:
        number = os.fstat(descriptor).st_ino
        if number not in self._held:
            return  # of another disk
        if _is_folder(self._held[number]):
            self._names[number] = {name: self._hold(name, descriptor) for name in os.listdir(descriptor)}
        else:
            self._contents[number] = self._content(number)

    # --- after a crash ------------------------------------------------------------------------

    def crash(self, how: str) -> None:
        """Leave on the disk what may be found there after the machine went down."""
        certain = how == "dropped"
        tree = self._certain(os.lstat(self.root).st_ino) if certain else self._likely(self.root, how)
        self.close()
        _clear(self.root)
        _write(self.root, tree)

    def close(self) -> None:
        """Let go of all files."""
        for held in self._held.values():
            os.close(held)
        self._held.clear()

    def _certain(self, folder: int) -> dict[str, Any]:
        names = self._names.get(folder, {})
        return {
            name: self._certain(number) if _is_folder(self._held[number]) else self._contents.get(number, b"")
            for name, number in names.items()
        }

    def _likely(self, folder: Path, how: str) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for path in folder.iterdir():
            if path.is_dir():
                tree[path.name] = self._likely(path, how)
                continue
            now, certain = path.read_bytes(), self._contents.get(os.lstat(path).st_ino, b"")
            kept = certain if now.startswith(certain) else b""
            tail = now[len(kept) :]
            half = len(tail) // 2
            lost = {"truncated": tail[:half], "zeroed": bytes(len(tail)), "kept": tail}
            lost["torn"] = tail[:half] + bytes(len(tail) - half)
            tree[path.name] = kept + lost[how]
        return tree


class _File:
    """A file open for writing, each write of which is a call."""

    def __init__(self, file: Any, disk: Disk) -> None:
        self._file, self._disk = file, disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: Any) -> int:
        """A write that is refused may have written a part."""
        try:
            self._disk.call("write")
        except BaseException:
            self._file.write(memoryview(data).cast("B")[: len(data) // 3])
            self._file.flush()
            raise
        written = self._file.write(data)
        self._file.flush()
        return int(written)


def tree_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _is_folder(descriptor: int) -> bool:
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _write(folder: Path, tree: dict[str, Any]) -> None:
    for name, value in tree.items():
        if isinstance(value, dict):
            (folder / name).mkdir()
            _write(folder / name, value)
        else:
            (folder / name).write_bytes(value)
