"""Read files that may be hostile: regular files only, tensors checked before loading, and a manifest with SHA-256."""

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlm import files
from charlm.errors import CheckpointError
from charlm.strict_json import MAX_BYTES, dump_json, parse_json, read_as, to_json
from charlm.terminal import first_of, one_line

if TYPE_CHECKING:
    from torch import Tensor  # lists of runs are made without waiting for torch

MAX_HEADER = 1 << 20
DTYPES = {"float32": "F32", "float64": "F64", "bfloat16": "BF16", "float16": "F16"}

MANIFEST = "MANIFEST.json"
MAX_MANIFEST = 4 << 20
FORMAT, PARTS_FORMAT = 2, 3
"""Manifest formats: each file of tensors whole, or in one part per rank with the rows that the rank has written."""
WEIGHTS_FILE, OPTIMIZER_FILE = "model.safetensors", "train_state.safetensors"
CHECKPOINT_FILES = (WEIGHTS_FILE, OPTIMIZER_FILE, "config.json", "state.json")
RUN_FILES = ("run.json", "vocabulary.json")
NGRAM_FILE = "ngram.safetensors"
"""The n-gram model of a run that has one; the manifest lists it then."""
EARLIER = "earlier"
"""The transformers that were trained before the last one: their key in config.json, and the prefix of their weights'
names."""


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """The size and the checksum of a file."""

    size: int
    sha256: str

    @classmethod
    def of(cls, data: bytes) -> "FileEntry":
        """The entry of a file with these contents."""
        return cls(size=len(data), sha256=hashlib.sha256(data).hexdigest())


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The files of a checkpoint, and those that it shares with the run's other checkpoints."""

    format: int = FORMAT
    files: dict[str, FileEntry]
    run_files: dict[str, FileEntry]

    @property
    def n_parts(self) -> int:
        """Number of files that hold the weights: 1, or one per rank that wrote them."""
        return 1 if self.format == FORMAT else max(2, len(self.files) // 2 - 1)

    def files_of(self, name: str) -> tuple[str, ...]:
        """Return the files that hold the contents of `name`: itself, or its parts if several ranks wrote it."""
        return part_names(name, self.n_parts) if name in (WEIGHTS_FILE, OPTIMIZER_FILE) else (name,)

    @property
    def weights_sha256(self) -> str:
        """The SHA-256 of the weights' file; for several, that of their hashes in hexadecimal, one a line."""
        hashes = [self.files[name].sha256 for name in self.files_of(WEIGHTS_FILE)]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn an OSError on reading `what` into a CheckpointError."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{one_line(what)} cannot be read: {error.strerror}") from None


def read_file(path: Path, limit: int) -> bytes:
    """Read a regular file. Raises CheckpointError for links, pipes, devices and more than `limit` bytes."""
    with reading(str(path)):
        return files.read_regular(path, limit)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file. Raises CheckpointError for anything else."""
    return parse_json(read_file(path, MAX_BYTES), path.name)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object atomically and wait for the disk. Raises OSError."""
    files.replace(path, dump_json(value))


def dump_tensors(tensors: Mapping[str, "Tensor"]) -> bytes:
    """Serialise as safetensors; the same tensors give the same bytes."""
    import safetensors.torch  # here: torch is slow to import

    return safetensors.torch.save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})


def load_tensors(data: bytes, expected: Mapping[str, "Tensor"], name: str) -> dict[str, "Tensor"]:
    """Load safetensors that must have the names, shapes and dtypes of `expected`, which may be on the meta device.

    Raises CheckpointError before loading if they differ, and for values that are not finite.
    """
    import safetensors.torch  # here: torch is slow to import
    import torch

    check_header(data, len(data), expected, name)
    try:
        tensors = safetensors.torch.load(data)
    except Exception as error:  # noqa: BLE001  safetensors exports none of its exceptions
        raise CheckpointError(f"{name} is damaged: {error}") from None
    for key, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{name} is damaged: {key} holds values that are not finite")
    return tensors


