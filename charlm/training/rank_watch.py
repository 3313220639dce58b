"""Liveness of ranks: each writes a heartbeat into a store, and notices when another's stops."""

import json
import os
import socket
import sys
import threading
from collections.abc import Mapping
from datetime import timedelta
from time import monotonic, sleep
from typing import TYPE_CHECKING

import torch.distributed as dist

from charlm.errors import RankError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

BEAT_SECONDS = 2.0
"""Seconds between two heartbeats."""
SILENT_SECONDS = 40.0
"""Seconds without a heartbeat after which the rank, its machine or the network counts as gone."""
GRACE_SECONDS = 5.0
"""Seconds that a rank has to end by itself once another is known to be gone."""
DONE = "done"


def named() -> dict[str, str]:
    """Return host and process id, to name a rank in messages."""
    return {"host": socket.gethostname(), "process": str(os.getpid())}


class RankWatch(threading.Thread):
    """Writes heartbeats, watches the next rank, and ends this process if a rank is gone and the main thread hangs."""

    def __init__(self, rank: int, size: int, store: "Store", restarts: int) -> None:
        super().__init__(daemon=True)
        self._rank, self._size, self._store = rank, size, dist.PrefixStore(str(restarts), store)  # type: ignore[attr-defined]
        self._job_store = store
        self._closed = threading.Event()
        self._places: list[dict[str, str]] = []

    def meet(self, facts: Mapping[str, str], seconds: float) -> None:
        """Announce this rank, and wait for all others. Raises RankError if some do not come."""
        self._store.set(f"beat/{self._rank}", "0")
        self._store.set(f"here/{self._rank}", json.dumps(dict(facts)))
        keys = [f"here/{rank}" for rank in range(self._size)]
        try:
            self._store.wait(keys, timedelta(seconds=seconds))
        except RuntimeError:
            missing = [str(rank) for rank, key in enumerate(keys) if not self._has(key)]
            raise RankError(
                f"of {self._size} ranks {len(missing)} did not come within {seconds:g} s: {', '.join(missing[:9])}; see "
                "what they wrote on their nodes"
            ) from None
        self._places = [json.loads(value) for value in self._store.multi_get(keys)]

    def run(self) -> None:
        """Write heartbeats and check those of the next rank, until closed."""
        other, seen, since, n = (self._rank + 1) % self._size, b"", monotonic(), 0
        while not self._closed.wait(BEAT_SECONDS):
            n += 1
            try:
                self._store.set(f"beat/{self._rank}", str(n))
                value = self._store.get(f"beat/{other}")
                gone = self._store.get("gone").decode() if self._has("gone") else None
            except RuntimeError:
                self._end("the store of the ranks is gone: the node of rank 0, or torchrun on it, has ended")
                return
            if value != seen or value == DONE.encode():
                seen, since = value, monotonic()
            elif monotonic() - since > SILENT_SECONDS:
                self._store.set("gone", str(other))
                gone = str(other)
            if gone is not None:
                self._end(f"{self._process_of(int(gone))} gave no sign of life for {SILENT_SECONDS:g} s")
                return

    def remember_run(self, name: str) -> None:
        """Store the name of the run such that it outlives a restart by torchrun."""
        self._job_store.set("run", name)

    def remembered_run(self) -> str | None:
        """Return the name of the run, if torchrun has restarted the ranks."""
        return self._job_store.get("run").decode() if self._job_store.check(["run"]) else None

    def close(self) -> None:
        """Stop watching, since this rank ends normally."""
        self._closed.set()
        if self.is_alive():
            self.join()
        try:
            self._store.set(f"beat/{self._rank}", DONE)
        except RuntimeError:
            return  # whoever kept the store has ended

    def failed(self, error: BaseException) -> None:
        """Tell the others why this rank ends."""
        said = {"sentence": str(error), "told": isinstance(error, RankError)}  # `told`: by another rank
        try:
            self._store.set(f"failed/{self._rank}", json.dumps(said))
        except RuntimeError:
            return

    def is_said_by_first(self, sentence: str) -> bool:
        """Whether rank 0 ends with the same message, now or within a moment."""
        try:
            self._store.wait(["failed/0"], timedelta(seconds=BEAT_SECONDS))
            return bool(json.loads(self._store.get("failed/0"))["sentence"] == sentence)
        except RuntimeError:
            return False

    def lost(self, failure: str) -> str:
        """Return why another rank does not answer: its message, or that it ended without one."""
        try:
            before = self._beats()
            sleep(2 * BEAT_SECONDS + 1)
            for rank in range(self._size):
                sentence = self._sentence(rank) if rank != self._rank else None
                if sentence is not None:
                    return f"{self._process_of(rank)} ended: {sentence}"
            after = self._beats()
        except RuntimeError:
            return "the store of the ranks is gone: the node of rank 0, or torchrun on it, has ended"
        silent = [
            self._process_of(rank)
            for rank, (was, now) in enumerate(zip(before, after, strict=True))
            if rank != self._rank and was == now
        ]
        if not silent:
            return f"the ranks lost each other: {failure.splitlines()[0][:200]}"
        return f"{' and '.join(silent[:3])} ended without a word"

    def _beats(self) -> list[bytes]:
        return [bytes(beat) for beat in self._store.multi_get([f"beat/{r}" for r in range(self._size)])]

    def _has(self, key: str) -> bool:
        return bool(self._store.check([key]))

    def _sentence(self, rank: int) -> str | None:
        if not self._has(f"failed/{rank}"):
            return None
        said = json.loads(self._store.get(f"failed/{rank}"))
        return None if said["told"] else str(said["sentence"])

    def _process_of(self, rank: int) -> str:
        place = self._places[rank]
        return f"rank {rank} of {self._size} ({place['host']}, process {place['process']})"

    def _end(self, sentence: str) -> None:
        """End the process, if its main thread does not do so within GRACE_SECONDS."""
        if not self._closed.wait(GRACE_SECONDS):
            sys.stderr.write(f"error: {sentence}\n")
            sys.stderr.flush()
            os._exit(RankError.exit_code)
