"""Entry point of the command: answers `--version` at once, and leaves the rest to the command line."""

import atexit
import os
import sys
from contextlib import suppress
from time import perf_counter, process_time
from typing import NoReturn

STARTED = perf_counter() - process_time()
"""About when the process began, on perf_counter's clock; all time before this line is taken to be computing."""


def command() -> NoReturn:
    """Run the command line and end the process with its exit code.

    Exit handlers run, but the interpreter is not torn down, which takes more than a second once torch is imported.
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
    """Run the command line and exit with its exit code."""
    if sys.argv[1:] in (["--version"], ["-V"]):
        from charlm import __version__

        try:
            print(f"charlm {__version__}", flush=True)
        except OSError as error:  # the reader of a pipe has left, or a disk is full
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.exit(0 if isinstance(error, BrokenPipeError) else 6)
        return
    # NumPy's matrix products here are small; threads of its own would only slow them down.
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
