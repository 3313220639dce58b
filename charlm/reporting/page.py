"""The frame of every page: an HTML document that loads and runs nothing, its type and its facts."""

from collections.abc import Sequence
from html import escape

from charlm.terminal import visible

CSS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1f23; --soft: #59616b; --rule: #dfe3e7;
  --wash: #f6f7f8; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181c; --ink: #e4e7ea; --soft: #a0a9b3;
  --rule: #30363d; --wash: #1d2126; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100%; overflow-wrap: anywhere; }
main { max-width: 49rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; font-weight: 650; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.125rem; font-weight: 650; margin: 2.75rem 0 .75rem; }
table { width: 100%; border-collapse: collapse; font-size: .9375rem; }
tr { border-top: 1px solid var(--rule); } td, th { vertical-align: top; padding: .3rem 0; }
td { white-space: pre-wrap; }
th { font-weight: 400; text-align: left; color: var(--soft); width: 40%; padding-right: 1rem; }
figure { margin: 0 0 1.5rem; }
figcaption { color: var(--soft); font-size: .875rem; display: flex; flex-wrap: wrap;
  gap: .25rem 1.5rem; margin-bottom: .75rem; }
@media (max-width: 34rem) { main { padding-top: 1.25rem; } }
"""


def document(title: str, css: str, body: str) -> str:
    """Return a whole page around `body`, dressed in the CSS of every page and in `css`."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{harmless(title)}</title><style>{CSS}{css}</style>"
    )
    main = f"<body><main>\n<h1>{harmless(title)}</h1>\n{body}</main></body>"
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n{main}</html>\n'


def harmless(text: str) -> str:
    """Return foreign text as HTML that shows it: nothing in it is markup, nothing is hidden."""
    return escape(visible(text))


def facts_table(rows: Sequence[tuple[str, str]]) -> str:
    """Return rows of a label and a value as a table, or nothing for no rows."""
    cells = [f'<tr><th scope="row">{harmless(a)}</th><td>{harmless(b)}</td></tr>\n' for a, b in rows]
    return f"<table>\n{''.join(cells)}</table>\n" if rows else ""
