"""Where the command starts and ends: answers `--version` at once, and leaves the rest to the command line."""

import atexit
import os
import sys
from contextlib import suppress
from time import perf_counter, process_time
from typing import NoReturn

STARTED = perf_counter() - process_time()
"""About when the process began, on perf_counter's clock: what came before now was computing."""


def command() -> NoReturn:
    """Run the command line and end the process with its code.

    Python is not taken apart, which takes more than a second once torch is imported. What is registered to be done at
    exit is done.
    """
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError, ValueError):  # nobody reads it any more
            stream.flush()
    os._exit(code)


def main() -> None:
    """Run the command line and exit with its code."""
    if sys.argv[1:] in (["--version"], ["-V"]):
        from charlm import __version__

        try:
            print(f"charlm {__version__}", flush=True)
        except OSError as error:  # its reader left, or a disk is full
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.exit(0 if isinstance(error, BrokenPipeError) else 6)
        return
    # NumPy's products here are small ones, for which threads of its own would only be in the way.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from charlm.threads import wait_briefly  # after the version, which must not wait for it

        wait_briefly()
        from charlm.cli.main import run
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        sys.exit(130)
    sys.exit(run(STARTED))


if __name__ == "__main__":
    command()
