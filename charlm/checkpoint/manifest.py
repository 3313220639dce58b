"""The list of a checkpoint's files with their sizes and SHA-256, and reading what it vouches for."""

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from charlm import files
from charlm.checkpoint.strict_json import dump, parse
from charlm.errors import CheckpointError
from charlm.terminal import one_line

NAME = "MANIFEST.json"
FORMAT = 1
CHECKPOINT_FILES = ("model.safetensors", "train_state.safetensors", "config.json", "state.json")
RUN_FILES = ("run.json", "vocabulary.json")
COUNTS = "counts.safetensors"
OPTIONAL_RUN_FILES = (COUNTS,)
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
