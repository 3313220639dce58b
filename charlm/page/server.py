"""A loopback server for the page: serves a few fixed paths to holders of the token, and nothing else.

It is built on the standard library's ThreadingHTTPServer. Each request computes for long in a thread of its own anyway,
and one user sends few of them. What an asynchronous framework would add (keep-alive, routing, forms) is refused here,
and the limits below take no more lines than its settings would. Every connection carries one request.
"""

import hmac
import io
import json
import os
import re
import select
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from time import monotonic
from typing import Any, NoReturn, Protocol
from urllib.parse import parse_qs, urlsplit

from charlm.errors import CharlmError, CheckpointError, UsageError, is_out_of_memory
from charlm.strict_json import parse_json
from charlm.terminal import one_line

LOOPBACK = "127.0.0.1"
BODY_BYTES = 4 << 20
HEAD_SECONDS, BODY_SECONDS = 10.0, 30.0
"""Seconds in which the head and the body of a request must arrive, however slowly its bytes come."""
WRITE_SECONDS = 60.0
"""Seconds that a client may leave one piece of an answer unread."""
CONNECTIONS = 64
COMPUTING = 8
"""Requests that are computed at once: more would only slow each other down. A browser sends at most six."""
LINGER_SECONDS, LINGER_BYTES = 1.0, 64 << 20
"""How long and how much a refused client may go on sending, so that it can read the refusal."""
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
NO_CONTENT_POLICY = "default-src 'none'; frame-ancestors 'none'"
NO_TOKEN = "the token is missing or wrong; open the address that charlm serve printed"
BUSY = "charlm serve computes {} requests already; wait until one is done, or stop one"
Json = dict[str, Any]


class Answers(Protocol):
    """The contract of what computes the answers."""

    @property
    def operations(self) -> Sequence[str]:
        """The names that `answer` takes: those of the paths below /api/."""

    def answer(self, operation: str, body: Json) -> Json | Iterator[list[Json]]:
        """One JSON object, or groups of them that are sent as they come. Raises CharlmError."""


@dataclass(frozen=True)
class ServedPage:
    """The page, and its content security policy."""

    html: bytes
    policy: str


