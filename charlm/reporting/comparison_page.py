"""Render the page of a comparison: one self-contained HTML document, drawn from plain numbers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, floor, log2

from markupsafe import Markup

from charlm.reporting import pages
from charlm.reporting.pages import BOUND, CHAR_WIDTH, LABEL_GAP, TOP, WIDTH, Frame, Order, Point, Range, Tick
from charlm.terminal import one_line

Classes = Mapping[str, str]

HEIGHT = 320.0
LONGEST_NAME = 14
COLOURS = 6
FARTHEST = 1e15  # seconds, characters: beyond it, or below its inverse, nothing was measured
SWATCH = 44.0  # from the plot to the text of a label: a lead, then a piece of the line


@dataclass(frozen=True, kw_only=True)
class Line:
    """The curve of one variant."""

    name: str  # the variant; the same name has the same colour in all charts
    points: Sequence[Point]  # x, bits per character
    faint: bool = False  # one seed of several, drawn weakly behind the mean
    errors: Sequence[float | None] = ()  # of the points, in their order; None: unknown
    apart: Sequence[Point] = ()  # marks by themselves, not joined to the others


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart of the variants' loss against a measured quantity."""

    title: str
    x_title: str
    log_x: bool
    lines: Sequence[Line]
    marks: Sequence[tuple[float, str]] = ()  # a vertical line with a short label
    orders: Sequence[Order] = ()  # a horizontal line for the n-gram model of each order
    note: str = ""  # a sentence under the title


@dataclass(frozen=True, kw_only=True)
class ComparisonPage:
    """The contents of a page. Each sequence may be empty."""

    title: str
    facts: Sequence[tuple[str, str]]
    header: Sequence[str]  # of the table of variants
    rows: Sequence[Sequence[str]]  # each begins with the name of its variant
    says: Sequence[str]  # sentences under the table
    charts: Sequence[Chart]
    names: Sequence[str]  # the variants in the order of their colours


def render(page: ComparisonPage) -> str:
    """Return the page as HTML that loads nothing and runs nothing. Raises nothing."""
    lines = [line.name for chart in page.charts for line in chart.lines]
    names = dict.fromkeys([*page.names, *lines])
    classes = {name: f"c{i % COLOURS}{' dash' * (i // COLOURS % 2)}" for i, name in enumerate(names)}
    figures = [_figure(f"{i}", chart, classes) for i, chart in enumerate(page.charts)]
    return pages.render_page("comparison.html", page=page, classes=classes, figures=figures)


def _figure(number: str, chart: Chart, classes: Classes) -> tuple[str, list[str], Markup]:
    """Return the title, caption and drawing of a chart."""
    placed = [_placed(chart, line) for line in chart.lines]
    # the strong lines last: they lie on top, and a mean is the one that is named
    lines = sorted((line for line in placed if line.points), key=lambda line: not line.faint)
    drawn = _drawing(number, chart, lines, classes) if lines else Markup()
    lost = Counter[str]()
    for line, kept in zip(chart.lines, placed, strict=True):
        lost[line.name] += len(line.points) - len(kept.points)
    missing = ", ".join(f"{name} {number:,}" for name, number in lost.items() if number)
    return chart.title, _caption(chart, lines, missing), drawn


def _caption(chart: Chart, lines: list[Line], missing: str) -> list[str]:
    """Return the note, and what the drawing cannot show."""
    entries = [chart.note]
    if lines:
        highest, y = max(y for line in lines for _, y in line.points), _y_range(chart, lines)
        entries += [
            f"off scale: values up to {highest:.2f}" if highest > y[1] else "",
            *pages.outside(y, chart.orders),
        ]
    entries.append(f"not finite or beyond an axis, so not drawn: {missing}" if missing else "")
    entries.append("" if lines else "no figures yet")
    return [entry for entry in entries if entry]


def _placed(chart: Chart, line: Line) -> Line:
    """Return the line with x converted to positions along the axis, without points that cannot be drawn."""
    errors = [*line.errors, *[None] * (len(line.points) - len(line.errors))]
    pairs = [(_place(chart, point), error) for point, error in zip(line.points, errors, strict=True)]
    kept = [(point, error) for point, error in pairs if point is not None]
    apart = [place for point in line.apart if (place := _place(chart, point)) is not None]
    return replace(
        line, points=[point for point, _ in kept], errors=[error for _, error in kept], apart=apart
    )


def _place(chart: Chart, point: Point) -> Point | None:
    """Return a point with x along its axis, in doublings on a logarithmic one; None if it cannot be drawn."""
    x, y = point
    if not abs(x) < FARTHEST or not abs(y) < BOUND or (chart.log_x and x < 1 / FARTHEST):
        return None
    return (log2(x) if chart.log_x else x), y


def _drawing(number: str, chart: Chart, lines: list[Line], classes: Classes) -> Markup:
    last = {line.name: line.points[-1] for line in lines}
    ends = sorted(last.items(), key=lambda end: -end[1][1])
    room = CHAR_WIDTH * max(len(_label(name, end)) for name, end in ends)
    height = max(HEIGHT, LABEL_GAP * len(ends))
    frame = Frame(_x_range(chart, lines), _y_range(chart, lines), WIDTH - 14 - SWATCH - room, height)
    said = ", ".join(f"{name} ends at {y:.3f}" for name, (_, y) in reversed(ends))
    title = pages.harmless(f"{chart.title}: bits per character against {chart.x_title}; {said}")
    plot = pages.clipped(frame, number, _curves(frame, lines, classes))
    over = pages.order_lines(frame, chart.orders) + _marks(chart, frame) + _labels(frame, ends, classes)
    return pages.drawing(
        frame,
        title,
        plot + over,
        x_title=pages.harmless(chart.x_title),
        y_title="bits per character",
        x_ticks=_x_ticks(chart, frame),
        y_ticks=pages.ticks(frame.y, 6),
    )


