"""Files that may be hostile, read safely: strict JSON, safetensors checked before allocation, and a manifest with SHA-256."""

import hashlib
import json
import os
import stat
import struct
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charlm import files
from charlm.errors import CheckpointError
from charlm.terminal import one_line

if TYPE_CHECKING:
    from torch import Tensor  # lists of runs are made without waiting for torch

LARGEST = 64 << 20
LARGEST_NUMBER = 1e100
"""Far above any figure; the squares of larger ones could overflow."""
DEEPEST = 300
"""Levels of nesting that are read: half of what Python's own limits take, since others look at the values too."""


def parse(data: bytes, name: str) -> dict[str, Any]:
    """The object in `data`; CheckpointError, naming the file, for anything else."""
    if len(data) > LARGEST:
        raise CheckpointError(f"{one_line(name)} has {len(data)} bytes of JSON; at most {LARGEST} are read")
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=once, parse_constant=_refuse, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{one_line(name)} is damaged: {one_line(str(error))}") from None
    if data.count(b"[") + data.count(b"{") > DEEPEST and _too_deep(value):
        raise CheckpointError(f"{one_line(name)} is damaged: it is nested more than {DEEPEST} deep")
    if not isinstance(value, dict):
        raise CheckpointError(f"{one_line(name)} is damaged: it holds no JSON object")
    return value


def dump(value: dict[str, Any]) -> bytes:
    """A JSON object as bytes, readable by people and by `parse`."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def dump_line(value: dict[str, Any]) -> bytes:
    """The same in as few bytes as possible."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def finite(value: Any) -> Any:
    """The same with null for each number that JSON does not have: NaN and the infinities."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    return [finite(part) for part in value] if isinstance(value, list | tuple) else value


def number(value: Any) -> float:
    """A number that a file must hold; ValueError for whatever else stands there."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST_NUMBER:
        raise ValueError(f"{one_line(repr(value))} is not a number")
    return float(value)


def optional_number(value: Any) -> float | None:
    """The same where a file may hold null."""
    return None if value is None else number(value)


def whole(value: Any) -> int:
    """A count or a step that a file must hold; ValueError for whatever else stands there."""
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{one_line(repr(value))} is not a whole number from 0 to 2^63")
    return value


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        inner = (v for outer in level for v in (outer.values() if isinstance(outer, dict) else outer))
        level = [v for v in inner if isinstance(v, dict | list)]
        if not level:
            return False
    return True


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys stand once each; ValueError otherwise."""
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _refuse(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is too large a number")
    return value


HEADER_LIMIT = 1 << 20
DTYPES = {"float32": "F32", "float64": "F64", "bfloat16": "BF16", "float16": "F16"}


def dump_tensors(tensors: Mapping[str, "Tensor"]) -> bytes:
    """Serialise; the same tensors give the same bytes."""
    import safetensors.torch  # here: torch is slow to import

    return safetensors.torch.save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})


def load_tensors(data: bytes, expected: Mapping[str, "Tensor"], name: str) -> dict[str, "Tensor"]:
    """The tensors in `data`, which must have the names, shapes and types of `expected`.

    `expected` may live on the meta device. Raises CheckpointError otherwise, before loading, and
    for values that aren't finite.
    """
    import safetensors.torch  # here: torch is slow to import
    import torch

    _check_header(data, expected, name)
    try:
        tensors = safetensors.torch.load(data)
    except Exception as error:  # noqa: BLE001  its own kinds, none of them exported
        raise CheckpointError(f"{name} is damaged: {error}") from None
    for key, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{name} is damaged: {key} holds values that are not finite")
    return tensors


def _check_header(data: bytes, expected: Mapping[str, "Tensor"], name: str) -> None:
    length = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else HEADER_LIMIT + 1
    if length > min(HEADER_LIMIT, len(data) - 8):
        raise CheckpointError(f"{name} is damaged: its header does not fit")
    header = parse(data[8 : 8 + length], name)
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
            f"{name} does not hold the tensors that its configuration asks for: {', '.join(map(repr, different[:3]))}"
        )
    if len(data) - 8 - length != sum(tensor.nbytes for tensor in expected.values()):
        raise CheckpointError(f"{name} is damaged: its size does not fit its header")


NAME = "MANIFEST.json"
FORMAT = 1
CHECKPOINT_FILES = ("model.safetensors", "train_state.safetensors", "config.json", "state.json")
RUN_FILES = ("run.json", "vocabulary.json")
NGRAM_FILE = "ngram.safetensors"
OPTIONAL_RUN_FILES = (NGRAM_FILE,)
"""What a run may have beside them; where the manifest lists it, it must be there."""
SMALL = 1 << 20


def describe(files: Mapping[str, bytes], run_files: Mapping[str, bytes]) -> bytes:
    """The manifest of a checkpoint's own files and of those it shares with the run's others."""
    return dump({"format": FORMAT, "files": _entries(files), "run_files": _entries(run_files)})


def read_vouched(folder: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """The contents of `names` (of the checkpoint or of its run), each equal to its manifest entry.

    Those of OPTIONAL_RUN_FILES come with them where the manifest lists them.

    Raises CheckpointError for a missing, changed or unusual file, FileNotFoundError where the
    whole folder is gone (another process may have pruned it).
    """
    try:
        return _read_vouched(folder, names)
    except CheckpointError:
        if not os.path.isdir(folder):
            raise FileNotFoundError(folder) from None
        raise


def _read_vouched(folder: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    manifest = _manifest(folder)
    of_run = manifest["run_files"]
    entries = {**manifest["files"], **of_run}
    return {
        name: _read_entry(folder.parent if name in of_run else folder, name, entries[name])
        for name in (*names, *sorted(of_run.keys() & OPTIONAL_RUN_FILES))
    }


def _manifest(folder: Path) -> dict[str, Any]:
    """A checkpoint's manifest, which lists what it must; CheckpointError otherwise."""
    manifest = parse(read_regular(folder / NAME, SMALL), NAME)
    _check_section(manifest, "run_files", RUN_FILES, OPTIONAL_RUN_FILES)
    _check_section(manifest, "files", CHECKPOINT_FILES)
    if manifest.get("format") != FORMAT:
        raise CheckpointError(f"{NAME} has format {manifest.get('format')!r}; this version reads {FORMAT}")
    return manifest


