"""`charlm cache`: list and remove the encoded texts and the downloads in the cache."""

from datetime import datetime
from typing import Annotated, Any

import typer

from charlm.cli.console import can_ask, confirm, count, print_json, say, table, warn
from charlm.cli.options import AsJson, Yes
from charlm.errors import ResourceError, UsageError
from charlm.terminal import one_line
from charlm.training.describe import several

EXAMPLES = """Examples:
  charlm cache              list the cached texts and their folder
  charlm cache --clear      remove all texts, after asking; --yes does not ask
  charlm cache 3f2a --clear   remove the texts with this key prefix"""


def command(
    keys: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY...", help="Key prefixes of the texts to list or remove. [default: all]"),
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Remove the texts, after asking.")] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """List the cached texts and downloads, or remove them.

    charlm reads or downloads a removed text again when it needs it. Text from standard input cannot be read
    again: to resume a run on it, give the text as a file with --text.
    """
    from charlm.data import corpus_cache as cache  # here: numpy is slow to import
    from charlm.data import downloads

    found: list[Any] = [*cache.entries(warn), *downloads.entries()]
    for key in keys or []:
        if not any(entry.key.startswith(key) for entry in found):
            raise UsageError(f"no key in the cache begins with {one_line(key)}; charlm cache lists them")
    chosen = [entry for entry in found if not keys or entry.key.startswith(tuple(keys))]
    if yes and not clear:
        raise UsageError("--yes has no effect without --clear")
    if clear:
        what = f"{several(len(chosen), 'text')}, {sum(entry.bytes for entry in chosen) / 1e6:,.1f} MB"
        if not yes and not can_ask():
            raise UsageError(f"--clear would remove {what}; to confirm without a terminal, add --yes")
        if not yes and not confirm(f"remove {what}, from {one_line(str(cache.cache_folder()))}?"):
            say("nothing was removed")
            return
        _clear(cache, downloads, chosen, everything=not keys)
        return
    if as_json:
        print_json(
            {
                "schema": 1,
                "folder": str(cache.cache_folder()),
                "texts": [vars(entry) for entry in chosen if isinstance(entry, cache.Entry)],
                "downloads": [vars(entry) for entry in chosen if isinstance(entry, downloads.Entry)],
            }
        )
        return
    say(f"the cache is in {one_line(str(cache.cache_folder()))}")
    rows = [
        (
            entry.key[:12],
            entry.label,
            count(entry.chars) if isinstance(entry, cache.Entry) else entry.state,
            f"{entry.bytes / 1e6:,.1f} MB",
            datetime.fromtimestamp(entry.used).isoformat(" ", "minutes"),
        )
        for entry in chosen
    ]
    if rows:
        table(rows, header=("key", "text", "characters", "size", "last used"), numbers=(2, 3))
    say(f"{several(len(chosen), 'text')}, {sum(e.bytes for e in chosen) / 1e6:,.1f} MB")


def _clear(cache: Any, downloads: Any, chosen: list[Any], *, everything: bool) -> None:
    try:
        for entry in chosen:
            (cache if isinstance(entry, cache.Entry) else downloads).remove(entry.key)
        if everything:
            cache.remove_rest()
            downloads.remove_all()
    except OSError as error:
        raise ResourceError(f"the cache cannot be cleared: {error}") from None
    freed = sum(entry.bytes for entry in chosen)
    say(f"removed {several(len(chosen), 'text')}, {freed / 1e6:,.1f} MB")
