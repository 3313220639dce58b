"""Writes that survive: whole or not at all, whatever is refused."""

import ast
import os
import re
from contextlib import suppress
from pathlib import Path

import pytest

from charlm import files
from charlm.data.prepare import prepare
from charlm.data.text_config import TextConfig


class Died(BaseException):
    """The process was killed here: every later call raises it too, so nothing is tidied up."""


class Refusal:
    """Makes call number `k` of those that change a disk fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, k: int, *, dies: bool = False) -> None:
        self.calls = 0
        self._k, self._dies = k, dies
        for module, name in ((os, "fsync"), (os, "replace"), (os, "rename"), (files, "write_synced")):
            self._wrap(monkeypatch, module, name)

    def _wrap(self, monkeypatch: pytest.MonkeyPatch, module: object, name: str) -> None:
        real = getattr(module, name)

        def call(*args: object) -> object:
            self.calls += 1
            if self._dies and self.calls >= self._k:
                raise Died
            if self.calls == self._k:
                raise OSError(5, "Input/output error")
            return real(*args)

        monkeypatch.setattr(module, name, call)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, k = tmp_path / "file", 0
    while True:
        k += 1
        path.write_bytes(b"old")
        with monkeypatch.context() as patch:
            refusal = Refusal(patch, k)
            with suppress(OSError):
                files.replace(path, b"new")
        assert path.read_bytes() in (b"old", b"new")
        assert list(tmp_path.iterdir()) == [path], "nothing unfinished is left"
        if refusal.calls < k:
            break
    assert path.read_bytes() == b"new"
    assert k > 3


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents, k = {"a": b"1", "b": b"2"}, 0
    while True:
        k += 1
        folder = tmp_path / f"folder-{k}"
        with monkeypatch.context() as patch:
            refusal = Refusal(patch, k)
            with suppress(OSError):
                files.publish_folder(folder, contents)
        if folder.exists():
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == contents
        assert not list(tmp_path.glob(files.TEMPORARY + "*"))
        if refusal.calls < k:
            break
    assert k > 6


def test_a_folder_that_is_there_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the process dies at call k: nothing after it is done, and the next start mends it."""
    old, new, k = {"a": b"old"}, {"a": b"new", "b": b"2"}, 0
    folder = tmp_path / "folder"
    while True:
        k += 1
        files.remove_tree(folder)
        files.publish_folder(folder, old)
        for dies in (False, True):
            with monkeypatch.context() as patch:
                refusal = Refusal(patch, k, dies=dies)
                with suppress(OSError, Died):
                    files.publish_folder(folder, new)
            files.remove_temporaries(tmp_path)
            found = {path.name: path.read_bytes() for path in folder.iterdir()}
            assert found in (old, new), k
            assert [path.name for path in tmp_path.iterdir()] == ["folder"]
        if refusal.calls < k:
            break
    assert k > 7


def test_temporaries_go_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".tmp-step-5").mkdir()
    (tmp_path / ".tmp-step-5" / "half").write_bytes(b"")
    (tmp_path / ".tmp-latest-99").write_bytes(b"")
    (tmp_path / "step-4").mkdir()
    files.remove_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-4"]


def test_what_a_live_process_writes_stays_and_what_a_dead_one_left_goes(tmp_path: Path) -> None:
    """Also a process whose id is that of this one: containers that share a folder count alike."""
    with files.building(tmp_path / "run") as folder, files.replacing(tmp_path / "file") as file:
        (folder / "part").write_bytes(b"half")
        (tmp_path / ".tmp-run-left").mkdir()
        (tmp_path / ".tmp-file-left").write_bytes(b"")
        with files.building(tmp_path / "run") as other:
            (other / "part").write_bytes(b"other")
            files.remove_temporaries(tmp_path)
        assert (folder / "part").read_bytes() == b"half"
        assert not list(tmp_path.glob("*left"))
        file.write(b"whole")
    assert (tmp_path / "run" / "part").read_bytes() == b"half"
    assert (tmp_path / "file").read_bytes() == b"whole"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "run"]


def test_of_two_that_build_the_same_the_second_leaves_what_is_there(tmp_path: Path) -> None:
    with files.building(tmp_path / "same", may_stay=lambda: True) as first:
        (first / "who").write_bytes(b"first")
        with files.building(tmp_path / "same", may_stay=lambda: True) as second:
            (second / "who").write_bytes(b"second")
    assert (tmp_path / "same" / "who").read_bytes() == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["same"]


