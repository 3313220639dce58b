"""The scripts of the page, each after those it needs."""

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
WORKER = (
    *("unpack", "tokenizer", "products", "positions", "attention", "recurrence", "transformer"),
    *("ngrams", "mixture", "recent_ngrams", "sampling", "language_model", "answers", "worker"),
)
"""The scripts of the worker."""
VIEWS = (
    *("dom", "visible", "history", "editor", "choices", "settings", "beside", "desk"),
    *("units", "unittable", "surprise", "insidetables", "inside", "chart", "about", "tabs", "app"),
)
"""The scripts of the page itself."""


def script(name: str) -> str:
    """Read the source of one script."""
    return (ASSETS / f"{name}.js").read_text("utf-8")


def worker_source() -> str:
    """Read the source of the worker, the first argument of `LocalEngine` (engine.js)."""
    return "\n".join(map(script, WORKER))
