"""charlm: train, sample and evaluate language models that work one character at a time.

    run = charlm.train("poems/", time="1m")
    run = charlm.load("poems")
    run.sample("To be", length=200, seed=2)

Nothing is loaded until it is used: `import charlm` imports neither torch nor NumPy.
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from charlm.api import Run, load, resume, train, train_events
    from charlm.errors import (
        CharlmError,
        CheckpointError,
        DivergedError,
        ResourceError,
        TextError,
        UsageError,
    )

if sys.platform == "darwin":  # read when torch is imported: operations that MPS lacks run on the CPU
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

_API = ("Run", "load", "resume", "train", "train_events")
_ERRORS = ("CharlmError", "CheckpointError", "DivergedError", "ResourceError", "TextError", "UsageError")

__all__ = [
    "CharlmError",
    "CheckpointError",
    "DivergedError",
    "ResourceError",
    "Run",
    "TextError",
    "UsageError",
    "__version__",
    "load",
    "resume",
    "train",
    "train_events",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    for module, names in (("charlm.api", _API), ("charlm.errors", _ERRORS)):
        if name in names:
            value = getattr(import_module(module), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'charlm' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
