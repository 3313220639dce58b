"""Downloads of published texts: the right bytes at last, or one sentence and no file."""

import ast
import hashlib
import io
import os
import random
import re
import socket
import sys
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from charlm import files
from charlm.cli.main import run as main
from charlm.data import datasets, downloads, remote
from charlm.data.datasets import TEXTS, Published, fetch
from charlm.errors import ResourceError, TextError
from tests.cli.kept import TOY
from tests.conftest import TEXT
from tests.loopback import Loopback

BODY = b"All the world's a stage, " * 4000
PACKAGE = Path(__file__).parent.parent / "charlm"


class Server(Loopback):
    """Answers as the path says."""

    def __init__(self) -> None:
        self.asked = 0
        self.body = BODY
        self.answer: Callable[[], Iterable[bytes]] = tuple
        super().__init__()

    def handle(self, to: Any) -> None:
        self.asked += 1
        getattr(self, to.path.strip("/"))(to)

    def good(self, to: Any) -> None:
        to.send_response(200)
        to.send_header("Content-Length", str(len(self.body)))
        to.end_headers()
        to.wfile.write(self.body)

    def moved(self, to: Any) -> None:
        to.send_response(302)
        to.send_header("Location", "/good")
        to.end_headers()

    def raw(self, to: Any) -> None:
        """Whatever bytes, until they end or no one listens."""
        with suppress(OSError):
            for piece in self.answer():
                to.wfile.write(piece)
        to.close_connection = True


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(downloads, "WAITS", (0.0,))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    ENDED.clear()
    made = Server()
    yield made
    ENDED.set()
    made.close()


def text_at(server: Server, path: str, **changes: Any) -> Published:
    facts = {"size": len(BODY), "most": len(BODY), "digest": hashlib.sha256(BODY).hexdigest()}
    return replace(
        TEXTS["tinyshakespeare"], name="text", url=f"{server.address}/{path}", **{**facts, **changes}
    )


@pytest.mark.parametrize("path", ["good", "moved"])
def test_the_text_arrives_whole(server: Server, tmp_path: Path, path: str) -> None:
    told: list[int] = []
    target = fetch(text_at(server, path), tmp_path / "data", lambda what, done, of: told.append(done))
    assert target.read_bytes() == BODY
    assert [p.name for p in target.parent.iterdir()] == ["text.txt"]
    assert told and told[-1] == len(BODY)
    asked = server.asked
    assert fetch(text_at(server, path), target.parent) == target and server.asked == asked


ENDED = threading.Event()


def nothing() -> Iterator[bytes]:
    """Nothing, as long as the test waits for it."""
    ENDED.wait()
    yield b""


OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = f"Content-Length: {len(BODY)}\r\n\r\n".encode()
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
TO = b"HTTP/1.1 302 Found\r\nLocation: "


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda: [OK + LENGTH, BODY[:-1], b"!"], "sha256 is not the published one"),
        (lambda: [OK + LENGTH, BODY[:70_000]], "connection ended after 70,000 of 100,000 bytes"),
        (lambda: [OK + b"\r\n", BODY * 50], "more than 100,000 bytes"),
        (lambda: [CHUNKED, b"f" * 5000 + b"\r\n", BODY], "could not be downloaded"),
        (lambda: [CHUNKED, b"5\r\n", BODY], "could not be downloaded"),
        (lambda: [OK + b"Content-Encoding: gzip\r\n" + LENGTH, BODY], "encoding that charlm did not request"),
        (lambda: [OK + b"x: y\r\n" * 1000 + LENGTH, BODY], "more than 100 headers"),
        (lambda: [b"\x00\xff" * 50], "could not be downloaded"),
        (list, "closed connection"),
        (lambda: [b"HTTP/1.1 500 \x1b[2J\r\n\r\n"], "answers 500"),
        (lambda: [b"HTTP/1.1 404\r\n\r\n"], "answers 404"),
        (lambda: [TO + b"http://[broken\r\n\r\n"], "could not be downloaded"),
        (lambda: [TO + b"ftp://127.0.0.1/text\r\n\r\n"], "redirected from http to ftp"),
        (lambda: [TO + b"file:///etc/passwd\r\n\r\n"], "file:///etc/passwd"),
        (lambda: [TO + b"/raw\r\n\r\n"], "answers 302"),
        (nothing, "timed out"),
    ],
)
@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # urllib's, of a broken redirect
def test_anything_else_is_one_sentence_and_leaves_no_file(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: Callable[[], Iterable[bytes]],
    said: str,
) -> None:
    server.answer = answer
    if answer is nothing:
        monkeypatch.setattr(remote, "TIMEOUT", 0.1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(datasets.TEXTS, "text", text_at(server, "raw"))
    monkeypatch.setattr(sys, "argv", ["charlm", "data", "get", "text"])
    code, err = main(0.0), capsys.readouterr().err
    assert code == 3 and "\x1b" not in err and re.search(said, err), err
    assert err.count("error: ") == 1 and not list((tmp_path / "data").iterdir())


@pytest.mark.parametrize("proxy", ["garbage", "http://", "http://[::1", "http://h:port", "http://ü..ü:1", "socks5://127.0.0.1:1", "file:///etc/passwd", "://", "http://me:secret@127.0.0.1:1"])  # fmt: skip
def test_a_proxy_that_is_none(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(TextError, match="through the proxy") as caught:
        fetch(text_at(server, "good"), tmp_path)
    assert "secret" not in str(caught.value) and not list(tmp_path.iterdir())


def test_a_full_disk_has_its_own_code(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(file: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync_file", full)
    with pytest.raises(ResourceError, match="No space left"):
        fetch(text_at(server, "good"), tmp_path)
    assert not list(tmp_path.iterdir())


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
    for _ in range(30):
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
            assert re.search("not a whole zip archive|not the published one", str(error))
            refused += 1
        assert not list(tmp_path.iterdir())
    assert refused > 10
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
    with pytest.raises(TextError, match="not a whole zip archive"):
        fetch(text_at(server, "good", member="it"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_fetches_and_reports(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(datasets.TEXTS, "text", text_at(server, "good"))
    monkeypatch.setattr(sys, "argv", ["charlm", "data", "get", "text"])
    assert main(0.0) == 0
    assert (tmp_path / "data" / "text.txt").read_bytes() == BODY
    assert hashlib.sha256(BODY).hexdigest() in capsys.readouterr().out
    for words in (["get"], ["get", "nothing"], ["put"], ["list", "text8"]):
        monkeypatch.setattr(sys, "argv", ["charlm", "data", *words])
        assert main(0.0) == 2


def test_one_module_can_open_a_connection() -> None:
    net = {
        *("socket", "urllib.request", "http.client", "http", "ssl", "ftplib", "smtplib", "asyncio"),
        *("requests", "fsspec", "aiohttp"),
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
        if path.name == "server.py":  # which listens on loopback
            assert "connect(" not in path.read_text("utf-8")
            named -= {"http", "socket"}
        if path.name in ("distributed.py", "rank_watch.py", "ranks.py"):  # which ask for this computer's name
            text = path.read_text("utf-8")
            waits = text.count("socket.create_connection((place.host, place.port)")  # for rank 0's store
            assert waits == (path.name == "distributed.py")
            assert text.count("socket.") == text.count("socket.gethostname") + waits
            named -= {"socket"}
        if path.name == "desk.py":  # whose window library has its loop
            named -= {"asyncio"}
        assert path.name == "remote.py" or not named & net, path


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
    for words in (
        ["data", "list"],
        ["train", "t.txt", "--steps", "3", *TOY],
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
    monkeypatch.setitem(datasets.TEXTS, "text8", replace(TEXTS["text8"], size=len(data)))
    Path("text8.txt").write_bytes(data)
    for words, said in (
        (
            ["train", "text8.txt", "--steps", "3", *TOY],
            "3,600 to train on, 200 held out, 200 in the test set",
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
