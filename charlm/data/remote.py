"""Read remote files from any byte on: those of web servers with Python's own client, those of stores with fsspec.

This is the only module that opens a connection, and only to the address that was named.
"""

import base64
import ipaddress
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import IO, TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from charlm.data.addresses import STORES, Address, without_secrets
from charlm.errors import TextError
from charlm.terminal import one_line

if TYPE_CHECKING:  # connections are not needed for help
    from http.client import HTTPMessage
    from urllib.request import HTTPRedirectHandler, Request

PIECE = 1 << 16
TIMEOUT = 30.0
"""Seconds without an answer after which an attempt is given up."""
LIBRARIES = {"s3": "s3fs", "gcs": "gcsfs", "hf": "huggingface_hub"}
"""The package of each extra."""
_HTML = ("text/html", "application/xhtml+xml")
_BUSY = (408, 425, 429, 500, 502, 503, 504)
"""HTTP status codes after which another attempt may succeed."""


class NotReceived(Exception):  # noqa: N818  part of a sentence to the user
    """A failed attempt; another one may succeed if it was `passing`."""

    def __init__(self, why: str, *, passing: bool) -> None:
        super().__init__(one_line(without_secrets(why)))
        self.passing = passing


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The content of a file from the byte `start` on."""

    start: int
    size: int | None  # of the whole file, in bytes, where that is known
    version: str | None  # changes whenever the content does; None where nothing tells
    is_html: bool = False  # by what the server says
    pieces: Iterator[bytes]


class RemoteFile(Protocol):
    """A file that is read over a connection."""

    def open(self, start: int, version: str | None) -> Answer | None:
        """Read the file from `start` on, or all of it if it is no longer that version or cannot be read from there.

        None if `start` is 0 and the file still is that version. Raises NotReceived, as does reading the pieces.
        """
        ...


def remote_file(address: Address) -> RemoteFile:
    """The file at an address. Raises TextError where an extra is missing, NotReceived where it cannot be found."""
    if address.is_web:
        return WebFile(address.full)
    return StoreFile(store_of(address), address.full)


class WebFile:
    """A file of a web server."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._host = urlsplit(url).netloc.rpartition("@")[2]

    def open(self, start: int, version: str | None) -> Answer | None:
        """As in RemoteFile."""
        from http.client import HTTPException  # here: help needs no connections
        from urllib.error import HTTPError
        from urllib.request import build_opener

        try:
            answer = build_opener(_redirects(self._host)).open(self._request(start, version), timeout=TIMEOUT)
        except HTTPError as error:
            error.close()
            if error.code == 304 and version is not None and not start:
                return None
            if error.code == 416 and start:
                return self.open(0, None)
            # A redirect that leads nowhere has a reason of two lines.
            reason = str(error.reason).partition("\n")[0].rstrip(".")
            why = f"the server answers {error.code} {reason}"
            raise NotReceived(why, passing=error.code in _BUSY) from None
        except (OSError, HTTPException, ValueError, OverflowError) as error:
            raise self._broken(error) from None
        headers = answer.headers
        encoding = headers.get("Content-Encoding", "identity").strip().lower()
        found = _version(headers)
        first, size = (start, _total(headers, start)) if answer.status == 206 else (0, _length(headers))
        wrong = None
        if encoding not in ("", "identity"):
            wrong = f"the server used an encoding that charlm did not request ({encoding})"
        elif answer.status == 206 and start and size is None:
            answer.close()
            return self.open(0, None)
        elif answer.status == 206 and not start:
            wrong = "the server answered with another part of the file than was requested"
        if wrong is not None or (not start and version is not None and found == version):
            answer.close()
            if wrong is not None:
                raise NotReceived(wrong, passing=False)
            return None
        is_html = headers.get_content_type() in _HTML
        return Answer(start=first, size=size, version=found, is_html=is_html, pieces=self._pieces(answer))

    def _request(self, start: int, version: str | None) -> "Request":
        from urllib.request import Request

        parts = urlsplit(self._url)
        request = Request(
            parts._replace(netloc=self._host).geturl(),
            headers={"User-Agent": "charlm", "Accept-Encoding": "identity"},
        )
        if parts.username is not None:
            user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            request.add_unredirected_header(
                "Authorization", f"Basic {base64.b64encode(user.encode()).decode()}"
            )
        if start and version is not None:
            request.add_header("Range", f"bytes={start}-")
            request.add_header("If-Range", version)
        elif version is not None:
            is_tag = version.endswith('"')
            request.add_header("If-None-Match" if is_tag else "If-Modified-Since", version)
        return request

    def _pieces(self, answer: IO[bytes]) -> Iterator[bytes]:
        from http.client import HTTPException

        with answer:
            try:
                yield from iter(partial(answer.read, PIECE), b"")
            except (OSError, HTTPException, ValueError, OverflowError) as error:
                raise self._broken(error) from None

    def _broken(self, error: Exception) -> NotReceived:
        """Describe a failed connection, with the proxy that the environment sets, without its password."""
        from urllib.request import getproxies, proxy_bypass

        reason = str(getattr(error, "reason", None) or error) or type(error).__name__
        proxy = "" if proxy_bypass(self._host) else getproxies().get(urlsplit(self._url).scheme, "")
        if proxy:
            reason += f" (through the proxy {proxy.rpartition('@')[2]}, which an environment variable sets)"
        return NotReceived(reason, passing=not isinstance(error, ValueError | OverflowError))


