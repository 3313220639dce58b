"""Fetching a published text: the only module that opens a connection, and only when it is asked to.

What was fetched waits beside the file it will become, so that a broken download goes on where it
broke; nothing gets its name before its size and hash are right.
"""

import hashlib
import time
import zipfile
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from charlm import files
from charlm.errors import ResourceError, TextError
from charlm.terminal import one_line
from charlm.text.published import Published

PIECE = 1 << 18
TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as broken."""
TRIES = 5
PAUSE = 1.0

Watch = Callable[[str, int, int | None], None]


def fetch(text: Published, folder: Path, watch: Watch = lambda what, done, of: None) -> Path:
    """Put a text into a folder, or find it there; its path.

    Raises TextError where what comes is not what was published, or does not come; ResourceError
    where it cannot be written.
    """
    target = folder / text.file_name
    partial = folder / f"{files.TEMPORARY}{text.name}.part"
    try:
        if target.exists():
            _refuse_other(text, target)
            return target
        files.make_folder(folder)
        _download(text, partial, watch)
        with files.replacing(target) as file:
            _copy(text, partial, file, watch)
        files.remove_file(partial)
    except OSError as error:
        raise ResourceError(f"{one_line(str(target))} cannot be written: {error.strerror or error}") from None
    return target


def _refuse_other(text: Published, target: Path) -> None:
    """TextError where a file of that name is another one."""
    with open(target, "rb") as file:
        if not _is_it(text, iter(lambda: file.read(PIECE), b"")):
            raise TextError(
                f"{one_line(str(target))} is there, and is not the published {text.name}; move it away, or give --to"
            )


def _download(text: Published, partial: Path, watch: Watch) -> None:
    """All that the address gives, going on where an attempt broke off."""
    tries, reason = TRIES, ""
    while tries:
        have = partial.stat().st_size if partial.exists() else 0
        try:
            if _attempt(text, partial, have, watch):
                return
            reason = "the connection broke off"
        except HTTPError as error:
            error.close()
            if error.code == 416 and have:  # all of it is there, or more: its hash will tell
                return
            raise _no(text, f"the server answers {error.code} {one_line(str(error.reason))}") from None
        except (OSError, HTTPException) as error:
            if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
                raise  # the disk, not the net
            reason = one_line(str(getattr(error, "reason", None) or error) or type(error).__name__)
        now = partial.stat().st_size if partial.exists() else 0
        tries = TRIES - 1 if now > have else tries - 1
        if tries:
            time.sleep(PAUSE)
    raise _no(text, f"{reason}; the same command goes on from where it broke")


def _attempt(text: Published, partial: Path, have: int, watch: Watch) -> bool:
    """One connection; was it all?"""
    request = Request(text.url, headers={"User-Agent": "charlm", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    with build_opener(_Redirects()).open(request, timeout=TIMEOUT) as answer:
        if have and not _goes_on(answer, have):
            files.remove_file(partial)  # the server began anew
            have = 0
        announced = answer.headers.get("Content-Length")
        total = have + int(announced) if announced and announced.isdigit() else None
        if (total or 0) > text.most:
            raise _no(text, f"it would be {total:,} bytes, more than {text.most:,}; that is something else")
        while piece := answer.read(PIECE):
            have += len(piece)
            if have > text.most:
                files.remove_file(partial)
                raise _no(text, f"more than {text.most:,} bytes came; that is something else")
            files.append(partial, piece)
            watch("fetching", have, total)
    return total is None or have == total


def _goes_on(answer: Any, have: int) -> bool:
    return answer.status == 206 and (answer.headers.get("Content-Range") or "").startswith(f"bytes {have}-")


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
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _copy(text: Published, partial: Path, file: IO[bytes], watch: Watch) -> None:
    """Write the text that was fetched, if it is the one; else throw away what came."""
    done = 0

    def pieces() -> Iterator[bytes]:
        nonlocal done
        for piece in _pieces(text, partial):
            file.write(piece)
            done += len(piece)
            watch("checking", done, text.size)
            yield piece

    try:
        right = _is_it(text, pieces())
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        files.remove_file(partial)
        raise _no(text, f"it is no whole zip archive ({one_line(str(error))})") from None
    if not right:
        files.remove_file(partial)
        raise _no(text, f"its size or {text.algorithm} is not the published one; it was thrown away")


def _pieces(text: Published, path: Path) -> Iterator[bytes]:
    """The text in what was fetched, and no byte more than one beyond its size."""
    left = text.size + 1
    with open(path, "rb") as raw:
        if text.member is None:
            opened: IO[bytes] = raw
        else:
            archive = zipfile.ZipFile(raw)
            found = [info for info in archive.infolist() if info.filename == text.member]
            if len(found) != 1 or found[0].file_size != text.size:
                raise ValueError(f"no single member {text.member} of {text.size:,} bytes")
            opened = archive.open(found[0])
        while left and (piece := opened.read(min(PIECE, left))):
            left -= len(piece)
            yield piece


def _is_it(text: Published, pieces: Iterator[bytes]) -> bool:
    digest, size = hashlib.new(text.algorithm, usedforsecurity=False), 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
    return size == text.size and digest.hexdigest() == text.digest


def _no(text: Published, why: str) -> TextError:
    return TextError(f"{text.name} was not got from {one_line(text.url)}: {why}")
