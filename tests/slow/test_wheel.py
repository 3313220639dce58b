"""The wheels that a release makes: portable, with every clone of every kernel, and one that needs no compiler."""

import ctypes
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from charlm.native.library import FILE

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "charlm" / "native"
KINDS = {"EXACT": ("exact",), "FAST": ("fast",), "TYPED": ("fp32", "bf16")}
CLONES = ("v2", "v3", "v4", "v4bf16") if platform.machine().lower() in ("x86_64", "amd64") else ("baseline",)
ONE = "newton_schulz"  # is for one clone only
needs_build = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("build", "scikit_build_core")),
    reason="build or scikit-build-core is not installed",
)
pytestmark = [pytest.mark.slow, needs_build]


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source distribution, and the wheel made of it."""
    if not any(map(shutil.which, ("cc", "gcc", "clang"))):
        pytest.skip("no C compiler here")
    return build(tmp_path_factory.mktemp("dist"))


def build(folder: Path, *options: str, **environment: str) -> Path:
    """What `python -m build` makes of a copy of the tree."""
    tree = folder / "tree"
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    for path in (ROOT / name for name in ("charlm", "tests", "docs", "benchmarks", "examples")):
        shutil.copytree(path, tree / path.name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    run("-m", "build", "--no-isolation", *options, "--outdir", str(folder), str(tree), **environment)
    return folder


def run(*words: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def kernels() -> list[str]:
    """The symbol of every kernel, in every clone, as CMakeLists.txt compiles them."""
    listed = dict(
        re.findall(
            r"^set\((EXACT|FAST|TYPED)(?=[ )])([^)]*)\)", (NATIVE / "CMakeLists.txt").read_text(), re.M
        )
    )
    found = [
        f"{name}_{kind}_{clone}"
        for group, kinds in KINDS.items()
        for source in listed[group].split()
        for name in re.findall(r"EXPORT\((\w+)\)", (NATIVE / source).read_text())
        for kind in kinds
        for clone in CLONES
    ]
    return [name for name in found if not name.startswith(ONE) or name == f"{ONE}_bf16_v4bf16"]


def test_the_wheel_serves_every_python_and_holds_no_sources(dist: Path) -> None:
    wheel = only(dist, "*.whl")
    assert re.search(r"-py3-none-(linux|macosx|win)\w*\.whl$", wheel.name)
    names = ZipFile(wheel).namelist()
    assert f"charlm/native/{FILE}" in names and "charlm/reporting/templates/page.html" in names
    assert {Path(name).suffix for name in names if name.startswith("charlm/native/")} == {".py", ".so"}
    assert not [name for name in names if not name.startswith(("charlm/", "charlm_cli-"))]
    assert only(dist, "*.tar.gz").stat().st_size < 3e6


def test_every_clone_of_every_kernel_is_there(dist: Path, tmp_path: Path) -> None:
    import torch  # noqa: F401  whose OpenMP the library uses

    ZipFile(only(dist, "*.whl")).extract(f"charlm/native/{FILE}", tmp_path)
    library = ctypes.CDLL(str(tmp_path / "charlm" / "native" / FILE))
    wanted = kernels()
    assert len(wanted) > 3 * len(CLONES)
    assert [name for name in wanted if not hasattr(library, name)] == []


def test_an_installed_wheel_computes_with_its_library(dist: Path, tmp_path: Path) -> None:
    ZipFile(only(dist, "*.whl")).extractall(tmp_path)
    code = f"import sys; sys.path[:] = {[str(tmp_path), *sys.path]}; import torch; import charlm.native.library as l"
    # Without site, which would find an editable installation first.
    said = run("-S", "-c", f"{code}; print(l.__file__, l.status(), sep='\\n')", CHARLM_NATIVE="")
    assert said.startswith(str(tmp_path)) and "\ncompiled kernels " in said


@pytest.mark.skipif(
    sys.platform != "linux" or not shutil.which("patchelf") or importlib.util.find_spec("auditwheel") is None,
    reason="auditwheel, with patchelf, is for Linux",
)
def test_auditwheel_accepts_it_as_manylinux(dist: Path) -> None:
    run("-m", "auditwheel", "repair", "--wheel-dir", str(dist / "repaired"), str(only(dist, "*.whl")))
    repaired = only(dist / "repaired", "*.whl")
    assert "manylinux" in repaired.name
    assert [name for name in ZipFile(repaired).namelist() if ".so" in name] == [f"charlm/native/{FILE}"]


def test_without_a_compiler_there_is_a_wheel_without_the_library(tmp_path: Path) -> None:
    wheel = only(build(tmp_path, "--wheel", CC="no-such-compiler"), "*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    native = [Path(name) for name in ZipFile(wheel).namelist() if name.startswith("charlm/native/")]
    assert {path.suffix for path in native} == {".py"}
