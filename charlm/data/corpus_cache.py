"""The cache of encoded corpora: written atomically, checked when read, listed and cleared."""

import errno
import hashlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any

from filelock import FileLock

from charlm import files
from charlm.data.addresses import is_address
from charlm.data.downloads import local_path
from charlm.data.holdout import PARTS
from charlm.data.shards import Part, Shard, TextIds, read_part, write_part
from charlm.data.stream import STDIN
from charlm.data.text_config import TextConfig
from charlm.errors import ResourceError
from charlm.files import cache_folder as cache_folder
from charlm.strict_json import from_json, to_json
from charlm.terminal import one_line

FORMAT = 3
FACTS = "corpus.json"
KEY = re.compile(r"[0-9a-f]")
MOST_FACTS = 256 << 20
"""Most bytes of a JSON file of the cache, which may hold a vocabulary, or notes on many files."""
DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
"""Exceptions that damaged files of the cache can raise."""
_STALE_SECONDS = 86400


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A corpus in the cache."""

    key: str
    label: str
    chars: int
    bytes: int
    used: float  # seconds since 1970


def corpora() -> Path:
    """Return the folder that holds one folder for each corpus."""
    return cache_folder() / "corpora"


def store(key: str, facts: Mapping[str, Any], parts: Mapping[str, Part]) -> None:
    """Write a corpus, unless another process has done so meanwhile. Raises OSError, leaving nothing half written.

    Where the system has a boot id, a text of one shard per part is not synced to the disk: after a reboot all of it
    is checked before it is used. Longer texts, which take long to check, are synced.
    """
    folder = corpora() / key
    boot = None if any(len(part.shards) > 1 for part in parts.values()) else files.boot()
    needed = sum(part.n * part.dtype.itemsize for part in parts.values())
    if files.free_space(corpora()) < needed:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed")
    if folder.exists() and read(key) is None:
        files.remove_tree(folder)  # damaged
    with files.building(folder, may_stay=lambda: read(key) is not None) as temporary:
        index = {
            name: to_json(write_part(temporary, name, part, synced=boot is None))
            for name, part in parts.items()
        }
        checks: dict[str, Any] = {"boot": boot, "shards": index}
        checks["facts_sha256"] = _seal({**facts, **checks})
        files.write_synced(temporary / FACTS, json.dumps({**facts, **checks}).encode())


@contextmanager
def prepared_once(words: Sequence[str]) -> Iterator[None]:
    """Hold a lock while preparing the text that these words name; other processes wait, and find it in the cache.

    Where the cache cannot be written there is no lock, and each process prepares it.
    """
    name = hashlib.sha256("\0".join(words).encode()).hexdigest()[:32]
    lock = FileLock(cache_folder() / "files" / f"{name}.lock")
    try:
        files.make_folder(cache_folder() / "files")
        lock.acquire()
    except OSError:
        yield
        return
    try:
        yield
    finally:
        lock.release()


def unwritable() -> str | None:
    """Why no text can be kept in the cache; None where it can."""
    try:
        files.make_folder(corpora())
        with files.scratch(corpora(), in_memory=1) as probe:
            probe.write(b"on the disk")
    except OSError as error:
        return str(error.strerror or error)
    return None


def read(key: str, *, whole: bool = False) -> tuple[dict[str, Any], dict[str, TextIds]] | None:
    """Read a corpus: its facts, and its ids, memory-mapped; None if it is missing or damaged.

    With `whole` every id is checked, however many there are. Raises ResourceError where the system's limit of open
    files is reached.
    """
    if not key.isalnum():  # a damaged file may name another folder (path traversal)
        return None
    folder = corpora() / key
    try:
        facts = json.loads(files.read_regular(folder / FACTS, MOST_FACTS))
        if facts["facts_sha256"] != _seal(facts) or facts["format"] != FORMAT:
            return None
        rebooted = facts["boot"] not in (None, files.boot())
        parts = {
            name: read_part(folder, name, _index(facts, name), whole=whole or rebooted) for name in PARTS
        }
    except DAMAGE as error:
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE):
            raise ResourceError(
                "the text has more files in the cache than may be open at once; raise the limit (ulimit -n)"
            ) from None
        return None
    _note_use(folder, facts, rebooted)
    return facts, parts


def entries(skipped: Callable[[str], None] = lambda why: None) -> list[Entry]:
    """List the corpora in the cache, the last used first; `skipped` is called with why one cannot be read."""
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
    """Remove all corpora, damaged ones too, and all fingerprints of files. Raises OSError."""
    files.remove_tree(corpora())
    files.remove_tree(cache_folder() / "files")


def remove_stale(now: float) -> None:
    """Remove files that were left unfinished more than a day ago, unless a process still writes them."""
    for folder in ("", "files/", "corpora/", "corpora/*/"):
        for path in cache_folder().glob(f"{folder}{files.TEMPORARY}*"):
            try:
                if now - path.lstat().st_mtime > _STALE_SECONDS and not files.is_live(path):
                    files.remove_tree(path)
            except OSError:
                continue


def temporary_folder() -> Path:
    """Return a folder for temporary files: in the cache, or the system's if the cache cannot be written."""
    try:
        files.make_folder(corpora())
    except OSError:
        return Path(tempfile.gettempdir())
    remove_stale(time())
    return corpora()


