"""Lines for what counts of each order come to: each named once, within the chart, apart from the others."""

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from charlm.reporting.comparison_page import Chart, ComparisonPage, Line, render
from charlm.reporting.pages import LABEL_GAP, LEFT, TOP, Frame, order_lines, outside, widened

FALLING = [(1, 3.5), (2, 2.9), (3, 2.5), (4, 2.3), (5, 2.21), (6, 2.2)]
ORDERS = st.lists(st.floats(0.1, 8), max_size=12).map(lambda bits: list(enumerate(bits, 1)))


def frame(low: float, high: float) -> Frame:
    return Frame((0.0, 1.0), (low, high), 600.0, 320.0)


def named(svg: str) -> list[tuple[float, set[int]]]:
    """The heights of the names, and the orders that each is of."""
    found = []
    for y, said in re.findall(r'y="([\d.]+)">n-grams, ([^<]*) characters?<', svg):
        numbers = [int(n) for n in re.findall(r"\d+", said)]
        some = range(numbers[0], numbers[-1] + 1) if " to " in said else numbers
        found.append((float(y), set(some)))
    return found


@given(ORDERS, st.floats(0.1, 4), st.floats(0.1, 4))
def test_each_order_is_a_line_with_a_name_or_said_to_be_outside(
    orders: list[tuple[int, float]], low: float, span: float
) -> None:
    plot = frame(low, low + span)
    svg, said = order_lines(plot, orders), " ".join(outside(plot.y, orders))
    names = named(svg)
    within = {order for order, bits in orders if low <= bits <= low + span}
    assert set().union(*(some for _, some in names)) == within
    assert sum(len(some) for _, some in names) == len(within) == svg.count("<path")
    beyond = {int(order) for order in re.findall(r"(\d+) characters? \d", said)}
    assert beyond == {order for order, _ in orders} - within
    for y in map(float, re.findall(rf"M{LEFT} ([\d.]+)H", svg)):
        assert TOP - 0.1 <= y <= TOP + plot.height + 0.1


@given(ORDERS)
def test_names_do_not_overlap(orders: list[tuple[int, float]]) -> None:
    heights = sorted(y for y, _ in named(order_lines(frame(0.0, 8.0), orders)))
    assert all(b - a >= LABEL_GAP - 0.2 for a, b in pairwise(heights))


def test_names_are_of_the_orders_together() -> None:
    svg = order_lines(frame(2.0, 3.6), FALLING)
    assert re.findall(r">(n-grams[^<]*)<", svg) == [
        "n-grams, 1 character",
        "n-grams, 2 characters",
        "n-grams, 3 characters",
        "n-grams, 4 to 6 characters",
    ]
    assert outside((2.0, 2.4), FALLING) == [
        "off scale, above: n-grams, 1 character 3.50, 2 characters 2.90, 3 characters 2.50"
    ]
    assert outside((2.6, 3.0), FALLING)[1].startswith("off scale, below: n-grams, 3 characters 2.50")


def test_there_is_room_for_the_best_but_not_at_any_price() -> None:
    assert widened((2.0, 2.4), FALLING) == (2.0, 2.4)
    low, high = widened((2.3, 2.6), FALLING)
    assert low < 2.2 and high == 2.6
    low, high = widened((2.0, 2.15), FALLING)
    assert low == 2.0 and high > 2.2
    assert widened((3.0, 3.1), FALLING) == (3.0, 3.1), "it would flatten what is to be told apart"
    assert widened((2.0, 2.4), []) == (2.0, 2.4)


def test_a_chart_shows_them() -> None:
    line = Line(name="rotary", points=[(1, 2.5), (2, 2.3)])
    chart = Chart(title="t", x_title="x", log_x=False, lines=[line], orders=FALLING)
    page = ComparisonPage(title="", facts=(), header=(), rows=(), says=(), charts=[chart], names=())
    html = render(page)
    assert "n-grams, 5 to 6 characters" in html and "off scale, above: n-grams, 1 character 3.50" in html
    assert "n-grams, " not in render(
        ComparisonPage(
            title="",
            facts=(),
            header=(),
            rows=(),
            says=(),
            names=(),
            charts=[Chart(title="t", x_title="x", log_x=False, lines=[line])],
        )
    )
