"""Fetching a published text: the only module that opens a connection, and only when it is asked to.

What was fetched waits beside the file it will become, so that a broken download goes on where it
broke; nothing gets its name before its size and hash are right.
"""

import hashlib
import re
import stat
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from errno import EINVAL
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, InvalidURL
from pathlib import Path
from socket import SHUT_RDWR
from threading import Timer
from typing import IO, Any, TypeVar
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
    getproxies,
    proxy_bypass,
)

from charlm import files
from charlm.data.datasets import Published
from charlm.errors import ResourceError, TextError
from charlm.terminal import one_line

PIECE = 1 << 18
SMALL_PIECE = 1 << 12
"""Compressed bytes given at once to a decompressor that sets no limit to what comes out of them."""
TIMEOUT = 30.0
"""Seconds without a byte, or with fewer than SLOWEST, after which a connection counts as broken."""
SLOWEST = 1024
TRIES = 5
PROGRESS = 0.001
"""The share of a download after which the tries are counted anew."""
PAUSE = 1.0
SIZE = re.compile(r"[0-9]{1,15}")
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(;.*)?\r?\n")
LONGEST_LINE = 4096

Watch = Callable[[str, int, int | None], None]
R = TypeVar("R")


def fetch(text: Published, folder: Path, watch: Watch = lambda what, done, of: None) -> Path:
    """Put a text into a folder, or find it there; its path.

    Raises TextError where what comes is not what was published, or does not come; ResourceError
    where it cannot be written.
    """
    target = folder / text.file_name
    part = folder / f"{files.TEMPORARY}{text.name}.part"
    try:
        if target.exists():
            _refuse_other(text, target)
            return target
        files.make_folder(folder)
        with files.claiming(folder) as alone:
            if alone:
                _continue(text, part, target, watch)
            else:  # another process may be at work on `part`
                _fetch_apart(text, target, watch)
    except OSError as error:
        raise ResourceError(f"{one_line(str(target))} cannot be written: {error.strerror or error}") from None
    return target


def _continue(text: Published, part: Path, target: Path, watch: Watch) -> None:
    """Fetch the text, going on with what an earlier command left."""
    _remove_unusable(text, part)
    left_before = _have(part) > 0
    try:
        _put(text, part, target, watch)
    except _OtherTextError:
        if not left_before:
            raise
        _put(text, part, target, watch)  # what an earlier command left was to blame, perhaps


def _fetch_apart(text: Published, target: Path, watch: Watch) -> None:
    """Fetch the text into a file that no other process knows, and leave nothing of it."""
    part = files.temporary_path(target)
    try:
        _put(text, part, target, watch)
    finally:
        files.remove_file(part)


class _OtherTextError(TextError):
    """What was fetched is not what was published; it was removed."""


def _put(text: Published, part: Path, target: Path, watch: Watch) -> None:
    _download(text, part, watch)
    with files.replacing(target) as file:
        _copy(text, part, file, watch)
    files.remove_file(part)


def _refuse_other(text: Published, target: Path) -> None:
    """TextError where a file of that name is another one."""
    same = False
    if target.is_file():
        with open(target, "rb") as file:
            same = _is_it(text, iter(lambda: file.read(PIECE), b""))
    if not same:
        raise TextError(
            f"{one_line(str(target))} is there, and is not the published {text.name}; move it away, or give --to"
        )


def _remove_unusable(text: Published, part: Path) -> None:
    """Remove what no download can be continued from: links, folders, pipes, and more than there can be."""
    try:
        facts = part.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISDIR(facts.st_mode):
        files.remove_tree(part)
    elif not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1 or facts.st_size > text.most:
        files.remove_file(part)