def check_header(data: bytes, size: int, expected: Mapping[str, "Tensor"], name: str) -> None:
    """Raise CheckpointError unless safetensors of `size` bytes that begin with `data` hold the `expected` tensors."""
    length = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else MAX_HEADER + 1
    if length > min(MAX_HEADER, size - 8):
        raise CheckpointError(f"{name} is damaged: its header does not fit")
    header = parse_json(data[8 : 8 + length], name)
    header.pop("__metadata__", None)
    wanted = {
        key: {"dtype": DTYPES[str(tensor.dtype).removeprefix("torch.")], "shape": list(tensor.shape)}
        for key, tensor in expected.items()
    }
    found = {
        key: {k: entry.get(k) for k in ("dtype", "shape")} if isinstance(entry, dict) else entry
        for key, entry in header.items()
    }
    if json.dumps(found, sort_keys=True) != json.dumps(wanted, sort_keys=True):
        different = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
        raise CheckpointError(
            f"{name} does not hold the tensors that its configuration needs: {', '.join(map(repr, different[:3]))}"
        )
    if size - 8 - length != sum(tensor.nbytes for tensor in expected.values()):
        raise CheckpointError(f"{name} is damaged: its size does not fit its header")


def part_names(name: str, n_parts: int) -> tuple[str, ...]:
    """Return the files with the tensors of `name`, by part: itself, or `model-00001-of-00002.safetensors` and so on."""
    stem, dot, kind = name.partition(".")
    parts = (f"{stem}-{part:05d}-of-{n_parts:05d}{dot}{kind}" for part in range(1, n_parts + 1))
    return (name,) if n_parts == 1 else tuple(parts)


def make_manifest(
    checkpoint: Mapping[str, bytes], run: Mapping[str, bytes], parts: Mapping[str, FileEntry] | None = None
) -> bytes:
    """Serialise the manifest of a checkpoint's files and of the files it shares with the run's other checkpoints.

    `parts`: the files of tensors that several ranks have written.
    """
    own, shared = (
        {name: FileEntry.of(data) for name, data in contents.items()} for contents in (checkpoint, run)
    )
    form = PARTS_FORMAT if parts else FORMAT
    return dump_json(to_json(Manifest(format=form, files={**(parts or {}), **own}, run_files=shared)))


def read_manifest(folder: Path) -> Manifest:
    """Read a checkpoint's manifest. Raises CheckpointError where it is damaged, lacks a file, or has another format."""
    values = parse_json(read_file(folder / MANIFEST, MAX_MANIFEST), MANIFEST)
    if values.get("format") not in (FORMAT, PARTS_FORMAT):
        raise CheckpointError(
            f"{MANIFEST} has format {values.get('format')!r}; this version of charlm reads format {FORMAT} or "
            f"{PARTS_FORMAT}"
        )
    manifest = read_as(Manifest, values, MANIFEST)
    needed = [name for each in CHECKPOINT_FILES for name in manifest.files_of(each)]
    for names, all_of in (
        (manifest.files, needed),
        (manifest.run_files.keys() - {NGRAM_FILE}, RUN_FILES),
    ):
        if set(names) != set(all_of):
            raise CheckpointError(
                f"{MANIFEST} is damaged: it must list {first_of([f'{name}, ' for name in all_of]).removesuffix(', ')}"
            )
    return manifest


@contextmanager
def unless_gone(folder: Path) -> Iterator[None]:
    """Turn a CheckpointError into FileNotFoundError where the folder is gone: another process may have pruned it."""
    try:
        yield
    except CheckpointError:
        if not os.path.isdir(folder):
            raise FileNotFoundError(folder) from None
        raise


def read_verified(folder: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """Read files of a checkpoint, or of its run, and check the size and checksum that the manifest gives for each.

    Files of tensors are read in all parts, and the n-gram model too if the manifest lists it. Raises CheckpointError
    for a missing, changed or unusual file, FileNotFoundError where the folder is gone.
    """
    with unless_gone(folder):
        manifest = read_manifest(folder)
        return {
            name: _read_entry(folder, manifest, name)
            for each in (*names, *manifest.run_files.keys() & {NGRAM_FILE})
            for name in manifest.files_of(each)
        }


def find_problems(folder: Path) -> dict[str, str | None]:
    """Return what is wrong with each file of a checkpoint, None for those that are intact."""
    try:
        manifest = read_manifest(folder)
    except CheckpointError as error:
        return {MANIFEST: str(error)}
    problems: dict[str, str | None] = {MANIFEST: None}
    for name in (*manifest.files, *manifest.run_files):
        try:
            _read_entry(folder, manifest, name)
            problems[name] = None
        except CheckpointError as error:
            problems[name] = str(error)
    return problems


def _read_entry(folder: Path, manifest: Manifest, name: str) -> bytes:
    of_run = name in manifest.run_files
    entry = (manifest.run_files if of_run else manifest.files)[name]
    path = (folder.parent if of_run else folder) / name
    data = read_file(path, entry.size)
    if FileEntry.of(data) != entry:
        raise CheckpointError(f"{one_line(str(path))} is damaged: its hash differs from the manifest's")
    return data
