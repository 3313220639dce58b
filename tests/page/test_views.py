"""The views beside the desk: surprise, inside and about, by mouse and by keyboard, with an engine of known odds."""

from typing import TYPE_CHECKING

import pytest

from charlm.reporting.surprisal_colours import COLOURS
from tests.page.conftest import Opened

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
from playwright.sync_api import expect


def view(page: "Page", name: str) -> None:
    """Open a view."""
    page.locator(f"#tab-{name}").click()


def bits_of(char: str) -> int:
    """What the engine says that a character costs."""
    return ord(char) % 10


def test_tabs_are_a_tablist_for_the_keyboard(opened: Opened) -> None:
    page = opened()
    page.get_by_role("tab", name="Desk").focus()
    for key, name in (
        ("ArrowRight", "Surprise"),
        ("End", "About"),
        ("ArrowRight", "Desk"),
        ("ArrowLeft", "About"),
        ("Home", "Desk"),
    ):
        page.keyboard.press(key)
        tab = page.get_by_role("tab", name=name)
        expect(tab).to_be_focused()
        expect(tab).to_have_attribute("aria-selected", "true")
        assert page.get_by_role("tab", selected=True).count() == 1
        assert (
            page.locator("[role=tabpanel]:not([hidden])").get_attribute("aria-labelledby")
            == f"tab-{name.lower()}"
        )
        assert page.locator("[role=tab][tabindex='-1']").count() == 3


def test_a_text_is_coloured_by_its_bits(opened: Opened) -> None:
    page = opened()
    view(page, "surprise")
    expect(page.locator("#measure")).to_be_disabled()
    text = "a cab<\u202e\nhed 😀"
    page.locator("#surprise-editor textarea").fill(text)
    page.locator("#measure").click()
    total = sum(map(bits_of, text))
    expect(page.locator("#surprise-total .number")).to_have_text(
        f"{total / len(text):.3f} bits per character"
    )
    edges = [0.5, 1, 2, 4, 8]
    painted = page.locator("#surprise-editor .paint span span")
    found = [(run.inner_text(), run.get_attribute("class") or "") for run in painted.all()]
    shown = text.replace("\u202e", "⇤")
    assert "".join(part for part, _ in found).rstrip("\u200b") == shown
    place = 0
    for part, classes in found:
        for _ in part:
            step = sum(bits_of(text[place]) >= edge for edge in edges)
            assert classes.split()[0] == f"bits-{step}"
            place += 1
    colour = page.locator("#surprise-editor .bits-5").first.evaluate(
        "run => getComputedStyle(run).backgroundColor"
    )
    assert colour == "rgb(0, 0, 135)" and COLOURS[5].background == "#000087"


def test_what_stands_before_an_edit_keeps_its_colours(opened: Opened) -> None:
    page = opened()
    view(page, "surprise")
    area = page.locator("#surprise-editor textarea")
    area.fill("deh")
    expect(page.locator("#surprise-total")).to_be_visible()
    page.evaluate("void (engine.score = async function* () {})")
    area.focus()
    page.keyboard.press("Control+End")
    page.keyboard.press("ArrowLeft")
    page.keyboard.type("x")
    expect(page.locator("#surprise-editor .paint [class^=bits]")).to_have_text(["d", "e"])
    expect(page.locator("#surprise-total")).to_be_hidden()


def test_the_figure_of_a_character_by_caret_and_pointer(opened: Opened) -> None:
    page = opened()
    view(page, "surprise")
    area = page.locator("#surprise-editor textarea")
    area.fill("deh")
    expect(page.locator("#surprise-total")).to_be_visible()  # short texts are measured as they are written
    area.focus()
    page.keyboard.press("Control+Home")
    expect(page.locator("#surprise-at")).to_contain_text("“d” 0.00 bits: the model gave it 100 %")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#surprise-at")).to_contain_text(
        "“e” 1.00 bits: the model gave it 50 %; it expected 2.50 bits"
    )
    expect(page.locator("#surprise-status")).to_have_text("“e” 1.00 bits")
    box = page.locator("#surprise-editor .paint .bits-4").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page.locator("#surprise-at")).to_contain_text("“h” 4.00 bits")


