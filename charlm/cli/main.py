"""Run the command line: find the command, run it, and turn any error into one sentence and an exit code."""

import errno
import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from charlm import __version__
from charlm.cli import (
    cache,
    compare,
    completion,
    compress,
    data,
    doctor,
    evaluate,
    explain,
    export,
    info,
    inspect,
    page,
    play,
    resume,
    runs,
    sample,
    serve,
    surprisal,
    train,
)
from charlm.cli.console import fail, table
from charlm.cli.mistakes import usage_message
from charlm.cli.options import CONTEXT, Command, Group, note_unknown_variables, with_sources
from charlm.errors import CharlmError, Interrupted, ResourceError, UsageError, is_out_of_memory
from charlm.native.library import check_variable
from charlm.terminal import be_quiet, no_colours, one_line, plain_streams
from charlm.training.signals import EXIT_CODES, Signalled, raising_signals

EPILOG = """Examples:
  charlm train corpus.txt           two minutes of training
  charlm sample --prompt "To be"    text from the newest run
  charlm eval held-out.txt          bits per character of a text

Settings such as --n-layer 4 can also be given as CHARLM_N_LAYER=4, and to
charlm train as a line n_layer = 4 in a --config FILE. The command line
overrides variables, and variables override the file.

Exit codes: 0 success, 1 a bug in charlm, 2 usage, 3 text, 4 checkpoint,
5 diverged, 6 disk or memory, 7 another rank ended; 128 plus the number of a
signal that stopped it (Ctrl-C 130, SIGTERM 143). Training saves first."""

NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)

COMMANDS: dict[str, tuple[Callable[..., None], str]] = {
    "train": (train.command, train.EXAMPLES),
    "inspect": (inspect.command, inspect.EXAMPLES),
    "resume": (resume.command, resume.EXAMPLES),
    "sample": (sample.command, sample.EXAMPLES),
    "play": (play.command, play.EXAMPLES),
    "eval": (evaluate.command, evaluate.EXAMPLES),
    "surprisal": (surprisal.command, surprisal.EXAMPLES),
    "page": (page.command, page.EXAMPLES),
    "serve": (serve.command, serve.EXAMPLES),
    "export": (export.command, export.EXAMPLES),
    "compress": (compress.compress, compress.EXAMPLES),
    "decompress": (compress.decompress, compress.DECOMPRESS_EXAMPLES),
    "runs": (runs.command, runs.EXAMPLES),
    "info": (info.command, info.EXAMPLES),
    "compare": (compare.command, compare.EXAMPLES),
    "cache": (cache.command, cache.EXAMPLES),
    "data": (data.command, data.EXAMPLES),
    "explain": (explain.command, explain.EXAMPLES),
    "doctor": (doctor.command, doctor.EXAMPLES),
    "completion": (completion.command, completion.EXAMPLES),
}
"""Each command's function, and the examples that its help shows."""


def make_app(started: float) -> typer.Typer:
    """Build the app with all commands; `started`: when the process began, from which time budgets count."""
    app = typer.Typer(
        cls=Group,
        rich_markup_mode=None,
        add_completion=False,
        context_settings=CONTEXT,
        help="Train a character-level language model on text, sample from it, and score texts with it.",
        epilog=EPILOG,
    )

    @app.callback()
    def charlm(
        ctx: typer.Context,
        version: Annotated[
            bool,
            typer.Option("--version", "-V", help="Show the version.", is_eager=True, callback=_show_version),
        ] = False,
        verbose: Annotated[
            bool, typer.Option("--verbose", help="With --version: also show libraries and compiled kernels.")
        ] = False,
    ) -> None:
        assert not version, "its callback ends the command"
        if verbose:
            raise UsageError("--verbose has no effect without --version")
        ctx.obj = started
        note_unknown_variables(ctx.command)
        check_variable()

    for name, (command, examples) in COMMANDS.items():
        app.command(name, cls=Command, epilog=examples, context_settings=CONTEXT)(_interruptible(command))
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"charlm {__version__}")
        if "--verbose" in sys.argv[1:]:
            table(doctor.software())
        raise typer.Exit


def _interruptible(command: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a command so that Ctrl-C or a signal ends it with one sentence (during training, training handles them)."""

    @wraps(command)
    def wrapped(*args: Any, **values: Any) -> Any:
        try:
            return command(*args, **values)
        except Signalled as ended:
            raise Interrupted(f"stopped by {ended.name}", EXIT_CODES[ended.name]) from None
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None

    return wrapped


def run(started: float) -> int:
    """Run the command named on the command line. Return the exit code."""
    plain_streams()
    be_quiet(False)
    if "--no-color" in sys.argv[1:]:
        no_colours()  # before the command line is parsed, since its errors are coloured too
    came: list[int] = []
    try:
        with raising_signals() as came:
            code = make_app(started)(standalone_mode=False)
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except CharlmError as error:
        fail(str(error))
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):  # before a command began, or after it
        fail("interrupted")
        return EXIT_CODES["SIGINT"]
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever it is, the user gets one sentence
        if came:  # a library turned the signal's exception into another
            fail(f"stopped by {signal.Signals(came[0]).name}")
            return 128 + came[0]
        return _other(error)


def _other(error: Exception | SystemExit) -> int:
    """Report any other error and return its exit code: closed pipes, usage errors, lack of memory or space, our own bugs."""
    if _reader_left(error):  # nothing more to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        fail(with_sources(usage_message(error), getattr(error, "ctx", None)))
        return UsageError.exit_code
    if isinstance(error, MemoryError | RuntimeError) and is_out_of_memory(error):
        fail("out of memory; try a smaller --batch-size, --block-size or --n-embd")
        return ResourceError.exit_code
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        fail(f"{error.strerror}: free some space, or write elsewhere")
        return ResourceError.exit_code
    if isinstance(error, OSError) and error.errno in NOT_ALLOWED and error.filename is not None:
        fail(f"{one_line(str(error.filename))} cannot be used: {error.strerror}")
        return ResourceError.exit_code
    if os.environ.get("CHARLM_DEBUG"):
        raise error
    fail(
        f"a bug in charlm: {type(error).__name__}: {one_line(str(error))}; "
        "set CHARLM_DEBUG=1 to see where, and please report it"
    )
    return 1


def _reader_left(error: Exception | SystemExit) -> bool:
    """Whether the reader of a pipe has left; rich exits then, and Windows reports an invalid argument."""
    if os.name == "nt" and isinstance(error, OSError):
        return error.errno in (errno.EPIPE, errno.EINVAL) and error.filename is None
    return isinstance(error, BrokenPipeError | SystemExit)
