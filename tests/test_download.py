"""Fetching a published text from servers of every kind: the right bytes at last, or a sentence and no file."""

import ast
import hashlib
import http.server
import io
import os
import random
import re
import socket
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from charlm import files
from charlm.cli.main import run as main
from charlm.data import datasets as published
from charlm.data import download
from charlm.data.datasets import TEXTS, Published
from charlm.data.download import fetch
from charlm.errors import ResourceError, TextError
from tests.conftest import TEXT

BODY = b"All the world's a stage, " * 4000
PACKAGE = Path(__file__).parent.parent / "charlm"


class Server:
    """Answers as the path says; `asked` are the ranges that were asked for."""

    def __init__(self) -> None:
        self.asked: list[str | None] = []
        self.body, self.tell_length = BODY, True
        self.answer: Callable[[], Iterable[bytes]] = tuple
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.headers["Range"])
                getattr(outer, self.path.strip("/").replace("/", "_"))(self)

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

    def good(self, to: Any, most: int = 10**9, ranges: bool = True) -> None:
        start = int(self.asked[-1].split("=")[1].rstrip("-")) if self.asked[-1] and ranges else 0
        if start >= len(self.body):
            to.send_error(416)
            return
        to.send_response(206 if start else 200)
        if start:
            to.send_header("Content-Range", f"bytes {start}-{len(self.body) - 1}/{len(self.body)}")
        if self.tell_length:
            to.send_header("Content-Length", str(len(self.body) - start))
        to.end_headers()
        to.wfile.write(self.body[start : start + most])

    def broken(self, to: Any) -> None:
        self.good(to, most=30_000)

    def anew(self, to: Any) -> None:
        self.good(to, most=30_000 if len(self.asked) == 1 else 10**9, ranges=False)

    def slow(self, to: Any) -> None:
        time.sleep(0.6)

    def missing(self, to: Any) -> None:
        to.send_error(404)

    def _redirect(self, to: Any, where: str) -> None:
        to.send_response(302)
        to.send_header("Location", where)
        to.end_headers()

    def moved(self, to: Any) -> None:
        self._redirect(to, "/good")

    def loop(self, to: Any) -> None:
        self._redirect(to, "/loop")

    def raw(self, to: Any) -> None:
        """Whatever bytes, until they end or no one listens."""
        with suppress(OSError):
            for piece in self.answer():
                to.wfile.write(piece)
        to.close_connection = True

    def ftp(self, to: Any) -> None:
        self._redirect(to, "ftp://127.0.0.1/text")

    def file(self, to: Any) -> None:
        self._redirect(to, "file:///etc/passwd")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = Server()
    yield made
    made.close()


def text_at(server: Server, path: str, **changes: Any) -> Published:
    facts = {"size": len(BODY), "most": len(BODY), "digest": hashlib.sha256(BODY).hexdigest()}
    return replace(
        TEXTS["tinyshakespeare"], name="text", url=f"{server.address}/{path}", **{**facts, **changes}
    )


@pytest.mark.parametrize("path", ["good", "broken", "anew", "moved"])
def test_the_text_arrives_whole(server: Server, tmp_path: Path, path: str) -> None:
    told: list[int] = []
    target = fetch(text_at(server, path), tmp_path / "data", lambda what, done, of: told.append(done))
    assert target.read_bytes() == BODY
    assert [p.name for p in target.parent.iterdir()] == ["text.txt"]
    assert told and told[-1] == len(BODY)
    asked = len(server.asked)
    assert fetch(text_at(server, path), target.parent) == target and len(server.asked) == asked
    if path == "broken":
        assert server.asked == [None, "bytes=30000-", "bytes=60000-", "bytes=90000-"]


