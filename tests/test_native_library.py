"""The compiled kernels are chosen by CHARLM_NATIVE, and whatever becomes of their library, only speed is lost."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from charlm.errors import UsageError
from charlm.native import library as native
from charlm.native.library import INSTEAD
from charlm.training.device import describe_machine
from tests.cli.kept import TOY
from tests.conftest import Result

pytestmark = pytest.mark.native

PURPOSES = tuple(INSTEAD)


def rows(shown: str) -> dict[str, str]:
    """A table of two columns."""
    return dict(re.split("  +", line, maxsplit=1) for line in shown.splitlines() if "  " in line)


@pytest.fixture
def anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is loaded yet, and nothing chosen."""
    monkeypatch.delenv("CHARLM_NATIVE", raising=False)
    for cached in (native._load, native._open):
        monkeypatch.setattr(native, cached.__name__, cached.__wrapped__)


def test_the_best_clone_is_used_and_every_command_says_which(
    charlm: Callable[..., Result], kernels: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CHARLM_NATIVE", raising=False)
    best = native.supported_clones()[0]
    for command in (("doctor",), ("--version", "--verbose")):
        shown = charlm(*command)
        assert shown.code == 0
        assert all(rows(shown.out)[purpose] == f"compiled kernels {best}" for purpose in PURPOSES)


def test_it_is_found_in_a_process_that_has_not_loaded_torch(kernels: None) -> None:
    code = "from charlm.native.library import status; print(status().clone)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(native.status().clone)


def test_a_clone_can_be_chosen(charlm: Callable[..., Result], clone: str) -> None:
    shown = rows(charlm("doctor").out)
    for purpose in PURPOSES:
        assert shown[purpose] == f"compiled kernels {clone} (chosen by CHARLM_NATIVE={clone})"


def test_the_kernels_can_be_switched_off(
    charlm: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHARLM_NATIVE", "0")
    shown = rows(charlm("doctor").out)
    for purpose in PURPOSES:
        assert shown[purpose] == f"{INSTEAD[purpose]}, which is slower (switched off by CHARLM_NATIVE=0)"
    assert native.library() is None


@pytest.mark.parametrize("command", ["doctor", "--version --verbose", "train ducks.txt", "sample", "runs"])
@pytest.mark.parametrize("value", ["v9", "no", "\x1b[2J"])
def test_an_unknown_value_is_a_usage_error(
    charlm: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, command: str, value: str
) -> None:
    monkeypatch.setenv("CHARLM_NATIVE", value)
    refused = charlm(*command.split())
    assert refused.code == 2 and len(refused.err.splitlines()) == 1 and "\x1b" not in refused.err
    assert refused.err.startswith("error: CHARLM_NATIVE is '") and "v4bf16" in refused.err
    assert not Path("checkpoints").exists()


def test_a_clone_that_the_processor_lacks_is_said(monkeypatch: pytest.MonkeyPatch, anew: None) -> None:
    monkeypatch.setattr(native, "_supported", lambda handle: ("v2",))
    monkeypatch.setattr(native, "_path", lambda: Path("charlm_native.so"))
    monkeypatch.setattr(native, "_open", lambda path: None)
    monkeypatch.setenv("CHARLM_NATIVE", "v4")
    assert native.library() is None and native.status().reason == "this processor cannot run v4"
    monkeypatch.setenv("CHARLM_NATIVE", "")
    assert str(native.status()) == "compiled kernels v2"


def test_a_package_without_the_library_computes_without(
    charlm: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, anew: None
) -> None:
    monkeypatch.setattr("charlm.native.__path__", [])
    said = rows(charlm("doctor").out)["sampling"]  # as in an installed package, or as in the sources
    assert "installed without a working C compiler" in said or "no kernels are compiled" in said
    assert charlm("train", "ducks.txt", "--steps", "2", "--prior", *TOY).code == 0
    assert charlm("sample", "--length", "5").code == 0


def test_a_damaged_library_is_said_and_computed_without(
    charlm: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, anew: None
) -> None:
    (tmp_path / native.FILE).write_text("no library\x1b[2J")
    monkeypatch.setattr("charlm.native.__path__", [str(tmp_path)])
    said = rows(charlm("doctor").out)["n-gram rows"]
    assert said.startswith("NumPy, which is slower (charlm_native.so could not be loaded: ")
    assert charlm("train", "ducks.txt", "--steps", "2", "--prior", *TOY).code == 0
    assert charlm("sample", "--length", "5").code == 0


def test_a_library_older_than_the_sources_is_said() -> None:
    with pytest.raises(UsageError, match="install charlm again"):
        native.Library(handle=SimpleNamespace(), clone="v3").function("new", "fast")  # type: ignore[arg-type]


def test_a_measured_speed_names_the_kernels(monkeypatch: pytest.MonkeyPatch, clone: str) -> None:
    assert f"compiled kernels {clone}" in describe_machine(1)
    monkeypatch.setenv("CHARLM_NATIVE", "0")
    assert "no compiled kernels (switched off by CHARLM_NATIVE=0)" in describe_machine(1)


def test_scores_are_the_same_with_and_without_the_kernels(
    charlm: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, clone: str
) -> None:
    assert charlm("train", "ducks.txt", "--steps", "3", "--prior", *TOY).code == 0
    with_kernels = json.loads(charlm("eval", "--json").out)
    monkeypatch.setenv("CHARLM_NATIVE", "0")
    without = json.loads(charlm("eval", "--json").out)
    assert without["bits_per_char"] == pytest.approx(with_kernels["bits_per_char"], rel=1e-6)
