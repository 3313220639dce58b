"""Signals that end a run: noticed at once, obeyed at the end of a step. Signals ignored at the start stay ignored.

Python runs signal handlers between bytecodes of the main thread, which may be inside a backward
pass for seconds. So the signal's number goes through a socket to a thread that is always awake.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from charlm.errors import Interrupted

NAMES = ("SIGHUP", "SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGBREAK")
"""SIGUSR1 and SIGUSR2 are early warnings of batch systems, SIGXCPU of a CPU limit; SIGBREAK is Windows' own."""
NUMBERS: dict[str, int] = {name: int(getattr(signal, name)) for name in NAMES if hasattr(signal, name)}
UNINTERRUPTIBLE = ("numpy", "torch")
RETRY = 0.05  # seconds after which a deferred signal is tried again
EXIT_CODES = {name: 128 + number for name, number in NUMBERS.items()}


class Signalled(KeyboardInterrupt):
    """A signal that came outside of training. It ends the command as Ctrl-C does."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@contextmanager
def interrupts_as_errors() -> Iterator[None]:
    """Turn a signal raised inside the block into an error with a sentence and its exit code."""
    try:
        yield
    except Signalled as ended:
        raise Interrupted(f"stopped by {ended.name}", EXIT_CODES[ended.name]) from None
    except KeyboardInterrupt:
        raise Interrupted("interrupted") from None


@contextmanager
def raising_signals() -> Iterator[list[int]]:
    """Raise Signalled (Ctrl-C: KeyboardInterrupt) in the block, so that temporary files go; a second signal exits at once.

    While torch or NumPy is imported, a signal is deferred: some of their parts end the process, or hide the
    exception behind another. Yields the numbers of the signals that were raised.
    """
    came: list[int] = []
    deferred: list[int] = []
    over = threading.Event()

    def raise_later(number: int) -> None:
        while _importing():
            if over.wait(RETRY):
                return
        deferred.clear()  # before the handler runs, which may have to defer it again
        if not over.is_set():
            _raise_again(number)

    def handle(number: int, frame: FrameType | None) -> None:
        if _importing():
            if not deferred:
                deferred.append(number)
                threading.Thread(target=raise_later, args=(number,), daemon=True).start()
            return
        if came:
            os._exit(128 + number)
        came.append(number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise Signalled(signal.Signals(number).name)

    before = _handle(list(NUMBERS.values()), handle)
    try:
        yield came
    finally:
        over.set()
        _restore(before)


def _raise_again(number: int) -> None:
    """Send the signal to this process; on POSIX to the main thread, whose system call it then interrupts."""
    if sys.platform == "win32":
        signal.raise_signal(number)
    else:
        signal.pthread_kill(threading.main_thread().ident or 0, number)


def _importing() -> bool:
    """Whether a package is being imported that must not be interrupted."""
    specs = (getattr(sys.modules.get(name), "__spec__", None) for name in UNINTERRUPTIBLE)
    return any(getattr(spec, "_initializing", False) for spec in specs)


def _handle(numbers: list[int], handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Set a handler for these signals, except ignored ones; return the previous handlers."""
    if threading.current_thread() is not threading.main_thread():
        return {}  # Python lets only the main thread set handlers
    before = {number: signal.getsignal(number) for number in numbers}
    taken = {number: known for number, known in before.items() if known != signal.SIG_IGN}
    for number in taken:
        signal.signal(number, handler)
    return taken


def _restore(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


class Stop:
    """Tells whether training should end after this step, and why."""

    reason: str | None = None

    def is_set(self) -> bool:
        """Whether training should end."""
        return self.reason is not None


@contextmanager
def stop_on_interrupt() -> Iterator[Stop]:
    """Yield a stop, which the first SIGINT inside the block sets; a second one raises KeyboardInterrupt."""
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.reason = "SIGINT"

    before = _handle([int(signal.SIGINT)], handle)
    try:
        yield stop
    finally:
        _restore(before)


class StopSignals(Stop):
    """A stop that is set by the first signal while it is entered; a second Ctrl-C exits at once with 130.

    `announce` is called with the signal's name, in another thread, as soon as one arrives.
    """

    def __init__(self, announce: Callable[[str], None]) -> None:
        self._announce = announce
        self._names = {number: name for name, number in NUMBERS.items()}

    def __enter__(self) -> "StopSignals":
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._fd_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._before = _handle(list(self._names), lambda number, frame: None)  # the thread handles it
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        signal.set_wakeup_fd(self._fd_before)
        _restore(self._before)
        self._writer.close()
        self._thread.join()
        self._reader.close()

    def _listen(self) -> None:
        while data := self._reader.recv(16):
            for name in filter(None, map(self._names.get, data)):
                if not self.is_set():
                    self.reason = name
                    self._announce(name)
                elif name == "SIGINT":
                    os._exit(EXIT_CODES[name])
