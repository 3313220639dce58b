"""The scripts of the page, in the order in which each needs those before it."""

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"
WORKER = (
    *("unpack", "tokenizer", "products", "positions", "attention", "recurrence", "transformer"),
    *("ngrams", "mixture", "recent_ngrams", "sampling", "language_model", "answers", "worker"),
)
"""What the worker runs."""
VIEWS = (
    *("dom", "visible", "history", "editor", "choices", "settings", "beside", "desk"),
    *("units", "unittable", "surprise", "insidetables", "inside", "chart", "about", "tabs", "app"),
)
"""What the page itself runs."""


def script(name: str) -> str:
    """The source of one script."""
    return (ASSETS / f"{name}.js").read_text("utf-8")


def worker_source() -> str:
    """The source of the worker, the first argument of `LocalEngine` (engine.js)."""
    return "\n".join(map(script, WORKER))
