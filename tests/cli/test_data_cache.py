"""`charlm data`: what can be had, and what is refused; `charlm cache`: what is kept, and making room."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.cli.kept import TEXT, TOY, Charlm, data, files_below, refused

NAMES = ("tinyshakespeare", "text8", "enwik8")
SIZE = 1_115_394
"""Bytes of tinyshakespeare, as published."""
TEXT_KEYS = {
    *("name", "url", "size", "algorithm", "digest", "source", "member", "most", "val", "test", "checked"),
    "split",
}
# A certificate that only these tests trust, and its key, which so is no secret: for the two hosts that
# texts are fetched from, good from 2020 to 2120.
KEY_AND_CERTIFICATE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg/TD5fo2JM8fNmSWH
0kIr/yM9O1ONR8V1D5TrDuixPkWhRANCAARDQbl+Uhpk5FVQ3ki1mdKP1a1y3h2j
w/kogCEQQ8hyq69BpIB/dzZi+Z51KkZlTWSmCWF6HEnAyNDmOgDIam0t
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBvjCCAWSgAwIBAgIBATAKBggqhkjOPQQDAjAqMSgwJgYDVQQDDB9hIHNlcnZl
ciBvZiB0aGUgdGVzdHMgb2YgY2hhcmxtMCAXDTIwMDEwMTAwMDAwMFoYDzIxMjAw
MTAxMDAwMDAwWjAqMSgwJgYDVQQDDB9hIHNlcnZlciBvZiB0aGUgdGVzdHMgb2Yg
Y2hhcmxtMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEQ0G5flIaZORVUN5ItZnS
j9Wtct4do8P5KIAhEEPIcquvQaSAf3c2YvmedSpGZU1kpglhehxJwMjQ5joAyGpt
LaN5MHcwNQYDVR0RBC4wLIIZcmF3LmdpdGh1YnVzZXJjb250ZW50LmNvbYIPbWF0
dG1haG9uZXkubmV0MA8GA1UdEwEB/wQFMAMBAf8wDgYDVR0PAQH/BAQDAgKEMB0G
A1UdDgQWBBREhqTZxVnthzDomq2LlQDMPeDAHzAKBggqhkjOPQQDAgNIADBFAiAx
e6X12c0K8O3Ra1takKs5KpunOMNInJ/rfz3PWiFkXQIhANtDT6JKRTyae4XAUeOm
O5BaLNbNuMfb31ZhR/A4IMkP
-----END CERTIFICATE-----
"""


@dataclass
class Server:
    """A proxy that is itself the server behind it: it answers every request with `answer`."""

    answer: bytes = b""
    asked: list[bytes] = field(default_factory=list)
    port: int = 0

    def serve(self, listening: socket.socket, context: ssl.SSLContext) -> None:
        """Until the socket is closed."""
        while True:
            try:
                plain, _ = listening.accept()
            except OSError:
                return
            with suppress(OSError), plain:
                plain.settimeout(120)
                self.asked.append(_head(plain))
                plain.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                with context.wrap_socket(plain, server_side=True) as tls:
                    self.asked.append(_head(tls))
                    tls.sendall(self.answer)