def test_totals_of_words_and_lines_can_be_sorted(opened: Opened) -> None:
    page = opened()
    view(page, "surprise")
    page.locator("#surprise-editor textarea").fill("bad cab\nhid")
    page.locator("#measure").click()
    rows = page.locator("#units tbody tr")
    expect(rows).to_have_count(3)
    words = {"bad ": "bad", "cab\n": "cab", "hid": "hid"}
    sums = {shown: sum(map(bits_of, word)) for word, shown in words.items()}
    by_bits = sorted(sums, key=lambda shown: -sums[shown])
    assert rows.locator("td:first-child").all_inner_texts() == by_bits
    assert rows.locator("td:nth-child(2)").all_inner_texts() == [f"{sums[word]:.2f}" for word in by_bits]
    expect(page.locator("#units th").nth(1)).to_have_attribute("aria-sort", "descending")
    page.get_by_role("button", name="Bits", exact=True).press("Enter")
    assert rows.locator("td:first-child").all_inner_texts() == by_bits[::-1]
    page.get_by_role("button", name="Text", exact=True).click()
    assert rows.locator("td:first-child").all_inner_texts() == ["bad", "cab", "hid"]
    page.get_by_role("button", name="cab").click()
    expect(page.locator("#surprise-editor textarea")).to_be_focused()
    expect(page.locator("#surprise-at")).to_contain_text("“c” 9.00 bits")
    page.get_by_role("radio", name="Words").focus()
    page.keyboard.press("ArrowRight")
    expect(rows).to_have_count(2)
    assert rows.locator("td:first-child").all_inner_texts() == ["bad cab", "hid"]


def test_a_text_is_compared_with_the_run(opened: Opened) -> None:
    page = opened()
    page.locator("#desk-editor textarea").fill("from the desk")
    view(page, "surprise")
    page.locator("#measure-desk").click()
    expect(page.locator("#surprise-editor textarea")).to_have_value("from the desk")
    yardstick = page.locator(".yardstick")
    expect(yardstick).to_be_visible()
    for said in ("held-out", "1.89", "n-gram baseline", "2.20", "All 64 symbols alike", "6.00"):
        assert said in yardstick.inner_text()


def test_measuring_a_long_text_shows_progress_and_can_be_cancelled(opened: Opened) -> None:
    page = opened("new MockEngine({pause: 100})")
    view(page, "surprise")
    page.evaluate("navigator.clipboard.writeText('word and word\\n'.repeat(1430))")
    page.locator("#surprise-editor textarea").focus()
    page.keyboard.press("Control+v")
    page.locator("#measure").click()
    expect(page.locator("#measure-progress")).to_be_visible()
    expect(page.locator("#surprise-editor .paint [class^=bits]").first).to_be_visible()
    page.locator("#measure-cancel").click()
    expect(page.locator("#measure-cancel")).to_be_hidden()
    expect(page.locator("#surprise-status")).to_have_text("Cancelled.")
    expect(page.locator("#surprise-total")).to_be_hidden()


def test_what_the_model_looks_at(opened: Opened) -> None:
    page = opened()
    page.locator("#desk-editor textarea").fill("abcdeabcde")
    view(page, "inside")
    area = page.locator("#inside-editor textarea")
    expect(area).to_have_value("abcdeabcde")
    area.focus()
    page.keyboard.press("Control+Home")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    expect(page.locator("#inside-said")).to_contain_text(
        "Predicting “e”, character 5, from the 4 characters before it; looks most at “d” 1 back (38 %)"
    )
    page.get_by_role("radio", name="Mean").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#inside-said")).to_contain_text("looks most at “d” 1 back (50 %), “c” 2 back (25 %)")
    painted = page.locator("#inside-editor .paint [class^=look]")
    assert painted.all_inner_texts() == ["a", "b", "c", "d"]
    assert painted.last.get_attribute("class") == "look-12"
    page.locator("#heads label").nth(2).click()
    assert painted.all_inner_texts() == ["abcd"]
    page.locator("#layers label").nth(1).click()
    expect(page.locator("#inside-said")).to_contain_text("Layer 2 mixes without attention")
    assert painted.count() == 0
    expect(page.locator("#heads")).to_be_hidden()
    page.get_by_role("button", name="Character after").click()
    expect(page.locator("#inside-said")).to_contain_text("character 6")
    page.get_by_role("button", name="Character before").press("Enter")
    expect(page.locator("#inside-said")).to_contain_text("character 5")


def test_the_caret_is_in_sight_when_a_text_is_taken_from_the_desk(opened: Opened) -> None:
    page = opened()
    page.set_viewport_size({"width": 360, "height": 740})
    page.locator("#desk-editor textarea").fill("abcde\n" * 60)
    view(page, "inside")
    expect(page.locator("#inside-said")).to_contain_text("Predicting what follows from the ")
    editor, box = (page.locator(f"#inside-editor{part}").bounding_box() for part in ("", " .box"))
    assert editor and box
    toolbar = page.locator("#inside .toolbar").bounding_box()
    assert toolbar and editor["y"] <= box["y"]
    assert box["y"] + box["height"] <= min(editor["y"] + editor["height"], toolbar["y"])


