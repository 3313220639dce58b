"""Build the page as one HTML file of markup, styles, scripts and model, under a strict content security policy."""

import json
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from charlm import __version__
from charlm.page.scripts import VIEWS, script, worker_source
from charlm.reporting.surprisal_colours import COLOURS, EDGES
from charlm.terminal import one_line

DATA_BLOCK = '<script type="application/octet-stream" id="model">{}</script>\n'


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What computes for the page: scripts that define a class, and the expression that constructs it."""

    scripts: str
    expression: str
    model: bytes | None = None  # embedded in the page
    is_remote: bool = False  # whether the page may connect to its own server
    notes: tuple[str, ...] = ()  # on what packing lost


class Page(NamedTuple):
    """The page, and its content security policy, which the page contains too."""

    html: str
    policy: str


def local_engine(model: bytes, notes: Sequence[str] = ()) -> Engine:
    """Return the engine that computes in the page itself, in a worker, from a packed model."""
    read_model = "() => byId('model').textContent"
    return Engine(
        scripts=f"{script('engine')}\nconst WORKER_SOURCE = {script_json(worker_source())};",
        expression=f"new LocalEngine(WORKER_SOURCE, {read_model})",
        model=model,
        notes=tuple(notes),
    )


def remote_engine() -> Engine:
    """Return the engine that asks the server from which the page was loaded."""
    return Engine(scripts=script("remote"), expression="RemoteEngine.ofPage()", is_remote=True)


def make_page(title: str, engine: Engine) -> Page:
    """Return the whole page; the same title and engine give the same bytes. Raises nothing."""
    program = _program([*map(script, VIEWS), engine.scripts, f"startPage({engine.expression});"])
    style = Markup(_environment().get_template("page.css").render(colours=COLOURS))
    shown = one_line(title)
    model = "" if engine.model is None else DATA_BLOCK.format(b64encode(engine.model).decode())
    policy = _policy(program, style, is_remote=engine.is_remote)
    html = (
        _environment()
        .get_template("page.html")
        .render(
            title=shown,
            version=__version__,
            policy=policy,
            style=style,
            script=Markup(program),
            data=Markup(script_json({"edges": EDGES, "notes": engine.notes})),
            model=Markup(model),
            stays="this machine" if engine.is_remote else "this page",
        )
    )
    return Page(html, policy)


def script_json(value: Any) -> str:
    """Serialise JSON for a script element: it cannot end the element, and is valid JavaScript too."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e")


def _program(parts: list[str]) -> str:
    """Join scripts into one, which must not contain the end of its script element."""
    program = "\n".join(part.strip("\n") for part in parts) + "\n"
    assert not re.search(r"</script|<!--", program, re.IGNORECASE), (
        "a script holds markup; write it in pieces"
    )
    return program


def _policy(script: str, style: str, *, is_remote: bool) -> str:
    """Return the content security policy: these scripts and styles, workers made of them, no network."""
    directives = [
        "default-src 'none'",
        f"script-src '{_hash(script)}'",
        f"style-src '{_hash(style)}'",
        "worker-src blob:",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        *["connect-src 'self'"] * is_remote,
    ]
    return "; ".join(directives)


def _hash(text: str) -> str:
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("charlm.page", "assets"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
