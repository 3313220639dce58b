"""python -m tests.fuzz.sanitize: what runs compiled kernels, with AddressSanitizer and UndefinedBehaviorSanitizer.

It builds the library with them in a temporary folder and runs the tests marked `native`, fuzz targets and hostile
checkpoints among them, once for each clone that this processor has. It fails on any report. For Linux, with GCC.
"""

import os
import shutil
import subprocess
import sys
from itertools import takewhile
from pathlib import Path
from tempfile import TemporaryDirectory

from charlm.native.library import FILE

ROOT = Path(__file__).parents[2]
COMPILER = "gcc"
FIRST_FOUND = "import charlm.native, os\ncharlm.native.__path__.insert(0, os.path.dirname(__file__))\n"
"""Run by every Python that starts, so that it finds the library built here before any other."""
SUPPORTED = """
from charlm.native.library import library, supported_clones
loaded = library()
assert loaded is not None and hasattr(loaded.handle, "__asan_init"), "not the library with sanitizers"
print(*supported_clones())
"""


def main() -> int:
    """The exit code: 0 where every test passed and no sanitizer reported anything."""
    if sys.platform != "linux" or not shutil.which(COMPILER) or not shutil.which("cmake"):
        print("The sanitizers need Linux, GCC and CMake; nothing was run.")
        return 1
    with TemporaryDirectory(prefix="charlm-sanitize-") as name:
        folder = Path(name)
        build(folder)
        environment = sanitized(folder)
        supported = subprocess.run(
            [sys.executable, "-c", SUPPORTED], env=environment, check=True, capture_output=True, text=True
        ).stdout.split()
        passed = list(takewhile(lambda clone: passes(clone, environment, sys.argv[1:]), supported))
        reports = sorted(folder.glob("report.*"))
        if reports:
            print(reports[0].read_text(errors="replace"))
    print(f"{len(reports)} reports; passed with {' '.join(passed) or 'no clone'}, of {' '.join(supported)}")
    return 0 if supported and passed == supported and not reports else 1


def build(folder: Path) -> None:
    """The library, and what makes every Python find it."""
    source, made = str(ROOT / "charlm" / "native"), str(folder / "build")
    configure = ["cmake", "-S", source, "-B", made, "-DSANITIZE=ON", f"-DCMAKE_C_COMPILER={COMPILER}"]
    for command in (configure, ["cmake", "--build", made, "--parallel", str(os.cpu_count() or 1)]):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    shutil.copy(Path(made, FILE), folder)
    (folder / "sitecustomize.py").write_text(FIRST_FOUND)


def sanitized(folder: Path) -> dict[str, str]:
    """The environment in which that library can be loaded; AddressSanitizer reports into files."""
    runtime = subprocess.run(
        [COMPILER, "-print-file-name=libasan.so"], check=True, capture_output=True, text=True
    ).stdout.strip()
    return os.environ | {
        "LD_PRELOAD": runtime,
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        # Python leaks on purpose; batteries ask for more memory than there is, and must get a MemoryError.
        "ASAN_OPTIONS": f"detect_leaks=0:allocator_may_return_null=1:log_path={folder / 'report'}",
    }


def passes(clone: str, environment: dict[str, str], options: list[str]) -> bool:
    """Whether the tests pass with this clone."""
    print(f"--- {clone}", flush=True)
    # What UndefinedBehaviorSanitizer says before it ends a process is not captured.
    options = ["-q", "-x", "--capture=sys", "-m", "native and not slow", *options]
    tests = [sys.executable, "-m", "pytest", *options]
    return subprocess.run(tests, cwd=ROOT, env=environment | {"CHARLM_NATIVE": clone}).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