def test_the_next_command_goes_on_where_this_one_broke(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TRIES", 1)
    server.tell_length = True
    with pytest.raises(TextError, match="goes on from where it broke"):
        fetch(replace(text_at(server, "slow")), tmp_path)
    (tmp_path / ".tmp-text.part").write_bytes(BODY[:50_000])
    assert fetch(text_at(server, "good"), tmp_path).read_bytes() == BODY
    assert server.asked[-1] == "bytes=50000-"


@pytest.mark.skipif(os.name == "nt", reason="locks of POSIX")
def test_two_commands_do_not_write_into_one_part(server: Server, tmp_path: Path) -> None:
    """The second works apart, and leaves what the first is writing."""
    part = tmp_path / ".tmp-text.part"
    part.write_bytes(BODY[:1000])
    with files.claiming(tmp_path) as alone:
        assert alone
        assert fetch(text_at(server, "good"), tmp_path).read_bytes() == BODY
    assert server.asked == [None] and part.read_bytes() == BODY[:1000]
    assert sorted(path.name for path in tmp_path.iterdir()) == [part.name, "text.txt"]


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("missing", BODY, "answers 404"),
        ("loop", BODY, "answers 302"),
        ("ftp", BODY, "redirected from http to ftp"),
        ("file", BODY, "not allowed|redirected from http to file"),
        ("slow", BODY, "timed out"),
        ("good", BODY[:-1] + b"!", "is not the published one"),
        ("good", BODY[:-1], "is not the published one"),
        ("good", BODY + b"!", "something else"),
        ("good", BODY[:-4000] + b"?" * 4000, "is not the published one"),
    ],
)
def test_what_is_not_the_text_leaves_no_file(
    server: Server, tmp_path: Path, path: str, body: bytes, said: str
) -> None:
    server.body = body
    with pytest.raises(TextError, match=said):
        fetch(text_at(server, path), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_body_without_an_end_is_cut_off(server: Server, tmp_path: Path) -> None:
    server.body, server.tell_length = BODY * 50, False
    with pytest.raises(TextError, match="more than 100,000 bytes came"):
        fetch(text_at(server, "good"), tmp_path)
    assert not list(tmp_path.iterdir())


OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = f"Content-Length: {len(BODY)}\r\n\r\n".encode()
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
TO = b"HTTP/1.1 302 Found\r\nLocation: "


def slowly(head: bytes, drop: bytes, every: float = 0.05) -> Iterator[bytes]:
    yield head
    while True:
        time.sleep(every)
        yield drop


@pytest.mark.parametrize(
    "answer",
    [
        [OK + b"Content-Length: \xb2\r\n\r\n", BODY],
        [OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", BODY],
        [OK + b"Content-Length: -5\r\n\r\n", BODY],
        [OK + b"Content-Encoding: identity\r\n" + LENGTH, BODY],
        [b"HTTP/1.1 200\r\n" + LENGTH, BODY],
        [CHUNKED, b"%x; of=two\r\n" % 100, BODY[:100], b"\r\n%X\r\n" % (len(BODY) - 100), BODY[100:], b"\r\n0\r\n\r\n"],
    ],
)  # fmt: skip
def test_odd_answers_that_hold_the_text(server: Server, tmp_path: Path, answer: list[bytes]) -> None:
    server.answer = lambda: answer
    assert fetch(text_at(server, "raw"), tmp_path).read_bytes() == BODY


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda: [CHUNKED, b"-5\r\n", BODY], "the size of a chunk is no number"),
        (lambda: [CHUNKED, b"\xb2\r\n", BODY], "the size of a chunk is no number"),
        (lambda: [CHUNKED, b"f" * 5000 + b"\r\n", BODY], "the size of a chunk is no number"),
        (lambda: [CHUNKED, b"fffffff\r\n", BODY], "broke off"),
        (lambda: [CHUNKED, b"5\r\n", BODY], "a chunk is longer"),
        (lambda: [CHUNKED, b"ffffffffffff\r\n", *[BODY] * 99], "that is something else"),
        (lambda: [OK + b"Content-Length: 70000\r\n\r\n", BODY], "not the published one"),
        (lambda: [OK + b"Content-Length: 99999999999999\r\n\r\n", BODY], "it would be 99,999,999,999,999 bytes"),
        (lambda: [OK + b"Content-Encoding: gzip\r\n" + LENGTH, BODY], "encoded .gzip."),
        (lambda: [OK + b"x: y\r\n" * 1000 + LENGTH, BODY], "more than 100 headers"),
        (lambda: [OK + b"x: " + b"y" * 100_000 + b"\r\n" + LENGTH, BODY], "too long|more than 65536"),
        (lambda: [b"HTTP/1.1 \xb2 OK\r\n\r\n"], "HTTP/1.1"),
        (lambda: [b"\x00\xff" * 50], "could not be downloaded"),
        (list, "closed connection"),
        (lambda: [b"HTTP/1.1 500 \x1b[2J\r\n\r\n"], "answers 500"),
        (lambda: [b"HTTP/1.1 999\r\n\r\n"], "answers 999"),
        (lambda: [b"HTTP/1.1 304\r\n\r\n"], "answers 304"),
        (lambda: [TO + b"http://[broken\r\n\r\n"], "a redirection"),
        (lambda: [TO + b"http://127.0.0.1:port/\r\n\r\n"], "a redirection"),
        (lambda: [TO + b"http://127.0.0.1:99999999/\r\n\r\n"], "could not be downloaded"),
        (lambda: [TO + b"http://\xe4\xff\xfe..x/\r\n\r\n"], "could not be downloaded"),
        (lambda: [TO + "http://dück.ü/".encode() + b"\r\n\r\n"], "could not be downloaded"),
        (lambda: [TO + b"http:///nowhere\r\n\r\n"], "could not be downloaded"),
        (lambda: [TO + b"gopher://127.0.0.1/\r\n\r\n"], "gopher"),
        (lambda: [TO + b"data:text/plain,x\r\n\r\n"], "data"),
        (lambda: [b"HTTP/1.1 302 Found\r\n\r\n"], "answers 302"),
        (lambda: slowly(OK, b"x"), "timed out"),
        (lambda: slowly(OK + LENGTH, b"x"), "only [0-9]+ bytes came"),
        (lambda: slowly(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.001), "timed out"),
    ],
)  # fmt: skip
def test_answers_that_do_not_hold_the_text_are_one_sentence(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: Callable[[], Iterable[bytes]],
    said: str,
) -> None:
    server.answer = answer
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(download, "TRIES", 2)
    monkeypatch.setitem(published.TEXTS, "text", text_at(server, "raw"))
    monkeypatch.setattr(sys, "argv", ["charlm", "data", "get", "text"])
    code, err = main(0.0), capsys.readouterr().err
    assert code == 3 and "\x1b" not in err and re.search(said, err), err
    assert err.count("error: ") == 1 and not (tmp_path / "data" / "text.txt").exists()
    monkeypatch.setattr(published, "TEXTS", {"text": text_at(server, "good")})
    assert main(0.0) == 0, "what was left behind does not block the next try"


