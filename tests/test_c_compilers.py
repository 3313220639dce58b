"""Whatever a C compiler does, nothing is lost but speed, only what it fails at, and that is said."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from charlm.native import compiler as compiled
from charlm.native.compiler import DECODER, NGRAM_ROWS, Compilation, compilers, start_compiling
from tests.cli.kept import TOY
from tests.conftest import Result, needed

pytestmark = pytest.mark.skipif(os.name == "nt", reason="shell scripts stand for compilers")
REAL = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
NO_COMPILER = pytest.mark.skipif(REAL is None, reason="no C compiler here")
FAILS = "echo 'In file included from x' >&2; echo \"$0: error: no luck\" >&2; exit 1"


@pytest.fixture(autouse=True)
def no_compiler() -> None:
    """Here there is one."""


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make shell scripts the only compilers there are, by name; what was compiled before is forgotten."""
    folder = tmp_path / "only-these"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(compiled, "compile_ngram_rows", lambda: start_compiling(NGRAM_ROWS))
    monkeypatch.setattr("charlm.evaluation.report.compile_ngram_rows", lambda: start_compiling(NGRAM_ROWS))
    compiled.take_failures()

    def put(**scripts: str) -> None:
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\nPATH={os.environ['PATH']}:/usr/bin:/bin\n{script}\n")
            (folder / name).chmod(0o755)

    return put


@NO_COMPILER
def test_processors_that_know_half_precision_compile_all(put: Callable[..., None], tmp_path: Path) -> None:
    """There gcc computes float and double as ever, and says 16 where it said 0."""
    put(cc=f'exec {REAL} "$@" -mavx512fp16')
    probe = tmp_path / "probe.c"
    probe.write_text("#include <float.h>\nint method = FLT_EVAL_METHOD;\n")
    found = subprocess.run([*compilers(), "-E", str(probe)], capture_output=True, text=True, timeout=300)
    if found.returncode:
        pytest.skip("this compiler knows no AVX512-FP16")
    for source in (DECODER, NGRAM_ROWS):
        assert needed(start_compiling(source)) is not None


@NO_COMPILER
def test_the_next_compiler_compiles_what_the_first_cannot(put: Callable[..., None]) -> None:
    put(cc=FAILS, gcc=f'exec {REAL} "$@"')
    assert [Path(path).name for path in compilers()] == ["cc", "gcc"]
    compiling = start_compiling()
    library = needed(compiling)
    assert compiling and Path(compiling.compiler).name == "gcc"
    assert hasattr(library, "ngram_rows") and hasattr(library, "next_logits")
    assert not compiled.has_failures()


@NO_COMPILER
@pytest.mark.parametrize("names", [("cc",), ("cc", "gcc")])
def test_a_compiler_that_cannot_be_started_is_passed_over_and_named(
    put: Callable[..., None], charlm: Callable[..., Result], names: tuple[str, ...]
) -> None:
    put(cc="", gcc=f'exec {REAL} "$@"')
    folder = Path(os.environ["PATH"])
    (folder / "cc").write_bytes(b"no program")
    for name in {"cc", "gcc"} - set(names):
        (folder / name).unlink()
    shown = charlm("doctor")
    if "gcc" in names:
        assert len(re.findall("compiled by gcc", shown.out)) == 2, shown.out
    else:
        assert len(re.findall("not compiled; .*Exec format error", shown.out)) == 2, shown.out


@NO_COMPILER
def test_what_cannot_be_compiled_takes_nothing_else_with_it(put: Callable[..., None]) -> None:
    put(cc=f'case "$*" in *ngram_rows.c*) {FAILS};; esac; exec {REAL} "$@"')
    compiling = start_compiling()
    library = compiling.library() if compiling else None
    assert compiling and hasattr(library, "next_logits") and not hasattr(library, "ngram_rows")
    assert set(compiling.failures) == {NGRAM_ROWS} and "error: no luck" in compiling.failures[NGRAM_ROWS]
    assert [purpose for purpose, _ in compiled.take_failures()] == ["n-gram rows"]
    assert not compiled.take_failures(), "said once"


@NO_COMPILER
def test_flags_that_a_compiler_lacks_are_left_out(put: Callable[..., None]) -> None:
    put(cc=f'case "$*" in *-march=native*) {FAILS};; esac; exec {REAL} "$@"')
    needed(start_compiling())


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (FAILS, "cc: .*error: no luck"),
        ("exit 0", "cc: no output file, exit code 0"),
        ("kill -9 $$", "cc: no output file, exit code -9"),
        ("sleep 60", "cc did not finish in 0 seconds"),
    ],
)
def test_a_compiler_that_makes_nothing_is_given_up(
    put: Callable[..., None], monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    monkeypatch.setattr(compiled, "SECONDS", 0.3 if "sleep" in script else 20.0)
    put(cc=script)
    compiling = start_compiling()
    assert compiling is not None and compiling.library() is None and not compiling.waits
    assert {DECODER, NGRAM_ROWS} == set(compiling.failures)
    assert all(re.fullmatch(said, why) for why in compiling.failures.values()), compiling.failures


def test_a_compiler_that_hangs_beside_other_work_is_not_waited_for(
    put: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(cc="sleep 60")
    compiling = start_compiling(NGRAM_ROWS)
    assert compiling and compiling.waits
    monkeypatch.setattr(compiled, "PATIENCE", 0.0)
    assert (
        not compiling.waits
        and compiling.library() is None
        and "did not finish" in compiling.failures[NGRAM_ROWS]
    )


def test_without_a_compiler_there_is_nothing_to_say(put: Callable[..., None]) -> None:
    assert compilers() == [] and start_compiling() is None and not compiled.take_failures()
    assert all("there is no C compiler" in (part.problem or "") for part in compiled.check_kernels())


def test_python_is_no_compiler() -> None:
    assert Compilation([sys.executable]).library() is None
    compiled.take_failures()


@pytest.mark.parametrize("script", [FAILS, ""])
def test_commands_say_once_what_was_not_compiled_and_give_the_same(
    charlm: Callable[..., Result], put: Callable[..., None], script: str
) -> None:
    assert charlm("train", "ducks.txt", "--steps", "3", "--prior", *TOY).code == 0
    before = json.loads(charlm("eval", "--json").out)["bits_per_char"]
    if script:
        put(cc=script)
    said = "note: the C code for n-gram rows could not be compiled (cc: "
    evaluated = charlm("eval", "--json")
    assert json.loads(evaluated.out)["bits_per_char"] == pytest.approx(before, abs=1e-6)
    assert evaluated.err.count(said) == bool(script)
    sampled = charlm("sample", "--length", "5")
    assert sampled.code == 0 and sampled.err.count("could not be compiled") == 2 * bool(script)
    trained = charlm("train", "ducks.txt", "--steps", "80", "--prior", *TOY)
    assert trained.code == 0 and trained.err.count(said) == bool(script)
    doctor = charlm("doctor")
    assert ("no luck" in doctor.out) == bool(script) and "could not" not in doctor.err
    parts = json.loads(charlm("doctor", "--json").out)["compiled"]
    assert [part["purpose"] for part in parts] == ["sampling", "n-gram rows"]
    assert all(
        (part["compiler"] is None) == bool(part["problem"]) == (not compilers() or bool(script))
        for part in parts
    )
