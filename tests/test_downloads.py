"""Texts from addresses: the right bytes whatever fails on the way, or one sentence; and nothing secret is kept."""

import io
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from charlm import files
from charlm.data import downloads, remote
from charlm.data.addresses import address_of, without_secrets
from charlm.data.downloads import Downloader, local_path
from charlm.data.reader import read_texts
from charlm.data.text_config import TextConfig
from charlm.errors import ResourceError, TextError
from charlm.files import cache_folder
from tests.cli.kept import TOY
from tests.conftest import TEXT, Result
from tests.loopback import Faulty

BODY = "".join(f"{i} little ducks, {i * i % 97} geese.\n" for i in range(20_000)).encode()
OTHER = BODY.replace(b"ducks", b"mice!")
Charlm = Callable[..., Result]


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHARLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(downloads, "WAITS", (0.0,) * 3)


@pytest.fixture
def server() -> Iterator[Faulty]:
    made = Faulty(BODY)
    yield made
    made.close()


def text_at(address: str) -> bytes:
    return read_texts([address], TextConfig()).joined.encode()


def cut_twice(server: Faulty) -> None:
    server.ranges, server.cuts = True, [200_000, 100_000]


def cut_without_ranges(server: Faulty) -> None:
    server.cuts = [200_000]


def cut_known_by_date(server: Faulty) -> None:
    server.ranges, server.tag, server.changed = True, "", "Mon, 01 Jan 2024 00:00:00 GMT"
    server.cuts = [200_000]


def cut_without_a_version(server: Faulty) -> None:
    server.ranges, server.tag, server.cuts = True, "", [200_000]


def another_part_than_asked_for(server: Faulty) -> None:
    cut_twice(server)
    server.begins_again = True


def busy_at_first(server: Faulty) -> None:
    server.statuses = [503, 429]


def changed_between(server: Faulty) -> None:
    server.body, server.tag = OTHER, '"v0"'
    server.ranges, server.cuts = True, [200_000]

    def change() -> None:
        server.body, server.tag = BODY, '"v1"'

    server.after = change


def changed_under_the_same_name(server: Faulty) -> None:
    """A part of another file: its total says so."""
    changed_between(server)
    server.body, server.tag = OTHER + b"more", '"v1"'


@pytest.mark.parametrize(
    "fault",
    [
        lambda server: None,
        cut_twice,
        cut_without_ranges,
        cut_known_by_date,
        cut_without_a_version,
        another_part_than_asked_for,
        busy_at_first,
        changed_between,
        changed_under_the_same_name,
    ],
)
def test_the_text_arrives_whole_whatever_fails_on_the_way(
    server: Faulty, fault: Callable[[Faulty], None]
) -> None:
    fault(server)
    assert text_at(server.address) == BODY
    if fault in (cut_twice, cut_known_by_date):
        assert server.sent == len(BODY), "what is there is not sent again"


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (lambda server: setattr(server, "length", len(BODY) + 9), "connection ended after"),
        (lambda server: setattr(server, "cuts", [9] * 9), "connection ended after 9 of"),
        (lambda server: setattr(server, "statuses", [503] * 9), "answers 503"),
        (lambda server: setattr(server, "statuses", [404]), "answers 404"),
        (lambda server: setattr(server, "to", "file:///etc/passwd"), "is not allowed"),
        (lambda server: setattr(server, "to", server.address), "would lead to an infinite loop$"),
        (lambda server: setattr(server, "to", "ftp://127.0.0.1/x"), "redirected from http to ftp"),
    ],
)
def test_what_cannot_be_mended_is_one_sentence(
    server: Faulty, fault: Callable[[Faulty], None], said: str
) -> None:
    fault(server)
    with pytest.raises(TextError, match=f"text.txt could not be downloaded: .*{said}") as caught:
        text_at(server.address)
    assert ". " not in str(caught.value)
    assert all(entry.state == "unfinished" for entry in downloads.entries())


