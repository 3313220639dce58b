"""The process of one tracker: reads messages from standard input, delivers them, and reports its progress.

What a tracker prints or raises, and its hanging, stays in this process. Standard output carries one
line of JSON for each batch that was delivered; the process ends when its input does.
"""

import faulthandler
import json
import os
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from itertools import groupby
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from typing import BinaryIO

from charlm.reporting.trackers import TRACKERS
from charlm.reporting.trackers.messages import (
    BackTo,
    Begin,
    End,
    Message,
    Numbers,
    Settings,
    Text,
    Tracker,
    from_line,
)
from charlm.reporting.trackers.state import TrackerState, lock_of, read_state, write_state

EVERY_SECONDS = 1.0
"""Seconds during which messages are collected before they are delivered together."""
LAST_SECONDS = 60
"""Seconds that a tracker has to finish after its input has ended, before it is killed."""


class Deliveries:
    """Delivers to a tracker what has not been reported yet, and records it in the run's folder.

    Deliveries are recorded before they are made, so that no step comes twice, whatever is killed.
    """

    def __init__(self, name: str, begin: Begin) -> None:
        self._name, self._folder = name, Path(begin.folder)
        before = read_state(self._folder, name)
        kind = getattr(import_module(f"charlm.reporting.trackers.{name}"), TRACKERS[name])
        self.tracker: Tracker = kind(replace(begin, id=before.id))
        self._state = before if self.tracker.id == before.id else TrackerState(id=self.tracker.id)
        self._deliver_one(BackTo(step=begin.step))
        self._remember()

    def deliver(self, batch: list[Message]) -> None:
        """Deliver messages, adjacent figures together."""
        for kind, group in groupby(batch, type):
            if kind is Numbers:
                fresh = [self._fresh(row) for row in group if isinstance(row, Numbers)]
                rows = [row for row in fresh if row.values]
                self._remember()
                if rows:
                    self.tracker.numbers(rows)
                continue
            for message in group:
                self._deliver_one(message)

    def _deliver_one(self, message: Message) -> None:
        if isinstance(message, Text) and message.step > self._state.last.get(message.name, -1):
            self._state.last[message.name] = message.step
            self._remember()
            self.tracker.text(message)
        elif isinstance(message, Settings):
            self.tracker.settings(message.settings)
        elif isinstance(message, BackTo) and self.tracker.forget_after(message.step):
            self._forget_after(message.step)
        elif isinstance(message, End):
            self.tracker.end(message)

    def _fresh(self, row: Numbers) -> Numbers:
        """Return a row with only the figures whose step was not reported yet."""
        last = self._state.last
        values = {name: value for name, value in row.values.items() if row.step > last.get(name, -1)}
        last.update(dict.fromkeys(values, row.step))
        return replace(row, values=values)

    def _forget_after(self, step: int) -> None:
        last = {name: min(reported, step) for name, reported in self._state.last.items()}
        self._state = replace(self._state, last=last)

    def _remember(self) -> None:
        with suppress(OSError):  # on a full disk training goes on, and so does this
            write_state(self._folder, self._name, self._state)


def main(name: str) -> None:
    """Report to one tracker until standard input ends."""
    said = _only_ours()
    for number in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        if hasattr(signal, number):  # signals are for the training process, which then reports the end
            signal.signal(getattr(signal, number), signal.SIG_IGN)
    queue: SimpleQueue[Message] = SimpleQueue()
    first = from_line(sys.stdin.buffer.readline())
    assert isinstance(first, Begin)
    Thread(target=_read, args=(sys.stdin.buffer, queue), daemon=True).start()
    code = 0
    try:
        with lock_of(Path(first.folder), name).acquire(timeout=LAST_SECONDS):
            deliveries = Deliveries(name, first)
            _say(said, began=deliveries.tracker.where)
            ended = False
            while not ended:
                batch = _collected(queue)
                deliveries.deliver(batch)
                ended = isinstance(batch[-1], End)
                _say(said, delivered=len(batch))
    except BaseException as error:  # noqa: BLE001  whatever a tracker raises ends only its own process
        _say(said, failed=f"{type(error).__name__}: {error}")
        code = 1
    os._exit(code)  # what a tracker does at exit may take forever


def _only_ours() -> BinaryIO:
    """Return the original standard output; anything printed from now on, to it or to standard error, is discarded."""
    said = os.fdopen(os.dup(1), "wb", buffering=0)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    return said


def _say(said: BinaryIO, **facts: str | int) -> None:
    with suppress(OSError):  # the training may be gone
        said.write(json.dumps(facts).encode() + b"\n")


def _read(lines: BinaryIO, queue: "SimpleQueue[Message]") -> None:
    """Read messages up to End; if the input ends without one, the training process was killed."""
    message: Message | None = None
    while not isinstance(message, End):
        line = lines.readline()
        message = from_line(line) if line.endswith(b"\n") else End(status="stopped", report=None)
        if isinstance(message, End):
            faulthandler.dump_traceback_later(LAST_SECONDS, exit=True)
        queue.put(message)


def _collected(queue: "SimpleQueue[Message]") -> list[Message]:
    """Return the messages of the next second, or up to End."""
    batch = [queue.get()]
    until = monotonic() + EVERY_SECONDS
    with suppress(Empty):
        while not isinstance(batch[-1], End):
            batch.append(queue.get(timeout=max(0.0, until - monotonic())))
    return batch


if __name__ == "__main__":
    main(sys.argv[1])
