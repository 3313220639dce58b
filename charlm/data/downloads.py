"""Download texts from addresses into the cache: complete or not at all, resumed where an attempt was cut off.

Each address has a folder: `download.json` says what was fetched, the content stands in a file named by its
SHA-256, and an attempt that was cut off leaves `partial` and `partial.json` for the next one.
"""

import errno
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from time import sleep, time
from typing import IO, TypeVar

from charlm import files
from charlm.data.addresses import Address, is_address
from charlm.data.remote import Answer, NotReceived, RemoteFile, remote_file
from charlm.errors import CharlmError, ResourceError, TextError
from charlm.strict_json import dump_json, from_json, parse_json, to_json
from charlm.terminal import one_line

T = TypeVar("T")
Watch = Callable[[str, int, int | None], None]  # what is being done, how much of it is done, of how much

WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each retry; a download is given up once these have been used without much progress."""
LITTLE = 1 << 20
"""Bytes of progress after which all retries are granted again."""
RECORDED_EVERY = 64 << 20
"""Bytes between syncs to the disk, each of which records the progress."""
HASHED_WHOLE = 64 << 20
"""Bytes up to which the hash of a cached copy is checked before each use; of a larger one only the size is."""
MOST_FACTS = 1 << 20
HTML = (
    "what was fetched is HTML, whose tags are read as text too; if it is a list of files or asks to log in, give the "
    "address of the text itself"
)
_BEGINS_HTML = re.compile(
    rb"(\xef\xbb\xbf)?(\s|<!--((?!-->).)*-->|<\?xml[^>]*>)*<(!doctype\s+html|html)\b",
    re.IGNORECASE | re.DOTALL,
)
_HEAD = 1 << 12
"""Bytes that tell whether a file is HTML."""
_FACTS, _PARTIAL, _BEGUN = "download.json", "partial", "partial.json"


@dataclass(frozen=True, kw_only=True)
class Begun:
    """The state of an unfinished download, from which it can be resumed."""

    address: str  # without secrets
    version: str | None
    size: int | None
    synced: int  # bytes known to be on the disk


@dataclass(frozen=True, kw_only=True)
class Downloaded:
    """A text that was downloaded."""

    address: str  # without secrets
    version: str | None
    size: int
    sha256: str
    fetched: float  # seconds since 1970
    is_html: bool = False


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A download in the cache."""

    key: str
    label: str  # the address
    state: str  # downloaded or unfinished
    bytes: int
    used: float  # seconds since 1970


