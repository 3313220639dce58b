"""Data-parallel training: the ranks of a run (processes that train one model together), and their collectives.

Each rank has the same weights, unless they are sharded, and reads its rows of every batch. What depends on a clock, a disk
or a signal is decided by one rank, which tells the others. A process alone is rank 0 of 1; it needs no communication.
"""

import json
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic, perf_counter, sleep
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

from charlm.checkpoint.snapshot import Snapshot, snapshot_of, tensors_in
from charlm.errors import CharlmError, RankError, ResourceError, ToldElsewhere, is_out_of_memory
from charlm.place import Place
from charlm.terminal import one_line
from charlm.training.rank_watch import RankWatch, named
from charlm.training.signals import NUMBERS, Stop, interrupts_as_errors

MEETING_SECONDS = 600.0
"""Limit on waiting for all ranks to start: on a cold disk the libraries alone take minutes to load."""
ANSWER_SECONDS, TRY_SECONDS = 30.0, 0.2
"""Limit on waiting for an answer from rank 0's address, and seconds between attempts to connect to it."""
WAIT = timedelta(days=1)
"""Timeout of a collective. The watch notices ranks that are gone; one that counts a long text is waited for."""


class _OtherEndedError(RankError):
    """This rank ends because another one has ended."""


@dataclass(eq=False)
class Ranks:
    """This process among the ranks. Methods that communicate must be called by all ranks, in the same order."""

    place: Place = field(default_factory=Place)
    is_distributed: bool = False  # whether there is a process group; a trial has none, only rows
    watch: RankWatch | None = None
    shards: bool = False  # whether weights, gradients and optimizer state are divided over the ranks
    now: float = 0.0  # rank 0's clock when the ranks last agreed
    payload: dict[str, int] = field(default_factory=dict)  # bytes passed to each kind of collective

    @property
    def rank(self) -> int:
        """Its number, from 0."""
        return self.place.rank

    @property
    def size(self) -> int:
        """The number of ranks."""
        return self.place.size

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the only one that decides, writes and prints."""
        return self.place.rank == 0

    @property
    def rows(self) -> slice:
        """The rows of each batch that this rank reads."""
        return slice(self.rank, None, self.size)

    def without_others(self) -> "Ranks":
        """Return this rank without the others but with as many rows, to time a step of one rank."""
        return Ranks(replace(self.place, rank=0)) if self.size > 1 else self

    def clock(self) -> float:
        """Return rank 0's clock when the ranks last agreed, so that all decide alike; alone, the current time."""
        return self.now if self.is_distributed else perf_counter()

    def time(self) -> float:
        """Return rank 0's clock now; alone, the current time."""
        self.agree()
        return self.clock()

    def agree(self, stop: Stop | None = None) -> str | None:
        """Agree on rank 0's time and on whether any rank was told to stop; return the name of the signal."""
        if not self.is_distributed:
            return None if stop is None else stop.reason
        reason = None if stop is None else stop.reason
        told = 0 if reason is None else NUMBERS.get(reason, 0)
        both = torch.tensor([perf_counter() if self.is_first else -1.0, told], dtype=torch.float64)
        self._reduce(both, dist.ReduceOp.MAX)
        self.now, number = both.tolist()
        names = {number: name for name, number in NUMBERS.items()}
        return names.get(int(number))

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all ranks, in place."""
        if self.is_distributed:
            self._reduce(tensor, dist.ReduceOp.SUM)
        return tensor

    def start_all_reduce(self, tensor: Tensor) -> "Work":
        """Start an all-reduce of a tensor, in place; it may not be touched until the work is done."""
        self._count("all_reduce", tensor)
        with self.communicating():
            return Work(self, dist.all_reduce(tensor, async_op=True))

    def start_reduce_scatter(self, own: Tensor, of_ranks: Tensor) -> "Work":
        """Start a reduce-scatter of `of_ranks` (size, ...); this rank's part of the sum goes to `own`."""
        self._count("reduce_scatter", of_ranks)
        with self.communicating():
            return Work(self, dist.reduce_scatter(own, list(of_ranks), async_op=True))

    def start_all_gather(self, of_ranks: Tensor) -> "Work":
        """Start an all-gather into `of_ranks` (size, ...), in which this rank has filled its own part."""
        self._count("all_gather", of_ranks)
        with self.communicating():
            return Work(self, dist.all_gather(list(of_ranks), of_ranks[self.rank].clone(), async_op=True))

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Broadcast the tensors of rank 0, in place."""
        for tensor in tensors if self.is_distributed else ():
            with self.communicating():
                dist.broadcast(tensor.detach(), 0)

    def broadcast_bytes(self, make: Callable[[], bytes]) -> bytes:
        """Return the bytes that rank 0 makes, on all ranks."""
        if not self.is_distributed:
            return make()
        data = make() if self.is_first else b""
        size = torch.tensor([len(data)])
        self.broadcast([size])
        sent = (
            torch.frombuffer(bytearray(data), dtype=torch.uint8)
            if data
            else torch.empty(0, dtype=torch.uint8)
        )
        room = sent if self.is_first else torch.empty(int(size), dtype=torch.uint8)
        self.broadcast([room] if len(room) else [])
        return room.numpy().tobytes()

    def broadcast_object(self, make: Callable[[], Any], *, together: bool = False) -> Any:
        """Return the JSON value that rank 0 makes, on all ranks. `together`: making it takes all ranks."""
        if not self.is_distributed:
            return make()
        made = make() if self.is_first or together else None
        return json.loads(self.broadcast_bytes(lambda: json.dumps(made).encode()))

    def broadcast_files(self, make: Callable[[], Mapping[str, bytes]]) -> dict[str, bytes]:
        """Return the files that rank 0 makes, on all ranks."""
        if not self.is_distributed:
            return dict(make())
        files = dict(make()) if self.is_first else {}
        names = self.broadcast_object(lambda: list(files))
        return {name: self.broadcast_bytes(lambda name=name: files[name]) for name in names}  # type: ignore[misc]

    def all_gather_object(self, value: Any) -> list[Any]:
        """Return the JSON values of all ranks, in rank order."""
        if not self.is_distributed:
            return [value]
        data = json.dumps(value).encode()
        sizes = torch.zeros(self.size, dtype=torch.int64)
        sizes[self.rank] = len(data)
        longest = int(self.all_reduce(sizes).max())
        all_bytes = torch.zeros(self.size, longest, dtype=torch.uint8)
        all_bytes[self.rank, : len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        rows = self.all_reduce(all_bytes)
        return [json.loads(row[:n].numpy().tobytes()) for row, n in zip(rows, sizes.tolist(), strict=True)]

    def all_gather_rows(self, rows: Tensor) -> Tensor:
        """Return the rows (M, ...) of all ranks, concatenated: (size M, ...)."""
        if not self.is_distributed:
            return rows
        found = rows.new_empty(self.size * len(rows), *rows.shape[1:])
        self._count("all_gather", found)
        with self.communicating():
            dist.all_gather(list(found.chunk(self.size)), rows.contiguous())
        return found

    def broadcast_into(self, own: Tensor, whole: Callable[[], Tensor]) -> None:
        """Broadcast a tensor that rank 0 makes into `own`."""
        if self.is_first:
            own.copy_(whole())
        self.broadcast([own])

    def scatter_into(self, own: Tensor, n_rows: int, whole: Callable[[], Tensor]) -> None:
        """Scatter a tensor (R, ...) that rank 0 makes; this rank's rows go to `own`."""
        made = whole().to(own.device) if self.is_first else None
        own.copy_(self.scatter_from(0, made, own, n_rows))

    def send(self, tensor: Tensor, to: int) -> None:
        """Send a tensor on the CPU to another rank, which must `receive` it."""
        if tensor.numel():
            self._count("send", tensor)
            with self.communicating():
                dist.send(tensor.contiguous(), to)

    def receive(self, room: Tensor, sender: int) -> Tensor:
        """Receive into `room`, on the CPU, the tensor that another rank sends."""
        if room.numel():
            with self.communicating():
                dist.recv(room, sender)
        return room

    def gather_to(self, owner: int, own: Tensor, n_rows: int) -> Tensor | None:
        """Gather on the `owner` a tensor (R, ...) of which each rank has its rows, as by `torch.chunk`; None on others."""
        padded = self._padded(own, n_rows)
        parts = [torch.empty_like(padded) for _ in range(self.size)] if self.rank == owner else None
        self._count("gather", padded)
        with self.communicating():
            dist.gather(padded, parts, owner)
        return None if parts is None else torch.cat(parts)[:n_rows]

    def scatter_from(self, owner: int, whole: Tensor | None, own: Tensor, n_rows: int) -> Tensor:
        """Return this rank's rows, in the shape of `own`, of a tensor (R, ...) that the `owner` has."""
        room = self._padded(own, n_rows)
        parts = None
        if whole is not None:
            missing = whole.new_zeros(len(room) * self.size - n_rows, *whole.shape[1:])
            parts = [*torch.cat((whole, missing)).chunk(self.size)]
        self._count("scatter", room)
        with self.communicating():
            dist.scatter(room, parts, owner)
        return room[: len(own)]

    def _padded(self, own: Tensor, n_rows: int) -> Tensor:
        """Pad a rank's rows with zeros to the number of rows that the first rank has."""
        most = -(-n_rows // self.size)
        return torch.cat((own.detach(), own.new_zeros(most - len(own), *own.shape[1:])))

    def remember_run(self, name: str) -> None:
        """Remember which run this is, in case torchrun restarts the ranks."""
        if self.watch is not None:
            self.watch.remember_run(name)

    def remembered_run(self) -> str | None:
        """Return the run that the ranks trained before torchrun restarted them."""
        return self.broadcast_object(lambda: self.watch and self.watch.remembered_run())  # type: ignore[no-any-return]

    def check_alike(self, facts: Mapping[str, str], remedy: str) -> None:
        """Raise RankError on all ranks if a rank's facts differ from rank 0's; `remedy`: what to do about it."""
        every = self.all_gather_object({"facts": dict(facts), "host": socket.gethostname()})
        first = every[0]
        for rank, other in enumerate(every):
            for what in {**first["facts"], **other["facts"]}:
                here, there = (each["facts"].get(what, "none") for each in (first, other))
                if here != there:
                    raise RankError(
                        f"the ranks have different {what}: {here} on rank 0 ({first['host']}), {there} on rank {rank} "
                        f"({other['host']}); {remedy}"
                    )

    def _reduce(self, tensor: Tensor, how: Any) -> None:
        self._count("all_reduce", tensor)
        with self.communicating():
            dist.all_reduce(tensor, how)

    def _count(self, kind: str, tensor: Tensor) -> None:
        self.payload[kind] = self.payload.get(kind, 0) + tensor.nbytes

    @contextmanager
    def communicating(self) -> Iterator[None]:
        """Raise RankError if another rank does not answer inside the block."""
        try:
            yield
        except RuntimeError as error:
            if self.watch is None or is_out_of_memory(error):
                raise
            raise _OtherEndedError(self.watch.lost(str(error))) from None


@dataclass(frozen=True)
class Work:
    """A collective in progress."""

    ranks: Ranks
    going: Any

    def wait(self) -> None:
        """Wait until it is done. Raises RankError."""
        with self.ranks.communicating():
            self.going.wait()


class AgreedStop(Stop):
    """A stop that all ranks obey at the same step, whichever got the signal; alone, the process's own."""

    def __init__(self, ranks: Ranks, own: Stop) -> None:
        self._ranks, self.own = ranks, own
        self._agreed: str | None = None

    @property
    def reason(self) -> str | None:  # type: ignore[override]
        """The name of the signal that the ranks agreed on."""
        return self._agreed if self._ranks.is_distributed else self.own.reason

    def is_set(self) -> bool:
        """Whether training should end."""
        return self._agreed is not None if self._ranks.is_distributed else self.own.is_set()

    def agree(self) -> bool:
        """Agree with the other ranks; return whether training should end."""
        if self._ranks.is_distributed:
            self._agreed = self._ranks.agree(self.own) or self._agreed
        return self.is_set()


ALONE = Ranks()
_current = ALONE


def current() -> Ranks:
    """Return this process among the ranks: alone until they have met."""
    return _current


def shared_snapshot(ranks: Ranks, read: Callable[[], Snapshot]) -> Snapshot:
    """Return on all ranks the checkpoint, optimizer state included, that rank 0 reads. Raises CheckpointError.

    If weights are divided, only rank 0 can read the last transformer's weights and the optimizer state, each when it is
    asked for; the others know the shapes alone.
    """
    if not ranks.is_distributed:
        return read()
    snapshot = read() if ranks.is_first else None

    def files() -> dict[str, bytes]:
        assert snapshot is not None
        return {**(snapshot.facts_files() if ranks.shards else snapshot.files()), **snapshot.run_files()}

    data = ranks.broadcast_files(files)
    step: int = ranks.broadcast_object(lambda: snapshot and snapshot.step)
    if not ranks.shards:
        return snapshot or snapshot_of(data, step, tensors_in(data), training=True)
    snapshot = snapshot or snapshot_of(data, step, lambda name, expected: expected, training=True)
    earlier = [
        {
            name: weight if ranks.is_first else torch.empty(weight.shape)
            for name, weight in member.weights.items()
        }
        for member in snapshot.earlier
    ]
    ranks.broadcast([weight for weights in earlier for weight in weights.values()])
    members = zip(snapshot.earlier, earlier, strict=True)
    return replace(snapshot, earlier=tuple(replace(member, weights=weights) for member, weights in members))


@contextmanager
def meeting(
    place: Place,
    versions: Mapping[str, str],
    device: str,
    *,
    settings: Mapping[str, str] | None = None,
    shards: bool = False,
) -> Iterator[Ranks]:
    """Join the process group, and leave it at the end, whatever happens. Raises RankError if ranks do not come.

    `versions` and `settings` must be the same on all ranks. An error that ends this rank is told to the others. `device`:
    cpu or cuda. `shards`: the weights are divided over the ranks.
    """
    global _current
    if place.size == 1:
        yield ALONE
        return
    store = _store(place)
    own: Store = store.clone()  # type: ignore[attr-defined]  # so that it never waits for the group
    watch = RankWatch(place.rank, place.size, own, place.restarts)
    watch.meet(named(), MEETING_SECONDS)
    ranks = Ranks(place, True, watch, shards)
    try:
        with _errors_told(watch, place):
            watch.start()
            _join(place, store, device)
            ranks.check_alike(versions, "install the same on all nodes")
            ranks.check_alike(
                settings or {}, "give the same command, and the same CHARLM_ variables, on all nodes"
            )
            ranks.agree()
            _current = ranks
            yield ranks
    finally:
        _current = ALONE
        watch.close()
        _part()


@contextmanager
def _errors_told(watch: RankWatch, place: Place) -> Iterator[None]:
    """Tell the other ranks which error ends this one. Raises ToldElsewhere if rank 0 reports it."""
    try:
        with interrupts_as_errors():
            yield
    except CharlmError as error:
        ended = error
    except Exception as error:
        if hasattr(error, "exit_code"):  # the command's own end
            raise
        if not is_out_of_memory(error):
            watch.failed(f"{type(error).__name__}: {one_line(str(error))}")
            raise
        ended = ResourceError(
            "out of memory; give a larger --grad-accum, a smaller model, fewer ranks on a machine, or --shard"
        )
    else:
        return
    watch.failed(str(ended), told=isinstance(ended, _OtherEndedError))
    _part()  # so that the others need not wait for what this one would have sent
    if place.rank and watch.is_said_by_first(str(ended)):
        raise ToldElsewhere(ended.exit_code)
    raise ended


def _part() -> None:
    """Leave the process group, which the others may have left already, or which was never made."""
    with suppress(RuntimeError, ValueError):
        if dist.is_initialized():
            dist.destroy_process_group()


def _store(place: Place) -> "Store":
    """Open the store through which the ranks meet, at the address that torchrun gives. Raises RankError.

    A thread waits for it, because torch's wait cannot be interrupted, and never ends if another program listens there.
    """
    at, answers = f"{place.host}:{place.port}", SimpleQueue[Any]()
    serves = place.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if not serves:
        _wait_for_listener(place)

    def connect() -> None:
        try:
            answers.put(
                dist.TCPStore(  # type: ignore[attr-defined]
                    *(place.host, place.port, None, serves, timedelta(seconds=MEETING_SECONDS), False),
                    multi_tenant=True,
                )
            )
        except (RuntimeError, ValueError) as error:
            answers.put(error)

    Thread(target=connect, daemon=True).start()
    try:
        store = answers.get(timeout=ANSWER_SECONDS)
    except Empty:
        store = None
    if serves and isinstance(store, Exception) and re.search("in use|EADDRINUSE", str(store)):
        raise RankError(f"rank 0 cannot listen on {at}: the port is taken; choose another MASTER_PORT")
    if store is None or isinstance(store, Exception):
        raise RankError(
            f"rank 0 does not answer at {at}; check MASTER_ADDR, and choose another MASTER_PORT, since another program "
            "may have this one"
        )
    return dist.PrefixStore(f"charlm/{place.job}", store)  # type: ignore[attr-defined]


def _wait_for_listener(place: Place) -> None:
    """Wait until something listens at rank 0's address. Raises RankError."""
    until = monotonic() + MEETING_SECONDS
    while True:
        with suppress(OSError):
            socket.create_connection((place.host, place.port), ANSWER_SECONDS).close()
            return
        if monotonic() > until:
            raise RankError(
                f"rank 0 is not reached at {place.host}:{place.port}; check MASTER_ADDR, MASTER_PORT and the firewall, and "
                "that rank 0 was started"
            )
        sleep(TRY_SECONDS)


def _join(place: Place, store: "Store", device: str) -> None:
    """Initialise the process group."""
    store = dist.PrefixStore(f"group/{place.restarts}", store)  # type: ignore[attr-defined]
    backend = "gloo"
    if device == "cuda":
        backend = "cpu:gloo,cuda:nccl"
    try:
        dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.size, timeout=WAIT)
    except (RuntimeError, ValueError) as error:
        raise RankError(f"rank {place.rank} of {place.size} cannot join the others: {error}") from None
