"""The text of a run that was moved, or came from standard input: `--text` says where it is now, and its hash decides."""

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import TEXT, Result

Charlm = Callable[..., Result]
SHAPE = {"n-layer": 1, "n-embd": 16, "n-head": 2, "block-size": 16, "batch-size": 4, "threads": 1, "steps": 4}
TOY = [f"--{name}={value}" for name, value in SHAPE.items()]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of one's own, to clear or to spoil."""
    monkeypatch.setenv("CHARLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def done(result: Result) -> Result:
    assert result.code == 0, result.err
    return result


def pipe(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def figure(charlm: Charlm, *words: str) -> float:
    return float(json.loads(done(charlm("eval", "--json", *words)).out)["bits_per_char"])


def test_standard_input_can_be_named_as_a_file_later(
    charlm: Charlm, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(monkeypatch, TEXT.encode())
    done(charlm("train", "-", *TOY, "--run", "piped"))
    before = figure(charlm)
    shutil.rmtree(cache)
    gone = charlm("eval")
    assert gone.code == 4 and "read from standard input" in gone.err and "--text FILE" in gone.err
    assert figure(charlm, "--text", "ducks.txt") == before
    shutil.rmtree(cache)
    pipe(monkeypatch, TEXT.encode())
    assert figure(charlm, "--text", "-") == before


def test_without_a_cache_standard_input_is_warned_of_and_what_is_advised_works(
    charlm: Charlm, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file, in which no folder can be made")
    pipe(monkeypatch, TEXT.encode())
    trained = done(charlm("train", "-", *TOY, "--run", "piped"))
    lines = trained.err.splitlines()
    warned = next(i for i, line in enumerate(lines) if "cannot be kept" in line)
    assert lines[warned - 1].startswith("reading") and "CHARLM_CACHE" in lines[warned]
    advised = [
        line.split("charlm ")[1] for line in lines if "charlm eval" in line or "charlm resume" in line
    ][1:]
    assert [" --text FILE" in command for command in advised] == [True, True], advised
    for command in advised:
        words = command.replace("FILE", "ducks.txt").replace("--time 2m", "--steps 2").split()
        assert "give --text again the next time" in done(charlm(*words)).err
    assert charlm("eval").code == 4
    done(charlm("train", "ducks.txt", *TOY, "--run", "filed"))
    assert "--text" not in done(charlm("resume", "filed", "--steps", "2")).err, "a file is read again"


def test_a_comparison_of_standard_input_without_a_cache_goes_on_with_the_text(
    charlm: Charlm, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file")
    pipe(monkeypatch, TEXT.encode())
    compared = charlm("compare", "-", "--vary", "position=none,rotary", *TOY, "--run", "cp")
    assert "cannot be kept" in done(compared).err
    result = Path("checkpoints/cp/position-none.seed-1/result.json")
    result.unlink()
    assert charlm("resume", "cp").code == 4
    again = done(charlm("resume", "cp", "--text", "ducks.txt"))
    assert "starts again" not in again.err and result.exists()
    assert "cannot show baselines" in done(charlm("compare", "cp")).err
    assert "cannot show baselines" not in done(charlm("compare", "cp", "--text", "ducks.txt")).err
    refused = charlm("compare", "ducks.txt", "--vary", "position=none,rotary", "--text", "ducks.txt")
    assert refused.code == 2 and "name the text as an argument" in refused.err


def test_a_folder_moved_as_a_whole_takes_its_held_out_file_along(charlm: Charlm, cache: Path) -> None:
    for name, text in {"a.txt": TEXT, "b.txt": TEXT[:999], "b.dat": "no text"}.items():
        Path("old/texts").mkdir(parents=True, exist_ok=True)
        Path("old/texts", name).write_text(text)
    Path("old/held.txt").write_text(TEXT[:700])
    done(
        charlm(
            "train", "old/texts", "--include", "*.txt", "--val-file", "old/held.txt", *TOY, "--run", "moved"
        )
    )
    before = figure(charlm)
    shutil.rmtree(cache)
    Path("old").rename("new")
    assert figure(charlm, "--text", "new/texts") == before
    shutil.rmtree(cache)
    assert figure(charlm, "--text", "new/texts/a.txt", "--text", "new/texts/b.txt") == before
    shutil.rmtree(cache)
    Path("new/held.txt").rename("kept.txt")
    gone = charlm("eval", "--text", "new/texts")
    assert gone.code == 4 and "give its path with --val-file PATH" in gone.err
    other = charlm("eval", "--text", "new/texts", "--val-file", "ducks.txt")
    assert other.code == 4 and "held-out file" in other.err
    assert figure(charlm, "--text", "new/texts", "--val-file", "kept.txt") == before
    Path("new").rename("old")
    shutil.rmtree(cache)
    assert figure(charlm, "--val-file", "kept.txt") == before, "the text is where it was"


def test_the_text_of_the_run_that_is_fine_tuned_can_be_named(charlm: Charlm, cache: Path) -> None:
    done(charlm("train", "ducks.txt", *TOY, "--run", "first"))
    shutil.rmtree(cache)
    Path("ducks.txt").rename("moved.txt")
    Path("geese.txt").write_text(TEXT.replace("ducks", "geese"))
    tune = ["train", "geese.txt", "--from", "first", "--steps", "2"]
    lost = done(charlm(*tune, "--run", "lost"))
    assert "--from-text PATH" in lost.err and "cannot measure forgetting" in lost.err
    found = done(charlm(*tune, "--run", "found", "--from-text", "moved.txt"))
    assert "cannot measure forgetting" not in found.err
    shutil.rmtree(cache)
    again = done(charlm("resume", "found", "--text", "geese.txt", "--steps", "1"))
    assert "`charlm eval --run first --text PATH` restores it in the cache" in again.err
    wrong = charlm(*tune, "--run", "wrong", "--from-text", "geese.txt")
    assert wrong.code == 4 and "is not the text of the run" in wrong.err
    idle = charlm("train", "geese.txt", "--from-text", "moved.txt")
    assert idle.code == 2 and "--from-text has no effect without --from" in idle.err