class Downloader:
    """Downloads addresses into the cache."""

    def __init__(
        self, watch: Watch = lambda what, done, of: None, *, asks: bool = True, verify: bool = False
    ) -> None:
        """`asks`: ask the server whether a cached copy has changed. `verify`: check the hash of large copies too."""
        self._watch, self._asks, self._verify = watch, asks, verify

    def fetch(self, address: Address) -> list[str]:
        """Download an address unless the cached copy is up to date. Return notes for the user.

        Raises TextError where it cannot be read, ResourceError where the cache cannot keep it.
        """
        folder = _folder(address.name)
        try:
            files.make_folder(folder)
            with _locked(folder):
                return self._fetch(address, folder)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                with suppress(OSError):
                    _forget_partial(folder)
            raise ResourceError(
                f"{one_line(address.name)} cannot be kept in the cache, {one_line(str(folder))} "
                f"({error.strerror or error}); free some space there, or set CHARLM_CACHE to another folder"
            ) from None

    def keeps(self, address: Address) -> bool:
        """Whether there is a cached copy that will be used without asking the server."""
        return not self._asks and _read(_folder(address.name), whole=False) is not None

    def _fetch(self, address: Address, folder: Path) -> list[str]:
        kept = _read(folder, whole=self._verify)
        if kept is not None and not self._asks:
            return []
        shown = one_line(address.name)
        if address.is_withheld:
            if kept is not None:
                return []
            raise TextError(
                f"{shown} is not in the cache; its query was not kept, because it may hold a secret: name the whole "
                "address again, with --text where it is the text of a run"
            )
        try:
            return self._download(remote_file(address), address, folder, kept)
        except NotReceived as error:
            if kept is not None and error.passing:
                day = datetime.fromtimestamp(kept.fetched).isoformat(" ", "minutes")
                return [
                    f"charlm could not ask whether it has changed ({error}); reading the copy fetched {day}"
                ]
            raise TextError(f"{shown} could not be downloaded: {error}") from None

    def _download(
        self, remote: RemoteFile, address: Address, folder: Path, kept: Downloaded | None
    ) -> list[str]:
        """Download the file into the folder, resuming an earlier attempt. Return notes for the user."""
        begun = _facts(folder / _BEGUN, Begun)
        with files.continuing(folder / _PARTIAL, 0 if begun is None else begun.synced) as file:

            def record(answer: Answer, done: int) -> None:
                files.sync_file(file)
                row = Begun(address=address.name, version=answer.version, size=answer.size, synced=done)
                files.replace(folder / _BEGUN, dump_json(to_json(row)))
                if answer.size is not None and files.free_space(folder) < answer.size - done:
                    raise OSError(errno.ENOSPC, f"{answer.size - done:,} more bytes are needed")

            answer = receive(
                remote,
                file,
                self._watch,
                version=None if begun is None else begun.version,
                size=None if begun is None else begun.size,
                kept=None if kept is None else kept.version,
                record=record,
            )
            if answer is not None:
                sha256, size, is_html = _digest(file), file.seek(0, os.SEEK_END), _is_html(file, answer)
        notes = []
        if answer is not None:
            new = Downloaded(
                address=address.name,
                version=answer.version,
                size=size,
                sha256=sha256,
                fetched=time(),
                is_html=is_html,
            )
            files.put_in_place(folder / _PARTIAL, folder / sha256)
            files.replace(folder / _FACTS, dump_json(to_json(new)))
            if kept is not None and kept.sha256 != sha256:
                (folder / kept.sha256).unlink(missing_ok=True)
            if answer.size is None:
                notes.append(
                    "its server did not say how long it is, so a connection cut too early would not be noticed"
                )
            kept = new
        _forget_partial(folder)
        return [*notes, HTML] if kept is not None and kept.is_html else notes


def receive(
    remote: RemoteFile,
    file: IO[bytes],
    watch: Watch,
    *,
    version: str | None = None,
    size: int | None = None,
    kept: str | None = None,
    most: int | None = None,
    record: Callable[[Answer, int], None] = lambda answer, done: None,
) -> Answer | None:
    """Download a remote file into `file`, resuming after what it already has of the `version` of that `size`. Return the last answer.

    None if `file` is empty and the remote file is still the version `kept`. An attempt that is cut off is resumed.
    `record` is called with the bytes written when an attempt begins and ends, and in between. Raises NotReceived when
    the retries are used up, and for more than `most` bytes; OSError where nothing can be written.
    """
    done = furthest = file.seek(0, os.SEEK_END)
    failures = 0
    while True:
        try:
            goes_on = done > 0 and version is not None
            answer = remote.open(done, version) if goes_on else remote.open(0, None if done else kept)
            if answer is None:
                return None
            if answer.start and size is not None and answer.size != size:
                answer = remote.open(0, None)  # of that name is another file now
                assert answer is not None, "nothing is kept"
            if answer.start != done:
                done = answer.start
                file.seek(done)
                file.truncate()
            version, size = answer.version, answer.size
            _write(file, answer, watch, most, record)
            return answer
        except NotReceived as error:
            done = file.tell()
            failures = failures + 1 if done < furthest + LITTLE else 1
            furthest = max(furthest, done)
            if not error.passing or failures > len(WAITS):
                raise
            sleep(WAITS[failures - 1])