def _have(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _download(text: Published, part: Path, watch: Watch) -> None:
    """All that the address gives, going on where an attempt broke off."""
    tries, reason, counted = TRIES, "", 0
    while tries:
        have = _have(part)
        try:
            if _attempt(text, part, have, watch):
                return
            reason = "the connection broke off"
        except HTTPError as error:
            error.close()
            if error.code == 416 and have:  # all of it is there, or more: its hash will tell
                return
            raise _no(text, f"the server answers {error.code} {one_line(str(error.reason))}") from None
        except (InvalidURL, ValueError, OverflowError) as error:
            why = one_line(str(error))
            raise _no(text, f"the address, a redirection or a proxy cannot be used: {why}") from None
        except (OSError, HTTPException) as error:
            reason = one_line(str(getattr(error, "reason", None) or error) or type(error).__name__)
        now = _have(part)
        if now - counted > PROGRESS * text.most:
            tries, counted = TRIES, now
        tries -= 1
        if tries:
            time.sleep(PAUSE)
    raise _no(text, f"{reason}; the same command goes on from where it broke")


def _attempt(text: Published, part: Path, have: int, watch: Watch) -> bool:
    """One connection; was it all?"""
    request = Request(text.url, headers={"User-Agent": "charlm", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with _opener().open(request, timeout=TIMEOUT) as answer:
        if have and not _goes_on(answer, have):
            files.remove_file(part)  # the server began anew
            have = 0
            if answer.status == 206:
                raise HTTPException("the server sent another part than was asked for")
        encoding = answer.headers.get("Content-Encoding", "identity")
        if encoding.strip().lower() not in ("", "identity"):
            raise _no(text, f"the server sent it encoded ({one_line(encoding)}), which was not asked for")
        total = _total(text, answer, have)
        if (total or 0) > text.most:
            raise _no(text, f"it would be {total:,} bytes, more than {text.most:,}; that is something else")
        chunked = answer.chunked
        for piece in _in_time(_body(answer)):
            have += len(piece)
            if have > text.most:
                files.remove_file(part)
                raise _no(text, f"more than {text.most:,} bytes came; that is something else")
            _append(part, piece)
            watch("fetching", have, total)
    return chunked or total is None or have == total


def _goes_on(answer: Any, have: int) -> bool:
    return answer.status == 206 and (answer.headers.get("Content-Range") or "").startswith(f"bytes {have}-")


def _total(text: Published, answer: HTTPResponse, have: int) -> int | None:
    """Bytes there will be: as announced, or else as published."""
    announced = (answer.headers.get("Content-Length") or "").strip()
    if SIZE.fullmatch(announced) and not answer.chunked:
        return have + int(announced)
    return text.size if text.member is None else None


def _body(answer: HTTPResponse) -> Iterator[bytes]:
    """What comes, as it comes, a piece at a time."""
    if not answer.chunked:
        while piece := answer.read1(PIECE):
            yield piece
        return
    answer.chunked = (
        False  # http.client reads a chunk of negative size without limit, so chunks are read here
    )
    while size := _chunk_size(answer.readline(LONGEST_LINE)):
        while size:
            piece = answer.read1(min(size, PIECE))
            if not piece:
                raise HTTPException("the connection broke off")
            size -= len(piece)
            yield piece
        if answer.readline(3).strip():
            raise HTTPException("a chunk is longer than the server says")


def _chunk_size(line: bytes) -> int:
    found = CHUNK_SIZE.fullmatch(line)
    if found is None:
        raise HTTPException("the connection broke off" if not line else "the size of a chunk is no number")
    return int(found[1], 16)


def _in_time(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The same pieces; TimeoutError where too few bytes come."""
    since, came = time.monotonic(), 0
    for piece in pieces:
        yield piece
        came += len(piece)
        if time.monotonic() - since > TIMEOUT:
            if came < SLOWEST:
                raise TimeoutError(f"only {came} bytes came in {TIMEOUT:g} seconds")
            since, came = time.monotonic(), 0


def _append(part: Path, piece: bytes) -> None:
    try:
        files.append(part, piece)
    except OSError as error:
        raise ResourceError(f"{one_line(str(part))} cannot be written: {error.strerror}") from None


def _opener() -> OpenerDirector:
    """What opens addresses of http and https, and of nothing else."""
    opener = OpenerDirector()
    for handler in (ProxyHandler(), _Http(), _Https(), _Redirects()):
        opener.add_handler(handler)
    for usual in (HTTPDefaultErrorHandler(), HTTPErrorProcessor(), UnknownHandler()):
        opener.add_handler(usual)
    return opener


class _Bounded(HTTPConnection):
    """A connection whose answer must begin in time, however slowly its lines come, or however many."""

    def getresponse(self) -> HTTPResponse:
        """The answer, its headers read."""
        late = False

        def cut() -> None:
            nonlocal late
            late = True
            with suppress(OSError, AttributeError):  # where it is closed already
                self.sock.shutdown(SHUT_RDWR)

        timer = Timer(TIMEOUT, cut)
        timer.daemon = True
        timer.start()
        try:
            return super().getresponse()
        finally:
            timer.cancel()
            if late:
                raise TimeoutError("timed out")


class _BoundedTls(_Bounded, HTTPSConnection):
    pass


class _Http(HTTPHandler):
    def http_open(self, req: Request) -> HTTPResponse:
        """Open a plain connection."""
        return self.do_open(_Bounded, req)


class _Https(HTTPSHandler):
    def https_open(self, req: Request) -> HTTPResponse:
        """Open an encrypted connection."""
        return self.do_open(_BoundedTls, req)


class _Redirects(HTTPRedirectHandler):
    """Follows the web's redirections, and none that gives up an encrypted connection."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        """The request to go on with; HTTPError where it must not be followed."""
        before, after = urlsplit(req.full_url).scheme, urlsplit(newurl).scheme
        if after != "https" and after != before:
            raise HTTPError(
                newurl, code, f"redirected from {before} to {after}, which is not followed", headers, fp
            )
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        fp.close()  # else all that stands in the answer would be read into memory
        return request


def _copy(text: Published, part: Path, file: IO[bytes], watch: Watch) -> None:
    """Write the text that was fetched, if it is the one; else throw away what came."""
    done = 0

    def pieces() -> Iterator[bytes]:
        nonlocal done
        for piece in _pieces(text, part):
            file.write(piece)
            done += len(piece)
            watch("checking", done, text.size)
            yield piece

    try:
        right = _is_it(text, pieces())
    except zipfile.BadZipFile as error:
        files.remove_file(part)
        why = f"it is no whole zip archive ({one_line(str(error))}); it was removed"
        raise _OtherTextError(str(_no(text, why))) from None
    if not right:
        files.remove_file(part)
        why = f"its size or {text.algorithm} is not the published one; it was removed"
        raise _OtherTextError(str(_no(text, why)))


def _pieces(text: Published, path: Path) -> Iterator[bytes]:
    """The text in what was fetched, and no byte more than one beyond its size.

    BadZipFile where it should be an archive and is none, or a damaged one.
    """
    left = text.size + 1
    with open(path, "rb") as raw:
        if text.member is None:
            opened: IO[bytes] = raw
            most = PIECE
        else:
            opened, most = _of_archive(partial(_member, text, raw))
        while left and (piece := _of_archive(partial(opened.read, min(most, left)))):
            left -= len(piece)
            yield piece


def _member(text: Published, raw: IO[bytes]) -> tuple[IO[bytes], int]:
    """The one member of an archive that is read, and how much of it to read at once."""
    archive = zipfile.ZipFile(raw)
    found = [info for info in archive.infolist() if info.filename == text.member]
    if len(found) != 1 or found[0].file_size != text.size:
        raise ValueError(f"no single member {text.member} of {text.size:,} bytes")
    bounded = found[0].compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    return archive.open(found[0]), PIECE if bounded else SMALL_PIECE


def _of_archive(read: Callable[[], R]) -> R:
    """What `read` gives; BadZipFile for whatever the readers of archives raise for a damaged one."""
    try:
        return read()
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in (None, EINVAL):
            raise  # the disk; a place before the file's beginning is invalid, and bz2 gives no number
        raise zipfile.BadZipFile(str(error) or type(error).__name__) from None


def _is_it(text: Published, pieces: Iterator[bytes]) -> bool:
    digest, size = hashlib.new(text.algorithm, usedforsecurity=False), 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
    return size == text.size and digest.hexdigest() == text.digest


def _no(text: Published, why: str) -> TextError:
    proxy = _proxy(text)
    through = f" through the proxy {proxy}, which the environment names" if proxy else ""
    return TextError(f"{text.name} could not be downloaded from {one_line(text.url)}{through}: {why}")


def _proxy(text: Published) -> str | None:
    """The proxy that the environment names for the address, without name and password."""
    parts = urlsplit(text.url)
    proxy = getproxies().get(parts.scheme)
    if not proxy or proxy_bypass(parts.netloc):
        return None
    return one_line(proxy.rpartition("@")[2])
