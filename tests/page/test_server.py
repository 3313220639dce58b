"""The loopback server, whatever computes its answers: who is let in, what is too much, who leaves, who waits."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from socketserver import TCPServer, ThreadingMixIn
from time import monotonic, sleep
from typing import Any

import pytest

from charlm.errors import CheckpointError, UsageError
from charlm.page import server as module
from charlm.page.server import PageServer, ServedPage
from tests.page.http import Client, received, status_of

PAGE = ServedPage(b"<!doctype html><title>page</title>", "default-src 'none'; connect-src 'self'")


class Fake:
    """Answers at once, in pieces, never, or not at all."""

    operations = ("open", "next", "generate", "score", "inside")

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.ended = threading.Event()
        self.asked: list[tuple[str, Any]] = []

    def answer(self, operation: str, body: dict[str, Any]) -> Any:
        self.asked.append((operation, body))
        if operation == "next":
            return {"heard": body}
        if operation == "open":
            raise {
                "usage": UsageError("`top_p` has no effect at `temperature=0`"),
                "checkpoint": CheckpointError("the run is damaged"),
                "bug": RuntimeError("oh\nno"),
                "memory": MemoryError(),
            }[body["wrong"]]
        if operation == "inside":
            self.go_on.wait()
            return {}
        return self._pieces(operation)

    def _pieces(self, operation: str) -> Iterator[list[dict[str, Any]]]:
        try:
            yield [{"text": "é\u2028"}, {"text": "two"}]
            if operation == "score":
                raise UsageError("it went wrong")
            while not self.go_on.wait(0.01):
                yield [{"text": "more"}]
        finally:
            self.ended.set()


@pytest.fixture
def reported() -> list[str]:
    return []


@pytest.fixture
def fake() -> Iterator[Fake]:
    found = Fake()
    yield found
    found.go_on.set()


@pytest.fixture
def serve(fake: Fake, reported: list[str]) -> Iterator[Callable[[], Client]]:
    servers = []

    def start() -> Client:
        server = PageServer(None, "t" * 43, PAGE, fake, reported.append)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        servers.append((server, thread))
        return Client.of(server.url)

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def client(serve: Callable[[], Client]) -> Client:
    return serve()


def test_the_page_and_every_answer_are_locked_up(client: Client) -> None:
    page = client.request("GET", f"/?token={client.token}")
    assert (page.status, page.body) == (200, PAGE.html)
    assert "connect-src 'self'" in page.headers["content-security-policy"]
    refused = client.request("GET", "/elsewhere")
    answer = client.ask("next", text="a")
    assert answer.json == {"heard": {"text": "a"}}
    for reply in (page, answer, refused):
        for name, value in {
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cross-origin-opener-policy": "same-origin",
            "cross-origin-resource-policy": "same-origin",
            "cache-control": "no-store",
            "connection": "close",
        }.items():
            assert reply.headers[name] == value
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert not any(name.startswith("access-control") or name == "server" for name in reply.headers)


def test_ctrl_c_ends_it_also_while_a_connection_begins(
    fake: Fake, reported: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread of that connection has begun, and makes room for another when it ends: once."""
    begin = ThreadingMixIn.process_request

    def interrupted(*given: Any) -> None:
        begin(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(ThreadingMixIn, "process_request", interrupted)
    with (
        PageServer(None, "t" * 43, PAGE, fake, reported.append) as server,
        socket.create_connection(server.server_address),
        pytest.raises(KeyboardInterrupt),
    ):
        server.serve_forever(0.01)
    assert not reported


NEXT = "POST /api/next"


@pytest.mark.parametrize(
    ("request_line", "headers", "status", "fact"),
    [
        (NEXT, {"Host": "evil.example"}, 403, "host"),
        (NEXT, {"Host": "127.0.0.1"}, 403, "host"),
        (NEXT, {"Host": "127.0.0.1:PORT.evil.example"}, 403, "host"),
        (NEXT, {"Host": ""}, 403, "host"),
        (NEXT, {"Origin": "http://evil.example"}, 403, "other pages"),
        (NEXT, {"Origin": "null"}, 403, "other pages"),
        (NEXT, {"Origin": "https://127.0.0.1:PORT"}, 403, "other pages"),
        (NEXT, {"Authorization": None}, 401, "token"),
        (NEXT, {"Authorization": "Bearer wrong"}, 401, "token"),
        (NEXT, {"Authorization": "Bearer \xff\xfe"}, 401, "token"),
        (NEXT, {"Content-Type": "text/plain"}, 415, "application/json"),
        (NEXT, {"Content-Type": None}, 415, "application/json"),
        (NEXT, {"Content-Type": "application/x-www-form-urlencoded"}, 415, "application/json"),
        (NEXT, {"Transfer-Encoding": "chunked"}, 411, "Content-Length"),
        ("POST /api/next/", {}, 404, "no such path"),
        ("POST /api/nothing", {}, 404, "no such path"),
        ("POST /api/../api/next", {}, 404, "no such path"),
        ("POST /next", {}, 404, "no such path"),
        ("POST /", {}, 405, "GET only"),
        ("GET /api/next", {}, 405, "POST only"),
        ("GET /?token=wrong", {}, 403, "token"),
        ("GET /?token=TOKEN&token=TOKEN", {}, 403, "token"),
        ("GET /", {}, 403, "token"),
        ("GET /../../etc/passwd?token=TOKEN", {}, 404, "no such path"),
        ("GET /%2e%2e/%2e%2e/etc/passwd?token=TOKEN", {}, 404, "no such path"),
        ("GET /index.html?token=TOKEN", {}, 404, "no such path"),
        ("GET //evil.example/?token=TOKEN", {}, 404, "no such path"),
        ("GET http://evil.example/?token=TOKEN", {"Host": "127.0.0.1:PORT"}, 404, "no such path"),
        ("GET http://[/?token=TOKEN", {"Host": "127.0.0.1:PORT"}, 404, "no such path"),
        ("PUT /api/next", {}, 405, "GET and POST"),
        ("OPTIONS /api/next", {"Origin": "http://evil.example"}, 405, "GET and POST"),
    ],
)
def test_what_is_not_its_own_is_refused(
    client: Client, fake: Fake, request_line: str, headers: dict[str, str | None], status: int, fact: str
) -> None:
    def filled(text: str) -> str:
        return text.replace("PORT", str(client.port)).replace("TOKEN", client.token)

    method, path = filled(request_line).split(" ")
    given = {name: value and filled(value) for name, value in headers.items()}
    reply = client.request(method, path, b'{"text": "a"}' if method != "GET" else None, given)
    assert (reply.status, fact in reply.error) == (status, True), reply
    assert not fake.asked and client.token not in reply.error
    own = f"http://localhost:{client.port}"
    assert client.request("POST", "/api/next", b"{}", {"Host": own[7:], "Origin": own}).status == 200


@pytest.mark.parametrize(
    ("body", "fact"),
    [
        (b"{", "damaged"),
        (b"[]", "not a JSON object"),
        (b"", "damaged"),
        (b"\xff", "damaged"),
        (b'{"text": NaN}', "NaN"),
        (b'{"text": 1e999}', "too large"),
        (b'{"text": 1, "text": 2}', "twice"),
        (b"[" * 100_000, "damaged"),
        (b'{"text": ' + b"[" * 400 + b"]" * 400 + b"}", "levels deep"),
    ],
)
def test_what_is_no_sound_json_is_refused(client: Client, fake: Fake, body: bytes, fact: str) -> None:
    reply = client.request("POST", "/api/next", body)
    assert (reply.status, fact in reply.error) == (400, True), reply
    assert not fake.asked


def test_a_large_body_is_refused_unread_and_the_refusal_arrives(client: Client, fake: Fake) -> None:
    body = b" " * (module.BODY_BYTES + 1)
    reply = client.request("POST", "/api/next", body)
    assert reply.status == 413 and f"{module.BODY_BYTES:,}" in reply.error
    assert client.request("POST", "/api/next", b"{}" + body[3:]).status == 200
    for length in ("-1", "1e3", "9" * 400, "+5"):
        assert client.request("POST", "/api/next", None, {"Content-Length": length}).status == 411
    assert len(fake.asked) == 1


@pytest.mark.parametrize(
    ("wrong", "status", "said"),
    [
        ("usage", 400, "top-p has no effect at temperature 0"),
        ("checkpoint", 500, "the run is damaged"),
        ("memory", 500, "out of memory; try a shorter text"),
        ("bug", 500, r"a bug in charlm: RuntimeError: oh\nno; please report it"),
    ],
)
def test_what_goes_wrong_is_one_sentence(
    client: Client, reported: list[str], wrong: str, status: int, said: str
) -> None:
    reply = client.ask("open", wrong=wrong)
    assert (reply.status, reply.error) == (status, said)
    assert reported == ([said] if wrong == "bug" else [])


def test_what_goes_wrong_on_the_way_ends_the_answer_with_a_sentence(client: Client) -> None:
    reply = client.ask("score", text="a")
    assert reply.headers["content-type"] == "application/x-ndjson"
    assert reply.lines == [{"text": "é\u2028"}, {"text": "two"}, {"error": "it went wrong"}]


def test_pieces_come_as_they_are_made_and_a_client_that_leaves_ends_them(client: Client, fake: Fake) -> None:
    connection = client.begin("generate", text="a")
    data = b""
    for piece in received(connection):
        data += piece
        if b"more" in data:
            break
    assert not fake.ended.is_set()
    connection.close()
    assert fake.ended.wait(60)


def test_a_request_does_not_wait_for_a_long_one_and_too_many_are_refused(client: Client, fake: Fake) -> None:
    connections = [client.begin("inside", number=i) for i in range(module.COMPUTING - 1)]
    streamed = client.begin("generate", text="a")
    while len(fake.asked) < module.COMPUTING:
        sleep(0.01)
    reply = client.ask("next", text="a")
    assert reply.status == 503 and f"computes {module.COMPUTING} requests already" in reply.error
    streamed.close()
    assert fake.ended.wait(60)
    while client.ask("next", text="a").status == 503:
        sleep(0.01)
    fake.go_on.set()
    for connection in connections:
        assert status_of(connection) == 200


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Put the server's clock forward by so many seconds: whoever has been slow until then is too late."""
    forward = 0.0
    monkeypatch.setattr(module, "monotonic", lambda: monotonic() + forward)

    def put_forward(seconds: float) -> None:
        nonlocal forward
        forward += seconds

    return put_forward


def test_slow_senders_are_cut_off_and_hold_nobody_up(
    client: Client, fake: Fake, pass_time: Callable[[float], None]
) -> None:
    heads = [client.connect() for _ in range(10)]
    body = client.connect()
    body.sendall(client.head("next", 100) + b"{")
    for connection in heads:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    assert client.ask("next", text="a").status == 200
    dripped = threading.Event()

    def drip() -> None:
        while not dripped.wait(0.05):
            for connection in (*heads, body):
                with suppress(OSError):
                    connection.sendall(b" ")

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    pass_time(max(module.HEAD_SECONDS, module.BODY_SECONDS))
    assert status_of(body) == 408
    for connection in heads:
        try:
            assert status_of(connection) == 0
        except ConnectionError:  # it dripped on after the end
            continue
    dripped.set()
    thread.join()
    assert len(fake.asked) == 1


def test_many_connections_are_bounded_and_the_server_survives_them(
    client: Client, pass_time: Callable[[float], None]
) -> None:
    before = threading.active_count()
    connections = [client.connect() for _ in range(3 * module.CONNECTIONS)]
    waiting, refused = connections[: module.CONNECTIONS], connections[module.CONNECTIONS :]
    assert {status_of(connection) for connection in refused} == {503}
    assert threading.active_count() <= before + module.CONNECTIONS
    pass_time(module.HEAD_SECONDS)
    for connection in waiting:
        connection.sendall(b"G")
    for connection in waiting:
        with suppress(ConnectionError):
            assert status_of(connection) == 0
    assert client.ask("next", text="a").status == 200


def test_half_closed_and_pipelined_connections(client: Client, fake: Fake) -> None:
    """Each connection has one request; who closes its side before the end of the body has sent none."""
    body = json.dumps({"text": "a"}).encode()
    connection = client.connect()
    connection.sendall((client.head("next", len(body)) + body) * 3)
    data = b"".join(received(connection))
    assert data.count(b"HTTP/1.1 200") == data.count(b"HTTP/1.1") == 1
    connection = client.connect()
    connection.sendall(client.head("next", len(body)) + body[:-1])
    connection.shutdown(1)
    assert status_of(connection) == 400
    connection = client.connect()
    connection.sendall(client.head("next", len(body)) + body)
    connection.shutdown(1)
    assert status_of(connection) == 200
    assert len(fake.asked) == 2


@pytest.mark.parametrize(
    "raw",
    [
        b"\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00" * 50 + b"\r\n\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"GET /\r\n\r\n", b"POST / HTTP/1.1\r\nA\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_no_request_harms_nothing(
    client: Client, fake: Fake, reported: list[str], raw: bytes
) -> None:
    connection = client.connect()
    connection.sendall(raw)
    connection.shutdown(1)
    data = b"".join(received(connection))
    assert b" 200 " not in data and b"<" not in data and b"Traceback" not in data
    assert client.ask("next", text="a").status == 200
    assert not reported


def test_an_answer_without_headers_is_refused(client: Client) -> None:
    connection = client.connect()
    connection.sendall(f"GET /?token={client.token}\r\nHost: 127.0.0.1:{client.port}\r\n\r\n".encode())
    assert b"".join(received(connection)) == b"the request has no HTTP version\n"


def test_a_port_that_is_taken_and_one_of_administrators_are_refused(
    client: Client, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=f"--port {client.port} cannot be used .*choose another"):
        PageServer(client.port, "t" * 43, PAGE, fake, print)

    def denied(*args: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(TCPServer, "server_bind", denied)
    with pytest.raises(UsageError, match="--port 80 is reserved for administrators"):
        PageServer(80, "t" * 43, PAGE, fake, print)
