"""The page of a comparison is whole and harmless, and a variant looks the same wherever it stands."""

import re
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from itertools import pairwise
from math import inf, nan
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.reporting.comparison_page import Chart, ComparisonPage, Line, render
from charlm.reporting.pages import LABEL_GAP
from tests.test_report_page import HOSTILE, charts, check, numbers

Points = Sequence[tuple[float, float]]

NAMES = ["none", "learned", "sinusoidal", "relative", "rotary", "alibi"]
EMPTY = ComparisonPage(title="", facts=(), header=(), rows=(), says=(), charts=(), names=())
BITS = st.floats() | st.floats(0, 8)


def chart(lines: Sequence[Line], *, log_x: bool = False) -> Chart:
    return Chart(title="Loss", x_title="seconds", log_x=log_x, lines=lines)


def page_of(*drawn: Chart, names: Sequence[str] = ()) -> str:
    page = render(replace(EMPTY, charts=drawn, names=names))
    check(page)
    return page


def falling(names: Sequence[str]) -> list[Line]:
    return [
        Line(name=name, points=[(x, 2.4 + i / 100 + 2 / x) for x in (2, 4, 8, 16, 32)])
        for i, name in enumerate(names)
    ]


def full(names: Sequence[str] = NAMES) -> ComparisonPage:
    time, read = chart(falling(names)), chart(falling(list(reversed(names))), log_x=True)
    return ComparisonPage(
        title="positions",
        facts=[("text", "shakespeare")],
        header=["position", "bits/char", "seeds"],
        rows=[[name, f"2.{i}", "3"] for i, name in enumerate(names)],
        says=["none is best"],
        charts=[replace(time, note="a note"), replace(read, marks=[(8, "block")])],
        names=names,
    )


def labels(svg: ElementTree.Element) -> dict[str, tuple[ElementTree.Element, str]]:
    """By what a label says before its figure: its text, and the colour and dashes of its piece of line."""
    found = {}
    for group in svg.iter("g"):
        text = group.find("text")
        if text is not None and "clip-path" not in group.attrib:
            (look,) = {kind(path) for path in group.iter("path")}
            found[(text.text or "").rpartition(" ")[0]] = (text, look)
    return found


def kind(path: ElementTree.Element) -> str:
    names = path.attrib["class"].split()
    return " ".join(sorted(set(names) - {"line", "lead", "on", "dots", "faint"}))


def lines(svg: ElementTree.Element) -> list[ElementTree.Element]:
    plot = next(group for group in svg.iter("g") if "clip-path" in group.attrib)
    return [path for path in plot.iter("path") if "dots" not in path.attrib["class"]]


def bottom_labels(svg: ElementTree.Element) -> dict[str, float]:
    middle = [text for text in svg.iter("text") if text.attrib.get("class") == "middle"]
    return {text.text or "": float(text.attrib["x"]) for text in middle[:-1]}


def test_a_whole_comparison_is_well_formed_and_shows_everything() -> None:
    page = render(full())
    check(page)
    assert "default-src 'none'" in page
    for text in ["positions", "shakespeare", "bits/char", "2.5", "none is best", "a note", "block", *NAMES]:
        assert text in page
    for svg in charts(page):
        said = svg.findtext("title") or ""
        assert "bits per character against seconds" in said
        assert all(f"{name} ends at 2." in said for name in NAMES)


def test_no_chart_is_cut_to_the_plot_of_another() -> None:
    cuts = re.findall(r'<clipPath id="([^"]*)"', render(full()))
    assert len(set(cuts)) == 2 and cuts == re.findall(r"url\(#([^)]*)\)", render(full()))


def test_an_empty_comparison_has_no_empty_table_or_chart() -> None:
    page = page_of()
    assert "<svg" not in page and "<table" not in page and "<h2" not in page
    check(render(replace(full(), rows=[[], ["none"], ["none", "1", "2", "3", "4"]], header=[])))


