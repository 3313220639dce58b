"""What is named becomes files in a fixed order, or a sentence says what is wrong."""

import errno
import io
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.config import TextConfig
from charlm.data.load import load
from charlm.data.sources import describe, find_files
from charlm.errors import CharlmError, TextError, UsageError
from charlm.terminal import visible
from tests.reading import read, write

pytestmark = pytest.mark.usefixtures("elsewhere")


def missing(names: list[str], fragment: str, kind: type[CharlmError] = TextError) -> str:
    with pytest.raises(kind, match=fragment) as caught:
        read(names)
    assert describe(names)
    return str(caught.value)


def test_names_that_lead_nowhere() -> None:
    Path("hollow/deep").mkdir(parents=True)
    write("hollow/.hidden", "x")
    missing([], "No text was named", UsageError)
    missing([""], "A file name is empty")
    missing(["lost.txt"], "lost.txt does not exist")
    missing(["*.lost"], r"\*.lost matches no file")
    missing(["none/**/*.txt"], "matches no file")
    missing(["hollow"], "hollow is a folder without files")
    missing(["a\0b"], r"a\\x00b cannot be read: embedded null byte")
    missing(["x" * 5000], "….* cannot be read")


def test_a_folder_gives_its_files_sorted_without_hidden_ones() -> None:
    for name in ("b/a", "b-", "b/.hid/x", ".git/x", "a/z", "B", ".x"):
        write(f"poems/{name}", name)
    names = [path.relative_to("poems").as_posix() for path in map(Path, find_files(["poems"])[0])]
    assert names == ["B", "a/z", "b/a", "b-"]
    assert find_files([str(Path("poems", ".git"))])[0] == [str(Path("poems", ".git", "x"))]


def test_globs() -> None:
    for name in ("a.txt", "b.txt", "c.md", ".d.txt", "sub/e.txt", "sub/deep/f.txt", "a[1].txt"):
        write(f"p/{name}", name)

    def found(pattern: str) -> list[str]:
        return [path.relative_to("p").as_posix() for path in map(Path, find_files([pattern])[0])]

    assert found("p/?.txt") == ["a.txt", "b.txt"]
    assert found("p/[bc].*") == ["b.txt", "c.md"]
    assert found("p/**/*.txt") == ["a.txt", "a[1].txt", "b.txt", "sub/deep/f.txt", "sub/e.txt"]
    assert found("p/**") == ["a.txt", "a[1].txt", "b.txt", "c.md", "sub/deep/f.txt", "sub/e.txt"]
    assert found("p/*/e.txt") == ["sub/e.txt"]
    assert found("p/s*") == ["sub/deep/f.txt", "sub/e.txt"]
    assert found("p/.d*") == [".d.txt"]
    assert found("p/a[1].txt") == ["a[1].txt"]  # a file of that very name
    assert find_files([str(Path("p").resolve() / "?.md")])[0] == [str(Path("p/c.md").resolve())]


def test_the_same_file_is_read_once_and_said() -> None:
    write("p/a", "text")
    os.link("p/a", "p/b")
    texts = read(["p/a", "./p/a", "p", "-", "-"], stdin=io.BytesIO(b"!"))
    assert texts.joined == "text\n!"
    assert texts.notes[0].startswith("./p/a and ")
    assert "given more than once, read once" in texts.notes[0]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX files")
class TestPosix:
    def test_links_to_folders_are_not_followed_but_noted(self) -> None:
        write("p/a", "text")
        write("other/b", "b")
        os.symlink("..", "p/up")
        os.symlink(".", "p/loop")
        os.symlink("../other/b", "p/linked")
        os.symlink("self", "p/self")
        texts = read(["p"])
        assert [name for name, _ in texts.files] == ["p/a", "p/linked"]
        assert any("1 more: a link to a folder, not followed" in note for note in texts.notes)
        assert "p/self: a link that leads nowhere, left out." in texts.notes
        assert find_files(["p/**/[al]"])[0] == ["p/a"]

    def test_pipes_devices_and_sockets_are_refused_without_opening(self) -> None:
        os.mkfifo("p")
        missing(["p"], "p is a named pipe, not a regular file. Give a file, or - to read a pipe")
        missing(["/dev/zero"], "/dev/zero is a device, not a regular file")
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("s")
            missing(["s"], "s is a socket")
        for name in ("p", "/dev/zero"):  # nor by what knows files again, before they are read
            with pytest.raises(TextError, match="not a regular file"):
                load([name], TextConfig())
        write("folder/a", "text")
        os.mkfifo("folder/p")
        assert read(["folder"]).notes == ("folder/p: a named pipe, left out.",)

    def test_a_pipe_on_standard_input_is_read_and_a_device_refused(self) -> None:
        ends = os.pipe()
        os.write(ends[1], b"piped")
        os.close(ends[1])
        with os.fdopen(ends[0], "rb") as stream:
            assert read(["-"], stdin=stream).joined == "piped"
        with (
            open("/dev/zero", "rb") as stream,
            pytest.raises(TextError, match="Standard input is a device"),
        ):
            read(["-"], stdin=stream)

    @pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
    def test_no_permission(self) -> None:
        from tests.forks import permissions_bind  # here: on Windows nothing can be forked

        write("secret", "x")
        write("p/closed/x", "x")
        os.chmod("secret", 0)
        os.chmod("p/closed", 0)
        with permissions_bind():
            missing(["secret"], "secret cannot be read: permission denied")
            missing(["p"], "p/closed cannot be read")
        os.chmod("p/closed", 0o700)

    @pytest.mark.parametrize("name", ["a\nb", "a\x1b[2Jb", "a\udcffb", "a\u202eb"])
    def test_foreign_names_are_shown_on_one_visible_line(self, name: str) -> None:
        Path(name).write_bytes(b"\xff\xfe\xfd")
        message = missing([name], "not valid")
        lost = missing([name + "lost"], "does not exist|matches no file")
        for shown in (message, lost, describe([name])):
            assert visible(shown) == shown and "\n" not in shown and shown.startswith("a\\")


def test_a_folder_that_cannot_be_listed_is_not_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    write("p/a", "text")
    write("p/closed/b", "text")
    real = os.scandir

    def scandir(path: str) -> object:
        if path.endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    missing(["p"], "closed cannot be read: permission denied")


@pytest.mark.parametrize(
    ("size", "said"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (240_400, "240 kB"), (999_700, "1.0 MB")],
)
def test_describe_one_file(size: int, said: str) -> None:
    assert describe([write("corpus.txt", bytes(size))]) == f"corpus.txt ({said})"


def test_describe_many() -> None:
    for name in "abc":
        write(f"poems/{name}", b"x" * 500)
    folder = os.path.join("poems", "")
    assert describe(["poems"]) == describe([folder]) == f"3 files in {folder} (1.5 kB)"
    assert describe(["poems/[ab]"]) == "2 files matching poems/[ab] (1.0 kB)"
    assert describe(["poems/[a]"]) == "1 file matching poems/[a] (500 B)"
    assert describe(["poems/a", "poems/b"]) == "2 files (1.0 kB)"
    assert describe(["-"]) == "standard input"
    assert describe(["poems", "-"]) == "3 files (1.5 kB) and standard input"
    assert describe(["poems", "lost"]) == "poems, lost"


@given(st.lists(st.text(st.characters(exclude_categories=())), max_size=3))
def test_describe_never_raises(names: list[str]) -> None:
    shown = describe(["/nowhere/" + name for name in names])
    assert visible(shown) == shown and "\n" not in shown
