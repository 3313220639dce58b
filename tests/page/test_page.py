"""The page as a whole: its policy, its text as text, its width, its contrast, its order for the keyboard."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from charlm.page.html import Engine, make_page
from tests.page.conftest import MOCK, Opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
from playwright.sync_api import expect

VIEWS = ("desk", "surprise", "inside", "about")
HOSTILE = "</script><script>document.title = 'broken'</script><!-- --> \u202egnp.exe\u2028\x00"


def fill(page: "Page") -> None:
    """Something in every view."""
    page.locator("#desk-editor textarea").fill(
        "O Romeo, Romeo!\nWherefore art thou Romeo? " + "unbroken" * 20
    )
    page.locator("#length").evaluate("input => { input.value = 40; }")
    page.locator("#continue").click()
    expect(page.locator("#continue")).to_have_text("Continue")
    page.locator("#tab-surprise").click()
    page.locator("#measure-desk").click()
    expect(page.locator("#surprise-total")).to_be_visible()
    page.locator("#tab-inside").click()
    expect(page.locator("#inside-found")).to_be_visible()


def test_the_policy_lets_nothing_in(browser: "Browser", tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(make_page("mock", Engine(scripts=MOCK, expression="new MockEngine()")).html, "utf-8")
    page = browser.new_page()
    page.goto(path.as_uri())
    policy = page.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content") or ""
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy
    assert "connect-src" not in policy
    refused = page.evaluate("""async () => {
      const found = [];
      document.addEventListener('securitypolicyviolation', (event) => found.push(event.effectiveDirective));
      const script = document.createElement('script');
      script.textContent = "document.title = 'broken'";
      document.body.append(script);
      const styled = document.createElement('p');
      styled.setAttribute('style', 'color: red');
      styled.setAttribute('onclick', "document.title = 'broken'");
      document.body.append(styled);
      styled.click();
      await fetch('https://example.org/').catch(() => {});
      new Image().src = 'https://example.org/';
      for (let i = 0; i < 1000 && new Set(found).size < 5; i++) await new Promise((resolve) => setTimeout(resolve, 20));
      return found;
    }""")
    assert {"script-src-elem", "style-src-attr", "script-src-attr", "connect-src", "img-src"} <= set(refused)
    assert page.title() == "mock · charlm"
    page.close()


def test_a_hostile_name_is_text(opened: Opened) -> None:
    said = "new MockEngine({notes: []}, '" + "".join(f"\\u{{{ord(char):x}}}" for char in HOSTILE) + "')"
    page = opened(said, title=HOSTILE, notes=(HOSTILE,))
    shown = HOSTILE.replace("\u202e", "⇤").replace("\u2028", "\ufffd").replace("\x00", "␀")
    expect(page.locator("#run-name")).to_have_text(shown)
    assert page.title() == f"{shown} · charlm"
    page.locator("#tab-about").click()
    expect(page.locator("#notes li").first).to_have_text(shown)
    assert page.locator("script").count() == 2  # the data and the program


def test_the_same_page_is_the_same_bytes() -> None:
    engine = Engine(scripts=MOCK, expression="new MockEngine()", model=b"model", notes=("one",))
    assert make_page("mock", engine) == make_page("mock", engine)
    html = make_page("<b id=name>\u202e", engine).html
    assert "<b id" not in html and "\u202e" not in html
    assert '<script type="application/octet-stream" id="model">bW9kZWw=</script>' in html
    assert make_page("mock", Engine(scripts=MOCK, expression="x", is_remote=True)).policy.endswith(
        "connect-src 'self'"
    )


def test_a_script_that_would_end_its_element_is_refused() -> None:
    with pytest.raises(AssertionError, match="holds markup"):
        make_page("mock", Engine(scripts="'</SCRIPT>'", expression="x"))


@pytest.mark.parametrize("width", [360, 800])
def test_nothing_is_wider_than_the_screen(opened: Opened, width: int) -> None:
    page = opened()
    page.set_viewport_size({"width": width, "height": 740})
    page.locator("#choosing summary").click()
    fill(page)
    for name in VIEWS:
        page.locator(f"#tab-{name}").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name


CONTRAST = """() => {
  const numbers = (colour) => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], [x, y, z]) => [r * a + x * (1 - a), g * a + y * (1 - a), b * a + z * (1 - a), 1];
  const light = (colour) => colour.slice(0, 3).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (element) => {
    if (!element) return [255, 255, 255, 1];
    const own = numbers(getComputedStyle(element).backgroundColor);
    return own[3] === 1 ? own : over(own, ground(element.parentElement));
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, style = getComputedStyle(element);
    if (!walker.currentNode.data.trim() || !element.checkVisibility() || element.closest('script, style, noscript, :disabled')) continue;
    let ink = style.color;
    if (element.closest('.paint') && !element.closest('.inked')) ink = getComputedStyle(document.body).color;
    const back = ground(element);
    const front = over(numbers(style.fill !== 'none' && element.closest('svg') ? style.fill : ink), back);
    const [a, b] = [light(front), light(back)].sort((x, y) => y - x);
    found.push([(a + 0.05) / (b + 0.05), walker.currentNode.data.trim().slice(0, 40)]);
  }
  return found.sort((x, y) => x[0] - y[0]);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(opened: Opened, scheme: Any) -> None:
    page = opened()
    page.emulate_media(color_scheme=scheme)
    fill(page)
    for name in VIEWS:
        page.locator(f"#tab-{name}").click()
        page.mouse.move(0, 0)
        found = page.evaluate(CONTRAST)
        assert len(found) > 10 and found[0][0] >= 4.5, (name, found[:3])
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 24, 28)")


