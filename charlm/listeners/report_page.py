"""The page of a run: one self-contained HTML document, drawn from plain numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, isfinite, log10
from statistics import fmean

from charlm.terminal import visible

Point = tuple[float, float]
Range = tuple[float, float]
Yardstick = tuple[str, float]

MOST_POINTS = 400
SMOOTHING_PART = 40  # the strong line averages over a fortieth of the run to either side
WIDTH, LEFT, TOP, BOTTOM = 720.0, 72.0, 36.0, 56.0
LOSS_HEIGHT, RATE_HEIGHT = 320.0, 90.0
CHAR_WIDTH, LABEL_GAP = 11.0, 22.0  # of the type a phone gets, the largest there is
LONGEST_LABEL = 18
ROUND_STEPS = (1, 2, 5, 10)

CSS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1f23; --soft: #59616b; --rule: #dfe3e7;
  --wash: #f6f7f8; --train: #1f5fa8; --held: #b0480c; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181c; --ink: #e4e7ea; --soft: #a0a9b3;
  --rule: #30363d; --wash: #1d2126; --train: #74b0f4; --held: #f29a5c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100%; }
main { max-width: 49rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1, h2, h3 { line-height: 1.25; overflow-wrap: anywhere; }
h1 { font-size: 1.75rem; font-weight: 650; margin: 0 0 1rem; }
h2 { font-size: 1.125rem; font-weight: 650; margin: 2.75rem 0 .75rem; }
h3 { font-size: .875rem; font-weight: 600; color: var(--soft); margin: 0 0 .25rem; }
table { width: 100%; border-collapse: collapse; font-size: .9375rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem 0; border-top: 1px solid var(--rule); }
th { font-weight: 400; color: var(--soft); width: 40%; padding-right: 1rem; }
td, th { overflow-wrap: anywhere; }
.groups { columns: 20rem 2; column-gap: 2.5rem; }
.groups section { break-inside: avoid; margin-bottom: 1.5rem; }
pre { font: .8125rem/1.55 ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; background: var(--wash); margin: 0 0 1.5rem;
  padding: .75rem 1rem; border-radius: 4px; }
figure { margin: 0; }
figcaption { color: var(--soft); font-size: .875rem; display: flex; flex-wrap: wrap;
  gap: .25rem 1.5rem; margin-bottom: .75rem; }
figcaption i { display: inline-block; width: 1.5rem; margin-right: .5rem; vertical-align: .25em;
  border-top: 2px solid var(--train); }
figcaption i.held { border-color: var(--held); border-top-width: 4px; border-top-style: dotted; }
figcaption i.yard { border-color: var(--soft); border-top: 1px dashed; }
svg { display: block; width: 100%; height: auto; overflow: visible; font-size: 13px; }
svg text { fill: var(--soft); }
svg path { fill: none; stroke: var(--train); stroke-width: 2; stroke-linecap: round;
  stroke-linejoin: round; }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .raw { stroke-width: 1.25; opacity: .35; }
svg .held, svg .bars { stroke: var(--held); stroke-width: 1.25; }
svg .dots { stroke: var(--held); stroke-width: 5.5; }
svg .yard { stroke: var(--soft); stroke-width: 1; stroke-dasharray: 5 4; stroke-linecap: butt; }
svg .lead { stroke: var(--soft); stroke-width: 1; opacity: .6; }
.end { text-anchor: end; } .middle { text-anchor: middle; }
@media (max-width: 34rem) { svg { font-size: 20px; } main { padding-top: 1.25rem; } }
"""


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a page shows. Each sequence may be empty, and steps may fall back."""

    title: str
    facts: Sequence[tuple[str, str]]  # the summary rows: label, value
    train: Sequence[tuple[int, float]]  # step, bits per character
    held_out: Sequence[tuple[int, float, float]]  # step, bits per character, standard error
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
    body = (
        f"<h1>{_text(page.title)}</h1>\n{_table(page.facts)}"
        f"{_charts(page)}{_settings(page)}{_samples(page)}"
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n'
        f"<body><main>\n{body}</main></body></html>\n"
    )


def _text(text: str) -> str:
    return escape(visible(text))


def _table(rows: Sequence[tuple[str, str]]) -> str:
    cells = [f'<tr><th scope="row">{_text(a)}</th><td>{_text(b)}</td></tr>\n' for a, b in rows]
    return f"<table>\n{''.join(cells)}</table>\n" if rows else ""


def _settings(page: Page) -> str:
    groups = [
        f"<section><h3>{_text(name)}</h3>{_table(rows)}</section>\n" for name, rows in page.settings
    ]
    return f'<h2>Settings</h2>\n<div class="groups">{"".join(groups)}</div>\n' if groups else ""


def _samples(page: Page) -> str:
    # HTML drops a newline right after <pre>, so one is given for it to drop
    parts = [
        f'<h3>after step {step:,}</h3>\n<pre lang="" dir="auto">\n{_text(text)}</pre>\n'
        for step, text in page.samples
    ]
    return f"<h2>What the model wrote</h2>\n{''.join(parts)}" if parts else ""


def _charts(page: Page) -> str:
    train = [(step, y) for step, y in page.train if isfinite(y)]
    held_out = [(x, y, e if isfinite(e) else 0.0) for x, y, e in page.held_out if isfinite(y)]
    left_out = len(page.train) + len(page.held_out) - len(train) - len(held_out)
    rates = [(step, y) for step, y in page.rates if isfinite(y)]
    yardsticks = sorted((y for y in page.yardsticks if isfinite(y[1])), key=lambda y: -y[1])
    steps = [point[0] for points in (train, held_out, rates) for point in points]
    x = _step_range(steps)
    drawn = _thinned(train)
    y = _loss_range(drawn, held_out, [bits for _, bits in yardsticks])
    within = [yard for yard in yardsticks if yard[1] <= y[1]][-int(LOSS_HEIGHT / LABEL_GAP) :]
    longest = max((len(_label(*yard)) for yard in within), default=3)
    right = WIDTH - 14 - CHAR_WIDTH * longest
    parts = []
    if drawn or held_out or yardsticks:
        legend = _legend(bool(drawn), bool(held_out), yardsticks, within, left_out)
        chart = _loss_chart(_Frame(x, y, right, LOSS_HEIGHT), drawn, held_out, within)
        parts.append(f"<h2>Loss</h2>\n<figure>{legend}{chart}</figure>\n")
    if rates:
        highest = max(rate for _, rate in rates)
        frame = _Frame(x, (0.0, highest * 1.05 if highest > 0 else 1.0), right, RATE_HEIGHT)
        parts.append(f"<h2>Learning rate</h2>\n<figure>{_rate_chart(frame, rates)}</figure>\n")
    return "".join(parts)


def _legend(
    train: bool, held_out: bool, yards: list[Yardstick], within: list[Yardstick], left_out: int
) -> str:
    entries = []
    if train:
        entries.append("<i></i>training: smoothed, and faint as measured")
    if held_out:
        entries.append('<i class="held"></i>held-out, ± 1 standard error')
    if within:
        entries.append('<i class="yard"></i>yardsticks')
    cut = [name for name, bits in within if _label(name, bits) != _name_and_bits(name, bits)]
    if cut:
        entries.append("labels shortened: " + _text(", ".join(cut)))
    beyond = [_name_and_bits(*yard) for yard in yards if yard not in within]
    if beyond:
        entries.append("above this range: " + _text(", ".join(beyond)))
    if left_out:
        entries.append(f"not finite, so not drawn: {left_out:,} losses")
    return f"<figcaption>{''.join(f'<span>{entry}</span>' for entry in entries)}</figcaption>\n"


def _loss_chart(
    frame: _Frame,
    train: list[Point],
    held_out: list[tuple[int, float, float]],
    yardsticks: list[Yardstick],
) -> str:
    means = [(x, y) for x, y, _ in held_out]
    bars = [
        f"M{frame.across(x) - 3:.1f} {frame.down(y + side * error):.1f}h6m-3 0"
        f"V{frame.down(y):.1f}"
        for x, y, error in held_out
        for side in (-1, 1)
    ]
    dots = "".join(_path(frame, [point]) for point in means)
    curves = (
        f'<path class="raw" d="{_path(frame, train)}"/>'
        f'<path d="{_path(frame, _smoothed(train))}"/>'
        f'<path class="held" d="{_path(frame, means)}"/>'
        f'<path class="bars" d="{"".join(bars)}"/><path class="dots" d="{dots}"/>'
    )
    ends = [("training", train), ("held-out", means)]
    said = "".join(f", {name} ends at {points[-1][1]:.3f}" for name, points in ends if points)
    title = f"Loss in bits per character against steps{said}"
    inner = f"{_clipped(frame, curves)}{_yardsticks(frame, yardsticks)}"
    return _svg(frame, title, "bits per character", 6, inner)


def _rate_chart(frame: _Frame, rates: list[Point]) -> str:
    every = ceil(len(rates) / MOST_POINTS)  # means would round the corners of a schedule
    points = rates[::every] + rates[-1:]
    inner = _clipped(frame, f'<path d="{_path(frame, points)}"/>')
    return _svg(frame, "Learning rate against steps", "learning rate", 3, inner)


def _clipped(frame: _Frame, inner: str) -> str:
    name = f"plot-{frame.height:.0f}"
    box = f'x="{LEFT - 8}" y="{TOP}" width="{frame.right - LEFT + 16}" height="{frame.height}"'
    return (
        f'<clipPath id="{name}"><rect {box}/></clipPath><g clip-path="url(#{name})">{inner}</g>\n'
    )


def _yardsticks(frame: _Frame, yardsticks: list[Yardstick]) -> str:
    heights = [frame.down(bits) for _, bits in yardsticks]
    parts = []
    for yard, y, place in zip(yardsticks, heights, _spread(heights, frame), strict=True):
        parts.append(
            f'<path class="yard" d="M{LEFT} {y:.1f}H{frame.right:.1f}"/>'
            f'<path class="lead" d="M{frame.right:.1f} {y:.1f}l8 {place - y:.1f}"/>'
            f'<text x="{frame.right + 12:.1f}" y="{place:.1f}" dy=".35em">{_text(_label(*yard))}'
            "</text>\n"
        )
    return "".join(parts)


def _spread(wanted: list[float], frame: _Frame) -> list[float]:
    """Places near the ascending wanted ones, LABEL_GAP apart and beside the plot."""
    placed: list[float] = []
    for y in wanted:
        placed.append(max(y, placed[-1] + LABEL_GAP) if placed else y)
    bottom, last = TOP + frame.height, len(placed) - 1
    return [min(y, bottom - LABEL_GAP * (last - i)) for i, y in enumerate(placed)]


def _name_and_bits(name: str, bits: float) -> str:
    return f"{name} {bits:.2f}"


def _label(name: str, bits: float) -> str:
    most = LONGEST_LABEL - len(_name_and_bits("", bits))
    shown = visible(name)  # what is spelled out takes the room of its spelling
    return _name_and_bits(shown if len(shown) <= most else shown[: most - 1] + "…", bits)


def _svg(frame: _Frame, title: str, y_title: str, most_ticks: int, inner: str) -> str:
    floor_ = TOP + frame.height
    parts = [f'<text x="0" y="{TOP - 16}">{y_title}</text>']
    for value, label in _ticks(frame.y, most_ticks):
        y = frame.down(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{frame.right:.1f}"/>')
        parts.append(f'<text class="end" x="{LEFT - 12}" y="{y:.1f}" dy=".35em">{label}</text>')
    for value, label in _ticks(frame.x, 5, whole=True):
        place = f'x="{frame.across(value):.1f}" y="{floor_ + 22}"'
        parts.append(f'<text class="middle" {place}>{label}</text>')
    middle = (LEFT + frame.right) / 2
    parts.append(f'<text class="middle" x="{middle:.1f}" y="{floor_ + 46}">steps</text>')
    return (
        f'<svg role="img" viewBox="0 0 {WIDTH:.0f} {floor_ + BOTTOM:.0f}"><title>{title}</title>\n'
        f"{''.join(parts)}\n{inner}</svg>"
    )