def entries_of(folder: Path) -> dict[str, dict[str, Any]]:
    """What a checkpoint's manifest says of each file; CheckpointError where it is damaged or not there."""
    manifest = _manifest(folder)
    return {
        name: entry
        for section in ("files", "run_files")
        for name, entry in manifest[section].items()
        if isinstance(entry, dict)
    }


def problems(folder: Path) -> dict[str, str | None]:
    """Each file that a checkpoint's manifest vouches for, and what is wrong with it, if anything."""
    try:
        manifest = _manifest(folder)
    except CheckpointError as error:
        return {NAME: str(error)}
    found: dict[str, str | None] = {NAME: None}
    for section, place in (("files", folder), ("run_files", folder.parent)):
        for name, entry in manifest[section].items():
            try:
                _read_entry(place, name, entry)
                found[name] = None
            except CheckpointError as error:
                found[name] = str(error)
    return found


def read_regular(path: Path, limit: int) -> bytes:
    """A file's bytes; CheckpointError for links, pipes, devices and more than `limit` bytes."""
    shown = one_line(str(path))
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise CheckpointError(f"{shown} is not a regular file")
        with open(path, "rb", opener=files.open_regular) as file:  # should it have become a link since
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise CheckpointError(f"{shown} has {size} bytes; at most {limit} are expected")
            return file.read(size)
    except OSError as error:
        raise CheckpointError(f"{shown} cannot be read: {error.strerror}") from None


def _entries(files: Mapping[str, bytes]) -> dict[str, Any]:
    return {
        name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()
    }


def _check_section(
    manifest: dict[str, Any], key: str, names: tuple[str, ...], optional: tuple[str, ...] = ()
) -> None:
    entries = manifest.get(key)
    if not isinstance(entries, dict) or entries.keys() - set(optional) != set(names):
        raise CheckpointError(f"{NAME} is damaged: {key} must list {', '.join(names)}")


def _read_entry(folder: Path, name: str, entry: Any) -> bytes:
    size = entry.get("size") if isinstance(entry, dict) else None
    if type(size) is not int or size < 0:
        raise CheckpointError(f"{NAME} is damaged: {name} has no size")
    data = read_regular(folder / name, size)
    if len(data) != size or hashlib.sha256(data).hexdigest() != entry.get("sha256"):
        raise CheckpointError(f"{one_line(str(folder / name))} is damaged: it is not what was saved")
    return data
