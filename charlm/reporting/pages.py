"""HTML pages from Jinja2 templates: each is self-contained, and neither loads nor runs anything."""

from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from charlm.terminal import visible


def render_page(template: str, **values: Any) -> str:
    """Fill in a template. Text is escaped, and its invisible characters are spelled out; Markup stays as it is."""
    return _environment().get_template(template).render(**values)


def harmless(text: str) -> Markup:
    """Escape text of a file or a model for HTML, with its invisible characters spelled out."""
    return escape(visible(text))


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("charlm.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else visible(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
    )
