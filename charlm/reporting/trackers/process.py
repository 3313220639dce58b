"""Run a tracker in its own process: it takes messages without blocking training, and is given up if it fails or hangs."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from time import monotonic
from typing import IO

import charlm
from charlm.reporting.trackers.messages import Begin, End, Message, to_line
from charlm.terminal import one_line

MOST_WAITING = 100_000
"""Most messages that may wait for a tracker: some twenty megabytes."""
PATIENCE = 180.0
"""Seconds without an answer after which a tracker is given up during training; trackers retry for two minutes."""
LAST_PATIENCE = 60.0
"""Seconds without an answer after which a tracker is given up at the end of a run."""
HURRY_SECONDS = 3.0
"""Seconds to wait if a signal ended the run."""
POLL = 0.05
_left: "list[subprocess.Popen[bytes]]" = []
"""Processes that are left to deliver the rest, and end by themselves."""


class TrackerProcess:
    """One tracker. `trouble` says why it was given up, `where` where its figures are; the reader clears `where`."""

    def __init__(self, name: str, begin: Begin) -> None:
        self.name = name
        self.where: str | None = None
        self.trouble: str | None = None
        self._failure: str | None = None
        self._waiting: SimpleQueue[Message | None] = SimpleQueue()  # None ends the queue
        self._put = self._delivered = 0
        self._moved = monotonic()
        self._ended = False
        try:
            self._process: subprocess.Popen[bytes] | None = _start(name)
        except OSError as error:
            self._process = None
            self._give_up(f"its process cannot be started: {error.strerror}")
            return
        assert self._process.stdin is not None and self._process.stdout is not None
        self._threads = [
            Thread(target=self._write, args=(self._process.stdin,), daemon=True),
            Thread(target=self._listen, args=(self._process.stdout,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self.put(begin)

    @property
    def is_on(self) -> bool:
        """Whether it is still reported to."""
        return self._process is not None

    def put(self, message: Message) -> None:
        """Queue a message, without blocking."""
        if self._process is None:
            return
        if self._put == self._delivered:
            self._moved = monotonic()
        self._put += 1
        self._waiting.put(message)
        self._check(PATIENCE)

    def end(self, end: End, *, hurry: bool) -> None:
        """Wait until all is delivered, while there is progress; in a `hurry` only briefly, then it ends by itself."""
        if self._process is None:
            return
        self.put(end)
        self._ended, began = True, monotonic()
        self._moved = began
        while self._process is not None and self._process.poll() is None:
            self._threads[1].join(POLL)
            if hurry and monotonic() - began > HURRY_SECONDS:
                _left.append(self._process)
                return
            self._check(LAST_PATIENCE)
        self._check(LAST_PATIENCE)
        self._kill()

    def _check(self, patience: float) -> None:
        """Give it up if it has failed, has ended by itself, or has not answered for `patience` seconds."""
        process = self._process
        if process is None:
            return
        if self._failure is not None:
            self._give_up(self._failure)
        elif process.poll() is not None and not (self._ended and process.returncode == 0):
            self._threads[1].join(1.0)  # its last words
            self._give_up(self._failure or f"its process ended with code {process.returncode}")
        elif process.poll() is None and self._put > self._delivered and monotonic() - self._moved > patience:
            self._give_up(f"it has not answered for {patience:g} seconds")
        elif self._put - self._delivered > MOST_WAITING:
            self._give_up(f"it is too slow: {MOST_WAITING:,} messages wait for it")

    def _give_up(self, reason: str) -> None:
        self.trouble = f"{self.name}: {one_line(reason)}; nothing more is reported to it"
        self._kill()

    def _kill(self) -> None:
        """Kill its process, and those that it started."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(OSError):
            if os.name == "posix":
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        with suppress(subprocess.TimeoutExpired):
            process.wait(1.0)
        self._waiting.put(None)
        for thread in self._threads:
            thread.join(1.0)

    def _write(self, pipe: IO[bytes]) -> None:
        """Write the waiting messages; runs in a thread."""
        with suppress(OSError), pipe:  # the process is gone, which `_check` notices
            while (message := self._waiting.get()) is not None:
                pipe.write(to_line(message))
                if self._waiting.empty():
                    pipe.flush()
                if isinstance(message, End):
                    break

    def _listen(self, pipe: IO[bytes]) -> None:
        """Read its progress; runs in a thread."""
        with pipe:
            for line in pipe:
                facts = json.loads(line)
                self._moved = monotonic()
                self._delivered += int(facts.get("delivered", "began" in facts))
                self.where = facts.get("began", self.where)
                self._failure = facts.get("failed", self._failure)


def _start(name: str) -> "subprocess.Popen[bytes]":
    """Start the process with the same import path; signals sent by a terminal do not reach it."""
    root = str(Path(charlm.__file__).parent.parent)
    path = os.pathsep.join([*filter(None, sys.path), root])
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "charlm.reporting.trackers.worker", name],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=os.name == "posix",
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )
