"""Liveness of ranks: each writes a heartbeat into a store, and notices when another's stops."""

import json
import os
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
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
LOOK_SECONDS = 0.05
"""Seconds between two looks at the other ranks' messages."""
GRACE_SECONDS = 5.0
"""Seconds that a rank has to end by itself once another is known to be gone."""
DONE = "done"
NO_STORE = "the store of the ranks is gone: the node of rank 0, or torchrun on it, has ended"


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
        self._known: str | None = None  # why another rank has ended
        self._silent = set[int]()  # ranks that ended without a word

    def meet(self, facts: Mapping[str, str], seconds: float) -> None:
        """Announce this rank, and wait for all others. Raises RankError if some do not come."""
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
        """Write heartbeats and check those of the next rank, until closed."""
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
                self._known = self._why_gone()
                if self._known is not None:
                    self._end(self._known)
                    return
            except RuntimeError:
                self._end(NO_STORE)
                return

    def remember_run(self, name: str) -> None:
        """Store the name of the run such that it outlives a restart by torchrun."""
        self._job_store.set("run", name)

    def remembered_run(self) -> str | None:
        """Return the name of the run, if torchrun has restarted the ranks."""
        return self._job_store.get("run").decode() if self._job_store.check(["run"]) else None

    def close(self) -> None:
        """Stop watching, since this rank ends normally. Rank 0, which may host the store, waits for live ranks to end."""
        self._closed.set()
        if self.is_alive():
            self.join()
        try:
            self._store.set(f"beat/{self._rank}", DONE)
            before, since = list[bytes](), monotonic()
            while self._rank == 0 and monotonic() - since < GRACE_SECONDS + BEAT_SECONDS:
                beats = self._beats()
                if all(beat == DONE.encode() for rank, beat in enumerate(beats) if rank not in self._silent):
                    return
                before, since = beats, since if beats == before else monotonic()
                sleep(LOOK_SECONDS)
        except RuntimeError:
            return  # whoever kept the store has ended

    def failed(self, sentence: str, *, told: bool = False) -> None:
        """Tell the others why this rank ends, which ends them too. `told`: another rank's error is the reason."""
        try:
            self._store.set(f"failed/{self._rank}", sentence.encode("utf-8", "replace").decode())
            if not told:
                self._store.set("gone", str(self._rank))
        except RuntimeError:
            return

    def is_said_by_first(self, sentence: str) -> bool:
        """Whether rank 0 ends with this message, now or within a moment, or one of the two quotes the other."""
        until = monotonic() + BEAT_SECONDS
        try:
            while (said := self._said(0)) is None and monotonic() < until:
                sleep(LOOK_SECONDS)
        except RuntimeError:
            return False
        return said is not None and (said.endswith(sentence) or sentence.endswith(said))

    def lost(self, failure: str) -> str:
        """Return why another rank does not answer: its message, or that it ended without one."""
        if self._known is not None:
            return self._known
        try:
            before, until = self._beats(), monotonic() + 2 * BEAT_SECONDS + 1
            while monotonic() < until:
                sleep(LOOK_SECONDS)
                if (why := self._why_gone()) is not None:
                    return why
            after = self._beats()
        except RuntimeError:
            return NO_STORE
        self._silent = {
            rank for rank, beat in enumerate(before) if rank != self._rank and beat == after[rank]
        }
        silent = [self._process_of(rank) for rank in sorted(self._silent)]
        if not silent:
            return f"the ranks lost each other: {failure.splitlines()[0][:200]}"
        return f"{' and '.join(silent[:3])} ended without a word"

    def _beats(self) -> list[bytes]:
        return [bytes(beat) for beat in self._store.multi_get([f"beat/{r}" for r in range(self._size)])]

    def _has(self, key: str) -> bool:
        return bool(self._store.check([key]))

    def _said(self, rank: int) -> str | None:
        """Return the message with which a rank ended, if it did."""
        return self._store.get(f"failed/{rank}").decode() if self._has(f"failed/{rank}") else None

    def _why_gone(self) -> str | None:
        """Return why a rank is gone, if one is."""
        if not self._has("gone"):
            return None
        rank = int(self._store.get("gone"))
        said = self._said(rank)
        why = f"gave no sign of life for {SILENT_SECONDS:g} s" if said is None else f"ended: {said}"
        return f"{self._process_of(rank)} {why}"

    def _process_of(self, rank: int) -> str:
        place = self._places[rank]
        return f"rank {rank} of {self._size} ({place['host']}, process {place['process']})"

    def _end(self, sentence: str) -> None:
        """End the process, if its main thread does not do so within GRACE_SECONDS."""
        if not self._closed.wait(GRACE_SECONDS):
            sys.stderr.write(f"error: {sentence}\n")
            sys.stderr.flush()
            with suppress(RuntimeError):
                self._store.set(f"beat/{self._rank}", DONE)
            os._exit(RankError.exit_code)
