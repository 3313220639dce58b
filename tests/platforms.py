"""The command under the rules of another platform, as far as Linux can imitate them.

`python -m tests.platforms win32 ...` hides what Windows lacks (modules, signals, functions of `os`, folders that can be
opened) and refuses what it refuses: to rename onto a file that exists, to remove, rename or replace what this process
has open or mapped, and names that are reserved. `darwin` hides what macOS lacks. What charlm's dependencies choose
by platform is imported before, as it is here.
"""

import gc
import os
import pathlib
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from time import perf_counter
from typing import Any

DEPENDENCIES = (
    "ctypes", "filelock", "multiprocessing", "numpy", "platformdirs", "rich.console", "rich.table", "safetensors",
    "subprocess", "tempfile", "threadpoolctl", "torch", "torch._dynamo", "tqdm", "typer", "zipfile", "asyncio", "ssl", "urllib.request",
)  # fmt: skip
LACKING: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "win32": (
        ("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty"),
        ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGQUIT", "SIGALRM", "SIGPIPE", "SIGKILL", "SIGXFSZ"),
        ("fork", "geteuid", "getuid", "getgid", "mkfifo", "WNOHANG", "setsid", "sysconf",
         "sched_getaffinity", "sched_setaffinity", "getloadavg", "nice", "getpgid", "killpg", "fchmod", "chown", "uname"),
    ),
    "darwin": ((), (), ("sched_getaffinity", "sched_setaffinity", "posix_fadvise", "memfd_create", "O_TMPFILE")),
}  # fmt: skip


def imitate(name: str) -> None:
    """Let this process see another platform from here on."""
    for module in DEPENDENCIES:
        import_module(module)
    controller = sys.modules["threadpoolctl"].ThreadpoolController
    controller._load_libraries = lambda self: None  # it looks for libraries as each platform does
    modules, signals, functions = LACKING[name]
    for module in modules:
        sys.modules[module] = None  # type: ignore[assignment]
    for owner, names in ((signal, signals), (os, functions)):
        for each in names:
            if hasattr(owner, each):
                delattr(owner, each)
    sys.platform = name
    real_open = open

    def no_proc(path: Any, *args: Any, **how: Any) -> Any:
        if str(path).startswith(("/proc/", "/sys/")):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return real_open(path, *args, **how)

    import builtins
    import io

    builtins.open = io.open = no_proc  # type: ignore[assignment]
    if name == "win32":
        _be_windows(real_open)


def _be_windows(real_open: Callable[..., Any]) -> None:
    for module in (pathlib, sys.modules.get("pathlib._local")):
        if module is not None:
            module.WindowsPath = pathlib.PosixPath  # type: ignore[attr-defined]
    os.name = "nt"
    rename, replace, unlink, os_open = os.rename, os.replace, os.unlink, os.open

    def in_use(path: Any) -> None:
        real = os.path.realpath(path)
        below = real + os.sep
        if any(used == real or used.startswith(below) for used in _open_files(real_open)):
            raise PermissionError(
                13, "The process cannot access the file because it is being used", str(path)
            )

    def to_rename(source: Any, target: Any) -> None:
        in_use(source)
        if os.path.lexists(target):
            raise FileExistsError(17, "Cannot create a file when that file already exists", str(target))
        rename(source, target)

    def to_replace(source: Any, target: Any) -> None:
        in_use(source)
        if os.path.isdir(target):
            raise PermissionError(13, "Access is denied", str(target))
        in_use(target)
        replace(source, target)

    def to_unlink(path: Any, *, dir_fd: int | None = None) -> None:
        if dir_fd is None:
            in_use(path)
        unlink(path, dir_fd=dir_fd)

    def to_open(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if dir_fd is None and os.path.isdir(path) and not _in_rmtree():
            raise PermissionError(13, "Permission denied", str(path))
        return os_open(path, flags, mode, dir_fd=dir_fd)

    os.rename, os.replace, os.unlink, os.remove, os.open = (
        to_rename,
        to_replace,
        to_unlink,
        to_unlink,
        to_open,
    )  # type: ignore[assignment]


def _in_rmtree() -> bool:
    frame = sys._getframe(2)
    return frame.f_code.co_filename == shutil.__file__


def _open_files(real_open: Callable[..., Any]) -> Iterator[str]:
    """The files that this process has open or mapped."""
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            yield os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue
    with real_open("/proc/self/maps") as file:
        for line in file:
            yield line.split(maxsplit=5)[-1].strip()


def main(platform: str, *commands: str) -> int:
    """Run each command, given as words joined by `|`, until one fails; its exit code."""
    imitate(platform)
    from charlm.cli.main import run

    for command in commands:
        sys.argv = ["charlm", *command.split("|")]
        print("$", *sys.argv, file=sys.stderr)
        code = run(perf_counter())
        gc.collect()  # as a process that ends, it lets go of what it had mapped
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