def test_predictions_at_each_stage(opened: Opened) -> None:
    page = opened()
    page.locator("#desk-editor textarea").fill("abcde")
    view(page, "inside")
    page.locator("#inside-editor textarea").focus()
    page.keyboard.press("Control+Home")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#inside-said")).to_contain_text("Predicting “b”")
    heads = page.locator("#lens th").all_inner_texts()
    assert heads == ["Embedding", "Layer 1", "Layer 2", "Transformer", "Whole model"]
    assert page.locator("#lens tr").first.locator("td").first.text_content() == "b (stands in the text)50 %"
    assert page.locator("#changed thead th").all_inner_texts() == [
        "Character",
        "Prior",
        "Transformer",
        "Whole model",
    ]
    assert page.locator("#changed tbody tr").first.locator("td").all_inner_texts() == ["50 %"] * 3
    widths = (
        page.locator("#changed tbody tr")
        .first.locator(".bar")
        .evaluate_all("(bars) => bars.map((bar) => Math.round(bar.getBoundingClientRect().width))")
    )
    assert len(set(widths)) == 1, "bars of different columns are compared by eye"


MIXTURE = """new MockEngine({kind: 'mixture', members: [
  {kind: 'prior', nLayer: 2, nEmbd: 16}, {kind: 'no-prior', nLayer: 2, nEmbd: 16}, {kind: 'ngram'}]})"""


def test_the_member_of_a_mixture_can_be_chosen(opened: Opened) -> None:
    page = opened(MIXTURE)
    expect(page.locator("#run-line")).to_contain_text("mixture of prior, no-prior, ngram")
    page.locator("#desk-editor textarea").fill("abcde")
    view(page, "inside")
    assert page.locator("#members label").all_inner_texts() == ["1, prior", "2, no-prior"]
    expect(page.locator("#inside-found")).to_be_visible()
    page.get_by_role("radio", name="1, prior").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator("#inside-found")).to_be_visible()
    assert page.evaluate("engine.calls.findLast(([name]) => name === 'inside')[2]") == 1


def test_an_n_gram_model_has_nothing_inside_but_its_prediction(opened: Opened) -> None:
    page = opened("new MockEngine({kind: 'ngram', members: [{kind: 'ngram'}]})")
    page.locator("#desk-editor textarea").fill("abcde")
    view(page, "inside")
    expect(page.locator("#inside-said")).to_contain_text("An n-gram model has no layers")
    expect(page.locator("#lens")).to_be_hidden()
    assert page.locator("#changed thead th").all_inner_texts() == ["Character", "Whole model"]


def test_about_shows_the_run_as_text(opened: Opened) -> None:
    page = opened(notes=("It lost <b>nothing</b>.",))
    view(page, "about")
    assert page.locator("#figures dd").all_inner_texts() == [
        "1.894\nbits per character",
        "2.200\nbits per character",
        "123,456",
    ]
    assert page.locator("#notes li").all_inner_texts() == ["It lost <b>nothing</b>.", "Weights are 16 bit."]
    page.locator("#settings-title").click()
    assert page.locator("#settings td").all_inner_texts() == ["2", "<script>alert(1)</script>⇤"]
    assert page.locator("#sample").inner_text() == "A sample.\n<b>not bold</b>"
    expect(page.get_by_role("img")).to_have_attribute(
        "aria-label", "Bits per character against steps: held-out ends at 2.50, training ends at 2.40"
    )


def test_what_the_engine_refuses_is_said(opened: Opened) -> None:
    page = opened()
    page.evaluate(
        "void (engine.inside = engine.next = async () => { throw new Error('The model is gone.'); })"
    )
    page.evaluate(
        "void (engine.generate = engine.score = async function* () { throw new Error('The model is gone.'); })"
    )
    page.locator("#desk-editor textarea").fill("abc")
    page.locator("#continue").click()
    expect(page.locator("#desk-progress")).to_have_text("The model is gone.")
    page.locator("#alternatives").click()
    expect(page.locator(".choices p")).to_have_text("The model is gone.")
    view(page, "surprise")
    page.locator("#measure-desk").click()
    expect(page.locator("#surprise-at")).to_have_text("The model is gone.")
    view(page, "inside")
    expect(page.locator("#inside-said")).to_have_text("The model is gone.")
