"""Write files atomically and durably: the only module that opens for writing, syncs or renames."""

import errno
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, BinaryIO

try:
    import fcntl
except ImportError:  # Windows, where an open file can be neither removed nor renamed
    fcntl = None  # type: ignore[assignment]

TEMPORARY = ".tmp-"
"""Prefix of the names of unfinished files and folders, which may be removed unless their writer is at work (`is_live`)."""
_LONGEST = 180  # bytes of a name that a temporary name repeats; a name has 255 at most
WAITS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # seconds between tries to rename, on Windows
ASIDE = TEMPORARY + "aside-"


@contextmanager
def writing(path: Path, *, synced: bool = True) -> Iterator[BinaryIO]:
    """Open a new file to write piece by piece; with `synced` it is synced to the disk when the block ends."""
    with open(path, "wb") as file:
        yield file
        if synced:
            sync_file(file)


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and sync it to the disk. Raises OSError."""
    with writing(path) as file:
        file.write(data)


def replace(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically, replacing what was there. Raises OSError."""
    with replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears at `path`, by atomic rename, when the block ends, and never if it raises."""
    temporary = temporary_path(path)
    try:
        with open(temporary, "xb") as file:
            _hold(file.fileno())
            yield file
            sync_file(file)
        _move(os.replace, temporary, path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def building(folder: Path, *, may_stay: Callable[[], bool] = lambda: False) -> Iterator[Path]:
    """Make a folder that appears as `folder`, by atomic rename, when the block ends, and never if it raises.

    A folder of that name that exists by then is replaced, unless it `may_stay`, because another process was
    faster and wrote the same. Raises OSError.
    """
    temporary = temporary_path(folder)
    held = None
    try:
        temporary.mkdir()
        if fcntl is not None:  # elsewhere a folder cannot be opened
            held = os.open(temporary, os.O_RDONLY)
            _hold(held)
        yield temporary
        sync_folder(temporary)
        if _put_in_place(temporary, folder, may_stay):
            sync_folder(folder.parent)
    except BaseException:
        remove_tree(temporary)
        raise
    finally:
        if held is not None:
            os.close(held)
    remove_tree(temporary)  # where another folder stayed
    remove_tree(_aside(folder))


@contextmanager
def continuing(path: Path, kept: int) -> Iterator[BinaryIO]:
    """Open a file after the first `kept` bytes of an earlier attempt, to resume it; it stays if the block raises."""
    with open(path, "r+b" if path.exists() else "x+b", opener=open_regular) as file:
        file.truncate(min(kept, os.fstat(file.fileno()).st_size))
        yield file


def put_in_place(temporary: Path, target: Path) -> None:
    """Sync a complete file and rename it to `target` atomically, replacing what was there. Raises OSError."""
    with open(temporary, "r+b", opener=open_regular) as file:
        sync_file(file)
    _move(os.replace, temporary, target)
    sync_folder(target.parent)


def scratch(folder: Path, *, in_memory: int) -> IO[bytes]:
    """Open a nameless temporary file: in memory up to so many bytes, then on the disk of `folder`."""
    return tempfile.SpooledTemporaryFile(max_size=in_memory, dir=str(folder))


def cache_folder() -> Path:
    """Return `CHARLM_CACHE`, or the platform's folder for caches."""
    from platformdirs import user_cache_path  # here, since it is slow on Windows

    return Path(
        os.path.expanduser(os.environ.get("CHARLM_CACHE") or user_cache_path("charlm", appauthor=False))
    )


def boot() -> str | None:
    """Return the id of the current boot of the machine, if known.

    What was written since then is on the disk or will be, even if the process ends.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except (OSError, ValueError):
        return None


def publish_folder(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write `folder` atomically with these files, in this order.

    A folder of that name that exists already is replaced. Raises OSError.
    """
    with building(folder) as temporary:
        for name, data in contents.items():
            write_synced(temporary / name, data)


def _move(how: Callable[[Path, Path], None], source: Path, target: Path) -> None:
    """Rename or replace. On Windows, wait for others (a reader, a virus scanner) that have it open for a moment."""
    for seconds in WAITS if os.name == "nt" else ():
        try:
            return how(source, target)
        except PermissionError:
            time.sleep(seconds)
    return how(source, target)


