"""The desk, by mouse and by keyboard, with an engine of known odds: odd seeds write abcde..., even ones edcba..."""

from typing import TYPE_CHECKING

import pytest

from tests.page.conftest import Opened

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
from playwright.sync_api import expect

AREA = "#desk-editor textarea"


def begin(page: "Page", text: str = "Hello ", length: int = 10, seed: int | None = 1) -> None:
    """A text on the desk, with the caret at its end."""
    page.locator("#length").fill(str(length))
    page.locator("#seed").fill("" if seed is None else str(seed))
    page.locator(AREA).fill(text)
    page.locator(AREA).focus()
    page.keyboard.press("Control+End")


def done(page: "Page") -> None:
    """Wait until nothing is written."""
    expect(page.locator("#continue")).to_have_text("Continue")


def continue_text(page: "Page") -> None:
    """A text on the desk, and a continuation of it."""
    begin(page)
    page.keyboard.press("Tab")
    expect(page.locator(AREA)).to_have_value("Hello abcdeabcde")
    done(page)


def written(page: "Page") -> list[str]:
    """What is marked as written by the model."""
    return page.locator("#desk-editor .paint .written").all_text_contents()


def test_tab_continues_and_escape_takes_back(opened: Opened) -> None:
    page = opened()
    continue_text(page)
    assert written(page) == ["abcdeabcde"]
    expect(page.locator(AREA)).to_be_focused()
    expect(page.locator("#desk-status")).to_have_text("10 characters, 1.00 bits per character, seed 1")
    page.keyboard.press("Escape")
    expect(page.locator(AREA)).to_have_value("Hello ")


def test_the_same_with_the_mouse(opened: Opened) -> None:
    page = opened()
    begin(page)
    page.locator("#continue").click()
    expect(page.locator(AREA)).to_have_value("Hello abcdeabcde")
    done(page)
    page.locator("#again").click()
    expect(page.locator(AREA)).to_have_value("Hello edcbaedcba")
    done(page)
    page.locator("#version-before").click()
    expect(page.locator(AREA)).to_have_value("Hello abcdeabcde")
    page.locator("#version-after").click()
    expect(page.locator(AREA)).to_have_value("Hello edcbaedcba")
    page.locator("#back").click()
    expect(page.locator(AREA)).to_have_value("Hello ")
    expect(page.locator("#back")).to_be_disabled()
    expect(page.locator("#again")).to_be_disabled()


def test_another_one_by_key_keeps_what_was_typed_since(opened: Opened) -> None:
    page = opened()
    continue_text(page)
    page.keyboard.type("!")
    page.keyboard.press("Control+Enter")
    expect(page.locator(AREA)).to_have_value("Hello edcbaedcba!")
    done(page)
    page.keyboard.press("Escape")
    expect(page.locator(AREA)).to_have_value("Hello !")


def test_escape_stops_first_and_keeps_what_came(opened: Opened) -> None:
    page = opened("new MockEngine({pause: 20})")
    begin(page, length=10_000)
    page.keyboard.press("Tab")
    expect(page.locator("#desk-editor .written").first).to_contain_text("abc")
    page.keyboard.press("Escape")
    done(page)
    kept = page.locator(AREA).input_value()
    assert kept.startswith("Hello abc")
    page.keyboard.press("Escape")
    expect(page.locator(AREA)).to_have_value("Hello ")


def test_typing_takes_over(opened: Opened) -> None:
    page = opened("new MockEngine({pause: 20})")
    begin(page, length=10_000)
    page.keyboard.press("Tab")
    expect(page.locator("#desk-editor .written").first).to_contain_text("abc")
    page.keyboard.type("X")
    done(page)
    assert page.locator(AREA).input_value().endswith("X")
    assert "X" not in "".join(written(page))


def test_keyboard_users_can_leave_the_text(opened: Opened) -> None:
    page = opened()
    begin(page)
    page.keyboard.press("Shift+Tab")
    expect(page.locator("#tab-writes")).to_be_focused()
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    expect(page.locator(AREA)).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#continue")).to_be_focused()
    expect(page.locator(AREA)).to_have_value("Hello ")
    page.locator(AREA).focus()
    page.keyboard.press("Control+m")
    expect(page.locator("#desk-status")).to_have_text("The Tab key continues the text.")
    page.keyboard.press("Tab")
    expect(page.locator(AREA)).to_have_value("Hello abcdeabcde")
    described = page.locator(AREA).get_attribute("aria-describedby")
    assert "let Tab leave" in page.locator(f"#{described}").inner_text()


