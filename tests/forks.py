"""A child of this process, which has torch already: within limits of its own, and killed without harm."""

import ctypes
import faulthandler
import json
import os
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any, NoReturn

import pytest

if os.name == "nt":
    pytest.skip("forks", allow_module_level=True)

import resource

M_ARENA_MAX = -8
FORKS, BEGIN_SECONDS = 3, 20
FAILED = 99


def forked(task: Callable[[], Any], *, more_memory: int | None = None, seconds: int = 600) -> Any:
    """What `task` returns (as JSON) in a child that may take so many bytes more than there are in use.

    RuntimeError, with the child's traceback, where it raises or dies.
    """
    reader, writer = os.pipe()
    child = _fork()
    if child == 0:
        os.close(reader)
        _answer(task, writer, more_memory, seconds)
    os.close(writer)
    with open(reader, "rb") as file:
        said = file.read()
    status = os.waitpid(child, 0)[1]
    if status or not said:
        raise RuntimeError(f"the child ended with {os.waitstatus_to_exitcode(status)}: {said.decode()}")
    return json.loads(said)


def end_after(seconds: int, descriptor: int) -> None:
    """End this process by SIGALRM after so many seconds, when it writes there where it hangs."""
    faulthandler.register(signal.SIGALRM, file=descriptor, chain=True)
    signal.alarm(seconds)


def start(task: Callable[[], int]) -> int:
    """A child that does `task` and exits with the code that it returns; its process id."""
    child = _fork()
    if child == 0:
        _end_with(task)
    return child


def _end_with(task: Callable[[], int]) -> NoReturn:
    """Do it and end this process here, whatever goes wrong.

    A child that came back would be a second pytest, which runs the tests still to do and reports them again.
    """
    code = FAILED
    try:
        try:
            code = task()
        except BaseException:  # noqa: BLE001  as said above
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001
        code = FAILED
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def _fork() -> int:
    """Fork without the threads of OpenMP, and once more where the child cannot begin threads.

    A fork takes no threads along. Where this one has computed with several, GNU's OpenMP would wait in the child for
    those that are gone, for ever, as soon as the child computes with several. And a lock that another thread held at
    that moment stays locked in the child.
    """
    for _ in range(FORKS):
        reader, writer = os.pipe()
        child = _fork_without_openmp()
        if child == 0:
            try:
                _begin(writer)
            except BaseException:  # noqa: BLE001  the parent forks again
                os._exit(FAILED)
            os.close(reader)
            return 0
        os.close(writer)
        with open(reader, "rb") as file:
            if file.read():
                return child
        os.waitpid(child, 0)
    raise RuntimeError(f"{FORKS} children could not begin a thread within {BEGIN_SECONDS} s")


def _begin(writer: int) -> None:
    """In the child: begin and end a thread, and tell the parent so."""
    signal.alarm(BEGIN_SECONDS)
    thread = Thread(target=int)
    thread.start()
    thread.join()
    signal.alarm(0)
    os.write(writer, b"begun")
    os.close(writer)


def _fork_without_openmp() -> int:
    maps = Path("/proc/self/maps")
    lines = maps.read_text().splitlines() if maps.exists() else []
    for library in {line.split()[-1] for line in lines if "libgomp" in line}:
        ctypes.CDLL(library).omp_pause_resource_all(2)  # hard: its threads end
    return os.fork()


def bound_by_permissions(bound: bool = True) -> None:
    """Let permissions bind this thread even if it is root's, or no longer."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("Ii", 0x20080522, 0)  # the third version of capabilities, of this thread
    sets = (ctypes.c_uint32 * 6)()  # twice: effective, permitted, inheritable
    assert libc.capget(header, sets) == 0
    overriding = 0b110 & sets[1]  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, where it may have them
    sets[0] = sets[0] & ~overriding if bound else sets[0] | overriding
    assert libc.capset(header, sets) == 0


@contextmanager
def permissions_bind() -> Iterator[None]:
    """The same within a block."""
    bound_by_permissions()
    try:
        yield
    finally:
        bound_by_permissions(False)


def _answer(task: Callable[[], Any], writer: int, more_memory: int | None, seconds: int) -> None:
    code, said = FAILED, ""
    try:
        end_after(seconds, writer)
        if more_memory is not None:
            libc = ctypes.CDLL(None)
            if hasattr(libc, "mallopt"):  # glibc reserves 64 MB of addresses for each thread's memory
                libc.mallopt(M_ARENA_MAX, 1)
            limit = _in_use() + more_memory
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        said = json.dumps(task())
        code = 0
    except BaseException:  # noqa: BLE001  as above
        said = traceback.format_exc()
    try:
        os.write(writer, said.encode())
    finally:
        os._exit(code)


def _in_use() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