def _curves(frame: Frame, lines: list[Line], classes: Classes) -> str:
    parts = []
    for line in lines:
        kind = f"line {classes[line.name]}"
        parts.append(pages.curve(frame, line.points, f"{kind} faint" if line.faint else kind))
        if not line.faint:
            dots = "".join(pages.path(frame, [point]) for point in line.points)
            parts.append(f'<path class="{kind} dots" d="{dots}"/>')
            bars = pages.error_bars(frame, line.points, line.errors)
            parts.append(f'<path class="{kind} bars" d="{bars}"/>' * any(line.errors))
            parts.append(pages.diamonds(frame, line.apart, f"{kind} apart"))
    return "".join(parts)


def _labels(frame: Frame, ends: list[tuple[str, Point]], classes: Classes) -> str:
    heights = [frame.down(y) for _, (_, y) in ends]
    parts = []
    for (name, end), y, place in zip(ends, heights, pages.spread(heights, frame), strict=True):
        right, kind = frame.right, classes[name]
        on = f'<path class="lead on {kind}" d="M{frame.across(end[0]):.1f} {y:.1f}H{right:.1f}"/>'
        lead = f'<path class="lead {kind}" d="M{right + 2:.1f} {y:.1f}L{right + 16:.1f} {place:.1f}"/>'
        swatch = f'<path class="line {kind}" d="M{right + 16:.1f} {place:.1f}h22"/>'
        where = f'x="{right + SWATCH:.1f}" y="{place:.1f}" dy=".35em"'
        parts.append(f"<g>{on}{lead}{swatch}<text {where}>{pages.harmless(_label(name, end))}</text></g>\n")
    return "".join(parts)


def _label(name: str, end: Point) -> str:
    return f"{one_line(name, LONGEST_NAME)} {end[1]:.2f}"


def _marks(chart: Chart, frame: Frame) -> str:
    """Return the vertical lines that fall within the plot, each label below the previous one."""
    placed = [(_place(chart, (x, 0.0)), text) for x, text in chart.marks]
    marks = [(at[0], text) for at, text in placed if at is not None and frame.x[0] <= at[0] <= frame.x[1]]
    parts = []
    for i, (x, text) in enumerate(marks):
        at, label = frame.across(x), one_line(text, LONGEST_NAME)
        left = at + 8 + CHAR_WIDTH * len(label) > frame.right
        where = f'x="{at - 8 if left else at + 8:.1f}" y="{TOP + 14 + LABEL_GAP * i:.1f}"'
        parts.append(f'<path class="mark" d="M{at:.1f} {TOP}v{frame.height}"/>')
        parts.append(f'<text class="halo{" end" * left}" {where}>{pages.harmless(label)}</text>\n')
    return "".join(parts)


def _y_range(chart: Chart, lines: list[Line]) -> Range:
    """Return a range from just under the lowest value to where the curves' ends take a quarter of the height.

    The first evaluations of a run lie far above, and would flatten the differences. But at least half of all
    values are shown, and more than nine in ten only if an end needs it.
    """
    values = sorted(y for line in lines for _, y in line.points)
    most = len(values) - 1
    bars = [
        y - error
        for line in lines
        for (_, y), error in zip(line.points, line.errors, strict=True)
        if error and error < BOUND
    ]
    low = max(0.0, min(bars, default=values[0])) if values[0] > 0 else values[0]
    low = min(low, values[0], *(y for line in lines for _, y in line.apart))
    end = max(y for line in lines for _, y in (line.points[-1], *line.apart))
    wanted = max(values[ceil(0.5 * most)], low + 4 * (end - low))
    high = max(end, low + 0.05, min(wanted, values[ceil(0.9 * most)]))
    margin = 0.05 * (high - low)
    # no room below zero: there are no such bits
    return pages.widened((low - min(margin, abs(low)), high + margin), chart.orders)


def _x_range(chart: Chart, lines: list[Line]) -> Range:
    values = [x for line in lines for x, _ in line.points]
    values += [x for line in lines for x, _ in line.apart]
    low, high = min(values), max(values)
    if not chart.log_x and 0 <= low <= high / 2:
        low = 0.0
    return (low, high) if high - low > 1e-6 * max(abs(high), 1.0) else (low - 0.5, low + 0.5)


def _x_ticks(chart: Chart, frame: Frame) -> list[Tick]:
    """Return as many round values as their labels have room for; powers of two on a logarithmic axis."""
    low, high = frame.x
    if chart.log_x:
        powers = [
            (float(i), f"{2.0**i:,.0f}" if i >= 0 else f"{2.0**i:g}")
            for i in range(ceil(low), floor(high) + 1)
        ]
        some = [[tick for tick in powers if tick[0] % every == 0] for every in range(1, 41)]
        some.append([(x, f"{2**x:.3g}") for x in frame.x])  # no power of two lies between
    else:
        some = [pages.ticks(frame.x, most) for most in (5, 4, 3, 2, 1)]

    def fit(found: list[Tick]) -> bool:
        room = CHAR_WIDTH * (max(len(label) for _, label in found) + 1)
        return all(frame.across(b) - frame.across(a) > room for (a, _), (b, _) in pairwise(found))

    return next((found for found in some if found and fit(found)), [])
