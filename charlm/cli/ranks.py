"""Train with several ranks: connect those that torchrun started, or start them for `--ranks` and `--gpus`."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.console import MESSAGES
from charlm.errors import CharlmError, ToldElsewhere, UsageError
from charlm.place import Place
from charlm.terminal import be_quiet, is_quiet
from charlm.training.launcher import start_ranks
from charlm.training.request import Messages

if TYPE_CHECKING:
    from charlm.training.distributed import Ranks

SILENT = Messages(lambda text: None, lambda text: None)
"""The messages of all ranks but the first."""
RanksOption = Annotated[
    int | None,
    typer.Option(
        "--ranks",
        min=1,
        max=4096,
        metavar="N",
        help="Processes on this machine that train together, each with its share of every batch and of the threads.",
    ),
]
Gpus = Annotated[
    int | None,
    typer.Option(
        "--gpus",
        min=1,
        max=4096,
        metavar="N",
        help="Like --ranks, but one process for each of N GPUs of this machine.",
    ),
]

Shard = Annotated[
    bool,
    typer.Option(
        "--shard",
        help="Divide weights, gradients and the optimizer's state among the ranks, for a model too large for the "
        "memory of one.",
    ),
]

ALONE = "--shard divides the weights over several ranks, and this process is alone; add --ranks N or --gpus N"


def start_as_asked(ranks: int | None, gpus: int | None, settings: dict[str, Any]) -> None:
    """Start so many ranks, unless this process is one of them, and exit with their code.

    With `gpus` each runs on one of them, which is put into the settings.
    """
    if ranks is not None and gpus is not None:
        raise UsageError("give either --ranks or --gpus, not both")
    if gpus is not None:
        if settings.get("device", "auto") not in ("auto", "cuda"):
            raise UsageError(f"--gpus {gpus} contradicts --device {settings['device']}; leave one out")
        _check_gpus(gpus)
        settings["device"] = "cuda"
    n, place = ranks or gpus or 1, Place.of_environment()
    be_quiet(is_quiet() or place.rank > 0)
    if place.size > 1 and (ranks or gpus) and n != place.local_size:
        raise UsageError(
            f"--{'ranks' if ranks else 'gpus'} is {n}, but {place.local_size} ranks were started on this machine; leave it out"
        )
    if n > 1 and place.size == 1:
        raise typer.Exit(start_ranks(n))


def _check_gpus(wanted: int) -> None:
    import torch  # here: it is slow to import

    there = torch.cuda.device_count()
    if there < wanted:
        raise UsageError(
            f"--gpus is {wanted}, but PyTorch finds {there} on this machine; --ranks N uses CPUs"
        )


def device_of(place: Place, wanted: str) -> str:
    """Return the kind of device that a rank runs on: a GPU of its own, or the CPU."""
    import torch  # here: it is slow to import

    from charlm.training.device import pick_device

    if wanted in ("auto", "cuda") and torch.cuda.is_available():
        if place.local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"{place.local_size} ranks were started on a machine with {torch.cuda.device_count()} GPUs; start as many "
                "as there are GPUs, or give --device cpu"
            )
        torch.cuda.set_device(place.local_rank)
    kind = pick_device(wanted).type
    if kind not in ("cpu", "cuda"):
        raise UsageError(f"several ranks cannot share the GPU of this machine ({kind}); give --device cpu")
    return kind


@contextmanager
def together(device: str, *, shard: bool = False) -> Iterator[tuple["Ranks | None", Messages]]:
    """Connect to the other ranks, if any; yield them, and where this rank reports: only the first one does.

    Exits silently if rank 0 reports the error.
    """
    place = Place.of_environment()
    if place.size == 1:
        if shard:
            raise UsageError(ALONE)
        yield None, MESSAGES
        return
    from charlm.native.library import status
    from charlm.training.distributed import meeting
    from charlm.training.launch import versions

    try:
        kind = device_of(place, device)
        facts = {**versions(), "compiled kernels": status().clone or "none", "devices": kind}
        with meeting(place, facts, kind, shards=shard) as ranks:
            yield ranks, MESSAGES if ranks.is_first else SILENT
    except ToldElsewhere as error:
        raise typer.Exit(error.exit_code) from None
    except CharlmError as error:
        if place.rank:
            error.args = (f"rank {place.rank} of {place.size} on {socket.gethostname()}: {error}",)
        raise
