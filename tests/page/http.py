"""A page server in a process of its own, and its client: whole requests, and raw bytes where those are what is tested."""

import http.client
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from tests.cli.kept import within
from tests.cli.models import ALIKE

SECONDS = 120
"""After so many a test gives up; nothing is asserted about it."""


@dataclass
class Reply:
    """What a server answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]

    @property
    def error(self) -> str:
        """The one sentence of a refusal."""
        if self.headers["content-type"].startswith("text/plain"):
            return self.body.decode().strip()
        assert set(self.json) == {"error"}, self.body
        return str(self.json["error"])


@dataclass
class Client:
    """Asks the server of one address."""

    port: int
    token: str

    @classmethod
    def of(cls, url: str) -> "Client":
        found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\?token=([\w-]{40,})", url)
        assert found, url
        return cls(int(found[1]), found[2])

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str | None] | None = None
    ) -> Reply:
        """Send a request; the headers are added to the usual ones, None leaves one out."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        usual = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        sent = {name: value for name, value in {**usual, **(headers or {})}.items() if value is not None}
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        reply = Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        connection.close()
        return reply

    def ask(self, operation: str, **values: Any) -> Reply:
        """Ask the server for something, as the page does."""
        return self.request("POST", f"/api/{operation}", json.dumps(values).encode())

    def answer(self, operation: str, **values: Any) -> Any:
        """The one object that is answered."""
        reply = self.ask(operation, **values)
        assert reply.status == 200, reply.body
        return reply.json

    def stream(self, operation: str, **values: Any) -> list[Any]:
        """The pieces that are answered, all of them."""
        reply = self.ask(operation, **values)
        assert reply.status == 200, reply.body
        assert reply.lines[-1] == {"done": True}, reply.lines[-1]
        return reply.lines[:-1]

    def connect(self) -> socket.socket:
        """A connection for raw bytes."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)

    def head(self, operation: str, length: int, *more: str) -> bytes:
        """The head of a request, as raw bytes."""
        lines = [
            f"POST /api/{operation} HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            f"Authorization: Bearer {self.token}",
            "Content-Type: application/json",
            f"Content-Length: {length}",
            *more,
        ]
        return "\r\n".join([*lines, "", ""]).encode()

    def begin(self, operation: str, **values: Any) -> socket.socket:
        """Send a request, and return the connection that its answer comes from."""
        body = json.dumps(values).encode()
        connection = self.connect()
        connection.sendall(self.head(operation, len(body)) + body)
        return connection


def received(connection: socket.socket) -> Iterator[bytes]:
    """What comes until the server closes, or nobody wants more; then it is closed here too."""
    with connection:
        while data := connection.recv(1 << 16):
            yield data


def status_of(connection: socket.socket) -> int:
    """The status of the answer that comes, 0 where none does."""
    data = b"".join(received(connection))
    return int(data.split(b" ", 2)[1]) if data else 0


@contextmanager
def serving(*words: str) -> Iterator[tuple[Client, subprocess.Popen[bytes]]]:
    """The command in a process of its own, from when it has printed its address on."""
    child = subprocess.Popen(
        [sys.executable, "-m", "charlm", "serve", *words],
        env={**os.environ, **ALIKE},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **within(1200),
    )
    assert child.stdout is not None and child.stderr is not None
    try:
        url = child.stdout.readline().decode()
        assert url.endswith("\n"), child.stderr.read().decode()
        yield Client.of(url[:-1]), child
    finally:
        with suppress(ProcessLookupError):
            child.kill()
        child.communicate()
