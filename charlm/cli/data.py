"""`charlm data`: list benchmark texts and download them."""

from pathlib import Path
from typing import Annotated

import typer

from charlm.cli.console import count, print_json, say, table, working
from charlm.cli.options import AsJson
from charlm.errors import UsageError
from charlm.suggestions import name_meant
from charlm.terminal import command_line, one_line

EXAMPLES = """Examples:
  charlm data list                          names, addresses, hashes and customary splits
  charlm data get tinyshakespeare           into data/
  charlm data get enwik8 --to /tmp/texts    elsewhere"""


def command(
    what: Annotated[
        str, typer.Argument(metavar="list|get", help="List the texts, or download one.")
    ] = "list",
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Name of the text to download.")] = None,
    to: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder to download into. [default: data]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List benchmark texts, or download one and check it.

    It connects only to the address that it shows. No other command uses the network unless you name an address.
    """
    from charlm.data.datasets import TEXTS

    if what == "list":
        if name is not None or to is not None:
            raise UsageError("data list takes no name and no --to; to download a text: charlm data get NAME")
        _list(as_json)
        return
    if what != "get":
        text = what.lower() if what.lower() in TEXTS else None
        hint = f"did you mean charlm data get {text}?" if text else "use data list or data get NAME"
        raise UsageError(f"there is no command data {one_line(what)}; {hint}")
    if name is None:
        raise UsageError(
            f"data get needs a name: {', '.join(TEXTS)}. For example: charlm data get {next(iter(TEXTS))}"
        )
    if name not in TEXTS:
        raise UsageError(_no_text(name))
    _get(name, Path(to or "data"), as_json)


def _no_text(name: str) -> str:
    """Explain why a text cannot be fetched by that name, and what to do."""
    from charlm.data.addresses import address_advice, is_address, kept_name
    from charlm.data.datasets import TEXTS

    if is_address(name):
        named = f"data get takes the name of a text that charlm knows ({', '.join(TEXTS)}), not an address"
        return f"{named}; to train on an address: charlm train {one_line(kept_name(name))}"
    if (advice := address_advice(name)) is not None:
        return advice
    close = name_meant(name.lower(), list(TEXTS))
    return f"data get does not know {one_line(name)}; " + (
        f"did you mean {close}?" if close else f"available texts: {', '.join(TEXTS)}"
    )


def _list(as_json: bool) -> None:
    from charlm.data.datasets import TEXTS

    if as_json:
        print_json({"schema": 1, "texts": [{**vars(text), "split": text.split} for text in TEXTS.values()]})
        return
    for text in TEXTS.values():
        table(
            [
                (text.name, f"{count(text.size)} bytes"),
                ("  address", text.url),
                (f"  {text.algorithm}", text.digest),
                ("  published in", text.source),
                ("  split", text.split),
                ("  checked", text.checked),
            ]
        )


def _get(name: str, folder: Path, as_json: bool) -> None:
    from charlm.data.datasets import TEXTS, fetch

    text = TEXTS[name]
    say(f"fetching {text.url}")
    with working("", "B") as bar:
        path = fetch(text, folder, bar)
    if as_json:
        print_json({"schema": 1, "path": str(path), **vars(text)})
        return
    table(
        [
            ("file", one_line(str(path))),
            ("bytes", count(text.size)),
            (text.algorithm, f"{text.digest}, as published in {text.source}"),
            ("customary split", text.split),
        ]
    )
    say("train on it: ", command_line(["charlm", "train", str(path)]))
