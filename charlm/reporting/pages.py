"""Render HTML pages, which load and run nothing, from Jinja2 templates, and draw line charts as SVG for them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import ceil, floor, inf, log10
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from charlm.terminal import visible

Point = tuple[float, float]
Range = tuple[float, float]
Tick = tuple[float, str]

WIDTH, LEFT, TOP, BOTTOM = 720.0, 80.0, 36.0, 56.0
CHAR_WIDTH, LABEL_GAP = 11.0, 22.0  # of the type on a phone, the largest there is
BOUND = 1e9  # a loss beyond it is that of a diverged run, and no axis could hold it


def render_page(template: str, **values: Any) -> str:
    """Fill in a template. Text is escaped, and its invisible characters are written as escapes; Markup stays as it is."""
    return _environment().get_template(template).render(**values)


def stream_page(template: str, **values: Any) -> Iterator[str]:
    """Fill in a template in parts, streaming iterators among the values."""
    return _environment().get_template(template).generate(**values)


def harmless(text: str) -> Markup:
    """Escape text of a file or a model for HTML, and write its invisible characters as escapes."""
    return escape(visible(text))


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("charlm.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else visible(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
    )


@dataclass(frozen=True)
class Frame:
    """Maps data to the units of a drawing whose plot starts at (LEFT, TOP)."""

    x: Range
    y: Range
    right: float
    height: float

    def across(self, x: float) -> float:
        """Return the position of `x` from the left of the drawing."""
        return LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (self.right - LEFT)

    def down(self, y: float) -> float:
        """Return the position of `y` from the top of the drawing."""
        part = (self.y[1] - y) / (self.y[1] - self.y[0])
        return TOP + self.height * min(max(part, -9.0), 9.0)  # far outside is as good as outside


def drawing(
    frame: Frame,
    title: str,
    inner: str,
    *,
    x_title: str,
    y_title: str,
    x_ticks: Sequence[Tick],
    y_ticks: Sequence[Tick],
) -> Markup:
    """Return a whole drawing: the axes, then `inner`; `title` says in words what is shown. Texts are HTML."""
    base = TOP + frame.height
    parts = [f'<text x="0" y="{TOP - 16}">{y_title}</text>']
    parts.append(f'<path class="axis" d="M{LEFT} {base}H{frame.right:.1f}"/>')
    for value, label in y_ticks:
        y = frame.down(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{frame.right:.1f}"/>')
        parts.append(f'<text class="end" x="{LEFT - 12}" y="{y:.1f}" dy=".35em">{label}</text>')
    for value, label in x_ticks:
        place = f'x="{frame.across(value):.1f}" y="{base + 22}"'
        parts.append(f'<text class="middle" {place}>{label}</text>')
    middle = f'x="{(LEFT + frame.right) / 2:.1f}" y="{base + 46}"'
    parts.append(f'<text class="middle" {middle}>{x_title}</text>')
    head = f'<svg role="img" viewBox="0 0 {WIDTH:.0f} {base + BOTTOM:.0f}"><title>{title}</title>'
    return Markup(f"{head}\n{''.join(parts)}\n{inner}</svg>")


def ticks(span: Range, most: int, *, whole: bool = False) -> list[Tick]:
    """Return about `most` round values within `span`, with their labels."""
    least = (span[1] - span[0]) / most
    power = 10.0 ** floor(log10(least))
    step = next((m * power for m in (1, 2, 5) if m * power >= least), 10 * power)
    step = max(step, 1.0) if whole else step
    decimals = max(0, -floor(log10(step) + 1e-9))
    values = [i * step for i in range(ceil(span[0] / step), floor(span[1] / step) + 1)]
    if decimals > 2:  # learning rates
        return [(value, f"{value:g}".replace("e-0", "e-")) for value in values]
    return [(value, f"{value:,.{decimals}f}") for value in values]


def curve(frame: Frame, points: Sequence[Point], kind: str = "") -> str:
    """Return points joined in their order as a path of class `kind`; a single one is a dot."""
    size = " dots" if len(set(points)) == 1 else ""
    return f'<path class="{kind}{size}" d="{path(frame, points)}"/>'


def path(frame: Frame, points: Sequence[Point]) -> str:
    """Return path data of a line through points in their order, begun anew where x falls back; `h0` makes a dot of one."""
    line, last = "", inf
    for x, y in points:
        place = f"{frame.across(x):.1f} {frame.down(y):.1f}"
        line += f"L{place}" if x > last else f"M{place}h0"
        last = x
    return line


def diamonds(frame: Frame, points: Sequence[Point], kind: str) -> str:
    """Return a path of class `kind` that marks points without joining them; empty without points."""
    shapes = "".join(f"M{frame.across(x):.1f} {frame.down(y) - 5:.1f}l5 5l-5 5l-5 -5z" for x, y in points)
    return f'<path class="{kind}" d="{shapes}"/>' if shapes else ""


def error_bars(frame: Frame, points: Sequence[Point], errors: Sequence[float | None]) -> str:
    """Return the path data of bars of one standard error to either side of each point with a known error."""
    return "".join(
        f"M{frame.across(x) - 3:.1f} {frame.down(end):.1f}h6m-3 0V{frame.down(y):.1f}"
        for (x, y), error in zip(points, errors, strict=True)
        if error and error < BOUND
        for end in (y - error, y + error)
    )


def clipped(frame: Frame, name: str, inner: str) -> str:
    """Return `inner` clipped to the plot; `name` must be unique on the page."""
    box = f'x="{LEFT - 8}" y="{TOP}" width="{frame.right - LEFT + 16}" height="{frame.height}"'
    clip = f'<clipPath id="plot-{name}"><rect {box}/></clipPath>'
    return f'{clip}<g clip-path="url(#plot-{name})">{inner}</g>\n'


def spread(wanted: list[float], frame: Frame) -> list[float]:
    """Return positions near the ascending wanted ones, LABEL_GAP apart and beside the plot."""
    placed: list[float] = []
    for y in wanted:
        placed.append(max(y, placed[-1] + LABEL_GAP) if placed else y)
    bottom, last = TOP + frame.height, len(placed) - 1
    return [min(y, bottom - LABEL_GAP * (last - i)) for i, y in enumerate(placed)]


Order = tuple[int, float]
"""Characters of context, and the bits per character of an n-gram model with that context."""


def widened(span: Range, orders: Sequence[Order]) -> Range:
    """Extend the range of a chart to the best of the orders, if that at most doubles it."""
    low, high = span
    best = min((bits for _, bits in orders), default=low)
    room = 0.05 * (high - low)
    if low <= best <= high or not low - (high - low) <= best <= high + (high - low):
        return span
    return max(0.0, min(low, best - room)), max(high, best + room)


def order_lines(frame: Frame, orders: Sequence[Order]) -> str:
    """Draw the orders' lines that fall within the plot, those of about the same height under one name."""
    parts = []
    for group in _groups(frame, orders):
        for _, bits in group:
            parts.append(f'<path class="count" d="M{LEFT} {frame.down(bits):.1f}H{frame.right:.1f}"/>')
        said = _characters([k for k, _ in group])
        where = f'x="{LEFT + 8}" y="{_place(frame, group[0]):.1f}"'
        parts.append(f'<text class="halo" {where}>n-grams, {said}</text>\n')
    return "".join(parts)


