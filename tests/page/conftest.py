"""A browser: with a page that has the engine of charlm's page and nothing else, and with the page around an engine of known odds."""

import base64
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from charlm.page.html import Engine, make_page
from charlm.page.scripts import script, worker_source

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page as BrowserPage

SYSTEM = "/usr/bin/chromium"
PATIENCE = 60_000
"""Milliseconds after which a test gives up; nothing is asserted about it."""
MOCK = (Path(__file__).parent / "mock_engine.js").read_text("utf-8")
POLICY = (
    "default-src 'none'; script-src 'sha256-{hash}'; worker-src blob:; base-uri 'none'; form-action 'none'"
)
"""That of the whole page, without what only its looks need."""


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium without a window, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = shutil.which("chromium") or (SYSTEM if os.path.exists(SYSTEM) else None)
    if path is None:
        pytest.skip("chromium is not installed; on Debian: apt-get install chromium")
    playwright.expect.set_options(timeout=PATIENCE)
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with playwright.sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=path, args=["--no-sandbox"] if root else [])
        yield found
        found.close()


class Page:
    """A page in which models are opened, one at a time; `said` is what its console said."""

    def __init__(self, browser: Any, folder: Path) -> None:
        source = json.dumps(worker_source()).replace("<", "\\u003c")
        code = f"{script('engine')}\nconst WORKER_SOURCE = {source};\nlet engine;\n"
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        policy = POLICY.format(hash=digest)
        html = f'<!doctype html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        path = folder / "engine.html"
        path.write_text(f"{html}<title>engine</title><script>{code}</script>", "utf-8")
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page = browser.new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def open(self, data: bytes) -> dict[str, Any]:
        """Open a packed model, and return what it says of itself."""
        return self(  # type: ignore[no-any-return]
            "(engine?.worker.terminate(), engine = new LocalEngine(WORKER_SOURCE, () => given)).open()",
            base64.b64encode(data).decode(),
        )

    def __call__(self, expression: str, given: Any = None) -> Any:
        """The value of an expression, awaited; it has `engine` and `given`."""
        return self.page.evaluate(f"async (given) => {{ return await ({expression}); }}", given)

    def pieces(self, expression: str, given: Any = None) -> list[Any]:
        """All that an iterator gives."""
        body = f"const found = []; for await (const piece of {expression}) found.push(piece); return found;"
        return list(self.page.evaluate(f"async (given) => {{ {body} }}", given))

    def generate(self, text: str, **settings: Any) -> list[Any]:
        """The pieces of a continuation."""
        return self.pieces(
            "engine.generate(given.text, given.settings)", {"text": text, "settings": settings}
        )

    def score(self, text: str) -> tuple[list[float], list[float]]:
        """Bits and entropies of all characters, whose pieces must be in order."""
        bits, entropy = list[float](), list[float]()
        for piece in self.pieces("engine.score(given)", text):
            assert piece["start"] == len(bits) and len(piece["bits"]) == len(piece["entropy"])
            bits += piece["bits"]
            entropy += piece["entropy"]
        return bits, entropy


@pytest.fixture(scope="session")
def engine_page(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """One page for all tests that only open models."""
    found = Page(browser, tmp_path_factory.mktemp("page"))
    yield found
    found.page.close()


@pytest.fixture
def page(engine_page: Page) -> Iterator[Page]:
    """That page, which neither complains nor asks anyone for anything."""
    yield engine_page
    said, engine_page.said = engine_page.said, []
    asked, engine_page.asked = engine_page.asked, []
    assert not said
    assert all(url.startswith(("file:", "blob:")) for url in asked)


OpenPage = Callable[[bytes], dict[str, Any]]


_wrong: list[str] = []


@pytest.fixture(scope="session")
def desktop(browser: "Browser") -> Iterator["BrowserPage"]:
    """A page on a desktop, for all tests that load theirs into it."""
    context = browser.new_context()
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.on("console", lambda message: _wrong.append(message.text))
    page.on("pageerror", lambda error: _wrong.append(str(error)))
    page.on("request", lambda request: _wrong.append(request.url) if _leaves(request.url) else None)
    yield page
    context.close()


@pytest.fixture
def browser_page(desktop: "BrowserPage") -> Iterator["BrowserPage"]:
    """That page as if it were new, which may not complain, fail, or ask any host for anything."""
    desktop.goto("about:blank")
    desktop.set_viewport_size({"width": 1280, "height": 800})
    desktop.emulate_media(color_scheme="null")
    desktop.mouse.move(0, 0)
    _wrong.clear()
    yield desktop
    wrong = _wrong[:]
    assert wrong == []


def _leaves(url: str) -> bool:
    return not url.startswith(("file:", "blob:", "data:", "about:"))


Opened = Callable[..., "BrowserPage"]


@pytest.fixture
def opened(browser_page: "BrowserPage", tmp_path: Path) -> Opened:
    """Open a page around an engine of known odds: `opened("new MockEngine({pause: 20})")`."""

    def opened(expression: str = "new MockEngine()", title: str = "mock", **how: Any) -> "BrowserPage":
        engine = Engine(scripts=MOCK, expression=f"window.engine = {expression}", **how)
        path = tmp_path / "page.html"
        path.write_text(make_page(title, engine).html, "utf-8")
        browser_page.goto(path.as_uri())
        browser_page.wait_for_selector("#desk:not([hidden])")
        return browser_page

    return opened