def test_undo_and_redo_go_over_both_kinds_of_text(opened: Opened) -> None:
    page = opened()
    begin(page, "")
    page.keyboard.type("Oh ")
    page.keyboard.press("Tab")
    expect(page.locator(AREA)).to_have_value("Oh abcdeabcde")
    done(page)
    page.keyboard.type("no")
    page.keyboard.press("Control+z")
    expect(page.locator(AREA)).to_have_value("Oh abcdeabcde")
    page.keyboard.press("Control+z")
    expect(page.locator(AREA)).to_have_value("Oh ")
    page.keyboard.press("Control+Shift+z")
    expect(page.locator(AREA)).to_have_value("Oh abcdeabcde")
    assert written(page) == ["abcdeabcde"]
    page.keyboard.press("Control+y")
    expect(page.locator(AREA)).to_have_value("Oh abcdeabcdeno")


def test_settings_reach_the_engine(opened: Opened) -> None:
    page = opened()
    begin(page, length=3, seed=7)
    for name, key, times in (
        ("temperature", "ArrowRight", 2),
        ("top-p", "ArrowLeft", 10),
        ("min-p", "ArrowRight", 5),
    ):
        page.locator(f"#{name}").focus()
        for _ in range(times):
            page.keyboard.press(key)
    page.locator("#stop").fill(r"\n\n")
    page.locator("#continue").click()
    done(page)
    _, text, settings = page.evaluate("engine.calls.find(([name]) => name === 'generate')")
    assert text == "Hello "
    assert settings == {
        "length": 3, "temperature": 0.9, "topP": 0.9, "minP": 0.05, "stop": ["\n\n"], "seed": 7,
    }  # fmt: skip
    assert page.locator("#temperature-value").inner_text() == "0.90"


def test_settings_that_are_off_and_those_that_cannot_act(opened: Opened) -> None:
    page = opened()
    begin(page, length=3, seed=None)
    page.locator("#temperature").focus()
    page.keyboard.press("Home")
    expect(page.locator("#top-p")).to_be_disabled()
    page.locator("#continue").click()
    done(page)
    settings = page.evaluate("engine.calls.find(([name]) => name === 'generate')[2]")
    assert (settings["temperature"], settings["topP"], settings["minP"], settings["stop"]) == (
        0,
        None,
        None,
        [],
    )
    assert 0 <= settings["seed"] < 2**32
    page.locator("#length").fill("0")
    page.locator("#continue").click()
    expect(page.locator("#length")).to_be_focused()
    assert page.evaluate("engine.calls.filter(([name]) => name === 'generate').length") == 1


def test_alternatives_by_keyboard(opened: Opened) -> None:
    page = opened()
    continue_text(page)
    for _ in range(8):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("Alt+ArrowDown")
    options = page.get_by_role("option")
    expect(page.locator(".choices p")).to_have_text("In place of “c”")
    expect(options.first).to_have_attribute("aria-label", "“c”, 50 %")
    expect(page.get_by_role("option", selected=True)).to_have_attribute("aria-label", "“c”, 50 %")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".choices p")).to_have_text("In place of “d”")
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("option", selected=True)).to_have_attribute("aria-label", "“a”, 6.3 %")
    page.keyboard.press("Enter")
    expect(page.locator(AREA)).to_have_value("Hello abcaabcdeabcde")
    done(page)
    expect(page.locator(AREA)).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator(AREA)).to_have_value("Hello abcdeabcde")


def test_alternatives_by_mouse(opened: Opened) -> None:
    page = opened()
    continue_text(page)
    place = page.locator("#desk-editor .written").bounding_box()
    assert place is not None
    page.mouse.move(place["x"] + 3, place["y"] + place["height"] / 2)
    expect(page.locator(".choices p")).to_have_text("In place of “a”")
    page.locator(".choices [role=option]").nth(1).click()
    done(page)
    assert page.locator(AREA).input_value().startswith("Hello ")
    assert page.evaluate("engine.calls.filter(([name]) => name === 'generate').length") == 2
    page.locator("#alternatives").click()
    expect(page.locator(".choices p")).to_have_text("Next character")
    page.keyboard.press("Escape")
    expect(page.locator(".choices")).to_be_hidden()
    expect(page.locator(AREA)).to_be_focused()


