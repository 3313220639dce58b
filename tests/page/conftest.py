"""A real browser that opens pages from files; skipped where there is none."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from charlm.page.html import Engine, make_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

MOCK = (Path(__file__).parent / "mock_engine.js").read_text("utf-8")
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator["Browser"]:
    """Chromium without a window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = os.environ.get("CHARLM_TEST_BROWSER") or next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        pytest.skip("there is no chromium")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def browser_page(browser: "Browser") -> Iterator["Page"]:
    """A page on a desktop, which may not complain, fail, or ask any host for anything."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(60_000)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if _leaves(request.url) else None)
    yield page
    context.close()
    assert wrong == []


def _leaves(url: str) -> bool:
    return not url.startswith(("file:", "blob:", "data:"))


Opened = Callable[..., "Page"]


@pytest.fixture
def opened(browser_page: "Page", tmp_path: Path) -> Opened:
    """Open a page around an engine of known odds: `opened("new MockEngine({pause: 20})")`."""

    def opened(expression: str = "new MockEngine()", title: str = "mock", **how: Any) -> "Page":
        engine = Engine(scripts=MOCK, expression=f"window.engine = {expression}", **how)
        path = tmp_path / "page.html"
        path.write_text(make_page(title, engine).html, "utf-8")
        browser_page.goto(path.as_uri())
        browser_page.wait_for_selector("#desk:not([hidden])")
        return browser_page

    return opened