@pytest.mark.parametrize("name", ["x" * 255, "\u00e4" * 127, "a"])
def test_names_as_long_as_names_can_be_are_replaced_too(tmp_path: Path, name: str) -> None:
    files.replace(tmp_path / name, b"new")
    assert (tmp_path / name).read_bytes() == b"new"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_processes_with_the_same_id_write_one_cache_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As containers do that share a volume: each finds its text in the end, and none spoils another's."""
    from tests.forks import start  # which skips where there is no fork

    monkeypatch.setenv("CHARLM_CACHE", str(tmp_path))
    monkeypatch.setattr(os, "getpid", lambda: 7)
    text = "".join(f"line {i * i} of a text\n" for i in range(20_000))
    children = [start(lambda: _prepare_several(text)) for _ in range(4)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0, 0, 0, 0]
    assert not list((tmp_path / "corpora").glob(files.TEMPORARY + "*"))
    assert len(list((tmp_path / "corpora").iterdir())) == 3


def _prepare_several(text: str) -> int:
    for i in range(3):
        corpus = prepare(text[i:], TextConfig())
        if corpus.uncached is not None or corpus.training_text() != text[i:][: corpus.train_chars]:
            return 1
    return 0


def test_leftovers_of_the_cache_go_after_a_day_but_not_what_is_still_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARLM_CACHE", str(tmp_path))
    (tmp_path / "corpora" / "abc").mkdir(parents=True)
    (tmp_path / "files").mkdir()
    left = [
        ".tmp-gone-corpora-1",
        "corpora/.tmp-x-1",
        "corpora/abc/.tmp-corpus.json-1",
        "files/.tmp-x.json-1",
    ]
    for name in left:
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (0, 0))
    with files.building(tmp_path / "corpora" / "slow") as slow:
        os.utime(slow, (0, 0))
        prepare("a text of some length " * 20, TextConfig())
        assert slow.exists() and not any((tmp_path / name).exists() for name in left)


WRITING = {
    *("write_text", "write_bytes", "fsync", "fdatasync", "sync", "rename", "renames", "touch"),
    *("save_file", "memmap", "open_memmap", "save", "savez", "tofile", "truncate", "ftruncate"),
    *("move", "copyfile", "copytree", "copy2", "mkstemp", "NamedTemporaryFile", "TemporaryFile"),
    "SpooledTemporaryFile",
}
MODE = re.compile(r"[rwaxbtU+]{1,4}")


def writes(call: ast.Call) -> bool:
    """Does it open for writing, sync or rename, as far as can be seen?"""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    said = ast.unparse(call)
    if name == "open":
        if said.startswith("os."):
            return any(flag in said for flag in ("O_WRONLY", "O_RDWR", "O_CREAT", "O_APPEND", "O_TRUNC"))
        first = 0 if isinstance(call.func, ast.Attribute) else 1  # Path.open(mode), open(path, mode)
        given = [*call.args[first:], *(k.value for k in call.keywords if k.arg == "mode")]
        modes = [a.value for a in given if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        unknown = [a for a in given if not isinstance(a, ast.Constant)] if first else []
        return bool(unknown) or any(MODE.fullmatch(m) and set(m) & set("wax+") for m in modes)
    if name == "replace" and isinstance(call.func, ast.Attribute):
        of_path = len(call.args) == 1 and not call.keywords  # a text's has two
        return of_path or said.startswith("os.")
    return name in WRITING


def test_only_files_opens_for_writing_syncs_or_renames() -> None:
    package = Path(files.__file__).parent
    for path in package.rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))) if path.name != "files.py" else ():
            if isinstance(call, ast.Call) and writes(call):
                assert (path.name, ast.unparse(call)) in ALLOWED, f"{path}:{call.lineno} writes by itself"


ALLOWED = {
    ("downloads.py", "file.truncate()"),  # of a file that charlm/files.py opened
    ("main.py", "os.open(os.devnull, os.O_WRONLY)"),
    ("__main__.py", "os.open(os.devnull, os.O_WRONLY)"),
    ("worker.py", "os.open(os.devnull, os.O_WRONLY)"),
    (
        "desk_screens.py",
        "save(self._text, event.value, overwrite=self._confirmed == event.value)",
    ),  # a function there, by charlm/files.py
    ("play.py", "save(desk.unsaved, free, overwrite=False)"),  # the same one
    ("corpus.py", "np.save(buffer, part, allow_pickle=False)"),  # into memory
    (
        "safe_io.py",
        "safetensors.torch.save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})",
    ),
    ("hf.py", "safetensors.torch.save(tensors, metadata={'format': 'pt'})"),  # into memory
    ("surprisal_table.py", "held.truncate()"),  # in memory
    ("table_file.py", "safetensors.numpy.save(arrays)"),  # into memory
    (
        "checkpointer.py",
        "self.run_folder.save(snapshot.step, snapshot.files(), snapshot.run_files(), best=best)",
    ),
    ("trainer.py", "self.checkpointer.save(best=best)"),
}
