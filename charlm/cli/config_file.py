"""`--config FILE.toml`: options from a file, below the command line and the environment."""

import tomllib
from typing import Any

import typer

from charlm.errors import UsageError
from charlm.suggestions import setting_meant
from charlm.terminal import one_line

NOT_IN_FILES = ("config", "help", "corpus", "dry_run")
MOST_BYTES = 1 << 15
"""More is no file of settings: a device or a pipe may have no end."""
LONGEST_NAME = 100


def read_config(ctx: typer.Context, path: str | None) -> str | None:
    """Make a file's settings the defaults of the command; UsageError for what is no setting."""
    if path is None:
        return None
    try:
        values: dict[str, Any] = tomllib.loads(_contents(path).decode("utf-8"))
    except OSError as error:
        raise UsageError(f"--config {one_line(path)} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--config {one_line(path)} is not TOML: {one_line(str(error))}") from None
    params = {p.opts[0].lstrip("-").replace("-", "_"): p for p in ctx.command.params}
    known = {name: p.type.name for name, p in params.items() if name not in NOT_IN_FILES}
    repeated = {name for name, p in params.items() if getattr(p, "multiple", False)}
    settings = {name.replace("-", "_"): value for name, value in values.items()}
    for name, value in settings.items():
        if name not in known:
            meant = setting_meant(name[:LONGEST_NAME], known)
            hint = f"; did you mean {meant}?" if meant else ""
            raise UsageError(f"{one_line(path)} sets {one_line(name)!r}, which is no setting{hint}")
        if name in repeated and isinstance(value, list):
            if not all(isinstance(each, str) for each in value):
                raise UsageError(f"{one_line(path)}: {one_line(name)} must be a list of texts")
            continue
        if isinstance(value, bool) != (known[name] == "boolean") or not isinstance(value, str | int | float):
            wanted = "true or false" if known[name] == "boolean" else "a number or a text"
            raise UsageError(f"{one_line(path)}: {one_line(name)} must be {wanted}")
        if isinstance(value, float) and known[name].startswith("int"):
            raise UsageError(f"{one_line(path)}: {one_line(name)} is {value}; it takes a whole number")
    by_parameter = {
        str(params[name].name): [value] if name in repeated and isinstance(value, str) else value
        for name, value in settings.items()
    }  # `from` is no name in Python
    ctx.default_map = {**(ctx.default_map or {}), **by_parameter}
    return path


def _contents(path: str) -> bytes:
    """The bytes of a file or a pipe; UsageError for more than a file of settings has."""
    data = b""
    with open(path, "rb", buffering=0) as file:
        while len(data) <= MOST_BYTES and (piece := file.read(MOST_BYTES + 1 - len(data))):
            data += piece
    if len(data) > MOST_BYTES:
        raise UsageError(
            f"--config {one_line(path)} has more than {MOST_BYTES:,} bytes; name a file of settings, in TOML"
        )
    return data
