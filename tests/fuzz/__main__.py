"""python -m tests.fuzz TARGET [-max_total_time=60 ...]: a target under atheris, guided by what its inputs reach."""

import os
import sys
from pathlib import Path
from tempfile import mkdtemp

import atheris


def main() -> None:
    """Begin from good inputs, in a folder of their own unless one is named."""
    with atheris.instrument_imports(include=["charlm"]):
        from tests.fuzz.targets import TARGETS, seeds
    name, *options = sys.argv[1:]
    os.environ["CHARLM_CACHE"] = mkdtemp(prefix="fuzz-cache-")  # never the user's own
    folder = Path(mkdtemp(prefix=f"fuzz-{name}-"))
    for number, data in enumerate(seeds(name)):
        (folder / str(number)).write_bytes(data)
    atheris.Setup([sys.argv[0], *options, f"-artifact_prefix={folder}/", str(folder)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