def _count(value: Any) -> int:
    """Return a number of characters. Raises ValueError if it is none."""
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError("no number of characters")
    return value


def _index(facts: Mapping[str, Any], name: str) -> list[Shard]:
    """Return the shards of a part; a corpus written before there were shards has one."""
    if "shards" not in facts:
        return [Shard(crc=facts[f"{name}_crc"], samples=facts[f"{name}_samples"])]
    return from_json(list[Shard], facts["shards"][name])


def _seal(facts: Mapping[str, Any]) -> str:
    """Return a checksum of the facts, without those that change with use."""
    kept = {name: value for name, value in facts.items() if name not in ("boot", "facts_sha256")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _note_use(folder: Path, facts: dict[str, Any], rebooted: bool) -> None:
    """Record that a corpus was used and, after a reboot, that all of it was checked."""
    try:
        if rebooted:
            files.replace(folder / FACTS, json.dumps({**facts, "boot": files.boot()}).encode())
        else:
            os.utime(folder / FACTS)
    except OSError:
        return  # the cache may not be written; it can still be read


SAMPLED_FROM = 1 << 18
"""Bytes above which only samples of a file are hashed for its fingerprint."""
_FILE_SAMPLES, _FILE_SAMPLE = 64, 1 << 12
READING = 4
"""Version of the reader, incremented whenever the same files and settings give another text, or other notes."""


class Fingerprints:
    """Maps files and settings to the corpus they gave, and the notes on it, as long as the files are unchanged."""

    def __init__(self, paths: Sequence[str], config: TextConfig, earlier: str = "") -> None:
        """Take the files' fingerprints before they are read; `earlier` is the digest of the text fine-tuned from."""
        self._path: Path | None = None
        if STDIN in paths:
            return  # it cannot be read twice
        try:
            self._files = [_fingerprint(local_path(path)) for path in paths]
        except (OSError, ValueError):
            return  # the reader says what is wrong
        settings = [
            FORMAT,
            READING,
            [path if is_address(path) else os.path.abspath(path) for path in paths],
            config.to_json(),
            earlier,
        ]
        name = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:32]
        self._path = cache_folder() / "files" / f"{name}.json"

    def recall(self) -> tuple[str, tuple[str, ...]] | None:
        """The key of the corpus and the notes; None if the files are new or have changed."""
        if self._path is None:
            return None
        try:
            row = json.loads(files.read_regular(self._path, MOST_FACTS))
            if row["files"] != self._files:
                return None
            return str(row["key"]), tuple(map(str, row["notes"]))
        except DAMAGE:
            return None

    def remember(self, key: str, notes: Sequence[str]) -> None:
        """Store the key and the notes for the next time, if the cache can be written."""
        if self._path is None:
            return
        row = {"files": self._files, "key": key, "notes": list(notes)}
        try:
            files.make_folder(self._path.parent)
            files.replace(self._path, json.dumps(row).encode())
        except OSError:
            return


def _fingerprint(path: str) -> list[Any]:
    """Return a file's size, its mtime and ctime, and a hash of samples of it, or of all of a short one."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("a pipe would wait, a device has no end")
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        if status.st_size <= SAMPLED_FROM:
            digest.update(file.read(SAMPLED_FROM))
        else:
            for i in range(_FILE_SAMPLES):
                file.seek((status.st_size - _FILE_SAMPLE) * i // (_FILE_SAMPLES - 1))
                digest.update(file.read(_FILE_SAMPLE))
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, digest.hexdigest()]
