"""Benchmark texts: where each is published, how to check it, and its download."""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from charlm import files
from charlm.data.addresses import address_of
from charlm.data.downloads import Watch, receive
from charlm.data.remote import NotReceived, remote_file
from charlm.errors import ResourceError, TextError
from charlm.terminal import one_line

PIECE = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published text, and how to know that a download is that text."""

    name: str
    url: str
    size: int  # bytes of the text
    algorithm: str  # of `digest`, which is of the text, not of an archive
    digest: str
    source: str  # where the hash is published
    member: str | None = None  # the file in a zip archive that is the text
    most: int  # bytes to download at most
    val: float  # the customary split: held-out share, and the test share after it
    test: float
    checked: str  # by us

    @property
    def file_name(self) -> str:
        """Its name in the folder of downloads."""
        return f"{self.name}.txt"

    @property
    def split(self) -> str:
        """The customary split, in words."""
        parts = f"first {100 * (1 - self.val - self.test):.0f} % to train on, then {100 * self.val:.0f} % held out"
        return f"{parts}, the last {100 * self.test:.0f} % to test on" if self.test else parts


def _of_mahoney(name: str, sha1: str, source: str) -> Published:
    """A text of Matt Mahoney's compression benchmarks: 100 MB, with the customary split of 90, 5 and 5 million."""
    return Published(
        name=name,
        url=f"https://mattmahoney.net/dc/{name}.zip",
        member=name,
        size=100_000_000,
        most=40_000_000,
        algorithm="sha1",
        digest=sha1,
        source=source,
        val=0.05,
        test=0.05,
        checked="not downloaded by us; address and hash as published",
    )


TEXTS = {
    text.name: text
    for text in (
        Published(
            name="tinyshakespeare",
            url="https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            size=1_115_394,
            most=1_115_394,
            algorithm="sha256",
            digest="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            source="computed by us from a copy of the file",
            val=0.1,
            test=0.0,
            checked="size and hash checked by us on a copy; address not tested",
        ),
        _of_mahoney(
            "text8",
            "0dc3edebc970dcc96137e7deda4d9995af9d93de",
            "dmlc/gluon-nlp, corpora/large_text_compression_benchmark.py",
        ),
        _of_mahoney(
            "enwik8", "57b8363b814821dc9d47aa4d41f58733519076b2", "http://mattmahoney.net/dc/textdata.html"
        ),
    )
}


def customary(path: str, size: int) -> Published | None:
    """Find the published text that has the name and the size of a file; None if there is none."""
    return next((t for t in TEXTS.values() if path.endswith(t.file_name) and size == t.size), None)


def fetch(text: Published, folder: Path, watch: Watch = lambda what, done, of: None) -> Path:
    """Download a text into a folder unless it is there, and return its path. A failed download leaves nothing.

    Raises TextError if the text cannot be downloaded or is not the published one, ResourceError if it cannot be
    written. A file of that name is never replaced.
    """
    target = folder / text.file_name
    try:
        if target.exists():
            if target.is_file():
                with open(target, "rb") as there:
                    if _is_published(text, iter(partial(there.read, PIECE), b"")):
                        return target
            raise TextError(
                f"{one_line(str(target))} exists and is not the published {text.name}; move it away, or give --to"
            )
        files.make_folder(folder)
        with files.replacing(target) as file, files.scratch(folder, in_memory=PIECE) as received:
            address = address_of(text.url)
            assert address is not None, "the table has addresses that are read"
            try:
                receive(remote_file(address), received, watch, most=text.most)
            except NotReceived as error:
                raise _not_downloaded(text, str(error)) from None
            received.seek(0)
            whole = iter(partial(received.read, PIECE), b"")
            pieces = whole if text.member is None else _member(text, received)
            if not _is_published(text, pieces, file.write):
                raise _not_downloaded(text, f"its size or {text.algorithm} is not the published one")
    except OSError as error:
        raise ResourceError(f"{one_line(str(target))} cannot be written: {error.strerror or error}") from None
    return target


def _is_published(
    text: Published, pieces: Iterable[bytes], write: Callable[[bytes], object] = lambda piece: None
) -> bool:
    """Pass the pieces to `write` and return whether they are the text; stop at the first piece beyond its size."""
    digest, size = hashlib.new(text.algorithm, usedforsecurity=False), 0
    for piece in pieces:
        write(piece)
        digest.update(piece)
        size += len(piece)
        if size > text.size:
            break
    return size == text.size and digest.hexdigest() == text.digest


def _member(text: Published, archive: IO[bytes]) -> Iterator[bytes]:
    """Yield the text in a zip archive. Raises TextError if it is damaged or holds another text."""
    import zipfile

    try:
        opened = zipfile.ZipFile(archive)
        found = [info for info in opened.infolist() if info.filename == text.member]
        if len(found) != 1 or found[0].file_size != text.size:
            raise ValueError(f"no single member {text.member} of {text.size:,} bytes")
        with opened.open(found[0]) as file:
            yield from iter(partial(file.read, PIECE), b"")
    except Exception as error:  # noqa: BLE001  whatever zipfile and its decompressors raise for a damaged archive
        raise _not_downloaded(text, f"it is not a whole zip archive ({one_line(str(error))})") from None


def _not_downloaded(text: Published, why: str) -> TextError:
    return TextError(f"{text.name} could not be downloaded from {one_line(text.url)}: {why}")
