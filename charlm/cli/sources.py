"""Where the value of an option came from when it was not typed: a CHARLM_* variable, or a line of a `--config` file."""

import os
import re
from typing import Any

from charlm.cli.console import warn
from charlm.suggestions import setting_meant
from charlm.terminal import one_line

PREFIX = "CHARLM_"
NO_OPTION = ("CHARLM_CACHE", "CHARLM_DEBUG")
"""The variables that belong to no option."""
CONFIG_FILE = "charlm.config_file"
"""Where a command's context keeps the name of its `--config` file and the line of each setting."""


def with_sources(message: str, ctx: Any) -> str:
    """The message, and for each option in it that was not typed where its value was set."""
    found = [] if ctx is None else [_source(param, ctx) for param in _mentioned(message, ctx)]
    return "; ".join([message.rstrip("."), *found]) if found else message


def _mentioned(message: str, ctx: Any) -> list[Any]:
    """The options in a message whose values were not typed: by option, or by name and value."""
    found = []
    for param in ctx.command.params:
        source = ctx.get_parameter_source(param.name)
        if source is None or source.name not in ("ENVIRONMENT", "DEFAULT_MAP"):
            continue
        value = ctx.params.get(param.name)
        values = "|".join(re.escape(form(value)) for form in (str, repr))
        if re.search(
            rf"(?<![\w-])({re.escape(param.opts[0])}(?![\w-])|{param.name} (is )?({values}))", message
        ):
            found.append(param)
    return found


def _source(param: Any, ctx: Any) -> str:
    option = param.opts[0]
    if ctx.get_parameter_source(param.name).name == "ENVIRONMENT":
        return f"{option} was set by the variable {param.envvar}"
    path, lines = ctx.meta[CONFIG_FILE]
    return f"{option} was set in {one_line(path)}, line {lines[param.name]}"


def note_unknown_variables(group: Any) -> None:
    """Warn of CHARLM_* variables that no command reads."""
    known = {
        str(param.envvar) for command in group.commands.values() for param in command.params if param.envvar
    }
    known |= set(NO_OPTION)
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            endings = [other.removeprefix(PREFIX).lower() for other in known]
            meant = setting_meant(name.removeprefix(PREFIX).lower(), endings)
            hint = f"; did you mean {PREFIX}{meant.upper()}?" if meant else ""
            warn(f"the variable {one_line(name)} is unknown and has no effect{hint}")
