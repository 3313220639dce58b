"""The page of a run with its model in it: what the views show is what Python says of the run."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from charlm.page.html import local_engine, make_page
from charlm.page.pack import pack
from tests.page.test_engine import TOYS
from tests.page.toys import snapshot_of, surprisal

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
from playwright.sync_api import expect

TEXT = "The little old duck went over the river.\nNaïve 😀 <b>foxes</b>\u202e swam."
ABOUT = {"figures": [], "settings": [], "curves": [], "sample": "", "notes": []}


@pytest.mark.parametrize("kind", ["mixture", "ngram"])
def test_every_view_works_with_the_model_of_a_run(browser_page: "Page", tmp_path: Path, kind: str) -> None:
    packed = pack(snapshot_of(TOYS[kind]), about=ABOUT)
    path = tmp_path / "page.html"
    path.write_text(make_page(kind, local_engine(packed.data)).html, "utf-8")
    page = browser_page
    page.goto(path.as_uri())
    page.wait_for_selector("#desk:not([hidden])")
    page.locator("#length").fill("40")
    page.locator("#desk-editor textarea").fill("The old ")
    page.keyboard.press("Tab")
    expect(page.locator("#desk-status")).to_have_text(
        re.compile("^40 characters, .* bits per character, seed")
    )
    assert len(page.locator("#desk-editor textarea").input_value()) >= len("The old ") + 40
    page.locator("#alternatives").click()
    expect(page.get_by_role("option").first).to_be_visible()
    page.keyboard.press("Escape")
    page.locator("#tab-surprise").click()
    page.locator("#surprise-editor textarea").fill(TEXT)
    page.locator("#measure").click()
    bits, _ = surprisal(packed.predictor, TEXT)
    expect(page.locator("#surprise-total .number")).to_contain_text("bits per character")
    shown = page.locator("#surprise-total .number").inner_text().split()[0]
    assert float(shown) == pytest.approx(sum(bits) / len(TEXT), abs=2e-3)
    page.locator("#tab-inside").click()
    expect(page.locator("#inside-found")).to_be_visible()
    expect(page.locator("#changed tbody tr").first).to_be_visible()
    assert (page.locator("#layers label").count() > 0) == (kind == "mixture")
