"""Who is there: each rank writes a sign of life into a store, and notices when another's stops."""

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
"""Between two signs of life."""
SILENT_SECONDS = 40.0
"""Without a sign of life: the rank, its machine or the network is gone."""
GRACE_SECONDS = 5.0
"""For a rank to end by itself once another is known to be gone."""
DONE = "done"


def named() -> dict[str, str]:
    """The host and the process, to name it by."""
    return {"host": socket.gethostname(), "process": str(os.getpid())}


class RankWatch(threading.Thread):
    """Writes signs of life, watches the next rank, and ends this process where its main thread waits in vain."""

    def __init__(self, rank: int, size: int, store: "Store", restarts: int) -> None:
        super().__init__(daemon=True)
        self._rank, self._size, self._store = rank, size, dist.PrefixStore(str(restarts), store)  # type: ignore[attr-defined]
        self._job_store = store
        self._closed = threading.Event()
        self._places: list[dict[str, str]] = []

    def meet(self, facts: Mapping[str, str], seconds: float) -> None:
        """Write who this is, and wait for all others. Raises RankError where some do not come."""
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
        """Until it is closed: write a sign of life, and look for that of the next rank."""
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
        """Write the name of the run where it outlives a restart by torchrun."""
        self._job_store.set("run", name)

    def remembered_run(self) -> str | None:
        """The name of the run of the ranks that torchrun has started again."""
        return self._job_store.get("run").decode() if self._job_store.check(["run"]) else None

    def close(self) -> None:
        """Stop watching: this rank ends in order."""
        self._closed.set()
        if self.is_alive():
            self.join()
        try:
            self._store.set(f"beat/{self._rank}", DONE)
        except RuntimeError:
            return  # whoever kept the store has ended

    def failed(self, error: BaseException) -> None:
        """Tell the others why this rank ends."""
        said = {"sentence": str(error), "told": isinstance(error, RankError)}  # by another rank
        try:
            self._store.set(f"failed/{self._rank}", json.dumps(said))
        except RuntimeError:
            return

    def is_said_by_first(self, sentence: str) -> bool:
        """Does rank 0 end with the same sentence, or does so within a moment?"""
        try:
            self._store.wait(["failed/0"], timedelta(seconds=BEAT_SECONDS))
            return bool(json.loads(self._store.get("failed/0"))["sentence"] == sentence)
        except RuntimeError:
            return False

    def lost(self, failure: str) -> str:
        """Why another rank does not answer: what it said, or that it ended without a word."""
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
        """End the process, if its main thread has not done so a moment later."""
        if not self._closed.wait(GRACE_SECONDS):
            sys.stderr.write(f"error: {sentence}\n")
            sys.stderr.flush()
            os._exit(RankError.exit_code)
