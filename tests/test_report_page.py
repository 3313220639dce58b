"""The page of a run is whole, harmless and small, whatever the run was."""

import re
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from math import inf, log, nan
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.reporting.pages import LABEL_GAP
from charlm.reporting.run_page import Page, render
from charlm.training.events import Evaluated


def evaluation(
    step: int, bits: float, error: float | None = None, compared: float | None = None, **more: Any
) -> Evaluated:
    """An evaluation of so many bits per character; `more` in nats."""
    known = {"chars": 10_000, "of_chars": 10_000, "blocks": 9, "whole": True, "is_best": False, "rises": 0}
    none = dict.fromkeys(("baseline_nats_per_char", "difference", "difference_error"))
    return Evaluated(
        step=step,
        nats_per_char=bits * log(2),
        standard_error=None if error is None else error * log(2),
        compared_nats_per_char=(bits if compared is None else compared) * log(2),
        **{**known, **none, "final": False, "seconds": 1.0, **more},
    )


VOID = {"meta", "br", "hr"}
HOSTILE = "</pre><script>alert(1)</script>\x00\u202e\u2066\x1b[31m\ud800&amp;\" onload='x'"
EMPTY = Page(title="", facts=(), train=(), evaluations=(), rates=(), baselines=(), settings=(), samples=())
FULL = Page(
    title="shakespeare",
    facts=[("held-out", "2.412 bits per character")],
    train=[(step, 2.4 + 3.6 / step) for step in range(1, 1001)],
    evaluations=[evaluation(step, 2.45 + 3.6 / step, 0.01) for step in range(100, 1001, 100)],
    rates=[(step, 1e-3 * min(1.0, step / 100)) for step in range(1, 1001)],
    baselines=[("uniform", 6.02), ("unigram", 4.78), ("xz", 2.52)],
    settings=[("Model", [("n_layer", "4")]), ("Data", [])],
    samples=[("after step 100", "\n  thou art"), ("after step 1,000", "To be")],
)
BITS = st.floats() | st.floats(0, 8)
STEPS = st.integers(0, 10**7)


