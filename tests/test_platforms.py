"""Windows and macOS: the commands under their rules (see tests/platforms.py), and what is done for them."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from charlm import files, terminal
from charlm.cli.main import _other
from charlm.terminal import command_line
from tests.conftest import TEXT, Result

TOY = "--n-layer=1|--n-embd=16|--n-head=2|--block-size=16|--batch-size=4|--threads=1"
COMMANDS = [
    f"train|ducks.txt|--steps=12|{TOY}|--save-every=0",  # checkpoints replaced and pruned
    "runs", "info", "doctor", "doctor|ducks", "cache", "explain|rotary", "eval", "surprisal|-o|bits.jsonl|--format=jsonl", "sample|--length=30",
    "resume|ducks|--steps=3", "compress|ducks.txt|-o|d.clm", "decompress|d.clm|-o|again.txt",
    "inspect|*.txt|--time=5s|--threads=1", f"compare|ducks.txt|--vary|position=none,rotary|--steps=3|{TOY}", "compare|ducks-position",
    "train|ducks.txt|--model=ngram|--run=counts", "train|*.txt|--from=ducks|--steps=2", "cache|--clear|--yes",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="what it imitates others with")
@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_every_command_works_without_what_the_platform_lacks(tmp_path: Path, platform: str) -> None:
    (tmp_path / "ducks.txt").write_text(TEXT)
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parent.parent),
        "OMP_NUM_THREADS": "1",
        "CHARLM_NATIVE": "0",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.platforms", platform, *COMMANDS],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "again.txt").read_text() == TEXT
    assert b"\r" not in (tmp_path / "bits.jsonl").read_bytes()
    for word in ("Traceback", "a bug in charlm", "could not be", "cannot be"):
        assert word not in done.stderr, done.stderr
    assert not list(tmp_path.rglob(".tmp-*"))


@pytest.mark.parametrize("name", ["con", "NUL", "com1", "Lpt9.old", "aux.txt", "poems."])
def test_a_name_that_windows_cannot_have_is_no_run_anywhere(charlm: Callable[..., Result], name: str) -> None:
    refused = charlm("train", "ducks.txt", "--steps", "1", "--run", name)
    assert refused.code == 2 and "a run cannot be named" in refused.err
    if "." not in name:
        Path(f"{name}.txt").write_text(TEXT)
        toy = TOY.split("|")
        assert f"run run-{name}" in charlm("train", f"{name}.txt", "--steps", "1", *toy).err


def test_commands_to_type_are_quoted_for_the_shell_there(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["charlm", "train", "my texts/a.txt"]
    assert command_line(words) == "charlm train 'my texts/a.txt'"
    monkeypatch.setattr(os, "name", "nt")
    assert command_line(words) == 'charlm train "my texts/a.txt"'


@pytest.mark.parametrize("obeys", [True, False])
def test_a_console_of_windows_is_asked_to_obey_escapes_before_any(
    monkeypatch: pytest.MonkeyPatch, obeys: bool
) -> None:
    import ctypes

    asked: list[int] = []

    def set_mode(handle: int, mode: int) -> int:
        asked.append(mode)
        return int(obeys)

    kernel = SimpleNamespace(GetConsoleMode=lambda handle, mode: 1, SetConsoleMode=set_mode)
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=kernel), raising=False)
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(get_osfhandle=lambda descriptor: 7))
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delenv("TERM", raising=False)
    console = SimpleNamespace(isatty=lambda: True, fileno=lambda: 1)
    assert terminal.colour(console) == obeys  # type: ignore[arg-type]
    assert asked == [terminal.ENABLE_VIRTUAL_TERMINAL_PROCESSING]


def test_a_reader_that_left_is_no_bug_on_windows_either(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """There a write to such a pipe is an invalid argument."""
    left = OSError(22, "Invalid argument")
    assert _other(left) == 1
    monkeypatch.setattr(os, "name", "nt")
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    assert _other(left) == 0


def test_on_windows_a_file_that_another_process_reads_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refused, replace = [PermissionError(13, "in use")] * 2, os.replace

    def busy(source: Path, target: Path) -> None:
        if refused:
            raise refused.pop()
        replace(source, target)

    monkeypatch.setattr(os, "replace", busy)
    target = tmp_path / "latest"
    with pytest.raises(PermissionError):
        files.replace(target, b"elsewhere nothing is waited for")
    refused.append(PermissionError(13, "in use"))
    monkeypatch.setattr(files.os, "name", "nt")
    files.replace(target, b"step 2")
    monkeypatch.setattr(files.os, "name", "posix")
    assert target.read_bytes() == b"step 2"
