"""Benchmark texts: where each is published, how to check it, and its download.

This is the only module that opens a connection, and only when `fetch` is called.
"""

import hashlib
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from charlm import files
from charlm.errors import ResourceError, TextError
from charlm.terminal import one_line

PIECE = 1 << 16
TIMEOUT = 30.0
"""Seconds without an answer after which a download is given up."""


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
    """The published text with the name and the size of a file, or None."""
    return next((t for t in TEXTS.values() if path.endswith(t.file_name) and size == t.size), None)


_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+\S|www\.\w+\.\w")


def address_advice(name: str) -> str | None:
    """What to do with a URL given as the name of a text; None if it is not a URL."""
    match = _ADDRESS.match(name)
    if match is None:
        return None
    shown, scheme = one_line(name), (match[1] or "http").lower()
    if scheme == "file":
        return f"{shown} is an address; name the file by its path: {one_line(re.sub(r'^[A-Za-z]+:/+', '/', name))}"
    for text in TEXTS.values():
        if name == text.url or text.name in name.lower():
            return (
                f"{shown} is an address (URL), but charlm reads only local files; to download it: charlm data get "
                f"{text.name}"
            )
    by = f", for example by curl -L -O {shlex.quote(shown)}," if scheme in ("http", "https", "ftp") else ""
    return (
        f"{shown} is an address (URL), but charlm reads only local files; download it{by} and name the file; charlm "
        "data list shows the texts that charlm fetches by itself"
    )


Watch = Callable[[str, int, int | None], None]


def fetch(text: Published, folder: Path, watch: Watch = lambda what, done, of: None) -> Path:
    """Download a text into a folder, or find it there; its path. Nothing is left of a failed download.

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
        with files.replacing(target) as file, files.scratch(folder, in_memory=PIECE) as archive:
            pieces = _received(text, watch)
            if text.member is not None:
                archive.writelines(pieces)
                pieces = _member(text, archive)
            if not _is_published(text, pieces, file.write):
                raise _not_downloaded(text, f"its size or {text.algorithm} is not the published one")
    except OSError as error:
        raise ResourceError(f"{one_line(str(target))} cannot be written: {error.strerror or error}") from None
    return target


def _is_published(
    text: Published, pieces: Iterable[bytes], write: Callable[[bytes], object] = lambda piece: None
) -> bool:
    """Whether the pieces, which are passed to `write`, are the text; at most one more than its size is read."""
    digest, size = hashlib.new(text.algorithm, usedforsecurity=False), 0
    for piece in pieces:
        write(piece)
        digest.update(piece)
        size += len(piece)
        if size > text.size:
            break
    return size == text.size and digest.hexdigest() == text.digest


def _received(text: Published, watch: Watch) -> Iterator[bytes]:
    """What the server sends, at most `most` bytes. Raises TextError for whatever goes wrong on the way."""
    from http.client import HTTPException  # here: the table of texts is needed for help, connections are not
    from urllib.error import HTTPError
    from urllib.request import Request, build_opener

    request = Request(text.url, headers={"User-Agent": "charlm", "Accept-Encoding": "identity"})
    done = 0
    try:
        with build_opener(_redirects()).open(request, timeout=TIMEOUT) as answer:
            encoding = answer.headers.get("Content-Encoding", "identity")
            if encoding.strip().lower() not in ("", "identity"):
                raise ValueError(f"the server used an encoding that charlm did not request ({encoding})")
            while piece := answer.read(PIECE):
                done += len(piece)
                if done > text.most:
                    raise ValueError(f"the server sent more than {text.most:,} bytes")
                watch("fetching", done, text.most)
                yield piece
    except HTTPError as error:
        error.close()
        raise _not_downloaded(
            text, f"the server answers {error.code} {one_line(str(error.reason))}"
        ) from None
    except (OSError, HTTPException, ValueError, OverflowError) as error:
        reason = getattr(error, "reason", None) or error
        raise _not_downloaded(text, one_line(str(reason)) or type(error).__name__) from None


def _redirects() -> Any:
    """Follows redirects of HTTP, but none from https to another scheme."""
    from urllib.error import HTTPError
    from urllib.request import HTTPRedirectHandler

    class Redirects(HTTPRedirectHandler):
        def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
            before, after = req.full_url.partition(":")[0], newurl.partition(":")[0]
            if after not in (before, "https"):
                raise HTTPError(newurl, code, f"redirected from {before} to {after}", headers, fp)
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    return Redirects()


def _member(text: Published, archive: IO[bytes]) -> Iterator[bytes]:
    """The text in a zip archive; TextError if it is damaged or holds another one."""
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
    """The error to raise, naming the address and the proxy that the environment names for it, without its password."""
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(text.url)
    proxy = "" if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme, "").rpartition("@")[2]
    through = f" through the proxy {one_line(proxy)}, which an environment variable sets" if proxy else ""
    return TextError(f"{text.name} could not be downloaded from {one_line(text.url)}{through}: {why}")
