"""Who is there: each rank writes a sign of life into a store, and notices when another's stops."""

import json
import os
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from charlm.errors import RankError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

BEAT_SECONDS = 2.0
"""Between two signs of life."""
SILENT_SECONDS = 40.0
"""Without a sign of life: the rank, its machine or the network is gone."""
LOOK_SECONDS = 0.05
"""Between two looks at what others have said."""
GRACE_SECONDS = 5.0
"""For a rank to end by itself once another is known to be gone."""
DONE = "done"
NO_STORE = "the store of the ranks is gone: the node of rank 0, or torchrun on it, has ended"


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
        self._known: str | None = None  # why another rank has ended

    def meet(self, facts: Mapping[str, str], seconds: float) -> None:
        """Write who this is, and wait for all others. Raises RankError where some do not come."""
        keys, until = [f"here/{rank}" for rank in range(self._size)], monotonic() + seconds
        try:
            self._store.set(f"beat/{self._rank}", "0")
            self._store.set(f"here/{self._rank}", json.dumps(dict(facts)))
            pause = LOOK_SECONDS  # not in the store's own waiting, in which Python hears no signal
            while not self._store.check(keys):
                if monotonic() < until:
                    sleep(pause)
                    pause = min(2 * pause, BEAT_SECONDS / 2)
                    continue
                missing = [str(rank) for rank, key in enumerate(keys) if not self._has(key)]
                raise RankError(
                    f"of {self._size} ranks {len(missing)} did not come within {seconds:g} s: {', '.join(missing[:9])}; "
                    "see what they wrote on their nodes"
                )
            self._places = [json.loads(value) for value in self._store.multi_get(keys)]
        except RuntimeError:
            raise RankError(NO_STORE) from None

    def run(self) -> None:
        """Until it is closed: write a sign of life, and look for that of the next rank."""
        other, seen, since, n = (self._rank + 1) % self._size, b"", monotonic(), 0
        while not self._closed.wait(BEAT_SECONDS):
            n += 1
            try:
                self._store.set(f"beat/{self._rank}", str(n))
                value = self._store.get(f"beat/{other}")
                if value != seen or value == DONE.encode():
                    seen, since = value, monotonic()
                elif monotonic() - since > SILENT_SECONDS:
                    self._store.set("gone", str(other))
                if self._has("gone"):
                    gone = int(self._store.get("gone"))
                    said = self._said(gone)
                    silent = f"gave no sign of life for {SILENT_SECONDS:g} s"
                    why = silent if said is None else f"ended: {said['sentence']}"
                    self._known = f"{self._process_of(gone)} {why}"
                    self._end(self._known)
                    return
            except RuntimeError:
                self._end(NO_STORE)
                return

    def remember_run(self, name: str) -> None:
        """Write the name of the run where it outlives a restart by torchrun."""
        self._job_store.set("run", name)

    def remembered_run(self) -> str | None:
        """The name of the run of the ranks that torchrun has started again."""
        return self._job_store.get("run").decode() if self._job_store.check(["run"]) else None

    def close(self) -> None:
        """Stop watching: this rank ends in order. Rank 0, which may keep the store, waits for others that still live."""
        self._closed.set()
        if self.is_alive():
            self.join()
        try:
            self._store.set(f"beat/{self._rank}", DONE)
            before, since = list[bytes](), monotonic()
            while self._rank == 0 and {*(beats := self._beats())} != {DONE.encode()}:
                before, since = beats, since if beats == before else monotonic()
                if monotonic() - since > GRACE_SECONDS + BEAT_SECONDS:
                    return
                sleep(LOOK_SECONDS)
        except RuntimeError:
            return  # whoever kept the store has ended

    def failed(self, sentence: str, *, told: bool = False) -> None:
        """Tell the others why this rank ends, which ends them too. `told`: because another has."""
        said = {"sentence": sentence, "told": told}
        try:
            self._store.set(f"failed/{self._rank}", json.dumps(said))
            self._store.set("gone", str(self._rank))
        except RuntimeError:
            return

    def is_said_by_first(self, sentence: str) -> bool:
        """Does rank 0 end with this sentence, within a moment, or one of the two because of the other?"""
        until = monotonic() + BEAT_SECONDS
        try:
            while (said := self._said(0)) is None and monotonic() < until:
                sleep(LOOK_SECONDS)
        except RuntimeError:
            return False
        return said is not None and (
            said["sentence"].endswith(sentence) or sentence.endswith(said["sentence"])
        )

    def lost(self, failure: str) -> str:
        """Why another rank does not answer: what it said, or that it ended without a word."""
        if self._known is not None:
            return self._known
        try:
            before, until = self._beats(), monotonic() + 2 * BEAT_SECONDS + 1
            while monotonic() < until:
                sleep(LOOK_SECONDS)
                for rank in range(self._size):
                    said = self._said(rank) if rank != self._rank else None
                    if said is not None and not said["told"]:
                        return f"{self._process_of(rank)} ended: {said['sentence']}"
            after = self._beats()
        except RuntimeError:
            return NO_STORE
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

    def _said(self, rank: int) -> dict[str, Any] | None:
        """What a rank has said that ended: its `sentence`, and whether another had `told` it."""
        return json.loads(self._store.get(f"failed/{rank}")) if self._has(f"failed/{rank}") else None

    def _process_of(self, rank: int) -> str:
        place = self._places[rank]
        return f"rank {rank} of {self._size} ({place['host']}, process {place['process']})"

    def _end(self, sentence: str) -> None:
        """End the process, if its main thread has not done so a moment later."""
        if not self._closed.wait(GRACE_SECONDS):
            sys.stderr.write(f"error: {sentence}\n")
            sys.stderr.flush()
            with suppress(RuntimeError):
                self._store.set(f"beat/{self._rank}", DONE)
            os._exit(RankError.exit_code)