def _version(headers: "HTTPMessage") -> str | None:
    """The strong ETag of an answer, else the time of its last change; a weak ETag does not tell bytes apart."""
    tag = headers.get("ETag", "").strip()
    if tag.startswith('"') and tag.endswith('"') and len(tag) > 2 and tag.isprintable():
        return tag
    changed = headers.get("Last-Modified", "").strip()
    return changed if changed and changed.isprintable() and not changed.endswith('"') else None


def _length(headers: "HTTPMessage") -> int | None:
    length = headers.get("Content-Length", "").strip()
    return int(length) if length.isascii() and length.isdecimal() and len(length) < 19 else None


def _total(headers: "HTTPMessage", start: int) -> int | None:
    """Return the size of the whole file from the header of its part from `start` to the end; None for another part."""
    span, _, total = headers.get("Content-Range", "").strip().removeprefix("bytes ").partition("/")
    first, _, last = span.partition("-")
    if not all(n.isascii() and n.isdecimal() and len(n) < 19 for n in (first, last, total)):
        return None
    return int(total) if int(first) == start and int(last) == int(total) - 1 else None


def _redirects(host: str) -> "HTTPRedirectHandler":
    """Follows redirects within http and https, but none from https to http nor from a public host to a private one."""
    from urllib.error import HTTPError
    from urllib.request import HTTPRedirectHandler, Request

    class Redirects(HTTPRedirectHandler):
        def redirect_request(
            self, req: Request, fp: IO[bytes], code: int, msg: str, headers: "HTTPMessage", newurl: str
        ) -> Request | None:
            before, after = req.full_url.partition(":")[0], newurl.partition(":")[0].lower()
            refused = None
            if after not in (before, "https"):
                refused = f"redirected from {before} to {after}"
            elif (
                urlsplit(newurl).netloc.rpartition("@")[2] != host
                and _is_private(newurl)
                and not _is_private(f"http://{host}")
            ):
                refused = f"redirected to the private address {urlsplit(newurl).hostname}"
            if refused is not None:
                raise HTTPError(newurl, code, refused, headers, fp)
            return super().redirect_request(req, fp, code, msg, headers, newurl)

    return Redirects()


def _is_private(url: str) -> bool:
    """Whether a host is this machine or one of a private network; False where its name cannot be resolved here."""
    try:
        found = socket.getaddrinfo(urlsplit(url).hostname, None, type=socket.SOCK_STREAM)
    except (OSError, ValueError):  # a proxy may know it
        return False
    return not all(ipaddress.ip_address(str(row[4][0]).partition("%")[0]).is_global for row in found)


class StoreFile:
    """A file of a store that fsspec reads, with the credentials that its library finds by itself."""

    def __init__(self, system: Any, path: str) -> None:
        self._system, self._path = system, path

    def open(self, start: int, version: str | None) -> Answer | None:
        """As in RemoteFile."""
        found, size = self._state()
        if not start and version is not None and found == version:
            return None
        start = start if found == version and start < size else 0
        return Answer(start=start, size=size, version=found, pieces=self._pieces(start, found))

    def _state(self) -> tuple[str, int]:
        """Ask for the file's version and size, past any cache."""
        try:
            self._system.invalidate_cache()
            info = self._system.info(self._path)
            if info.get("type") != "file":
                raise NotReceived("it is a folder", passing=False)
            return str(self._system.ukey(self._path)), int(info["size"])
        except Exception as error:  # noqa: BLE001  each store's library raises its own
            raise of_store(error) from None

    def _pieces(self, start: int, version: str) -> Iterator[bytes]:
        try:
            with self._system.open(self._path, "rb", block_size=PIECE << 6, cache_type="readahead") as file:
                file.seek(start)
                yield from iter(partial(file.read, PIECE), b"")
        except Exception as error:  # noqa: BLE001
            raise of_store(error) from None
        if self._state()[0] != version:
            raise NotReceived("it changed while it was read", passing=True)


def store_of(address: Address) -> Any:
    """Return the fsspec file system of an address. Raises TextError where its library is missing."""
    for name in ("fsspec", "gcsfs", "s3fs", "huggingface_hub"):  # our error says it in one sentence
        logging.getLogger(name).addHandler(logging.NullHandler())
    try:
        import fsspec

        return fsspec.filesystem(address.scheme)
    except ImportError:
        extra = STORES[address.scheme]
        raise TextError(
            f"reading {address.scheme}:// needs the package {LIBRARIES[extra]}, which is not installed; install it with: "
            f'pip install "charlm-cli[{extra}]"'
        ) from None
    except Exception as error:  # noqa: BLE001  a configuration of the store that its library refuses
        raise TextError(f"{one_line(address.name)} cannot be read: {of_store(error)}") from None


def of_store(error: Exception) -> NotReceived:
    """Turn an error that the library of a store raised into a NotReceived."""
    if isinstance(error, NotReceived):
        return error
    status = getattr(getattr(error, "response", None), "status_code", None)
    final = FileNotFoundError | PermissionError | NotImplementedError | IsADirectoryError
    passing = isinstance(error, OSError | EOFError) and not isinstance(error, final)
    reason = "it does not exist" if isinstance(error, FileNotFoundError) else str(error).strip()
    kind = type(error).__name__
    return NotReceived(reason or kind, passing=passing and (not isinstance(status, int) or status in _BUSY))
