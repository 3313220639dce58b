"""The page of a run: one self-contained HTML document, drawn from plain numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from statistics import fmean

from charlm.listeners import charts
from charlm.listeners.charts import (
    BOUND,
    CHAR_WIDTH,
    LABEL_GAP,
    LEFT,
    WIDTH,
    Axes,
    Frame,
    Point,
    Range,
    clipped,
    curve,
    drawing,
    path,
    spread,
    ticks,
)
from charlm.listeners.page import document, facts_table, harmless
from charlm.terminal import visible

Yardstick = tuple[str, float]
Evaluation = tuple[int, float, float]

MOST_POINTS = 400
SMOOTHING_PART = 40  # the strong line averages over a fortieth of the run to either side
LOSS_HEIGHT, RATE_HEIGHT = 320.0, 90.0
LONGEST_NAME = 12

CSS = """
:root { --train: #1f5fa8; --held: #b0480c; }
@media (prefers-color-scheme: dark) { :root { --train: #74b0f4; --held: #f29a5c; } }
h3 { font-size: .875rem; font-weight: 600; color: var(--soft); margin: 0 0 .25rem; }
.groups { columns: 20rem 2; gap: 2.5rem; } section { break-inside: avoid; margin-bottom: 1.5rem; }
pre { font: .8125rem/1.55 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; margin: 0 0
  1.5rem; padding: .75rem 1rem; white-space: pre-wrap; background: var(--wash); }
i { display: inline-block; width: 1.5rem; margin-right: .5rem; vertical-align: .25em;
  border-top: 2px solid var(--train); }
i.held { border-top: 4px dotted var(--held); } i.yard { border-top: 1px dashed var(--soft); }
path { stroke: var(--train); } .raw { stroke-width: 1.25; opacity: .35; }
path.held { stroke: var(--held); stroke-width: 1.25; } path.held.dots { stroke-width: 5.5; }
path.yard { stroke: var(--soft); stroke-width: 1; } .yard { stroke-dasharray: 4; }
"""


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a page shows. Each sequence may be empty, and steps may fall back."""

    title: str
    facts: Sequence[tuple[str, str]]  # the summary rows: label, value
    train: Sequence[tuple[int, float]]  # step, bits per character
    held_out: Sequence[Evaluation]  # step, bits per character, standard error
    rates: Sequence[tuple[int, float]]  # step, learning rate
    yardsticks: Sequence[Yardstick]  # name, bits per character
    settings: Sequence[tuple[str, Sequence[tuple[str, str]]]]  # groups of name, value
    samples: Sequence[tuple[int, str]]  # step, what the model wrote then


def render(page: Page) -> str:
    """Return the page as HTML that loads nothing and runs nothing. Raises nothing."""
    parts = [facts_table(page.facts), _charts(page), _settings(page), _samples(page)]
    return document(page.title, charts.CSS + CSS, "".join(parts))


def _settings(page: Page) -> str:
    groups = [f"<section><h3>{harmless(a)}</h3>{facts_table(b)}</section>\n" for a, b in page.settings]
    return f'<h2>Settings</h2>\n<div class="groups">{"".join(groups)}</div>\n' if groups else ""


def _samples(page: Page) -> str:
    # HTML drops a newline right after <pre>, so one is given for it to drop
    parts = [
        f'<h3>after step {step:,}</h3>\n<pre lang="" dir="auto">\n{harmless(text)}</pre>\n'
        for step, text in page.samples
    ]
    return f"<h2>What the model wrote</h2>\n{''.join(parts)}" if parts else ""


def _charts(page: Page) -> str:
    train = [point for point in page.train if abs(point[1]) < BOUND]
    held_out = [(x, y, e if e < BOUND else 0.0) for x, y, e in page.held_out if abs(y) < BOUND]
    lost = len(page.train) + len(page.held_out) - len(train) - len(held_out)
    rates = [point for point in page.rates if abs(point[1]) < BOUND]
    yardsticks = sorted((y for y in page.yardsticks if abs(y[1]) < BOUND), key=lambda y: -y[1])
    x = _step_range([step for step, *_ in (*train, *held_out, *rates)])
    drawn = _thinned(train)
    y = _loss_range(drawn, held_out, [bits for _, bits in yardsticks])
    within = [yard for yard in yardsticks if yard[1] <= y[1]][-int(LOSS_HEIGHT / LABEL_GAP) :]
    right = WIDTH - 14 - CHAR_WIDTH * max((len(_label(*yard)) for yard in within), default=3)
    parts = []
    if page.train or page.held_out or yardsticks:
        legend = _legend(bool(drawn), bool(held_out), yardsticks, y[1], lost)
        chart = _loss_chart(Frame(x, y, right, LOSS_HEIGHT), drawn, held_out, within)
        parts.append(f"<figure>{legend}{chart}</figure>\n")
    if rates:
        highest = max(rate for _, rate in rates)
        frame = Frame(x, (0.0, highest * 1.05 if highest > 1e-99 else 1.0), right, RATE_HEIGHT)
        parts.append(f"<figure>{_rate_chart(frame, rates)}</figure>\n")
    return f"<h2>Curves</h2>\n{''.join(parts)}" if parts else ""


def _legend(train: bool, held_out: bool, yards: list[Yardstick], top: float, lost: int) -> str:
    named = [(bits <= top, harmless(f"{name} {bits:.2f}")) for name, bits in yards]
    within = ", ".join(text for inside, text in named if inside)
    above = ", ".join(text for inside, text in named if not inside)
    entries = [
        (train, "<i></i>training, smoothed; faint: as measured"),
        (held_out, '<i class="held"></i>held-out ± 1 standard error'),
        (within, f'<i class="yard"></i>{within}'),
        (above, f"above this chart: {above}"),
        (lost, f"not finite, so not drawn: {lost:,}"),
    ]
    spans = "".join(f"<span>{entry}</span>" for there, entry in entries if there)
    return f"<figcaption>{spans}</figcaption>\n"


def _loss_chart(
    frame: Frame, train: list[Point], held_out: list[Evaluation], yardsticks: list[Yardstick]
) -> str:
    means: list[Point] = [(x, y) for x, y, _ in held_out]
    bars = [
        f"M{frame.across(x) - 3:.1f} {frame.down(end):.1f}h6m-3 0V{frame.down(y):.1f}"
        for x, y, error in held_out
        if error
        for end in (y - error, y + error)
    ]
    dots = "".join(path(frame, [point]) for point in means)
    smooth = _smoothed(train)
    curves = (
        f"{curve(frame, train, 'raw')}{curve(frame, smooth)}{curve(frame, means, 'held')}"
        f'<path class="held" d="{"".join(bars)}"/><path class="held dots" d="{dots}"/>'
    )
    ends = [("training", smooth), ("held-out", means)]
    said = "".join(f", {name} ends at {points[-1][1]:.3f}" for name, points in ends if points)
    title = f"Loss in bits per character against steps{said}"
    inner = _clipped(frame, curves) + _yardsticks(frame, yardsticks)
    return drawing(frame, _axes(frame, "bits per character", 6), title, inner)


def _rate_chart(frame: Frame, rates: Sequence[Point]) -> str:
    some = rates[:: ceil(len(rates) / MOST_POINTS)]  # means would round a schedule's corners
    inner = _clipped(frame, curve(frame, [*some, rates[-1]]))
    return drawing(frame, _axes(frame, "learning rate", 3), "Learning rate against steps", inner)


def _clipped(frame: Frame, inner: str) -> str:
    return clipped(frame, f"{frame.height:.0f}", inner)  # the two plots differ in height


def _axes(frame: Frame, y_title: str, most: int) -> Axes:
    x_ticks, y_ticks = ticks(frame.x, 5, whole=True), ticks(frame.y, most)
    return Axes(x_title="steps", y_title=y_title, x_ticks=x_ticks, y_ticks=y_ticks)


def _yardsticks(frame: Frame, yardsticks: list[Yardstick]) -> str:
    heights = [frame.down(bits) for _, bits in yardsticks]
    parts = []
    for yard, y, place in zip(yardsticks, heights, spread(heights, frame), strict=True):
        parts.append(f'<path class="yard" d="M{LEFT} {y:.1f}H{frame.right:.1f}"/>')
        parts.append(f'<path class="lead" d="M{frame.right:.1f} {y:.1f}l8 {place - y:.1f}"/>')
        where = f'x="{frame.right + 12:.1f}" y="{place:.1f}" dy=".35em"'
        parts.append(f"<text {where}>{harmless(_label(*yard))}</text>\n")
    return "".join(parts)


def _label(name: str, bits: float) -> str:
    shown = visible(name)  # what is spelled out takes the room of its spelling
    return f"{shown if len(shown) <= LONGEST_NAME else shown[: LONGEST_NAME - 1] + '…'} {bits:.2f}"


def _thinned(points: Sequence[Point]) -> list[Point]:
    every = ceil(len(points) / MOST_POINTS) or 1
    buckets = [points[i : i + every] for i in range(0, len(points), every)]
    return [(bucket[len(bucket) // 2][0], fmean(y for _, y in bucket)) for bucket in buckets]


def _smoothed(points: list[Point]) -> list[Point]:
    """Means around each point, looking ahead no further than back: no lag while the loss falls."""
    widest = len(points) // SMOOTHING_PART
    windows = [points[max(i - widest, 0) : i + min(i, widest) + 1] for i in range(len(points))]
    return [(x, fmean(y for _, y in near)) for (x, _), near in zip(points, windows, strict=True)]


def _step_range(steps: list[float]) -> Range:
    low, high = min(steps, default=0), max(steps, default=1)
    return (low if high > low > high / 2 else 0), max(high, 1)


def _loss_range(train: list[Point], held_out: list[Evaluation], yardsticks: list[float]) -> Range:
    """From just under the lowest value to above all but a twentieth of the losses, or beyond.

    Beyond, for yardsticks that at most double the range; the first steps would flatten the rest.
    """
    losses = [sorted(y for _, y in train), sorted(y for _, y, _ in held_out)]
    tops = [ys[round(0.95 * (len(ys) - 1))] for ys in losses if ys] or yardsticks or [1.0]
    lowest = [ys[0] for ys in losses if ys] + [max(y - e, 0.0) for _, y, e in held_out]
    low, high = min(lowest + yardsticks, default=0.0), max(tops)
    reach = low + max(2 * (high - low), 0.5)
    high = max([high, low + 0.05] + [y for y in yardsticks if y <= reach])
    margin = 0.05 * (high - low)
    return low - min(margin, abs(low)), high + margin  # no room below zero: there are no such bits
