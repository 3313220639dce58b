"""A web server on loopback that serves one text, and fails in the ways that servers and networks do."""

import http.server
import threading
from collections.abc import Callable
from typing import Any


class Loopback:
    """A server on loopback, whose requests `handle` answers."""

    def __init__(self) -> None:
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.handle(self)

            def log_message(self, *args: Any) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # who hangs up does so on purpose
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def handle(self, to: http.server.BaseHTTPRequestHandler) -> None:
        raise NotImplementedError


class Faulty(Loopback):
    """Serves `body`. `cuts`: after how many bytes the next answers are cut; `statuses`: what the next ones say instead."""

    def __init__(self, body: bytes) -> None:
        self.body, self.tag, self.changed = body, '"v1"', ""
        self.ranges = self.conditional = False
        self.begins_again = False  # whatever part is asked for
        self.says_length = True
        self.kind = ""  # its Content-Type
        self.length: int | None = None  # a wrong one
        self.cuts: list[int] = []
        self.statuses: list[int] = []
        self.to: str | None = None  # a redirect
        self.after: Callable[[], None] = lambda: None  # called after each answer
        self.asked: list[dict[str, str]] = []
        self.sent = 0
        super().__init__()
        self.address += "/text.txt"

    def handle(self, to: http.server.BaseHTTPRequestHandler) -> None:
        self.asked.append({**to.headers})
        body, start = self.body, 0
        wanted = to.headers.get("Range")
        if self.statuses:
            to.send_response(self.statuses.pop(0))
            body = b""
        elif self.to is not None and to.path == "/text.txt":
            to.send_response(302)
            to.send_header("Location", self.to)
            body = b""
        elif self.conditional and to.headers.get("If-None-Match") == self.tag:
            to.send_response(304)
            body = b""
        elif self.ranges and wanted and to.headers.get("If-Range") in (self.tag, self.changed):
            start = 0 if self.begins_again else int(wanted.removeprefix("bytes=").rstrip("-"))
            to.send_response(206)
            to.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            to.send_response(200)
        for name, value in (("ETag", self.tag), ("Last-Modified", self.changed), ("Content-Type", self.kind)):
            if value:
                to.send_header(name, value)
        if self.says_length:
            to.send_header("Content-Length", str(self.length or len(body) - start))
        to.end_headers()
        out = body[start:]
        out = out[: self.cuts.pop(0)] if self.cuts and body else out
        to.wfile.write(out)
        self.sent += len(out)
        to.close_connection = True
        self.after()