def test_what_was_taken_back_can_be_undone_and_taken_back_again(opened: Opened) -> None:
    page = opened()
    continue_text(page)
    page.keyboard.press("Escape")
    expect(page.locator(AREA)).to_have_value("Hello ")
    page.keyboard.press("Control+z")
    expect(page.locator(AREA)).to_have_value("Hello abcdeabcde")
    page.keyboard.press("Escape")
    expect(page.locator(AREA)).to_have_value("Hello ")


def test_nothing_is_replaced_where_nothing_can_be_written(opened: Opened) -> None:
    page = opened()
    begin(page)
    page.locator("#length").fill("0")
    page.locator("#alternatives").click()
    page.get_by_role("option").first.click()
    expect(page.locator("#length")).to_be_focused()
    expect(page.locator(AREA)).to_have_value("Hello ")


HOSTILE = "<b>x</b>\u202eabc\u2066\u2028\x00\x1b[31m😀\ud7ffé\u200b"


def test_what_the_model_writes_is_text_in_symbols(opened: Opened) -> None:
    page = opened("new MockEngine({writes: '" + "".join(f"\\u{{{ord(char):x}}}" for char in HOSTILE) + "'})")
    begin(page, "", length=len(HOSTILE))
    page.keyboard.press("Tab")
    done(page)
    shown = page.locator(AREA).input_value()
    assert shown == "<b>x</b>⇤abc⇥\ufffd␀␛[31m😀\ud7ffé\u200b"
    assert page.locator("b").count() == 0
    page.keyboard.press("Control+a")
    page.keyboard.press("Control+c")
    assert page.evaluate("navigator.clipboard.readText()").startswith("<b>x</b>\u202eabc")
    page.keyboard.press("Control+End")
    page.keyboard.type("!")
    page.keyboard.press("Alt+ArrowDown")
    expect(page.locator(".choices")).to_be_visible()
    assert page.evaluate("engine.calls.at(-1)[1]") == HOSTILE + "!"


def test_pasted_controls_and_pairs_are_kept_apart(opened: Opened) -> None:
    page = opened()
    begin(page, "")
    page.evaluate("navigator.clipboard.writeText('one\\u202e\\r\\n😀two')")
    page.keyboard.press("Control+v")
    expect(page.locator(AREA)).to_have_value("one⇤\n😀two")
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    page.keyboard.press("Backspace")
    expect(page.locator(AREA)).to_have_value("one⇤\ntwo")
    page.locator("#continue").click()
    done(page)
    assert page.evaluate("engine.calls.at(-1)[1]") == "one\u202e\n"


def test_a_long_text_stays_where_it_is(opened: Opened) -> None:
    page = opened()
    begin(page, "")
    page.evaluate("navigator.clipboard.writeText('word and word\\n'.repeat(1430))")
    page.keyboard.press("Control+v")
    page.keyboard.press("Tab")
    done(page)
    area, paint = (page.locator(f"#desk-editor {part}").bounding_box() for part in ("textarea", ".paint"))
    assert area == paint
    assert page.locator(AREA).input_value().endswith("word\nabcdeabcde")


def test_several_runs_to_choose_from_and_side_by_side(opened: Opened) -> None:
    page = opened("new MockEngine({runs: [{name: 'mock'}, {name: '<i>other'}]})")
    begin(page)
    expect(page.locator("#run")).to_be_visible()
    page.locator("#beside-run").select_option("<i>other")
    page.locator("#continue").click()
    expect(page.locator("#beside-text")).to_have_text("abcdeabcde")
    done(page)
    page.locator("#beside-use").click()
    expect(page.locator(AREA)).to_have_value("Hello abcdeabcde")
    page.locator("#run").select_option("<i>other")
    expect(page.locator("#run-name")).to_have_text("<i>other")
    assert page.locator("#beside-run option").all_inner_texts() == ["no other run", "mock"]


def test_a_single_run_offers_no_others(opened: Opened) -> None:
    page = opened()
    expect(page.locator("#run")).to_be_hidden()
    expect(page.locator("#beside")).to_be_hidden()
