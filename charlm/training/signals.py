"""Ctrl-C and the like: answered at once, obeyed at the end of a step.

Python runs signal handlers between bytecodes of the main thread, which may be inside a backward
pass for seconds. So the signal's number goes through a socket to a thread that is always awake.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Protocol

EXIT_CODES = {"SIGHUP": 129, "SIGINT": 130, "SIGTERM": 143}


class Stop(Protocol):
    """Anything that can say that training should end after this step."""

    reason: str | None

    def is_set(self) -> bool:
        """Should it?"""


class StopSignals:
    """While entered, the first signal sets the flag; a second Ctrl-C leaves at once with 130.

    `announce` is called with the signal's name, in another thread, as soon as one arrives.
    """

    def __init__(self, announce: Callable[[str], None]) -> None:
        self._announce = announce
        self._event = threading.Event()
        self._signals = {getattr(signal, name): name for name in EXIT_CODES if hasattr(signal, name)}
        self._before: dict[int, Any] = {}
        self.reason: str | None = None

    def is_set(self) -> bool:
        """Has a signal come?"""
        return self._event.is_set()

    def __enter__(self) -> "StopSignals":
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._fd_before = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in self._signals:
            self._before[number] = signal.signal(number, _leave_to_thread)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.set_wakeup_fd(self._fd_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._writer.close()
        self._thread.join()
        self._reader.close()

    def _listen(self) -> None:
        while data := self._reader.recv(16):
            for number in data:
                self._arrived(self._signals.get(number))

    def _arrived(self, name: str | None) -> None:
        if name is None:
            return
        if self.is_set() and name == "SIGINT":
            os._exit(EXIT_CODES[name])
        if not self.is_set():
            self.reason = name
            self._event.set()
            self._announce(name)


def _leave_to_thread(number: int, frame: FrameType | None) -> None:
    """Do nothing: the thread has the signal already."""
