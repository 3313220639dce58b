"""The cache of tokenized corpora: written atomically, checked when read, listed and cleared; and which files were read before."""

import errno
import hashlib
import json
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from charlm import files
from charlm.config import TextConfig
from charlm.data import graphemes
from charlm.data.stream import STDIN
from charlm.data.tokenizer import Ids
from charlm.terminal import one_line

FORMAT = 2
FACTS = "corpus.json"
KEY = re.compile(r"[0-9a-f]")
CHECKED_WHOLE = 64 << 20
"""Bytes of ids up to which all are checked whenever they are used; of more, samples."""
MOST_FACTS = 256 << 20
"""Bytes of facts that are read: they hold the vocabulary, and at most what was said of each of many files."""
DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
"""What comes of using facts that are not what was written, whatever stands there instead."""
_CACHE_SAMPLES, _CACHE_SAMPLE = 64, 1 << 16
_STALE_SECONDS = 86400


@dataclass(frozen=True)
class Part:
    """Ids about to be written: how many, of which type, in pieces."""

    n: int
    dtype: "np.dtype[Any]"
    pieces: Iterable[Ids]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A corpus in the cache."""

    key: str
    label: str
    chars: int
    bytes: int
    used: float  # seconds since 1970


def cache_folder() -> Path:
    """`CHARLM_CACHE`, else the folder that the platform has for caches."""
    from platformdirs import user_cache_path  # here, since it is slow on Windows

    return Path(
        os.path.expanduser(os.environ.get("CHARLM_CACHE") or user_cache_path("charlm", appauthor=False))
    )


def corpora() -> Path:
    """Where the folders of the corpora lie."""
    return cache_folder() / "corpora"


def store(key: str, facts: Mapping[str, Any], parts: Mapping[str, Part]) -> None:
    """Write a corpus, unless another process has done so by then. Raises OSError, and leaves nothing then.

    The ids are not waited for where the machine tells one start from the next: after the next, all
    of them are checked before they are used.
    """
    folder, boot = corpora() / key, files.boot()
    if folder.exists() and not _there(key, parts):
        files.remove_tree(folder)  # damaged
    with files.building(folder, may_stay=lambda: _there(key, parts)) as temporary:
        checks: dict[str, Any] = {"boot": boot}
        for name, part in parts.items():
            path = temporary / f"{name}.npy"
            with files.writing(path, synced=boot is None) as file:
                header = {"descr": part.dtype.str, "fortran_order": False, "shape": (part.n,)}
                np.lib.format.write_array_header_1_0(file, header)
                crc = written = 0
                for piece in part.pieces:
                    file.write(piece.data)
                    crc, written = zlib.crc32(piece.data, crc), written + len(piece)
            assert written == part.n, "the counts say how long a part is"
            checks[f"{name}_crc"] = crc
            checks[f"{name}_samples"] = _sampled(_map(path))
            checks["facts_sha256"] = _seal({**facts, **checks})
        files.write_synced(temporary / FACTS, json.dumps({**facts, **checks}).encode())


def _there(key: str, names: Iterable[str]) -> bool:
    """Is a corpus of that key in the cache, whole?"""
    return read(key, names) is not None


def unwritable() -> str | None:
    """Why no text can be kept in the cache; None where it can."""
    try:
        files.make_folder(corpora())
        with files.scratch(corpora(), in_memory=1) as probe:
            probe.write(b"on the disk")
    except OSError as error:
        return str(error.strerror or error)
    return None


def try_to_store(key: str, facts: Mapping[str, Any], parts: Mapping[str, Part]) -> str | None:
    """The same; why that failed, where it did."""
    needed = sum(part.n * part.dtype.itemsize for part in parts.values())
    try:
        if files.free_space(corpora()) < needed:
            raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed")
        store(key, facts, parts)
    except OSError as error:
        return str(error.strerror or error)
    return None


def read(key: str, names: Iterable[str], *, whole: bool = False) -> tuple[dict[str, Any], list[Ids]] | None:
    """Facts and ids of a corpus, memory-mapped, or None if it is not there as it was written.

    With `whole` every id is checked, however many there are.
    """
    if not key.isalnum():  # a file that names it may be damaged; it must not lead elsewhere
        return None
    folder = corpora() / key
    try:
        facts = json.loads(files.read_regular(folder / FACTS, MOST_FACTS))
        if facts.get("facts_sha256") not in (None, _seal(facts)):  # None: written by an earlier version
            return None
        parts = {name: _map(folder / f"{name}.npy") for name in names if f"{name}_crc" in facts}
        rebooted = facts["boot"] != files.boot()
        if facts["format"] != FORMAT or not all(
            _is_whole(part, facts, name, whole or rebooted) for name, part in parts.items()
        ):
            return None
    except DAMAGE:
        return None
    _used(folder, facts, rebooted)
    return facts, list(parts.values())


def entries(skipped: Callable[[str], None] = lambda why: None) -> list[Entry]:
    """What is in the cache, the newest use first; `skipped` is told of what cannot be read."""
    found = []
    try:
        folders = [path for path in corpora().iterdir() if KEY.match(path.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        skipped(f"{one_line(str(corpora()))} cannot be read: {error.strerror}")
        return []
    for folder in folders:
        try:
            facts = json.loads(files.read_regular(folder / FACTS, MOST_FACTS))
            found.append(
                Entry(
                    key=folder.name,
                    label=str(facts.get("label", "")),
                    chars=_count(facts["train_chars"]) + _count(facts["held_out_chars"]),
                    bytes=sum(path.stat().st_size for path in folder.iterdir()),
                    used=(folder / FACTS).stat().st_mtime,
                )
            )
        except PermissionError as error:
            skipped(f"skipped {one_line(str(folder))}: {error.strerror}")
        except DAMAGE:
            continue  # damaged, or being written
    return sorted(found, key=lambda entry: -entry.used)


def remove(key: str) -> None:
    """Remove a corpus. Raises OSError."""
    files.remove_tree(corpora() / key)


def remove_rest() -> None:
    """Remove all that is not a whole corpus too, and what is known of files. Raises OSError."""
    files.remove_tree(corpora())
    files.remove_tree(cache_folder() / "files")


def remove_stale(now: float) -> None:
    """Remove what was left unfinished a day ago or before, unless a process still writes it."""
    places = [corpora().glob(pattern + files.TEMPORARY + "*") for pattern in ("", "*/")]
    for path in chain(
        *places, *(cache_folder().glob(f"{name}{files.TEMPORARY}*") for name in ("", "files/"))
    ):
        try:
            if now - path.lstat().st_mtime > _STALE_SECONDS and not files.is_live(path):
                files.remove_tree(path) if path.is_dir() else files.remove_file(path)
        except OSError:
            continue


def _count(value: Any) -> int:
    """A number of characters; ValueError for what is none."""
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError("no number of characters")
    return value


def _is_whole(part: Ids, facts: dict[str, Any], name: str, every: bool) -> bool:
    if every or part.nbytes <= CHECKED_WHOLE:
        step = CHECKED_WHOLE // part.itemsize
        crc = 0
        for start in range(0, len(part), step):
            crc = zlib.crc32(np.ascontiguousarray(part[start : start + step]).data, crc)
        return bool(crc == facts[f"{name}_crc"])
    return bool(_sampled(part) == facts[f"{name}_samples"])


def _seal(facts: Mapping[str, Any]) -> str:
    """A hash of all the facts but those that change with use, as a check that they are what was written."""
    kept = {name: value for name, value in facts.items() if name not in ("boot", "facts_sha256")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _sampled(part: Ids) -> int:
    """A checksum of samples spread evenly, the first and the last ids among them."""
    crc = 0
    for start in np.linspace(0, max(0, len(part) - _CACHE_SAMPLE), _CACHE_SAMPLES).astype(int).tolist():
        crc = zlib.crc32(np.ascontiguousarray(part[start : start + _CACHE_SAMPLE]).data, crc)
    return crc


def _used(folder: Path, facts: dict[str, Any], rebooted: bool) -> None:
    """Note that a corpus was used, and that it has been checked since the machine was started."""
    try:
        if rebooted:
            files.replace(folder / FACTS, json.dumps({**facts, "boot": files.boot()}).encode())
        else:
            os.utime(folder / FACTS)
    except OSError:
        return  # the cache may not be written; it can still be read


def _map(path: Path) -> Ids:
    if not stat.S_ISREG(path.lstat().st_mode):  # a pipe would wait for a writer
        raise ValueError(f"{path} is not a regular file")
    try:
        part: Ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except (SyntaxError, TokenError, EOFError):  # so NumPy says that a header is damaged, or not there
        raise ValueError(f"{path} has no header") from None
    if part.ndim != 1 or part.dtype.kind != "u":
        raise ValueError(f"{path} holds no ids")
    return part


WHOLE = 1 << 18
"""Bytes up to which all of a file is hashed."""
READING = 3
"""Raised where the same files and settings give another text, or other notes, than before."""
_KNOWN_SAMPLES, _KNOWN_SAMPLE = 64, 1 << 12


class Known:
    """What is known of some files, read under some settings."""

    def __init__(self, paths: Sequence[str], config: TextConfig, earlier: str = "") -> None:
        """Look at the files as they are now, before they are read; `earlier` names the text gone on from."""
        self._place: Path | None = None
        if STDIN in paths:
            return  # it cannot be looked at twice
        try:
            self._files = [_fingerprint(path) for path in paths]
        except (OSError, ValueError):
            return  # whoever reads them says what is wrong
        named = json.dumps(
            [
                FORMAT,
                READING,
                [os.path.abspath(path) for path in paths],
                config.to_json(),
                *[earlier] * bool(earlier),
                *([graphemes.version()] if config.units == "graphemes" else []),
            ]
        )
        self._place = cache_folder() / "files" / f"{hashlib.sha256(named.encode()).hexdigest()[:32]}.json"

    def recall(self) -> tuple[str, tuple[str, ...]] | None:
        """The key of their corpus and what was said of them; None if they are new or have changed."""
        if self._place is None:
            return None
        try:
            row = json.loads(files.read_regular(self._place, MOST_FACTS))
            if row["files"] != self._files:
                return None
            return str(row["key"]), tuple(map(str, row["notes"]))
        except DAMAGE:
            return None

    def remember(self, key: str, notes: Sequence[str]) -> None:
        """Keep what is known for the next time, where that can be written."""
        if self._place is None:
            return
        row = {"files": self._files, "key": key, "notes": list(notes)}
        try:
            files.make_folder(self._place.parent)
            files.replace(self._place, json.dumps(row).encode())
        except OSError:
            return


def _fingerprint(path: str) -> list[Any]:
    """Size, time of the last change of contents and of anything, and a hash of samples."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("a pipe would wait, a device has no end")
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        if status.st_size <= WHOLE:
            digest.update(file.read(WHOLE))
        else:
            for i in range(_KNOWN_SAMPLES):
                file.seek((status.st_size - _KNOWN_SAMPLE) * i // (_KNOWN_SAMPLES - 1))
                digest.update(file.read(_KNOWN_SAMPLE))
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, digest.hexdigest()]
