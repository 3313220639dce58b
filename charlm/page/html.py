"""The page as one HTML file: markup, styles, scripts and model, under a policy that lets nothing else in or out."""

import json
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from charlm import __version__
from charlm.reporting.surprisal_colours import COLOURS, EDGES
from charlm.terminal import one_line

VIEWS = (
    *("dom.js", "visible.js", "history.js", "editor.js", "choices.js", "settings.js", "beside.js", "desk.js"),
    *(
        "units.js",
        "unittable.js",
        "surprise.js",
        "insidetables.js",
        "inside.js",
        "chart.js",
        "about.js",
        "tabs.js",
    ),
    "app.js",
)
"""The scripts of the page itself, in an order in which each needs only those before it when it is read."""
WORKER = (
    *(
        "unpack.js",
        "tokenizer.js",
        "ngrams.js",
        "recent_ngrams.js",
        "positions.js",
        "products.js",
        "attention.js",
    ),
    *(
        "recurrence.js",
        "transformer.js",
        "mixture.js",
        "sampling.js",
        "language_model.js",
        "answers.js",
        "worker.js",
    ),
)
"""The scripts that compute, in a worker."""
DATA_BLOCK = '<script type="application/octet-stream" id="model">{}</script>\n'


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What computes for the page: scripts that define a class, and the expression that makes one of it."""

    scripts: str
    expression: str
    model: bytes | None = None  # that stands in the page
    is_remote: bool = False  # may the page talk to the server that it came from?
    notes: tuple[str, ...] = ()  # on what was lost on the way into the page


class Page(NamedTuple):
    """The page, and its content security policy, which stands in it too."""

    html: str
    policy: str


def local_engine(model: bytes, notes: Sequence[str] = ()) -> Engine:
    """Return the engine that computes in the page itself, in a worker, from a packed model."""
    worker = "\n".join(map(asset, WORKER))
    read_model = "() => byId('model').textContent"
    return Engine(
        scripts=f"{asset('engine.js')}\nconst WORKER_SOURCE = {script_json(worker)};",
        expression=f"new LocalEngine(WORKER_SOURCE, {read_model})",
        model=model,
        notes=tuple(notes),
    )


def remote_engine() -> Engine:
    """Return the engine that asks the server which the page came from."""
    return Engine(scripts=asset("remote.js"), expression="RemoteEngine.ofPage()", is_remote=True)


def make_page(title: str, engine: Engine) -> Page:
    """Return the whole page; the same title and engine give the same bytes. Raises nothing."""
    script = _script([*map(asset, VIEWS), engine.scripts, f"startPage({engine.expression});"])
    style = Markup(_environment().get_template("page.css").render(colours=COLOURS))
    shown = one_line(title)
    model = "" if engine.model is None else DATA_BLOCK.format(b64encode(engine.model).decode())
    policy = _policy(script, style, is_remote=engine.is_remote)
    html = (
        _environment()
        .get_template("page.html")
        .render(
            title=shown,
            version=__version__,
            policy=policy,
            style=style,
            script=Markup(script),
            data=Markup(script_json({"edges": EDGES, "notes": engine.notes})),
            model=Markup(model),
            stays="this machine" if engine.is_remote else "this page",
        )
    )
    return Page(html, policy)


@cache
def asset(name: str) -> str:
    """The text of a file of the page."""
    return (files("charlm.page") / "assets" / name).read_text("utf-8")


def script_json(value: Any) -> str:
    """JSON that can stand in a script element: it cannot end the element, and is JavaScript too."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e")


def _script(parts: list[str]) -> str:
    """Scripts as one, none of which may end the element that it stands in."""
    script = "\n".join(part.strip("\n") for part in parts) + "\n"
    assert not re.search(r"</script|<!--", script, re.IGNORECASE), "a script holds markup; write it in pieces"
    return script


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
