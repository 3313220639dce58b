"""What goes to which stream: results on pipes carry no escapes, files go where they are sent, terminals stay clean."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

if os.name == "nt":
    pytest.skip("pipes and terminals of POSIX", allow_module_level=True)

from tests.commands import Command, Done
from tests.conftest import TEXT

SHAPE = {"n-layer": 1, "n-embd": 16, "n-head": 2, "block-size": 16, "batch-size": 4, "threads": 1, "steps": 3}
TOY = [f"--{name}={value}" for name, value in SHAPE.items()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a text and a run, `ducks`."""
    folder = tmp_path_factory.mktemp("streams")
    (folder / "ducks.txt").write_text(TEXT)
    done = Command(("train", "ducks.txt", *TOY), folder).run()
    assert done.code == 0, done.err
    return folder


def run(
    folder: Path, *args: str, stdin: Path | None = None, environment: Mapping[str, str] | None = None
) -> Done:
    def before() -> None:
        if stdin is not None:
            os.dup2(os.open(stdin, os.O_RDONLY), 0)

    return Command(args, folder, environment or {}, before=before).run()


@pytest.mark.parametrize("stdout", ["-", pytest.param("/dev/stdout", marks=pytest.mark.slow), "/dev/fd/1"])
def test_a_file_goes_through_pipes_both_ways(folder: Path, tmp_path: Path, stdout: str) -> None:
    packed = run(folder, "compress", "-", "-o", stdout, stdin=folder / "ducks.txt")
    assert packed.code == 0 and "compressed" in packed.err, packed.err
    (tmp_path / "ducks.clm").write_bytes(packed.out)
    unpacked = run(folder, "decompress", "-", "-o", stdout, stdin=tmp_path / "ducks.clm")
    assert (unpacked.code, unpacked.out) == (0, TEXT.encode()), unpacked.err


def test_a_named_pipe_and_a_device_are_written_to_and_not_replaced(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    reader = os.open(folder / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert run(folder, "compress", "ducks.txt", "-o", "pipe").code == 0
    assert os.read(reader, 1 << 20) == run(folder, "compress", "ducks.txt", "-o", "-").out
    os.close(reader)
    assert (folder / "pipe").is_fifo()
    full = run(folder, "compress", "ducks.txt", "-o", "/dev/full")
    assert (full.code, "cannot be written: No space left" in full.err) == (6, True)


def test_no_output_overwrites_what_a_command_reads_without_naming_it(folder: Path) -> None:
    """Standard input, and the text of the run, which `surprisal` reads when no file is named."""
    text = folder / "ducks.txt"
    given = run(folder, "compress", "-", "-o", "ducks.txt", "--force", stdin=text)
    own = run(folder, "surprisal", "-o", "ducks.txt")
    within = run(folder, "surprisal", ".", "-o", "ducks.txt")
    for done in (given, own, within):
        assert (done.code, done.out) == (2, b"") and "ducks.txt" in done.err, done.err
    assert text.read_text() == TEXT


def test_an_open_descriptor_is_written_to_and_a_tilde_is_the_home_folder(folder: Path) -> None:
    wanted = run(folder, "compress", "ducks.txt", "-o", "-").out
    args = ("compress", "ducks.txt", "-o", "/dev/fd/9")
    opened = os.open(folder / "nine.clm", os.O_RDWR | os.O_CREAT)
    done = Command(args, folder, before=lambda: os.dup2(opened, 9)).run()
    assert (done.code, (folder / "nine.clm").read_bytes()) == (0, wanted), done.err
    os.close(opened)
    done = run(folder, "compress", "ducks.txt", "-o", "~/home.clm", environment={"HOME": str(folder)})
    assert (done.code, (folder / "home.clm").read_bytes()) == (0, wanted), done.err


def test_a_reader_that_leaves_ends_the_command_quietly(folder: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(folder / ".err", "wb") as err:
        child = Command(("surprisal", "--by", "char"), folder).begin(writer, err.fileno())
    os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert "error" not in (folder / ".err").read_text()
