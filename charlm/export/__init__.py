"""Exports: a plain decoder in the formats of other programs. What they need is an extra, imported only here."""

from importlib import import_module
from typing import Any

from charlm.errors import UsageError

INSTALL = 'pip install "charlm-cli[export]"'


def need(to: str, *modules: str) -> Any:
    """The first of these modules, all of them imported. Raises UsageError, with the command that installs them."""
    found = []
    for name in modules:
        try:
            found.append(import_module(name))
        except ImportError:
            raise UsageError(
                f"--to {to} needs the package {name}, which is not installed; install it with: {INSTALL}"
            ) from None
    return found[0]
