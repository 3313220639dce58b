"""The text that is on every machine: the language manual inside the Python installation."""

import platform

from charlm.errors import TextError


def manual_name() -> str:
    """What figures on it must carry: the text differs from one version of Python to the next."""
    return f"the manual of Python {platform.python_version()}"


def read_manual() -> str:
    """All topics of `pydoc_data.topics`, in the order of their names; TextError where it is missing."""
    try:
        from pydoc_data.topics import topics  # half a megabyte, loaded only when it is wanted
    except ImportError:
        raise TextError(
            "this Python comes without its manual (pydoc_data.topics), which is what is learned from when "
            "no file is named; name one: charlm train corpus.txt"
        ) from None
    return "\n".join(topics[name] for name in sorted(topics))