def test_a_public_address_cannot_lead_to_a_private_one(
    server: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.to = server.address.replace("127.0.0.1", "localhost").replace("text.txt", "secret")
    assert text_at(server.address) == BODY, "from one private address to another"
    private = ("127.0.0.1", "10.0.0.1", "169.254.169.254", "[::1]", "192.168.0.1")
    assert all(remote._is_private(f"http://{host}/x") for host in private)
    assert not remote._is_private("http://8.8.8.8/x")
    monkeypatch.setattr(remote, "_is_private", lambda url: "localhost" in url)
    with pytest.raises(TextError, match="redirected to the private address localhost"):
        text_at(server.address)


def test_the_server_is_asked_whether_a_kept_text_has_changed(server: Faulty) -> None:
    server.conditional = True
    assert text_at(server.address) == BODY
    assert text_at(server.address) == BODY and server.sent == len(BODY)
    server.conditional = False  # it sends all of it, which is not read: the ETag is the same
    assert text_at(server.address) == BODY
    server.body, server.tag = OTHER, '"v2"'
    assert text_at(server.address) == OTHER
    assert len([path for path in (cache_folder() / "downloads").rglob("*") if len(path.name) == 64]) == 1
    server.statuses = [503] * 9
    kept = read_texts([server.address], TextConfig())
    assert kept.joined.encode() == OTHER and "could not ask whether it has changed" in " ".join(kept.notes)
    server.statuses = [404]
    with pytest.raises(TextError, match="answers 404"):
        text_at(server.address)


def test_a_length_that_is_not_said_is_noted(server: Faulty) -> None:
    server.says_length = False
    read = read_texts([server.address], TextConfig())
    assert read.joined.encode() == BODY and "did not say how long it is" in " ".join(read.notes)


LISTING = b"\xef\xbb\xbf<!-- made --> \n<!DOCTYPE HTML>\n<title>Index of /texts</title><ul><li><a href=a.txt>a.txt</a></ul>"


@pytest.mark.parametrize(
    ("kind", "body", "noted"),
    [
        ("", LISTING, True),
        ("text/plain", b"<html><head></head></html>", True),
        ("text/html; charset=utf-8", b"  <p>a fragment</p>", True),
        ("text/html", b"a text that a server calls so", False),
        ("text/plain", b"<htmlish is a word, and <html> may be written about", False),
        ("text/plain", b"<!-- x -->" * 400 + b"no end", False),
    ],
)
def test_html_is_noted_each_time_it_is_read(server: Faulty, kind: str, body: bytes, noted: bool) -> None:
    server.kind, server.body, server.conditional = kind, body, True
    for _ in range(2):  # downloaded, and kept
        notes = " ".join(read_texts([server.address], TextConfig()).notes)
        assert ("text.txt: what was fetched is HTML, whose tags are read as text too" in notes) == noted


@pytest.mark.parametrize("then", ["the same", "changed", "damaged"])
def test_after_an_interrupt_the_download_goes_on(
    server: Faulty, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    server.ranges = True
    monkeypatch.setattr(downloads, "RECORDED_EVERY", 1 << 16)

    def interrupt(what: str, done: int, of: int | None) -> None:
        if done > 300_000:
            raise KeyboardInterrupt

    address = address_of(server.address)
    assert address is not None
    with pytest.raises(KeyboardInterrupt):
        Downloader(interrupt).fetch(address)
    assert [entry.state for entry in downloads.entries()] == ["unfinished"]
    with pytest.raises(TextError, match="no longer in the cache"):
        local_path(server.address)
    if then == "changed":
        server.body, server.tag = OTHER, '"v2"'
    if then == "damaged":  # a crash of the machine: what the disk was not told to keep
        (partial,) = (cache_folder() / "downloads").glob("*/partial")
        (begun,) = (cache_folder() / "downloads").glob("*/partial.json")
        begun.write_text(begun.read_text().replace(f'"synced": {partial.stat().st_size}', '"synced": 65536'))
        partial.write_bytes(BODY[:65536] + bytes(200_000))
    before = server.sent
    assert text_at(server.address) == server.body
    assert (server.sent - before < len(BODY)) == (then != "changed")
    assert not list((cache_folder() / "downloads").glob("*/partial*"))


def test_a_copy_that_was_damaged_is_fetched_again(server: Faulty) -> None:
    server.conditional = True
    assert text_at(server.address) == BODY
    path = Path(local_path(server.address))
    for data in (OTHER, BODY[:-1], b""):
        path.write_bytes(data)
        assert text_at(server.address) == BODY


def test_a_full_disk_is_one_sentence_and_leaves_nothing(
    server: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "free_space", lambda folder: 1000)
    with pytest.raises(ResourceError, match="cannot be kept in the cache"):
        text_at(server.address)
    assert not downloads.entries() and not list((cache_folder() / "downloads").glob("*/partial*"))


def test_several_at_once_download_it_once(server: Faulty) -> None:
    server.conditional = True
    read: list[bytes] = []
    threads = [threading.Thread(target=lambda: read.append(text_at(server.address))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [BODY] * 4 and server.sent == len(BODY)


def test_nothing_secret_is_shown_or_kept(server: Faulty, charlm: Charlm) -> None:
    server.body = TEXT.encode()
    secrets = ("me3f", "pa55", "sig9", "frag7")
    address = server.address.replace("http://", "http://me3f:pa55@") + "?X-Amz-Signature=sig9#frag7"
    said = []
    for words in (
        ["train", address, "--val-file", address, "--steps", "2", "--run", "a", *TOY],
        ["train", "ducks.txt", f"--val-file={address}", "--steps", "2", "--dry-run"],
        ["info", "a"],
        ["info", "a", "--json"],
        ["eval", address, "--run", "a"],
        ["cache"],
        ["cache", "--json"],
    ):
        done = charlm(*words)
        assert done.code == 0, done.err
        said += [done.out, done.err]
    assert server.asked[0]["Authorization"].startswith("Basic ")
    server.statuses = [403] * 9
    shutil.rmtree(cache_folder())
    for words in (
        ["train", address, "--steps", "2"],
        ["train", address.replace("127", "[127")],
        ["eval", address, "--run", "a"],
        ["compress", address, "-o", "x", "--run", "a"],
        ["data", "get", address],
        ["resume", "a", "--steps", "1"],
    ):
        done = charlm(*words)
        assert done.code in (2, 3, 4) and "error: " in done.err, (words, done.err)
        said += [done.out, done.err]
    kept = [
        path.read_bytes()
        for place in ("checkpoints", cache_folder())
        for path in Path(place).rglob("*")
        if path.is_file()
    ]
    for secret in secrets:
        assert not any(secret in each for each in said), secret
        assert not any(secret.encode() in each for each in kept), secret
    assert "name the whole address again, with --text" in said[-1]
    for text in (f"403 for url: {address}", f"'{address}'", "http://u:pa55/w@host/x?sig9", f"x={address}"):
        assert not any(secret in without_secrets(text) for secret in secrets)


def test_a_run_resumes_without_the_network_and_refuses_another_text(server: Faulty, charlm: Charlm) -> None:
    server.body = TEXT.encode()
    begin = ["train", server.address, "--run", "a", *TOY]
    assert charlm(*begin, "--steps", "8").code == 0
    whole = weights(charlm, "a")
    asked = len(server.asked)
    shutil.rmtree("checkpoints")
    assert charlm(*begin, "--steps", "8").code == 0 and len(server.asked) > asked
    assert weights(charlm, "a") == whole
    asked = len(server.asked)
    assert charlm("resume", "a", "--steps", "2").code == 0
    longer = weights(charlm, "a")
    shutil.rmtree(cache_folder() / "corpora")  # the copy is still there
    assert charlm("resume", "a", "--steps", "2").code == 0
    assert charlm("eval", "--run", "a").code == 0
    assert len(server.asked) == asked, "nothing of it needs the network"
    assert charlm(*begin, "--steps", "8", "--run", "b").code == 0
    shutil.rmtree(cache_folder())
    assert charlm("resume", "b", "--steps", "2").code == 0
    assert weights(charlm, "b") == longer and len(server.asked) > asked
    shutil.rmtree(cache_folder())
    server.body, server.tag = TEXT.replace("duck", "swan").encode(), '"v2"'
    changed = charlm("resume", "b", "--steps", "2")
    assert changed.code == 4 and "has changed since training: its SHA-256 is" in " ".join(changed.err.split())
    Path("text.txt").write_text(TEXT)
    assert charlm("resume", "b", "--steps", "2", "--text", "text.txt").code == 0


def weights(charlm: Charlm, run: str) -> str:
    found = re.search(r"weights' SHA-256 +(\w+)", charlm("info", run).out)
    assert found
    return found[1]


def test_every_command_that_reads_a_text_takes_an_address(server: Faulty, charlm: Charlm) -> None:
    server.body = TEXT.encode()
    at = server.address
    for words in (
        ["inspect", at],
        ["train", "ducks.txt", "--val-file", at, "--steps", "3", "--run", "a", *TOY],
        ["eval", at],
        ["surprisal", at, "-o", "s.tsv"],
        ["sample", "--prompt-file", at, "--length", "5"],
        ["train", at, "--from", "a", "--steps", "2"],
        ["compare", "a", "text", "--on", at],
        ["eval", "--run", "a", "--val-file", at],
    ):
        done = charlm(*words)
        assert done.code == 0, (words, done.err)


class OneStore:
    """fsspec's memory file system under the name of another store, whose files break off where they are told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        fsspec = pytest.importorskip("fsspec")
        memory = pytest.importorskip("fsspec.implementations.memory").MemoryFileSystem
        outer = self
        self.breaks: list[int] = []
        self.opened = 0

        class Store(memory):  # type: ignore[misc, valid-type]
            protocol = "s3"
            store: ClassVar[dict[str, Any]] = {}
            pseudo_dirs: ClassVar[list[str]] = [""]

            @classmethod
            def _strip_protocol(cls, path: str) -> str:
                stripped = path.removeprefix("s3://").strip("/")
                return f"/{stripped}" if stripped else ""

            def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
                file = super()._open(path, mode, **kwargs)
                if mode != "rb":
                    return file
                outer.opened += 1
                return Breaking(file.getvalue(), outer.breaks.pop(0)) if outer.breaks else file

        monkeypatch.setitem(sys.modules["fsspec.registry"]._registry, "s3", Store)
        self.system = fsspec.filesystem("s3", skip_instance_cache=True)

    def put(self, name: str, data: bytes) -> None:
        self.system.pipe_file(f"s3://{name}", data)


class Breaking(io.BytesIO):
    def __init__(self, data: bytes, at: int) -> None:
        super().__init__(data)
        self._at = at

    def read(self, n: int | None = -1) -> bytes:
        if self.tell() >= self._at:
            raise OSError("connection reset")
        return super().read(n)


def test_a_file_of_a_store_arrives_whole_and_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store = OneStore(monkeypatch)
    store.put("bucket/a.txt", BODY)
    store.breaks = [200_000, 400_000]
    assert text_at("s3://bucket/a.txt") == BODY and store.opened == 3
    assert text_at("s3://bucket/a.txt") == BODY and store.opened == 3
    store.put("bucket/a.txt", OTHER)
    assert text_at("s3://bucket/a.txt") == OTHER
    store.breaks = [9] * 9
    store.put("bucket/a.txt", BODY)
    assert text_at("s3://bucket/a.txt") == OTHER, "the kept copy, and a note"
    for name, said in (
        ("s3://bucket/b.txt", "could not be read: it does not exist"),
        ("s3://bucket/*.md", "matches no file"),
        ("s3://me:pa55@bucket/a.txt", "has a user name or password"),
    ):
        with pytest.raises(TextError, match=said) as caught:
            text_at(name)
        assert "pa55" not in str(caught.value)


def test_folders_and_patterns_of_a_store_are_those_of_folders(
    monkeypatch: pytest.MonkeyPatch, charlm: Charlm
) -> None:
    store = OneStore(monkeypatch)
    import gzip

    contents = {
        "b/poem10.txt": b"ten\n",
        "b/poem2.txt": b"two\n",
        "b/sub/three.txt.gz": gzip.compress(b"three\n"),
        "b/notes.md": b"notes\n",
        "b/.hidden/x.txt": b"hidden\n",
        "b/cover.png": b"\x89PNG\r\n\x1a\n\0\0",
        "b/old.txt~": b"old\n",
    }
    for name, data in contents.items():
        store.put(name, data)
        Path("here", name).parent.mkdir(parents=True, exist_ok=True)
        Path("here", name).write_bytes(data)
    for ending, options in (
        ("b", {}),
        ("b/", {"include": ["*.txt", "*.gz"]}),
        ("b", {"exclude": ["sub"]}),
        ("b/*.txt", {}),
        ("b/**/*.gz", {}),
        ("b/poem?.txt", {}),
    ):
        config = TextConfig(**{name: tuple(patterns) for name, patterns in options.items()})
        there, here = (downloads_text(f"{place}{ending}", config) for place in ("s3://", "here/"))
        assert there == here, ending
    listed = charlm("train", "s3://b", "--model", "ngram", "--val", "0")
    assert listed.code == 0, listed.err
    assert "s3://b/cover.png: a PNG image, not text; left out" in listed.err
    assert "2 .txt, 1 .gz" in listed.err or "3 .txt, 1 .md" in listed.err


def downloads_text(name: str, config: TextConfig) -> str:
    from charlm.data.load import load

    return load([name], config).corpus.sha256


@pytest.mark.parametrize(("scheme", "module", "extra"), [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcs"), ("hf", "huggingface_hub", "hf")])  # fmt: skip
def test_a_missing_library_is_one_sentence_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, charlm: Charlm, scheme: str, module: str, extra: str
) -> None:
    pytest.importorskip("fsspec")
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, scheme, raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    done = charlm("train", f"{scheme}://bucket/a.txt")
    assert done.code == 3 and f'pip install "charlm-cli[{extra}]"' in " ".join(done.err.split()), done.err
    assert not os.path.exists("checkpoints")