def test_a_redirection_with_an_endless_body_is_followed(server: Server, tmp_path: Path) -> None:
    server.answer = lambda: slowly(TO + b"/good\r\n\r\n", b"x" * 1000, 0.001)
    assert fetch(text_at(server, "raw"), tmp_path).read_bytes() == BODY


@pytest.mark.parametrize("proxy", ["garbage", "http://", "http://[::1", "http://h:port", "http://ü..ü:1", "socks5://127.0.0.1:1", "file:///etc/passwd", "://", "http://me:secret@127.0.0.1:1"])  # fmt: skip
def test_a_proxy_that_is_none(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setattr(download, "TRIES", 2)
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(TextError, match="through the proxy") as caught:
        fetch(text_at(server, "good"), tmp_path)
    assert "secret" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX files")
@pytest.mark.parametrize("kind", ["a link", "a hard link", "a folder", "a pipe", "too long", "other bytes"])
def test_what_stands_where_a_download_waits(server: Server, tmp_path: Path, kind: str) -> None:
    part, other = tmp_path / "data" / ".tmp-text.part", tmp_path / "other"
    part.parent.mkdir()
    other.write_bytes(b"mine")
    if kind == "a link":
        part.symlink_to(other)
    elif kind == "a hard link":
        part.hardlink_to(other)
    elif kind == "a folder":
        part.mkdir()
        (part / "file").touch()
    elif kind == "a pipe":
        os.mkfifo(part)
    else:
        part.write_bytes(b"?" * (len(BODY) + 1 if kind == "too long" else 100))
    text = text_at(server, "good")
    assert fetch(text, part.parent).read_bytes() == BODY
    assert other.read_bytes() == b"mine" and [path.name for path in part.parent.iterdir()] == ["text.txt"]


def test_a_full_disk_ends_the_download_with_its_own_code(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "append", full)
    with pytest.raises(ResourceError, match="No space left"):
        fetch(text_at(server, "good"), tmp_path)
    assert len(server.asked) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX files")
@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_where_the_text_belongs(
    server: Server, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "text.txt")
    with pytest.raises(TextError, match="move it away"):
        fetch(text_at(server, "good"), tmp_path)


def packed(*members: tuple[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return file.getvalue()


METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


@pytest.mark.parametrize("method", METHODS)
def test_a_damaged_archive_is_one_sentence_and_blocks_nothing(
    server: Server, tmp_path: Path, method: int
) -> None:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", method) as archive:
        archive.writestr("it", random.Random(1).randbytes(3000) + BODY)
    data = random.Random(1).randbytes(3000) + BODY
    text = text_at(
        server, "good", member="it", size=len(data), digest=hashlib.sha256(data).hexdigest(), most=200_000
    )
    rng, refused = random.Random(method), 0
    for _ in range(60):
        damaged = bytearray(whole.getvalue())
        place = rng.choice([rng.randrange(len(damaged)), rng.randrange(100), -1 - rng.randrange(100)])
        damaged[place] = rng.choice([0, 255, damaged[place] ^ 1 << rng.randrange(8), rng.randrange(256)])
        if rng.random() < 0.2:
            del damaged[rng.randrange(len(damaged)) :]
        server.body = bytes(damaged)
        try:
            assert fetch(text, tmp_path).read_bytes() == data
            (tmp_path / "text.txt").unlink()
        except TextError as error:
            assert re.search("no whole zip archive|not the published one", str(error))
            refused += 1
        assert not list(tmp_path.iterdir())
    assert refused > 20
    server.body = whole.getvalue()
    assert fetch(text, tmp_path).read_bytes() == data


def test_an_archive_that_unfolds_without_end_is_not_unfolded(server: Server, tmp_path: Path) -> None:
    for method in METHODS[1:]:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            archive.writestr("it", bytes(20_000_000))
        lied = file.getvalue().replace((20_000_000).to_bytes(4, "little"), len(BODY).to_bytes(4, "little"))
        for body, said in ((file.getvalue(), "no single member"), (lied, "archive|published")):
            server.body = body
            with pytest.raises(TextError, match=said):
                fetch(text_at(server, "good", member="it"), tmp_path)
            assert not list(tmp_path.iterdir())


def test_of_an_archive_one_member_is_read(server: Server, tmp_path: Path) -> None:
    server.body = packed(("../evil", b"x"), ("it", BODY), ("it.txt", b"other"))
    text = text_at(server, "good", member="it")
    assert fetch(text, tmp_path / "data").read_bytes() == BODY
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["text.txt"]


@pytest.mark.parametrize(
    "body",
    [packed(("other", BODY)), packed(("it", BODY + b"!")), packed(("it", BODY))[:-30], b"PK\x03\x04", BODY],
)
def test_another_archive_is_refused(server: Server, tmp_path: Path, body: bytes) -> None:
    server.body = body
    with pytest.raises(TextError, match="no whole zip archive"):
        fetch(text_at(server, "good", member="it"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_file_of_that_name_is_never_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("mine")
    with pytest.raises(TextError, match="move it away"):
        fetch(text_at(server, "good"), tmp_path)
    assert (tmp_path / "text.txt").read_text() == "mine" and not server.asked
    with pytest.raises(ResourceError, match="cannot be written"):
        fetch(text_at(server, "good"), tmp_path / "text.txt" / "below")


def test_the_command_fetches_and_reports(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(published.TEXTS, "text", text_at(server, "good"))
    monkeypatch.setattr(sys, "argv", ["charlm", "data", "get", "text"])
    assert main(0.0) == 0
    assert (tmp_path / "data" / "text.txt").read_bytes() == BODY
    assert hashlib.sha256(BODY).hexdigest() in capsys.readouterr().out
    for words in (["get"], ["get", "nothing"], ["put"], ["list", "text8"]):
        monkeypatch.setattr(sys, "argv", ["charlm", "data", *words])
        assert main(0.0) == 2


def test_every_text_names_who_published_its_hash() -> None:
    for text in TEXTS.values():
        assert len(text.digest) == 2 * hashlib.new(text.algorithm).digest_size
        assert text.url.startswith("https://") and text.source and text.checked


def test_one_module_can_open_a_connection() -> None:
    net = {
        "socket",
        "urllib.request",
        "http.client",
        "http",
        "ssl",
        "ftplib",
        "smtplib",
        "asyncio",
        "requests",
    }
    for path in PACKAGE.rglob("*.py"):
        named = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                named.add(node.module)
        if path.name == "signals.py":  # a pair of sockets within the process
            assert path.read_text("utf-8").count("socket.") == path.read_text("utf-8").count(
                "socket.socketpair"
            )
            continue
        assert path.name == "download.py" or not named & net, path


def test_no_other_command_connects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("a connection")

    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text(TEXT)
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    shape = [
        "--n-layer",
        "1",
        "--n-embd",
        "16",
        "--n-head",
        "2",
        "--block-size",
        "8",
        "--batch-size",
        "2",
        "--ngram-embeddings",
        "1",
    ]
    for words in (
        ["data", "list"],
        ["train", "t.txt", "--steps", "3", *shape],
        ["eval"],
        ["sample", "--length", "5"],
        ["info"],
        ["runs"],
        ["cache"],
    ):
        monkeypatch.setattr(sys, "argv", ["charlm", *words])
        assert main(0.0) == 0, words
    capsys.readouterr()


def test_a_published_text_is_divided_as_is_customary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = (TEXT * 3)[:4000].encode("ascii")
    monkeypatch.setitem(published.TEXTS, "text8", replace(TEXTS["text8"], size=len(data)))
    Path("text8.txt").write_bytes(data)
    shape = [
        "--n-layer",
        "1",
        "--n-embd",
        "16",
        "--n-head",
        "2",
        "--block-size",
        "8",
        "--batch-size",
        "2",
        "--ngram-embeddings",
        "1",
    ]
    for words, said in (
        (
            ["train", "text8.txt", "--steps", "3", *shape],
            "3,600 to train on, 200 held out, 200 kept for the test",
        ),
        (["eval", "--part", "test"], "test part of text8.txt"),
        (["eval", "--part", "held-out"], "held-out part of text8.txt"),
        (["train", "text8.txt", "--dry-run", "--val", "0.2"], "3,200 to train on, 800 held out"),
    ):
        monkeypatch.setattr(sys, "argv", ["charlm", *words])
        assert main(0.0) == 0, words
        shown = capsys.readouterr()
        assert said in shown.out + shown.err
    for words, code in ((["--part", "third"], 2), (["--part", "test", "text8.txt"], 2)):
        monkeypatch.setattr(sys, "argv", ["charlm", "eval", *words])
        assert main(0.0) == code
