"""Export a plain decoder to the formats of other programs, whose libraries are an extra, imported only here."""

from importlib import import_module
from typing import Any

from charlm.errors import UsageError

INSTALL = 'pip install "charlm-cli[export]"'


def need(to: str, *modules: str) -> Any:
    """Import these modules and return the first. Raises UsageError, with the command that installs a missing one."""
    found = []
    for name in modules:
        try:
            found.append(import_module(name))
        except ImportError:
            raise UsageError(
                f"--to {to} needs the package {name}, which is not installed; install it with: {INSTALL}"
            ) from None
    return found[0]