def outside(frame_y: Range, orders: Sequence[Order]) -> list[str]:
    """Name the orders beyond the chart: `off scale, above: n-grams, 1 character 3.43`."""
    low, high = frame_y
    beyond = {
        "above": [order for order in orders if order[1] > high],
        "below": [order for order in orders if order[1] < low],
    }
    return [
        f"off scale, {where}: n-grams, " + ", ".join(f"{_characters([k])} {bits:.2f}" for k, bits in found)
        for where, found in beyond.items()
        if found
    ]


def _characters(orders: Sequence[int]) -> str:
    """Name one order or several: `3 characters`, `5 to 7 characters`."""
    some = sorted(orders)
    said = ", ".join(map(str, some))
    if len(some) > 1 and all(b == a + 1 for a, b in pairwise(some)):
        said = f"{some[0]} to {some[-1]}"
    return f"{said} character{'s' * (some != [1])}"


def _place(frame: Frame, order: Order) -> float:
    """Return the position of a line's name: above it, and within the plot."""
    return max(frame.down(order[1]) - 5, TOP + 12)


def _groups(frame: Frame, orders: Sequence[Order]) -> list[list[Order]]:
    """Group the orders within the plot, from the top down, where their names would overlap."""
    low, high = frame.y
    groups: list[list[Order]] = []
    for order in sorted((order for order in orders if low <= order[1] <= high), key=lambda order: -order[1]):
        if groups and _place(frame, order) - _place(frame, groups[-1][0]) < LABEL_GAP:
            groups[-1].append(order)
        else:
            groups.append([order])
    return groups