def _head(connection: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head and (piece := connection.recv(1 << 12)):
        head += piece
    return head


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The server that the command comes to wherever it wants to go, and trusts."""
    trusted = tmp_path_factory.mktemp("trusted") / "server.pem"
    trusted.write_text(KEY_AND_CERTIFICATE)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted)
    listening = socket.create_server(("127.0.0.1", 0))
    made = Server(port=listening.getsockname()[1])
    thread = threading.Thread(target=made.serve, args=(listening, context), daemon=True)
    thread.start()
    for name in ("no_proxy", "NO_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{made.port}")
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    yield made
    with suppress(OSError):  # a socket that listens wakes from its wait only when it is shut down
        listening.shutdown(socket.SHUT_RDWR)
    listening.close()


def response(status: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def test_what_can_be_had_as_data(charlm: Charlm) -> None:
    found = data(charlm("data", "list", "--json"))
    assert found["schema"] == 1 and tuple(text["name"] for text in found["texts"]) == NAMES
    for text in found["texts"]:
        assert set(text) == TEXT_KEYS and text["url"].startswith("https://") and text["size"] > 0
        assert len(text["digest"]) == {"sha256": 64, "sha1": 40}[text["algorithm"]]
        assert 0 < text["val"] < 1 and 0 <= text["test"] < 1 and text["source"] and text["split"]
    assert found["texts"][0]["size"] == SIZE
    assert data(charlm("data", "--json")) == found, "a list unless told"
    shown = charlm("data", "list")
    assert shown.code == 0
    for text in found["texts"]:
        assert all(fact in shown.out for fact in (text["name"], text["url"], text["digest"]))


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        ("get", NAMES),
        ("get nope", ("nope", *NAMES)),
        ("get shakespeare", ("shakespeare", "tinyshakespeare")),
        ("get https://example.org/a.txt", ("https://example.org/a.txt", *NAMES)),
        ("lsit", ("lsit", "data list")),
        ("tinyshakespeare", ("data get tinyshakespeare",)),
        ("list tinyshakespeare", ("data get",)),
        ("list --to here", ("--to",)),
        ("get text8 enwik8", ("enwik8",)),
    ],
)
def test_what_is_no_text_is_refused(charlm: Charlm, words: str, facts: tuple[str, ...]) -> None:
    refused(charlm("data", *words.split()), 2, *facts)
    assert not list(Path().iterdir())


def test_a_file_of_that_name_is_never_replaced(charlm: Charlm, server: Server) -> None:
    Path("texts").mkdir()
    Path("texts/tinyshakespeare.txt").write_text("mine")
    refused(charlm("data", "get", "tinyshakespeare", "--to", "texts"), 3, "tinyshakespeare.txt", "--to")
    assert files_below("texts") == {str(Path("texts/tinyshakespeare.txt")): b"mine"} and not server.asked
    refused(charlm("data", "get", "tinyshakespeare", "--to", "texts/tinyshakespeare.txt/x"), 6)


@pytest.mark.parametrize(
    ("answer", "facts"),
    [
        (response("200 OK", body=b"?" * SIZE), ("sha256",)),
        (response("404 Not Found"), ("404",)),
        (response("302 Found", "Location: http://raw.githubusercontent.com/x"), ("https", "http")),
    ],
    ids=["other bytes", "missing", "to http"],
)
def test_what_comes_and_is_not_the_text_leaves_no_file(
    charlm: Charlm, server: Server, answer: bytes, facts: tuple[str, ...]
) -> None:
    server.answer = answer
    result = charlm("data", "get", "tinyshakespeare")
    refused(result, 3, "tinyshakespeare", "https://raw.githubusercontent.com/", *facts)
    assert not files_below(".")
    assert server.asked[0].startswith(b"CONNECT raw.githubusercontent.com:443")
    assert server.asked[1].startswith(b"GET /karpathy/char-rnn/") and len(server.asked) == 2


def test_a_server_that_is_not_trusted_is_not_believed(
    charlm: Charlm, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    server.answer = response("200 OK", body=b"?" * SIZE)
    refused(charlm("data", "get", "tinyshakespeare"), 3, "tinyshakespeare", "certificate")
    assert not files_below(".")


def test_without_a_network_the_address_is_said_and_no_password(
    charlm: Charlm, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    result = charlm("data", "get", "text8", env={"https_proxy": "http://me:secret@127.0.0.1:port"})
    refused(result, 3, "text8", "https://mattmahoney.net/", "127.0.0.1")
    assert "secret" not in result.err and not files_below(".")


@pytest.fixture
def cached(charlm: Charlm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Charlm:
    """The command, with a cache of its own that keeps two texts."""
    monkeypatch.setenv("CHARLM_CACHE", str(tmp_path / "cache"))
    for name, text in (("ducks.txt", TEXT), ("geese.txt", TEXT.replace("duck", "goose"))):
        Path(name).write_text(text)
        assert charlm("train", name, "--steps", "1", "--run", name[:5], *TOY).code == 0
    return charlm


def kept(charlm: Charlm) -> dict[str, str]:
    """The keys of the texts in the cache, by their names."""
    return {text["label"]: text["key"] for text in data(charlm("cache", "--json"))["texts"]}


def test_the_cache_as_data(cached: Charlm, tmp_path: Path) -> None:
    found = data(cached("cache", "--json"))
    assert set(found) == {"schema", "folder", "texts", "downloads"} and found["schema"] == 1
    assert Path(found["folder"]) == tmp_path / "cache"
    by_label = {text["label"]: text for text in found["texts"]}
    assert set(by_label) == {"ducks.txt", "geese.txt"}
    for text in found["texts"]:
        assert set(text) == {"key", "label", "chars", "bytes", "used"} and text["bytes"] > 0
    assert by_label["ducks.txt"]["chars"] == len(TEXT)
    assert by_label["ducks.txt"]["key"] == data(cached("info", "ducks", "--json"))["corpus"]["key"]
    shown = cached("cache")
    assert shown.code == 0 and all(text["key"][:12] in shown.out for text in found["texts"])


def test_an_empty_cache(charlm: Charlm, tmp_path: Path) -> None:
    env = {"CHARLM_CACHE": str(tmp_path / "none")}
    assert data(charlm("cache", "--json", env=env))["texts"] == []
    assert charlm("cache", "--clear", "--yes", env=env).code == 0
    refused(charlm("cache", "zz", env=env), 2, "zz")
    refused(charlm("cache", "--yes", env=env), 2, "--clear")


def test_a_text_is_removed_by_the_beginning_of_its_key(cached: Charlm) -> None:
    keys = kept(cached)
    shared = 0
    while len({key[: shared + 1] for key in keys.values()}) == 1:
        shared += 1
    begins = keys["ducks.txt"][: shared + 1]
    one = data(cached("cache", begins, "--json"))["texts"]
    assert [text["label"] for text in one] == ["ducks.txt"]
    refused(cached("cache", begins, "zzzz", "--clear"), 2, "zzzz")
    assert kept(cached) == keys, "all or nothing"
    refused(cached("cache", begins, "--clear"), 2, "1 text", "--yes")
    assert kept(cached) == keys, "nobody agreed"
    assert cached("cache", begins, "--clear", "--yes").code == 0
    assert kept(cached) == {"geese.txt": keys["geese.txt"]}
    assert cached("cache", keys["geese.txt"], "--clear", "--yes").code == 0 and kept(cached) == {}


def test_all_of_it_is_cleared_and_read_again_when_it_is_needed(cached: Charlm) -> None:
    keys = kept(cached)
    result = cached("cache", "--clear", "--yes")
    assert result.code == 0 and "2 texts" in result.err and kept(cached) == {}
    assert not files_below("cache")
    assert cached("resume", "ducks", "--steps", "1").code == 0
    assert list(kept(cached).values()) == [keys["ducks.txt"]], "the same text has the same key"


def test_a_run_from_standard_input_lives_by_the_cache(cached: Charlm) -> None:
    assert cached("train", "-", "--steps", "1", "--run", "piped", *TOY, stdin=TEXT[:3000]).code == 0
    assert cached("resume", "piped", "--steps", "1").code == 0
    cached("cache", "--clear", "--yes")
    refused(cached("resume", "piped", "--steps", "1"), 4, "--text")
    Path("piped.txt").write_text(TEXT[:3000])
    assert cached("resume", "piped", "--steps", "1", "--text", "piped.txt").code == 0


def test_what_is_damaged_in_the_cache_is_read_again(cached: Charlm) -> None:
    before = data(cached("eval", "--run", "ducks", "--json"))
    for path in Path("cache").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    after = cached("eval", "--run", "ducks", "--json")
    assert data(after) == before
