"""Checkpoints of divided weights: each rank writes its rows, and rank 0 the manifest of all files."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from charlm import files
from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.safe_io import (
    MANIFEST,
    OPTIMIZER_FILE,
    WEIGHTS_FILE,
    FileEntry,
    make_manifest,
    part_names,
)
from charlm.checkpoint.snapshot import named_earlier
from charlm.checkpoint.tensor_files import rows_of, write_tensors
from charlm.strict_json import to_json
from charlm.training.distributed import Ranks
from charlm.training.session import TransformerSession

Rows = Mapping[str, Mapping[str, Tensor]]
"""A rank's rows of each tensor, by file and by name."""


def own_rows(session: TransformerSession) -> Rows:
    """Return this rank's rows of all weights and of the optimizer state."""
    earlier = named_earlier([member.weights for member in session.earlier])
    part = rows_of(earlier, session.ranks.rank, session.ranks.size)
    return {WEIGHTS_FILE: {**session.weights.rows(), **part}, OPTIMIZER_FILE: session.optimizer.rows()}


def save_rows(session: TransformerSession, run: RunFolder, *, best: bool) -> dict[str, str]:
    """Write a checkpoint, point to it, then remove old ones; return its `path` on all ranks, or the `failure`.

    A rank that does not see rank 0's disk sends its rows there. An unfinished checkpoint has a temporary name, so a rank
    that dies never leaves half of one. Raises RankError.
    """
    ranks, own, snapshot = session.ranks, own_rows(session), session.snapshot()
    whole: Rows = {WEIGHTS_FILE: snapshot.all_weights, OPTIMIZER_FILE: snapshot.optimizer}
    with ExitStack() as unfinished:

        def begin() -> str:
            run.check_space(sum(tensor.nbytes for of_file in whole.values() for tensor in of_file.values()))
            return unfinished.enter_context(files.building(run.folder(snapshot.step))).name

        begun = ranks.broadcast_object(lambda: _told(begin))
        if "failure" in begun:
            return dict(begun)
        folder = run.path / begun["path"]
        every = ranks.all_gather_object(
            _write(folder, ranks, ranks.rank, own, lambda file, name: own[file][name])
        )
        for rank in [rank for rank, written in enumerate(every) if written is None]:
            every[rank] = _pass_on(folder, ranks, rank, whole, own)

        def finish() -> str:
            with unfinished:
                parts = _entries(folder, every)
                contents = snapshot.facts_files()
                manifest = make_manifest(contents, snapshot.run_files(), parts)
                for name, data in {**contents, MANIFEST: manifest}.items():
                    files.write_synced(folder / name, data)
            return str(run.point_to(snapshot.step, best=best))

        return dict(ranks.broadcast_object(lambda: _told(finish)))


def _told(act: Callable[[], str]) -> dict[str, str]:
    """Return the `path` that `act` has written, or its `failure`: why the disk refuses."""
    try:
        return {"path": act()}
    except OSError as error:
        return {"failure": error.strerror or str(error)}


def _write(
    folder: Path, ranks: Ranks, rank: int, rows: Rows, read: Callable[[str, str], Tensor]
) -> dict[str, Any] | None:
    """Write the files of a rank; return their entries or the `failure`, None if this process does not see the folder."""
    if not folder.is_dir():
        return None
    entries = {}
    try:
        for file, tensors in rows.items():
            path = folder / part_names(file, ranks.size)[rank]
            entry = write_tensors(path, tensors, lambda name, file=file: read(file, name))  # type: ignore[misc]
            entries[path.name] = to_json(entry)
    except OSError as error:
        return {"failure": error.strerror or str(error)}
    return {"entries": entries}


def _pass_on(folder: Path, ranks: Ranks, rank: int, whole: Rows, own: Rows) -> dict[str, Any] | None:
    """Send the rows of a rank to rank 0, which writes them."""
    if rank == ranks.rank:
        for tensors in own.values():
            for tensor in tensors.values():
                ranks.send(tensor.detach().cpu(), 0)
    if not ranks.is_first:
        return None
    rows = {file: rows_of(tensors, rank, ranks.size) for file, tensors in whole.items()}

    def sent() -> Iterator[Tensor]:
        for tensors in rows.values():
            for tensor in tensors.values():
                yield ranks.receive(torch.empty(tensor.shape), rank)

    coming = sent()
    written = _write(folder, ranks, rank, rows, lambda file, name: next(coming))
    for _ in coming:  # if the disk refused, the rest is sent all the same
        pass
    return written


def _entries(folder: Path, every: list[Any]) -> dict[str, FileEntry]:
    """Return the entries of all ranks' files. Raises OSError if a rank failed, or a file is missing or has another size."""
    for written in every:
        if "failure" in written:
            raise OSError(written["failure"])
    found = {name: FileEntry(**entry) for written in every for name, entry in written["entries"].items()}
    for name, entry in found.items():
        if (folder / name).stat().st_size != entry.size:
            raise OSError(f"{name} has another size than its rank has written")
    return dict(sorted(found.items()))