class Outline(HTMLParser):
    """Checks that what opens closes, and keeps the text of each <pre>."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.samples: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not {name for name, _ in attrs} & {"src", "href", "onload", "onclick", "style"}
        if tag not in VOID:
            self.open.append(tag)
        if tag == "pre":
            self.samples.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "pre":
            self.samples[-1] += data


def charts(page: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.S)]


def numbers(path: ElementTree.Element) -> list[float]:
    return [float(number) for number in re.findall(r"-?[\d.]+", path.attrib["d"])]


def curves(page: str, kind: str) -> list[str]:
    found = [p for p in charts(page)[0].iter("path") if p.attrib["class"].split() == kind.split()]
    return [path.attrib["d"] for path in found]


def check(page: str) -> Outline:
    page.encode()
    assert "<script" not in page and "http://" not in page and "https://" not in page
    assert "url(" not in page.replace("url(#plot-", "") and "@import" not in page
    for chart in charts(page):
        assert chart.attrib["role"] == "img" and chart.findtext("title")
        for path in chart.iter("path"):
            assert "nan" not in path.attrib["d"] and "inf" not in path.attrib["d"]
    outline = Outline(page)
    assert not outline.tags & {"script", "link", "img", "iframe", "object", "form", "a"}
    return outline


def test_a_whole_run_is_well_formed_and_shows_everything() -> None:
    page = render(FULL)
    check(page)
    assert len(charts(page)) == 2
    for text in ["shakespeare", "2.412 bits", "n_layer", "after step 1,000", "To be", "Model"]:
        assert text in page
    assert "default-src &#x27;none&#x27;" in page or "default-src 'none'" in page
    titles = [text.text for text in charts(page)[0].iter("text")]
    assert "steps" in titles and "bits per character" in titles


def test_a_sample_comes_out_character_for_character() -> None:
    # the parser of the standard library keeps the newline after <pre> that browsers drop
    assert Outline(render(FULL)).samples == ["\n\n  thou art", "\nTo be"]


@pytest.mark.parametrize("place", ["title", "facts", "baselines", "settings", "samples"])
def test_hostile_text_is_shown_never_obeyed(place: str) -> None:
    hostile = {
        "title": HOSTILE,
        "facts": [(HOSTILE, HOSTILE)],
        "baselines": [(HOSTILE, 2.5), (HOSTILE, 9.0)],
        "settings": [(HOSTILE, [(HOSTILE, HOSTILE)])],
        "samples": [(HOSTILE, HOSTILE)],
    }
    page = render(replace(FULL, **{place: hostile[place]}))  # type: ignore[arg-type]
    check(page)
    assert not set(page) & set("\x00\u202e\u2066\x1b\ud800")
    assert "<script>alert(1)</script>\\x00\\u202e\\u2066\\x1b[31m\\ud800&amp;" in unescape(page)


@pytest.mark.parametrize(
    "part", ["facts", "train", "evaluations", "rates", "baselines", "settings", "samples"]
)
def test_each_part_may_be_missing_or_alone(part: str) -> None:
    check(render(replace(FULL, **{part: ()})))  # type: ignore[arg-type]
    check(render(replace(EMPTY, **{part: getattr(FULL, part)[:1]})))


def test_an_empty_page_has_no_empty_chart_or_heading() -> None:
    page = render(EMPTY)
    check(page)
    assert "<svg" not in page and "<h2" not in page


@given(st.lists(st.tuples(st.text(max_size=30), st.floats(0, 8)), max_size=30))
def test_baseline_labels_neither_overlap_nor_leave_the_chart(baselines: list[tuple[str, float]]) -> None:
    chart = charts(render(replace(FULL, baselines=[("xz", 2.5), *baselines])))[0]
    width, height = (float(x) for x in chart.attrib["viewBox"].split()[2:])
    labels = [t for t in chart.iter("text") if "class" not in t.attrib and "dy" in t.attrib]
    places = [float(label.attrib["y"]) for label in labels]
    assert all(b - a > LABEL_GAP - 0.2 for a, b in pairwise(places))
    assert all(0 < place < height for place in places)
    for label in labels:
        assert float(label.attrib["x"]) + 10.0 * len(label.text or "") < width


def test_losses_that_are_no_numbers_are_counted_not_drawn() -> None:
    page = render(replace(FULL, train=[(1, nan), (2, inf), (3, 2.0), (4, 1e300)]))
    check(page)
    assert "not drawn: 3" in page
    assert "not drawn: 1" in render(replace(EMPTY, evaluations=[evaluation(1, nan, nan)]))


def test_thinning_keeps_a_long_run_small_and_keeps_its_mean() -> None:
    steps = range(1, 100_001)
    page = render(
        replace(
            FULL,
            train=[(step, 2.0 + step % 2) for step in steps],
            evaluations=[evaluation(step, 2.4, 0.01) for step in range(100, 100_001, 100)],
            rates=[(step, 1e-3) for step in steps],
        )
    )
    check(page)
    assert len(page.encode()) < 200_000
    (line,) = curves(page, "raw")
    assert 300 < line.count("L") < 400
    assert len({point.split()[1] for point in line.split("L")[1:]}) == 1


@settings(deadline=None)
@given(
    train=st.lists(st.tuples(STEPS, BITS), max_size=9),
    evaluated=st.lists(st.tuples(STEPS, BITS, BITS, BITS, st.booleans()), max_size=5),
    rates=st.lists(st.tuples(STEPS, st.floats()), max_size=5),
    baselines=st.lists(st.tuples(st.text(), BITS), max_size=5),
)
def test_no_numbers_break_it(
    train: list[tuple[int, float]],
    evaluated: list[tuple[int, float, float, float, bool]],
    rates: list[tuple[int, float]],
    baselines: list[tuple[str, float]],
) -> None:
    named = [(re.sub(r"[\ufffe\uffff<]|http", "", name), bits) for name, bits in baselines]
    evaluations = [
        evaluation(
            step,
            bits,
            error,
            baseline_nats_per_char=base,
            difference=bits - base,
            difference_error=error,
            final=closing,
        )
        for step, bits, error, base, closing in evaluated
    ]
    page = replace(FULL, train=train, evaluations=evaluations, rates=rates, baselines=named)
    check(render(page))
    assert not re.search(r"\b(nan|inf)\b", "".join(re.findall(r"<td>[^<]*</td>", render(page))))


def test_the_closing_evaluation_is_a_mark_of_its_own_and_its_figure_is_not_joined() -> None:
    apart = evaluation(1000, 2.9, 0.01, 2.41, final=True, baseline_nats_per_char=2.5 * log(2))
    page = render(replace(FULL, evaluations=[*FULL.evaluations[:-1], apart], baselines=[]))
    check(page)
    joined, _bars = curves(page, "held")
    heights, (mark,) = re.findall(r"[ML][\d.]+ ([\d.]+)", joined), curves(page, "held closing")
    assert len(heights) == len(FULL.evaluations)
    assert float(mark.split()[1].split("l")[0]) < float(heights[-1]), "higher up, where 2.9 is"
    assert len(curves(page, "base closing")) == 1 and "closing evaluation" in page


def test_each_evaluation_stands_beside_the_baseline_on_its_windows() -> None:
    beside = {"baseline_nats_per_char": 2.125 * log(2), "difference": -0.125 * log(2)}
    row = evaluation(5, 2.0, 0.25, **beside, chars=150)
    page = render(replace(EMPTY, evaluations=[row]))
    cells = re.findall(r"<td>([^<]*)</td>", page)
    assert cells == ["5", "2.0000 ± 0.2500", "2.1250", "-0.1250 ± ?", "150 (too few for a reliable score)"]
