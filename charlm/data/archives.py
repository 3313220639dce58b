"""Read the files in zip and tar archives without unpacking them: no name in an archive becomes a path on the disk."""

import os
import re
import stat
import tarfile
import weakref
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import IO, BinaryIO, cast

from charlm import files
from charlm.data.corpus_cache import temporary_folder
from charlm.data.detection import archive_format, compression_of
from charlm.data.stream import EXPANDS_SAFELY, MOST_EXPANSION, PIECE, ByteStream, Opened, special_kind
from charlm.errors import ResourceError, TextError

MOST_MEMBERS = 1_000_000
LONGEST_READ = 16 << 20
"""Most bytes that tarfile may read at once: a header that claims more is damaged, or an attack."""
_IN_MEMORY = 1 << 24
HEAD = 512
"""Bytes read to recognise an archive."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A regular file in an archive."""

    parts: tuple[str, ...]  # of its name, without `..`, `.` and a leading slash: no path traversal
    content: Opened


class Archive:
    """An open archive, closed once none of its members is in use.

    `members`: its regular files; of several with one name, the last. `links`: names of links and special files, which
    are not read.
    """

    def __init__(self, path: str, label: str) -> None:
        """`path` is a local file, `label` its name in errors. Raises TextError for a damaged archive or a zip bomb."""
        self._label = label
        self.members: list[Member] = []
        self.links: list[str] = []
        try:
            self.compression, form, size = self._open(path)
            found = self._of_zip() if form == "zip" else self._of_tar()
            named = {member.parts: member for member in found if member.parts}
        except TextError:
            raise
        except (
            OSError,
            EOFError,
            ValueError,
            LookupError,
            RuntimeError,
            zipfile.BadZipFile,
            tarfile.TarError,
        ) as why:
            raise TextError(f"{label} is a damaged archive ({why}); get it again") from None
        self.members = list(named.values())
        total = sum(member.content.size for member in self.members)
        if total > max(EXPANDS_SAFELY, MOST_EXPANSION * size):
            raise TextError(
                f"{label} expands to {total:,} bytes, more than {MOST_EXPANSION} times its {size:,}, which ordinary text "
                "never does; if you trust it, unpack it yourself and give the folder"
            )

    def _open(self, path: str) -> tuple[str | None, str, int]:
        """Open the archive. Return its compression, its format and its size in bytes before decompression."""
        stream = ByteStream(path, self._label)
        pieces = stream.pieces()
        first = next(pieces, b"")
        form = archive_format(first)
        assert form is not None, "only archives are opened"
        if stream.compression is None:
            self._file: IO[bytes] = open(path, "rb")  # noqa: SIM115  closed below
        else:  # decompressed once as a whole, since members are read in the order of their names
            self._file = files.scratch(temporary_folder(), in_memory=_IN_MEMORY)
        weakref.finalize(self, self._file.close)
        try:
            if stream.compression is not None:
                self._file.write(first)
                self._file.writelines(pieces)
                self._file.seek(0)
        except OSError as error:
            raise ResourceError(
                f"no room to decompress {self._label} ({error.strerror}); set CHARLM_CACHE to a folder that has it"
            ) from None
        return stream.compression, form, stream.size or 0

    def _of_zip(self) -> Iterator[Member]:
        archive = zipfile.ZipFile(self._file)
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                self.links.append(info.filename)
            elif not info.is_dir():
                yield self._member(info.filename, info.file_size, partial(_open_in_zip, archive, info))

    def _of_tar(self) -> Iterator[Member]:
        archive = tarfile.open(fileobj=cast(BinaryIO, _Bounded(self._file)), mode="r:")  # noqa: SIM115
        for n, info in enumerate(archive):
            if n >= MOST_MEMBERS:
                raise TextError(
                    f"{self._label} has more than {MOST_MEMBERS:,} members; unpack it and give the folder"
                )
            if info.isreg():
                yield self._member(info.name, info.size, partial(_open_in_tar, archive, info))
            elif not info.isdir():
                self.links.append(info.name)

    def _member(self, name: str, size: int, opens: Callable[[], IO[bytes]]) -> Member:
        parts = tuple(part for part in re.split(r"[/\\]", name) if part not in ("", ".", ".."))
        return Member(parts=parts, content=Opened(size=size, open=opens, within=self))


class _Bounded:
    """A file that refuses to read more than LONGEST_READ bytes at once."""

    def __init__(self, file: IO[bytes]) -> None:
        self.seek, self.tell, self._file = file.seek, file.tell, file

    def read(self, n: int) -> bytes:
        if n > LONGEST_READ:
            raise ValueError(f"a header of {n:,} bytes")
        return self._file.read(n)


def _open_in_zip(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    if info.flag_bits & 1:
        raise ValueError("it is encrypted; unpack the archive yourself")
    return archive.open(info)


def _open_in_tar(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(info)
    assert file is not None, "it is a regular file"
    return file


def is_archive(path: str, label: str) -> bool:
    """Whether a local regular file is an archive, which may be compressed."""
    try:
        if special_kind(os.stat(path)):
            return False
        with open(path, "rb") as file:
            head = file.read(HEAD)
        if head.startswith(b"PK"):
            with open(path, "rb") as file:
                head = file.read(PIECE)  # enough to tell an office document from an archive
        elif compression_of(head):
            head = next(ByteStream(path, label).pieces(), b"")
            return archive_format(head) == "tar"
        return archive_format(head) is not None
    except (OSError, ValueError, TextError):
        return False  # reading it says what is wrong