class Refused(Exception):  # noqa: N818  no error of ours
    """A refused request: the status, and a sentence that says why."""

    def __init__(self, status: HTTPStatus, sentence: str, **headers: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.headers = status, sentence, headers


class PageServer(ThreadingHTTPServer):
    """Serves one page and its answers on loopback until it is told to end."""

    allow_reuse_address = os.name != "nt"  # on Windows it would let others take the port
    daemon_threads = True
    request_queue_size = CONNECTIONS

    def __init__(
        self, port: int | None, token: str, page: ServedPage, answers: Answers, report: Callable[[str], None]
    ) -> None:
        """`port`: None for any free one. `report` is called about bugs. Raises UsageError if the port is not available."""
        self.token, self.page, self.answers, self.report = token, page, answers, report
        self.computing = threading.BoundedSemaphore(COMPUTING)
        self._places = threading.BoundedSemaphore(CONNECTIONS)
        try:
            super().__init__((LOOPBACK, port or 0), _Handler)
        except PermissionError:
            raise UsageError(
                f"--port {port} is reserved for administrators; choose one above 1023, or leave it out"
            ) from None
        except OSError as error:
            raise UsageError(
                f"--port {port} cannot be used ({error.strerror}); choose another, or leave it out for a free one"
            ) from None
        suffixes = ["", f":{self.server_port}"] if self.server_port == 80 else [f":{self.server_port}"]
        self.hosts = [host + suffix for host in (LOOPBACK, "localhost") for suffix in suffixes]

    @property
    def url(self) -> str:
        """The address of the page, with its token."""
        return f"http://{LOOPBACK}:{self.server_port}/?token={self.token}"

    def server_bind(self) -> None:
        """Bind, without the library's DNS lookup of this machine's name."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = LOOPBACK, self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for the connection, or close it if there are too many."""
        if not self._places.acquire(blocking=False):
            with suppress(OSError):
                request.setblocking(False)
                request.send(
                    b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
                )
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except Exception:  # not a signal: it may come when the thread has begun, which makes room itself
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer the request, and make room for another connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report an error that no request should cause; a client that left is not one."""
        error = sys.exception() if hasattr(sys, "exception") else sys.exc_info()[1]
        if not isinstance(error, OSError):
            self.report(f"a bug in charlm: {type(error).__name__}: {one_line(str(error))}; please report it")


class _UntilDeadline(io.RawIOBase):
    """Reads a socket until a deadline, however slowly its bytes come. Raises TimeoutError after it."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self._connection = connection
        self.deadline = monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.deadline - monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class _Handler(BaseHTTPRequestHandler):
    """Answers the one request of a connection."""

    server: PageServer
    protocol_version = "HTTP/1.1"
    _begun = False  # whether a status line was sent

    def setup(self) -> None:
        super().setup()
        self._reading = _UntilDeadline(self.connection, HEAD_SECONDS)
        self.rfile = io.BufferedReader(self._reading)

    def handle(self) -> None:
        with suppress(OSError):  # the client left, or let us wait
            self.handle_one_request()

    def finish(self) -> None:
        """Let the client read the answer first, since unread data from it would reset the connection."""
        with suppress(OSError, ValueError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_WR)
            rest, deadline, left = memoryview(bytearray(1 << 16)), monotonic() + LINGER_SECONDS, LINGER_BYTES
            while left > 0 and (seconds := deadline - monotonic()) > 0:
                self.connection.settimeout(seconds)
                n = self.connection.recv_into(rest)
                if not n:
                    break
                left -= n
        with suppress(OSError, ValueError):
            super().finish()

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse what the library refuses: other methods, and requests that are not HTTP."""
        status = HTTPStatus(code)
        if status == HTTPStatus.NOT_IMPLEMENTED:
            status, message = HTTPStatus.METHOD_NOT_ALLOWED, "only GET and POST are served"
        self._send(status, {"error": message or status.phrase}, {})

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log nothing, since addresses contain the token."""

    def _answer(self, answer: Callable[[], None]) -> None:
        """Answer the request, or refuse it with one sentence."""
        try:
            self._check_sender()
            answer()
        except Refused as refused:
            if self.command == "POST":
                self._send(refused.status, {"error": refused.sentence}, refused.headers)
            else:  # a person reads it
                data = f"{refused.sentence}\n".encode()
                self._head(refused.status, "text/plain; charset=utf-8", len(data), **refused.headers)
                self.wfile.write(data)

    def _check_sender(self) -> None:
        """Refuse requests of other origins, and other host names for this server (DNS rebinding)."""
        hosts, origins = self.headers.get_all("Host", []), self.headers.get_all("Origin", [])
        if self.request_version == "HTTP/0.9":  # its answers have no headers, so no policy
            raise Refused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "the request has no HTTP version")
        own = self.server.hosts
        if len(hosts) != 1 or hosts[0].lower() not in own:
            raise Refused(
                HTTPStatus.FORBIDDEN, f"this host is not served; the address begins with http://{own[0]}/"
            )
        if origins and (len(origins) > 1 or origins[0].lower() not in [f"http://{host}" for host in own]):
            raise Refused(HTTPStatus.FORBIDDEN, "requests of other pages are refused")

    def _get(self) -> None:
        path, query = self._address()
        if path.startswith("/api/") and path[5:] in self.server.answers.operations:
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "this path takes POST only", Allow="POST")
        if path != "/":
            self._no_such_path()
        tokens = query.get("token", [""])
        if len(tokens) > 1 or not self._is_token(tokens[0]):
            raise Refused(HTTPStatus.FORBIDDEN, NO_TOKEN)
        page = self.server.page
        self._head(HTTPStatus.OK, "text/html; charset=utf-8", len(page.html), policy=page.policy)
        self.wfile.write(page.html)

    def _post(self) -> None:
        path, _ = self._address()
        if path == "/":
            raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "this path takes GET only", Allow="GET")
        operation = path.removeprefix("/api/")
        if operation == path or operation not in self.server.answers.operations:
            self._no_such_path()
        if not self._is_token(self.headers.get("Authorization", "").removeprefix("Bearer ")):
            raise Refused(HTTPStatus.UNAUTHORIZED, NO_TOKEN)
        body = self._body()
        if not self.server.computing.acquire(blocking=False):
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, BUSY.format(COMPUTING))
        try:
            self._compute(operation, body)
        finally:
            self.server.computing.release()

    def _address(self) -> tuple[str, Mapping[str, list[str]]]:
        try:
            parts = urlsplit(self.path)
            return (parts.path if not parts.netloc else "", parse_qs(parts.query))
        except ValueError:
            self._no_such_path()

    def _no_such_path(self) -> NoReturn:
        raise Refused(HTTPStatus.NOT_FOUND, "there is no such path here")

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), self.server.token.encode())

    def _body(self) -> Json:
        """Read the JSON object of the request."""
        if self.headers.get_content_type() != "application/json" or self.headers.get("Content-Type") is None:
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the content type must be application/json")
        lengths = self.headers.get_all("Content-Length", [])
        if (
            len(lengths) != 1
            or not re.fullmatch("[0-9]{1,15}", lengths[0])
            or "Transfer-Encoding" in self.headers
        ):
            raise Refused(
                HTTPStatus.LENGTH_REQUIRED, "the request needs one Content-Length and no Transfer-Encoding"
            )
        length = int(lengths[0])
        if length > BODY_BYTES:
            raise Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the request has {length:,} bytes; allowed: {BODY_BYTES:,}. Send a part of the text, or use charlm surprisal",
            )
        self._reading.deadline = monotonic() + BODY_SECONDS
        try:
            data = self.rfile.read(length)
        except TimeoutError:
            raise Refused(HTTPStatus.REQUEST_TIMEOUT, "the request did not arrive in time") from None
        if len(data) < length:
            raise Refused(HTTPStatus.BAD_REQUEST, "the request ended before its Content-Length")
        try:
            return parse_json(data, "the request")
        except CheckpointError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from None

    def _compute(self, operation: str, body: Json) -> None:
        """Compute and send the answer, streamed if it comes in pieces; an error before the first piece gets its own status."""
        try:
            answer = self.server.answers.answer(operation, body)
            if isinstance(answer, dict):
                self._send(HTTPStatus.OK, answer, {})
                return
            first = next(answer, [])
            self._head(HTTPStatus.OK, "application/x-ndjson", None)
            self._send_lines(first)
            for lines in answer:
                if self._client_left():
                    return
                self._send_lines(lines)
            self._send_lines([{"done": True}])
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, the user gets one sentence
            status, sentence = self._failure(error)
            if not self._begun:
                raise Refused(status, sentence) from None
            self._send_lines([{"error": sentence}])
        self.wfile.write(b"0\r\n\r\n")

    def _failure(self, error: Exception) -> tuple[HTTPStatus, str]:
        """Return the status and the sentence for an error of a computation."""
        if isinstance(error, CharlmError):
            bad = not isinstance(error, CheckpointError)
            return HTTPStatus.BAD_REQUEST if bad else HTTPStatus.INTERNAL_SERVER_ERROR, _in_words(str(error))
        if is_out_of_memory(error):
            return HTTPStatus.INTERNAL_SERVER_ERROR, "out of memory; try a shorter text"
        said = f"a bug in charlm: {type(error).__name__}: {one_line(str(error))}; please report it"
        self.server.report(said)
        return HTTPStatus.INTERNAL_SERVER_ERROR, said

    def _client_left(self) -> bool:
        """Whether the client has closed its side, so that nobody reads the rest."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)

    def _send(self, status: HTTPStatus, answer: Json, headers: Mapping[str, str]) -> None:
        data = json.dumps(answer, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        self._head(status, "application/json", len(data), **headers)
        self.wfile.write(data)

    def _send_lines(self, lines: Sequence[Json]) -> None:
        """Send one chunk of NDJSON."""
        data = "".join(
            json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines
        ).encode()
        if data:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def _head(
        self,
        status: HTTPStatus,
        kind: str,
        length: int | None,
        *,
        policy: str = NO_CONTENT_POLICY,
        **headers: str,
    ) -> None:
        """Send the status line and the headers; chunks follow if the length is not known."""
        self._begun = True
        self.close_connection = True
        self.connection.settimeout(WRITE_SECONDS)
        self.send_response_only(status)
        sized = {"Transfer-Encoding": "chunked"} if length is None else {"Content-Length": str(length)}
        all_headers = {
            "Content-Type": kind,
            **sized,
            "Connection": "close",
            "Content-Security-Policy": policy,
            **SECURITY_HEADERS,
            **headers,
        }
        for name, value in all_headers.items():
            self.send_header(name, value)
        self.end_headers()


def _in_words(message: str) -> str:
    """Rewrite the settings in a message as the page names them: `top_p` is top-p, `temperature=0` is temperature 0."""

    def words(found: re.Match[str]) -> str:
        name, value = found[1].replace("_", "-"), found[2]
        return name if value in (None, "True") else f"{name} {value}"

    return re.sub(r"`([a-z]\w*)(?:=([^`]*))?`", words, message)
