"""`--config FILE.toml`: options from a file, which the command line and the environment override."""

import os
import re
import stat
import tomllib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from typing import Any

import typer

from charlm.cli.options import CONFIG_FILE
from charlm.errors import UsageError
from charlm.suggestions import setting_meant
from charlm.terminal import one_line

COMMAND_LINE_ONLY = ("config", "help", "corpus", "dry_run")
MOST_BYTES = 1 << 15
"""Most bytes read: a longer file is not one of settings, and a device or a pipe may have no end."""
LONGEST_NAME = 100


def read_config(ctx: typer.Context, path: str | None) -> str | None:
    """Make a file's settings the defaults of the command. Raises UsageError for an unknown setting or a wrong type."""
    if path is None:
        return None
    text = _read(path)
    try:
        values: dict[str, Any] = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--config {one_line(path)} is not TOML: {one_line(str(error))}") from None
    params = {p.opts[0].lstrip("-").replace("-", "_"): p for p in ctx.command.params}
    settings: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for key, value in values.items():
        name, line = key.replace("-", "_"), _line(text, key)
        where = f"{one_line(path)}, line {line}: "
        if isinstance(value, dict):
            raise UsageError(
                f"{where}{one_line(key)} is a table; write settings without tables: name = value"
            )
        if name not in params or name in COMMAND_LINE_ONLY:
            raise UsageError(where + _unknown(name, params, ctx))
        if name in lines:
            raise UsageError(f"{where}{one_line(key)} is set twice, also in line {lines[name]}; keep one")
        wrong = _wrong(params[name], value)
        if wrong is not None:
            raise UsageError(f"{where}{name} is {_shown(value)}; it must be {wrong}")
        repeated = params[name].multiple and isinstance(value, str)
        settings[name], lines[name] = [value] if repeated else value, line
    # A parameter's name may differ from its option's: `from` is a keyword in Python.
    ctx.default_map = {**(ctx.default_map or {}), **{str(params[n].name): v for n, v in settings.items()}}
    ctx.meta[CONFIG_FILE] = path, {params[name].name: line for name, line in lines.items()}
    return path


def _read(path: str) -> str:
    """Read the file as UTF-8, or as UTF-16 if it has a byte-order mark."""
    name = os.path.expanduser(path)
    try:
        if stat.S_ISFIFO(os.stat(name).st_mode) and not name.startswith("/dev/"):  # which `<(command)` is
            raise UsageError(f"--config {one_line(path)} is a named pipe; name a regular file")
        with open(name, "rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"--config {one_line(path)} cannot be read: {reason}") from None
    if len(data) > MOST_BYTES:
        raise UsageError(
            f"--config {one_line(path)} has more than {MOST_BYTES:,} bytes; name a file of settings, in TOML"
        )
    try:
        text = data.decode("utf-16" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # as in UTF-16 without a mark
        raise UsageError(
            f"--config {one_line(path)} is neither UTF-8 nor UTF-16 with a byte-order mark; save it as UTF-8"
        )
    return text


def _line(text: str, key: str) -> int:
    """Return the number of the line that sets a key, or begins a table of that name."""
    found = re.search(rf"""^\s*\[*\s*["']?{re.escape(key)}["']?\s*[=.\]]""", text, re.MULTILINE)
    return text.count("\n", 0, found.end()) + 1 if found else 1


def _unknown(name: str, params: dict[str, Any], ctx: typer.Context) -> str:
    """Explain why a name sets nothing."""
    shown = repr(one_line(name))
    if name in COMMAND_LINE_ONLY and name in params:
        return f"{shown} can only be given on the command line"
    commands = getattr(ctx.parent and ctx.parent.command, "commands", {})
    others = [other for other, command in commands.items() if any(p.name == name for p in command.params)]
    if others and name not in COMMAND_LINE_ONLY:
        return f"{shown} is an option of charlm {one_line(others[0])}, not of charlm {ctx.command.name}"
    meant = setting_meant(name[:LONGEST_NAME], [known for known in params if known not in COMMAND_LINE_ONLY])
    return f"{shown} is an unknown setting" + (f"; did you mean {meant}?" if meant else "")


def _shown(value: Any) -> str:
    """Format a value as in TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    return one_line(repr(value) if isinstance(value, str | list) else str(value))


def _wrong(param: Any, value: Any) -> str | None:
    """Return what the option takes if a value has the wrong type, else None."""
    if param.multiple:
        parts = value if isinstance(value, list) else [value]
        return (
            None if all(isinstance(part, str) for part in parts) else "a text in quotes, or a list of texts"
        )
    kind = param.type.name
    if kind == "boolean":
        return None if isinstance(value, bool) else "true or false"
    if kind.startswith("int"):
        return None if type(value) is int else "a whole number, without quotes, point or exponent"
    if kind.startswith("float"):
        return None if type(value) in (int, float) else "a number, without quotes"
    return None if type(value) in (str, int, float) else "a text in quotes"