def _write(
    file: IO[bytes],
    answer: Answer,
    watch: Watch,
    most: int | None,
    record: Callable[[Answer, int], None],
) -> None:
    """Write the bytes of one answer. Raises NotReceived if it is cut off or has more than `most` bytes."""
    done = recorded = answer.start
    record(answer, done)
    try:
        for piece in answer.pieces:
            if most is not None and done + len(piece) > most:
                raise NotReceived(f"the server sent more than {most:,} bytes", passing=False)
            file.write(piece)
            done += len(piece)
            watch("fetching", done, answer.size or most)
            if done - recorded >= RECORDED_EVERY:
                record(answer, done)
                recorded = done
    finally:
        record(answer, done)
    if answer.size is not None and done != answer.size:
        raise NotReceived(f"the connection ended after {done:,} of {answer.size:,} bytes", passing=True)


def _forget_partial(folder: Path) -> None:
    for name in (_PARTIAL, _BEGUN):
        (folder / name).unlink(missing_ok=True)


def local_path(name: str) -> str:
    """Return the path of a file's bytes: the cached copy of an address, or the path itself.

    Raises TextError where the copy is gone.
    """
    if not is_address(name):
        return name
    folder = _folder(name)
    kept = _facts(folder / _FACTS, Downloaded)
    if kept is None:
        raise TextError(f"the copy of {one_line(name)} is no longer in the cache; repeat the command")
    with suppress(OSError):
        os.utime(folder / _FACTS)
    return str(folder / kept.sha256)


def entries() -> list[Entry]:
    """List the downloads in the cache, the last used first."""
    found = []
    for folder in _downloads().iterdir() if _downloads().is_dir() else ():
        kept = _facts(folder / _FACTS, Downloaded)
        facts = kept or _facts(folder / _BEGUN, Begun)
        if facts is None:
            continue  # damaged, or being written
        sizes = [path.stat() for path in (folder / _FACTS, folder / _BEGUN) if path.exists()]
        found.append(
            Entry(
                key=folder.name,
                label=facts.address,
                state="unfinished" if kept is None else "downloaded",
                bytes=sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
                used=max(status.st_mtime for status in sizes),
            )
        )
    return sorted(found, key=lambda entry: -entry.used)


def remove(key: str) -> None:
    """Remove a download. Raises OSError."""
    files.remove_tree(_downloads() / key)


def remove_all() -> None:
    """Remove every download, damaged ones too. Raises OSError."""
    files.remove_tree(_downloads())


def _downloads() -> Path:
    return files.cache_folder() / "downloads"


def _folder(name: str) -> Path:
    return _downloads() / hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _read(folder: Path, *, whole: bool) -> Downloaded | None:
    """Return the record of a folder's cached copy; None if that is missing or damaged."""
    kept = _facts(folder / _FACTS, Downloaded)
    if kept is None or not kept.sha256.isalnum():
        return None
    try:
        with open(folder / kept.sha256, "rb", opener=files.open_regular) as file:
            if os.fstat(file.fileno()).st_size != kept.size:
                return None
            if not whole and kept.size > HASHED_WHOLE:
                return kept
            return kept if _digest(file) == kept.sha256 else None
    except OSError:
        return None


def _is_html(file: IO[bytes], answer: Answer) -> bool:
    """Whether a file is HTML by its first bytes, or by those and its server. Some servers call every text HTML."""
    file.seek(0)
    head = file.read(_HEAD)
    return _BEGINS_HTML.match(head) is not None or (answer.is_html and head.lstrip().startswith(b"<"))


def _digest(file: IO[bytes]) -> str:
    """The SHA-256 of a file."""
    digest = hashlib.sha256()
    file.seek(0)
    for piece in iter(partial(file.read, 1 << 20), b""):
        digest.update(piece)
    return digest.hexdigest()


def _facts(path: Path, kind: type[T]) -> T | None:
    try:
        return from_json(kind, parse_json(files.read_regular(path, MOST_FACTS), path.name))
    except (OSError, CharlmError, ValueError, LookupError, TypeError):
        return None


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait while another process downloads the same address."""
    from filelock import FileLock  # here: help needs no locks

    with FileLock(folder / ".lock"):
        yield