@pytest.mark.parametrize("place", ["title", "facts", "header", "rows", "says", "charts", "names"])
def test_hostile_text_is_shown_never_obeyed(place: str) -> None:
    line = Line(name=HOSTILE, points=[(1, 2.0), (2, 2.1)])
    drawn = Chart(
        title=HOSTILE, x_title=HOSTILE, log_x=True, lines=[line], marks=[(1, HOSTILE)], note=HOSTILE
    )
    hostile = {
        "title": HOSTILE,
        "facts": [(HOSTILE, HOSTILE)],
        "header": [HOSTILE],
        "rows": [[HOSTILE, HOSTILE]],
        "says": [HOSTILE],
        "charts": [drawn],
        "names": [HOSTILE],
    }
    page = render(replace(full(), **{place: hostile[place]}))  # type: ignore[arg-type]
    check(page)
    assert not set(page) & set("\x00\u202e\u2066\x1b\ud800")
    shown = "<script>alert(1)</script>\\x00\\u202e\\u2066\\x1b[31m\\ud800&amp;"
    assert (shown in unescape(page)) == (place != "names")  # a name that nothing bears is not shown


def test_twelve_variants_each_look_their_own_and_the_same_everywhere() -> None:
    names = [*NAMES, *(f"{name} 2" for name in NAMES)]
    page = render(full(names))
    check(page)
    time, read = (labels(svg) for svg in charts(page))
    looks = {name: look for name, (_, look) in time.items()}
    assert sorted(looks) == sorted(names) and len(set(looks.values())) == 12
    assert looks == {name: look for name, (_, look) in read.items()}
    for svg in charts(page):
        assert sorted(map(kind, lines(svg))) == sorted(looks.values())
    for name, swatch in re.findall(r'<th scope="row"><i class="([^"]*)"></i>(.*?)</th>', page):
        assert set(name.split()) == set(looks[swatch].split())


@given(st.lists(st.tuples(st.text(max_size=30), st.floats(0, 8)), min_size=1, max_size=20))
def test_labels_neither_overlap_nor_leave_the_chart(ends: list[tuple[str, float]]) -> None:
    drawn = [Line(name=f"{i}{name}", points=[(1, 5.0), (2, y)]) for i, (name, y) in enumerate(ends)]
    svg = charts(render(replace(EMPTY, charts=[chart(drawn)])))[0]
    width, height = (float(x) for x in svg.attrib["viewBox"].split()[2:])
    texts = [text for text in svg.iter("text") if not text.attrib.get("class") and "dy" in text.attrib]
    places = [float(text.attrib["y"]) for text in texts]
    assert len(texts) == len(ends)
    assert all(b - a > LABEL_GAP - 0.2 for a, b in pairwise(places))
    assert all(0 < place < height for place in places)
    assert all(float(text.attrib["x"]) + 10.0 * len(text.text or "") < width for text in texts)


def test_doublings_are_equally_far_apart_and_all_named() -> None:
    svg = charts(page_of(chart([Line(name="a", points=[(2**i, 2.5) for i in range(9)])], log_x=True)))[0]
    named = bottom_labels(svg)
    assert list(named) == ["1", "2", "4", "8", "16", "32", "64", "128", "256"]
    gaps = [b - a for a, b in pairwise(named.values())]
    assert max(gaps) - min(gaps) < 0.3 and min(gaps) > 20
    assert numbers(lines(svg)[0])[0] == pytest.approx(named["1"])


def test_what_is_no_number_is_counted_not_drawn() -> None:
    points = [(1, nan), (2, inf), (3, 2.0), (4, 1e300), (inf, 2.0)]
    page = page_of(chart([Line(name="a", points=points), Line(name="b", points=[(0, 2.0)])], log_x=True))
    assert "not drawn: a 4, b 1" in page and set(labels(charts(page)[0])) == {"a"}
    assert "no figures yet" in page_of(chart([Line(name="a", points=[(1, nan)])]))


@settings(deadline=None)
@given(
    log_x=st.booleans(),
    points=st.lists(st.lists(st.tuples(st.floats() | st.floats(1, 512), BITS), max_size=6), max_size=4),
    marks=st.lists(st.tuples(st.floats(), st.just("mark")), max_size=3),
)
def test_no_numbers_break_it(log_x: bool, points: list[Points], marks: list[tuple[float, str]]) -> None:
    drawn = [Line(name=f"{i % 2}", points=some, faint=i > 1) for i, some in enumerate(points)]
    page_of(replace(chart(drawn, log_x=log_x), marks=marks))