def test_the_keyboard_reaches_everything_in_the_order_of_the_page(opened: Opened) -> None:
    page = opened()
    page.locator("#tab-writes").uncheck()
    page.locator(".skip").focus()
    order = list[str]()
    for _ in range(20):
        page.keyboard.press("Tab")
        order.append(
            page.evaluate("document.activeElement.id || document.activeElement.tagName.toLowerCase()")
        )
    expected = [
        "tab-desk",
        "tab-writes",
        "textarea",
        "continue",
        "alternatives",
        "summary",
        "temperature",
        "top-p",
        "min-p",
    ]
    expected += ["length", "seed", "stop"]
    reached = [name for name in order if name in expected]
    assert reached[: len(expected)] == expected, order


def test_what_has_the_focus_shows_it_and_everything_has_a_name(opened: Opened) -> None:
    page = opened()
    fill(page)
    for name in VIEWS:
        page.locator(f"#tab-{name}").click()
        for element in page.locator("button, input, select, textarea, [tabindex='0'], summary").all():
            if not element.is_visible() or element.is_disabled():
                continue
            named = element.evaluate("""e => (e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.[0]?.textContent.trim() ||
              document.getElementById(e.getAttribute('aria-labelledby'))?.textContent.trim() || '')""")
            assert named, element.evaluate("e => e.outerHTML")
    page.locator("#tab-desk").focus()
    page.keyboard.press("Tab")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"


def test_a_model_that_cannot_be_opened_is_said(browser_page: "Page", tmp_path: Path) -> None:
    engine = Engine(
        scripts=MOCK, expression="{open: async () => { throw new Error('The model is damaged.'); }}"
    )
    path = tmp_path / "page.html"
    path.write_text(make_page("mock", engine).html, "utf-8")
    browser_page.goto(path.as_uri())
    expect(browser_page.get_by_role("alert")).to_have_text("The model is damaged.")


def test_without_javascript_the_page_says_so(browser: "Browser", tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(make_page("mock", Engine(scripts=MOCK, expression="new MockEngine()")).html, "utf-8")
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(path.as_uri())
    assert re.search("needs JavaScript", page.locator("noscript").inner_text())
    context.close()
