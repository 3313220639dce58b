"""The page of a run: one self-contained HTML document, drawn from plain numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, inf, log10
from statistics import fmean

from charlm.terminal import visible

Point = tuple[float, float]
Range = tuple[float, float]
Yardstick = tuple[str, float]
Evaluation = tuple[int, float, float]

MOST_POINTS = 400
SMOOTHING_PART = 40  # the strong line averages over a fortieth of the run to either side
WIDTH, LEFT, TOP, BOTTOM = 720.0, 80.0, 36.0, 56.0
LOSS_HEIGHT, RATE_HEIGHT = 320.0, 90.0
CHAR_WIDTH, LABEL_GAP = 11.0, 22.0  # of the type a phone gets, the largest there is
LONGEST_NAME = 12
BOUND = 1e9  # a loss past it is a run that blew up, and no axis could hold it

CSS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1f23; --soft: #59616b; --rule: #dfe3e7;
  --wash: #f6f7f8; --train: #1f5fa8; --held: #b0480c; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181c; --ink: #e4e7ea; --soft: #a0a9b3;
  --rule: #30363d; --wash: #1d2126; --train: #74b0f4; --held: #f29a5c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100%; overflow-wrap: anywhere; }
main { max-width: 49rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; font-weight: 650; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.125rem; font-weight: 650; margin: 2.75rem 0 .75rem; }
h3 { font-size: .875rem; font-weight: 600; color: var(--soft); margin: 0 0 .25rem; }
table { width: 100%; border-collapse: collapse; font-size: .9375rem; }
tr { border-top: 1px solid var(--rule); } td, th { vertical-align: top; padding: .3rem 0; }
th { font-weight: 400; text-align: left; color: var(--soft); width: 40%; padding-right: 1rem; }
.groups { columns: 20rem 2; gap: 2.5rem; } section { break-inside: avoid; margin-bottom: 1.5rem; }
pre { font: .8125rem/1.55 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; margin: 0 0
  1.5rem; padding: .75rem 1rem; white-space: pre-wrap; background: var(--wash); }
figure { margin: 0 0 1.5rem; }
figcaption { color: var(--soft); font-size: .875rem; display: flex; flex-wrap: wrap;
  gap: .25rem 1.5rem; margin-bottom: .75rem; }
i { display: inline-block; width: 1.5rem; margin-right: .5rem; vertical-align: .25em;
  border-top: 2px solid var(--train); }
i.held { border-top: 4px dotted var(--held); } i.yard { border-top: 1px dashed var(--soft); }
svg { display: block; width: 100%; height: auto; overflow: visible; font-size: 13px; }
path { fill: none; stroke: var(--train); stroke-width: 2; stroke-linecap: round;
  stroke-linejoin: round; vector-effect: non-scaling-stroke; }
text { fill: var(--soft); } .end { text-anchor: end; } .middle { text-anchor: middle; }
.grid { stroke: var(--rule); stroke-width: 1; } .raw { stroke-width: 1.25; opacity: .35; }
path.held { stroke: var(--held); stroke-width: 1.25; } path.dots { stroke-width: 5.5; }
path.yard, .lead, .axis { stroke: var(--soft); stroke-width: 1; } .yard { stroke-dasharray: 4; }
@media (max-width: 34rem) { svg { font-size: 20px; } main { padding-top: 1.25rem; } }
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


@dataclass(frozen=True)
class _Frame:
    """From data to the units of a drawing whose plot starts at (LEFT, TOP)."""

    x: Range
    y: Range
    right: float
    height: float

    def across(self, x: float) -> float:
        return LEFT + (x - self.x[0]) / (self.x[1] - self.x[0]) * (self.right - LEFT)

    def down(self, y: float) -> float:
        part = (self.y[1] - y) / (self.y[1] - self.y[0])
        return TOP + self.height * min(max(part, -9.0), 9.0)  # far outside is as good as outside


def render(page: Page) -> str:
    """Return the page as HTML that loads nothing and runs nothing. Raises nothing."""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(page.title)}</title><style>{CSS}</style>"
    )
    parts = [_table(page.facts), _charts(page), _settings(page), _samples(page)]
    body = f"<body><main>\n<h1>{_text(page.title)}</h1>\n{''.join(parts)}</main></body>"
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n{body}</html>\n'


def _text(text: str) -> str:
    return escape(visible(text))


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = [f'<tr><th scope="row">{_text(a)}</th><td>{_text(b)}</td></tr>\n' for a, b in rows]
    return f"<table>\n{''.join(cells)}</table>\n" if rows else ""


def _settings(page: Page) -> str:
    groups = [f"<section><h3>{_text(a)}</h3>{_table(b)}</section>\n" for a, b in page.settings]
    return f'<h2>Settings</h2>\n<div class="groups">{"".join(groups)}</div>\n' if groups else ""


def _samples(page: Page) -> str:
    # HTML drops a newline right after <pre>, so one is given for it to drop
    parts = [
        f'<h3>after step {step:,}</h3>\n<pre lang="" dir="auto">\n{_text(text)}</pre>\n'
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
        chart = _loss_chart(_Frame(x, y, right, LOSS_HEIGHT), drawn, held_out, within)
        parts.append(f"<figure>{legend}{chart}</figure>\n")
    if rates:
        highest = max(rate for _, rate in rates)
        frame = _Frame(x, (0.0, highest * 1.05 if highest > 1e-99 else 1.0), right, RATE_HEIGHT)
        parts.append(f"<figure>{_rate_chart(frame, rates)}</figure>\n")
    return f"<h2>Curves</h2>\n{''.join(parts)}" if parts else ""


def _legend(train: bool, held_out: bool, yards: list[Yardstick], top: float, lost: int) -> str:
    named = [(bits <= top, _text(f"{name} {bits:.2f}")) for name, bits in yards]
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
    frame: _Frame, train: list[Point], held_out: list[Evaluation], yardsticks: list[Yardstick]
) -> str:
    means: list[Point] = [(x, y) for x, y, _ in held_out]
    bars = [
        f"M{frame.across(x) - 3:.1f} {frame.down(end):.1f}h6m-3 0V{frame.down(y):.1f}"
        for x, y, error in held_out
        if error
        for end in (y - error, y + error)
    ]
    dots = "".join(_path(frame, [point]) for point in means)
    smooth = _smoothed(train)
    curves = (
        f"{_line(frame, train, 'raw')}{_line(frame, smooth)}{_line(frame, means, 'held')}"
        f'<path class="held" d="{"".join(bars)}"/><path class="held dots" d="{dots}"/>'
    )
    ends = [("training", smooth), ("held-out", means)]
    said = "".join(f", {name} ends at {points[-1][1]:.3f}" for name, points in ends if points)
    title = f"Loss in bits per character against steps{said}"
    inner = f"{_clipped(frame, curves)}{_yardsticks(frame, yardsticks)}"
    return _svg(frame, title, "bits per character", 6, inner)


def _rate_chart(frame: _Frame, rates: Sequence[Point]) -> str:
    some = rates[:: ceil(len(rates) / MOST_POINTS)]  # means would round a schedule's corners
    inner = _clipped(frame, _line(frame, [*some, rates[-1]]))
    return _svg(frame, "Learning rate against steps", "learning rate", 3, inner)


def _line(frame: _Frame, points: Sequence[Point], kind: str = "") -> str:
    size = " dots" if len(set(points)) == 1 else ""
    return f'<path class="{kind}{size}" d="{_path(frame, points)}"/>'


def _clipped(frame: _Frame, inner: str) -> str:
    name = f"plot-{frame.height:.0f}"
    box = f'x="{LEFT - 8}" y="{TOP}" width="{frame.right - LEFT + 16}" height="{frame.height}"'
    clip = f'<clipPath id="{name}"><rect {box}/></clipPath>'
    return f'{clip}<g clip-path="url(#{name})">{inner}</g>\n'


def _yardsticks(frame: _Frame, yardsticks: list[Yardstick]) -> str:
    heights = [frame.down(bits) for _, bits in yardsticks]
    parts = []
    for yard, y, place in zip(yardsticks, heights, _spread(heights, frame), strict=True):
        parts.append(f'<path class="yard" d="M{LEFT} {y:.1f}H{frame.right:.1f}"/>')
        parts.append(f'<path class="lead" d="M{frame.right:.1f} {y:.1f}l8 {place - y:.1f}"/>')
        where = f'x="{frame.right + 12:.1f}" y="{place:.1f}" dy=".35em"'
        parts.append(f"<text {where}>{_text(_label(*yard))}</text>\n")
    return "".join(parts)


def _spread(wanted: list[float], frame: _Frame) -> list[float]:
    """Places near the ascending wanted ones, LABEL_GAP apart and beside the plot."""
    placed: list[float] = []
    for y in wanted:
        placed.append(max(y, placed[-1] + LABEL_GAP) if placed else y)
    bottom, last = TOP + frame.height, len(placed) - 1
    return [min(y, bottom - LABEL_GAP * (last - i)) for i, y in enumerate(placed)]


def _label(name: str, bits: float) -> str:
    shown = visible(name)  # what is spelled out takes the room of its spelling
    return f"{shown if len(shown) <= LONGEST_NAME else shown[: LONGEST_NAME - 1] + '…'} {bits:.2f}"


def _svg(frame: _Frame, title: str, y_title: str, most_ticks: int, inner: str) -> str:
    base = TOP + frame.height
    parts = [f'<text x="0" y="{TOP - 16}">{y_title}</text>']
    parts.append(f'<path class="axis" d="M{LEFT} {base}H{frame.right:.1f}"/>')
    for value, label in _ticks(frame.y, most_ticks):
        y = frame.down(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{frame.right:.1f}"/>')
        parts.append(f'<text class="end" x="{LEFT - 12}" y="{y:.1f}" dy=".35em">{label}</text>')
    for value, label in _ticks(frame.x, 5, whole=True):
        place = f'x="{frame.across(value):.1f}" y="{base + 22}"'
        parts.append(f'<text class="middle" {place}>{label}</text>')
    middle = f'x="{(LEFT + frame.right) / 2:.1f}" y="{base + 46}"'
    parts.append(f'<text class="middle" {middle}>steps</text>')
    size = f"{WIDTH:.0f} {base + BOTTOM:.0f}"
    head = f'<svg role="img" viewBox="0 0 {size}"><title>{title}</title>'
    return f"{head}\n{''.join(parts)}\n{inner}</svg>"


def _ticks(span: Range, most: int, *, whole: bool = False) -> list[tuple[float, str]]:
    least = (span[1] - span[0]) / most
    power = 10.0 ** floor(log10(least))
    step = next((m * power for m in (1, 2, 5) if m * power >= least), 10 * power)
    step = max(step, 1.0) if whole else step
    decimals = max(0, -floor(log10(step) + 1e-9))
    values = [i * step for i in range(ceil(span[0] / step), floor(span[1] / step) + 1)]
    if decimals > 2:  # learning rates
        return [(value, f"{value:g}".replace("e-0", "e-")) for value in values]
    return [(value, f"{value:,.{decimals}f}") for value in values]


def _path(frame: _Frame, points: Sequence[Point]) -> str:
    """A line in the order given, begun anew where steps fall back; `h0` makes a dot of one."""
    line, last = "", inf
    for x, y in points:
        place = f"{frame.across(x):.1f} {frame.down(y):.1f}"
        line += f"L{place}" if x > last else f"M{place}h0"
        last = x
    return line


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
