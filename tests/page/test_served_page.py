"""The served page in a browser: it writes, measures and looks inside by asking its server, and no other."""

import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.cli.conftest import Charlm
from tests.cli.conftest import charlm as charlm
from tests.cli.models import Models
from tests.page.conftest import PATIENCE
from tests.page.http import Client, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Request

PROMPT = "The little "


@pytest.fixture
def models(charlm: Charlm, tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(charlm, tmp_path_factory)


@pytest.fixture
def said() -> list[str]:
    """What the console says, and requests that fail or go to others."""
    return []


@pytest.fixture
def page(browser: "Browser", said: list[str]) -> "Iterator[Page]":
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    yield page
    context.close()


def opened(page: "Page", client: Client, said: list[str]) -> None:
    """Open the page of a server."""
    own = f"http://127.0.0.1:{client.port}/"
    page.on("request", lambda request: None if request.url.startswith(own) else said.append(request.url))

    def failed(request: "Request") -> None:
        if request.failure != "net::ERR_ABORTED":  # the page stops what is no longer wanted
            said.append(f"{request.url} failed: {request.failure}")

    page.on("requestfailed", failed)
    page.goto(f"{own}?token={client.token}")
    page.wait_for_selector("#desk:not([hidden])")


def write(page: "Page", text: str, length: int) -> None:
    """Continue a text from an empty desk."""
    page.fill("#length", str(length))
    page.fill("#seed", "7")
    page.locator("#desk-editor textarea").click()
    page.keyboard.type(text)
    page.click("#continue")


def test_the_served_page_is_used(models: Models, page: "Page", said: list[str]) -> None:
    roots = [str(models.root(kind) / kind) for kind in ("mixture", "prior")]
    with serving(*roots) as (client, _):
        opened(page, client, said)
        assert page.url == f"http://127.0.0.1:{client.port}/"
        assert page.eval_on_selector_all("#run option", "all => all.map(each => each.value)") == [
            "mixture",
            "prior",
        ]
        page.select_option("#beside-run", "prior")
        write(page, PROMPT, 60)
        page.wait_for_selector("#beside-use:not([hidden])")
        page.get_by_text("60 characters, ").first.wait_for()
        for run, place in (("mixture", "#desk-editor"), ("prior", "#beside-text")):
            sampling = {"seed": 7, "temperature": 0.8}
            pieces = client.stream("generate", run=run, text=PROMPT, length=60, sampling=sampling)
            shown = "".join(piece["text"] for piece in pieces)
            assert plain(shown) in plain(page.inner_text(place))
        page.click("#tab-surprise")
        page.click("#measure-desk")
        page.wait_for_selector("#surprise-total:not([hidden])")
        page.click("#tab-inside")
        page.wait_for_selector("#inside-found:not([hidden])")
        page.click("#tab-about")
        page.select_option("#run", "prior")
        page.get_by_text("transformer, 1 layers of width 16").first.wait_for()
        page.click("#tab-desk")
        assert not said


def test_stop_ends_the_computation_and_a_server_that_is_gone_is_told(
    models: Models, page: "Page", said: list[str]
) -> None:
    with serving("--checkpoints", str(models.root("mixture"))) as (client, child):
        opened(page, client, said)
        write(page, PROMPT, 10_000)
        page.get_by_text("of 10000 characters").first.wait_for()
        page.keyboard.press("Escape")
        page.get_by_text("bits per character").first.wait_for()
        child.send_signal(signal.SIGINT)
        child.wait()
        page.click("#tab-surprise")
        page.click("#measure-desk")
        page.get_by_text("charlm serve does not answer; is it still running?").first.wait_for()


def plain(text: str) -> str:
    """Words, whatever white space a browser makes between them."""
    return " ".join(text.split())
