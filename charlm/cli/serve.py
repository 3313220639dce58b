"""`charlm serve`: serve the page on loopback, with runs that this process computes."""

import secrets
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.console import MESSAGES, load_run, say, warn
from charlm.cli.options import ROOT, Checkpoints, RunOption, Threads, Which, with_settings
from charlm.errors import UsageError
from charlm.page.page_config import ServeConfig
from charlm.terminal import one_line, visible
from charlm.training.request import build
from charlm.training.signals import Signalled

if TYPE_CHECKING:
    from charlm.checkpoint.run_folder import RunFolder

EXAMPLES = """Examples:
  charlm serve                      the newest run: open the address that it prints
  charlm serve poems novels         two runs to choose from, and to set side by side
  charlm serve --all                every run
  charlm serve --port 8000          a fixed port, such as one that ssh forwards"""

TOKEN_BYTES = 32

Runs = Annotated[
    list[str] | None, typer.Argument(metavar="RUN...", help="Runs to choose from. [default: the newest]")
]
All = Annotated[bool, typer.Option("--all", help="Serve every run.")]


@with_settings({"Serving": ServeConfig})
def command(
    names: Runs = None,
    run: RunOption = None,
    every: All = False,
    checkpoint: Which = None,
    threads: Threads = None,
    checkpoints: Checkpoints = ROOT,
    *,
    settings: dict[str, Any],
) -> None:
    """Serve a web page to write with runs and measure texts.

    charlm prints the address on standard output. It works on this computer only, and contains a token that every
    request needs. Unlike the file of charlm page, it uses the compiled kernels and the whole n-gram prior.
    Ctrl-C ends it.
    """
    config = build(ServeConfig, settings)
    folders = _folders(checkpoints, [*(names or []), *([run] if run else [])], every=every)
    from charlm.page.about import about  # here and below: torch is slow to import
    from charlm.page.html import make_page, remote_engine
    from charlm.page.server import PageServer, ServedPage
    from charlm.page.service import LoadedOnce, Service
    from charlm.threads import use_threads

    use_threads(threads)
    runs = {
        visible(folder.path.name): LoadedOnce(
            partial(load_run, folder.path.parent, folder.path.name, checkpoint)
        )
        for folder in folders
    }
    service = Service(runs, about, threads)
    page = make_page(next(iter(runs)), remote_engine())
    served = ServedPage(page.html.encode(), f"{page.policy}; frame-ancestors 'none'")
    with PageServer(config.port, secrets.token_urlsafe(TOKEN_BYTES), served, service, warn) as server:
        next(iter(runs.values())).get()
        print(server.url, flush=True)
        say("open that address in a browser on this computer; Ctrl-C ends the server")
        try:
            server.serve_forever()
        except Signalled:
            raise
        except KeyboardInterrupt:
            return  # Ctrl-C is how it ends


def _folders(root: Path, names: Sequence[str], *, every: bool) -> "list[RunFolder]":
    """Find the runs to serve, each once. Raises CheckpointError, and UsageError if two have the same name."""
    from charlm.checkpoint.run_folder import list_runs
    from charlm.run import find_run

    if every and names:
        raise UsageError(f"--all serves every run, but you also named {one_line(names[0])}; leave one out")
    found = list_runs(root, warn) if every else []
    wanted: Sequence[str | None] = names or [None]
    found = found or [find_run(name, root, MESSAGES) for name in wanted]
    served: dict[str, RunFolder] = {}
    for folder in found:
        other = served.setdefault(folder.path.name, folder)
        if other.path.resolve() != folder.path.resolve():
            raise UsageError(
                f"two of the runs are named {one_line(folder.path.name)}; serve them one at a time"
            )
    return list(served.values())