def temporary_path(path: Path) -> Path:
    """Return a name beside `path` for unfinished work, which no other process takes.

    It is random: containers that share a folder also share the ids of processes.
    """
    name = os.fsdecode(os.fsencode(path.name)[:_LONGEST])
    return path.with_name(f"{TEMPORARY}{name}-{secrets.token_hex(8)}")


def is_live(path: Path) -> bool:
    """Whether a process on this machine, or in a container on it, is still writing an unfinished file or folder.

    False also where the file system cannot tell.
    """
    if fcntl is None:
        return False
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return False


def _hold(descriptor: int) -> None:
    """Lock an unfinished file or folder while the descriptor is open, so that `is_live` is true for others."""
    if fcntl is not None:
        with suppress(OSError):  # some network file systems have no locks; there only age tells
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _put_in_place(temporary: Path, folder: Path, may_stay: Callable[[], bool]) -> bool:
    """Rename to a name that may be taken; the folder there is moved aside first, and back if that fails.

    Returns False if the folder there may stay.
    """
    aside = _aside(folder)
    if folder.exists():
        if may_stay():
            return False
        remove_tree(aside)  # left by a failed attempt, and in the way
        _move(os.rename, folder, aside)
    try:
        _move(os.rename, temporary, folder)
    except BaseException as error:
        if getattr(error, "errno", None) in (errno.ENOTEMPTY, errno.EEXIST) and may_stay():
            return False  # another process was faster
        if aside.exists():
            os.rename(aside, folder)
        raise
    return True


def _aside(folder: Path) -> Path:
    """Return where a folder is moved while another takes its place."""
    return folder.with_name(ASIDE + folder.name)


def append(path: Path, data: bytes) -> None:
    """Add to the end of a file that may not exist yet, without waiting for the disk.

    Raises OSError, also for a symbolic link, a pipe or a device, which lead out of the folder, or nowhere.
    """
    with open(path, "ab", opener=open_regular) as file:
        file.write(data)


def open_regular(path: str | Path, flags: int) -> int:
    """An `opener` for `open`: OSError for a link, a pipe or a device, without waiting for a writer."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    descriptor = os.open(path, flags, 0o666)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "not a regular file")


def read_regular(path: Path, most: int) -> bytes:
    """Read a file that others may have put there. Raises OSError for links, pipes, devices and more than `most` bytes."""
    with open(path, "rb", opener=open_regular) as file:
        size = os.fstat(file.fileno()).st_size  # read() takes as much memory as it is asked for
        if size > most:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes; expected at most {most:,}")
        return file.read(size)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, and sync their names to the disk."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def remove_tree(folder: Path) -> None:
    """Remove a folder and its contents; it is renamed first, so that it is never seen half removed.

    A link, a pipe or a file in its place is removed itself.
    """
    if not os.path.lexists(folder):
        return
    if folder.is_symlink() or not folder.is_dir():  # opening a pipe would wait for its writer
        folder.unlink(missing_ok=True)
        return
    if not folder.name.startswith(TEMPORARY):
        try:
            folder = folder.rename(temporary_path(folder.with_name(f"gone-{folder.name}")))
        except FileNotFoundError:  # another process was faster
            return
    shutil.rmtree(folder, ignore_errors=True)


def remove_temporaries(folder: Path) -> None:
    """Remove unfinished files and folders that a crash left behind, and put back what it left moved aside.

    What another process is writing stays.
    """
    for aside in folder.glob(ASIDE + "?*"):
        place = folder / aside.name.removeprefix(ASIDE)
        if not place.exists():
            os.rename(aside, place)
    for path in folder.glob(TEMPORARY + "*"):
        if not is_live(path):
            remove_tree(path)


def free_space(folder: Path) -> int:
    """Return how many bytes can still be written there."""
    return shutil.disk_usage(folder).free


def sync_file(file: BinaryIO) -> None:
    """Sync a file's contents to the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to the disk (Windows has no such call, and needs none)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
