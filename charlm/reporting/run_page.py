"""`report.html`: a run as one self-contained page, made from its log."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, log
from statistics import fmean
from typing import Any

from markupsafe import Markup

from charlm import files
from charlm.checkpoint.run_folder import RunFolder
from charlm.config import FEWEST_HELD_OUT, acts
from charlm.data.corpus import Corpus
from charlm.data.tokenizer import without_ends
from charlm.evaluation.baselines import (
    KNESER_NEY,
    LAST_BYTES,
    Baseline,
    compressor_baselines,
    symbol_baselines,
)
from charlm.evaluation.bootstrap import format_error, too_few
from charlm.ngram.build import FOLDS
from charlm.reporting.charts import (
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
    diamonds,
    drawing,
    error_bars,
    path,
    spread,
    ticks,
)
from charlm.reporting.log import NAME as LOG
from charlm.reporting.log import SAMPLE, read_log
from charlm.reporting.pages import harmless, render_page
from charlm.reporting.progress import NAME as SAMPLES
from charlm.terminal import one_line, visible
from charlm.training.session import Session

BaselineRow = tuple[str, float]

MOST_POINTS = 400
MOST_ROWS = 100  # of the table of evaluations
SMOOTHING_PART = 40  # the strong line averages over a fortieth of the run to either side
LOSS_HEIGHT, RATE_HEIGHT = 320.0, 90.0
LONGEST_NAME = 12


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The model on held-out text after a step, in bits per character."""

    step: int
    bits: float
    error: float | None = None  # standard; None: unknown
    compared_bits: float | None = None  # on the windows that all evaluations have in common
    baseline_bits: float | None = None  # of the n-gram baseline on the windows of `bits`
    difference: float | None = None  # from it; negative: the model is better
    difference_error: float | None = None
    chars: int | None = None
    closing: bool = False  # on more text than the others, so drawn apart from them

    @property
    def drawn_error(self) -> float:
        """The length of its error bar; 0 where there is none to draw."""
        return self.error if self.error is not None and self.error < BOUND else 0.0


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a page shows. Each sequence may be empty, and steps may fall back."""

    title: str
    facts: Sequence[tuple[str, str]]  # the summary rows: label, value
    train: Sequence[tuple[int, float]]  # step, bits per character
    evaluations: Sequence[Evaluation]
    rates: Sequence[tuple[int, float]]  # step, learning rate
    baselines: Sequence[BaselineRow]  # name, bits per character
    settings: Sequence[tuple[str, Sequence[tuple[str, str]]]]  # groups of name, value
    samples: Sequence[tuple[int, str]]  # step, what the model wrote then
    training_note: str = ""  # a sentence under the curves


def render(page: Page) -> str:
    """Return the page as HTML that loads nothing and runs nothing. Raises nothing."""
    return render_page("run.html", page=page, figures=_figures(page), evaluations=_evaluations(page))


def _evaluations(page: Page) -> list[tuple[str, ...]]:
    """The rows of the table of evaluations, each beside the baseline on the same windows."""
    rows: list[tuple[str, ...]] = []
    every = ceil(len(page.evaluations) / MOST_ROWS) or 1
    for e in [*page.evaluations[:-1][::every], *page.evaluations[-1:]]:
        compared = ("", "")
        if e.baseline_bits is not None and e.difference is not None:
            compared = (_figure(e.baseline_bits), _plus_minus(e.difference, e.difference_error, "+"))
        few = e.chars is not None and e.chars < FEWEST_HELD_OUT
        chars = "" if e.chars is None else f"{e.chars:,}{' (too few for a reliable score)' * few}"
        step = f"{e.step:,}{' (closing)' * e.closing}"
        rows.append((step, _plus_minus(e.bits, e.error), *compared, chars))
    return rows


def _plus_minus(bits: float, error: float | None, sign: str = "") -> str:
    known = error is not None and abs(error) < BOUND
    return f"{_figure(bits, sign)} ± {format_error(error if known else None)}"


def _figure(bits: float | None, sign: str = "") -> str:
    """A question mark where it is unknown, or no number."""
    return f"{bits:{sign}z.4f}" if bits is not None and abs(bits) < BOUND else "?"


def _figures(page: Page) -> list[Markup]:
    """The charts of loss and learning rate, with the legend of the first."""
    train = [point for point in page.train if abs(point[1]) < BOUND]
    held_out = [e for e in page.evaluations if abs(e.bits) < BOUND]
    lost = len(page.train) + len(page.evaluations) - len(train) - len(held_out)
    rates = [point for point in page.rates if abs(point[1]) < BOUND]
    baselines = sorted((y for y in page.baselines if abs(y[1]) < BOUND), key=lambda y: -y[1])
    x = _step_range([*(step for step, _ in (*train, *rates)), *(e.step for e in held_out)])
    drawn = _thinned(train)
    y = _loss_range(drawn, held_out, [bits for _, bits in baselines])
    within = [row for row in baselines if row[1] <= y[1]][-int(LOSS_HEIGHT / LABEL_GAP) :]
    right = WIDTH - 14 - CHAR_WIDTH * max((len(_label(*row)) for row in within), default=3)
    parts = []
    if page.train or page.evaluations or baselines:
        legend = _legend(bool(drawn), held_out, baselines, y[1], lost, page.training_note)
        chart = _loss_chart(Frame(x, y, right, LOSS_HEIGHT), drawn, held_out, within)
        parts.append(Markup(legend + chart))
    if rates:
        highest = max(rate for _, rate in rates)
        frame = Frame(x, (0.0, highest * 1.05 if highest > 1e-99 else 1.0), right, RATE_HEIGHT)
        parts.append(Markup(_rate_chart(frame, rates)))
    return parts


def _legend(
    train: bool, held_out: list[Evaluation], baselines: list[BaselineRow], top: float, lost: int, note: str
) -> str:
    named = [(bits <= top, harmless(f"{name} {bits:.2f}")) for name, bits in baselines]
    within = ", ".join(text for inside, text in named if inside)
    above = ", ".join(text for inside, text in named if not inside)
    entries = [
        (train, "<i></i>training, smoothed; faint: as measured"),
        (_common(held_out), '<i class="held"></i>held-out ± 1 standard error, on the same windows each time'),
        (_closing(held_out), '<i class="closing"></i>closing evaluation, on more held-out text'),
        (_baselines(held_out), '<i class="base"></i>n-gram baseline on the same windows as each evaluation'),
        (within, f'<i class="baseline"></i>on all held-out text: {within}'),
        (above, f"off scale: {above}"),
        (lost, f"not finite, so not drawn: {lost:,}"),
        (note, harmless(note)),
    ]
    spans = "".join(f"<span>{entry}</span>" for there, entry in entries if there)
    return f"<figcaption>{spans}</figcaption>\n"


def _common(held_out: list[Evaluation]) -> list[Evaluation]:
    """The evaluations that can be joined: their figures are of the same windows."""
    return [e for e in held_out if e.compared_bits is not None and abs(e.compared_bits) < BOUND]


def _closing(held_out: list[Evaluation]) -> list[Evaluation]:
    return [e for e in held_out if e.closing]


def _baselines(held_out: list[Evaluation]) -> list[tuple[int, float, bool]]:
    """Step, bits of the baseline on the windows of that evaluation, and whether it is the closing one."""
    return [
        (e.step, e.baseline_bits, e.closing)
        for e in held_out
        if e.baseline_bits is not None and abs(e.baseline_bits) < BOUND
    ]


def _loss_chart(
    frame: Frame, train: list[Point], held_out: list[Evaluation], baselines: list[BaselineRow]
) -> str:
    means: list[Point] = [(e.step, e.compared_bits) for e in _common(held_out) if e.compared_bits is not None]
    marks: list[Point] = [(e.step, e.bits) for e in _closing(held_out)]
    bars = error_bars(frame, [(e.step, e.bits) for e in held_out], [e.drawn_error for e in held_out])
    dots = "".join(path(frame, [point]) for point in means)
    smooth = _smoothed(train)
    beside = _baselines(held_out)
    curves = (
        f"{curve(frame, train, 'raw')}{curve(frame, smooth)}"
        f"{curve(frame, [(x, y) for x, y, closing in beside if not closing], 'base')}"
        f"{curve(frame, means, 'held')}"
        f'<path class="held" d="{bars}"/><path class="held dots" d="{dots}"/>'
        f"{diamonds(frame, [(x, y) for x, y, closing in beside if closing], 'base closing')}"
        f"{diamonds(frame, marks, 'held closing')}"
    )
    ends = [("training", smooth), ("held-out", marks or means)]
    said = "".join(f", {name} ends at {points[-1][1]:.3f}" for name, points in ends if points)
    title = f"Loss in bits per character against steps{said}"
    inner = _clipped(frame, curves) + _reference_lines(frame, baselines)
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


def _reference_lines(frame: Frame, baselines: list[BaselineRow]) -> str:
    heights = [frame.down(bits) for _, bits in baselines]
    parts = []
    for row, y, place in zip(baselines, heights, spread(heights, frame), strict=True):
        parts.append(f'<path class="baseline" d="M{LEFT} {y:.1f}H{frame.right:.1f}"/>')
        parts.append(f'<path class="lead" d="M{frame.right:.1f} {y:.1f}l8 {place - y:.1f}"/>')
        where = f'x="{frame.right + 12:.1f}" y="{place:.1f}" dy=".35em"'
        parts.append(f"<text {where}>{harmless(_label(*row))}</text>\n")
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


def _loss_range(train: list[Point], held_out: list[Evaluation], baselines: list[float]) -> Range:
    """From just under the lowest value to above all but a twentieth of the losses, or beyond.

    Beyond, for baselines that at most double the range; the first steps would flatten the rest.
    """
    evaluated = [y for e in held_out for y in (e.bits, e.compared_bits) if y is not None and abs(y) < BOUND]
    losses = [sorted(y for _, y in train), sorted(evaluated)]
    tops = [ys[round(0.95 * (len(ys) - 1))] for ys in losses if ys] or baselines or [1.0]
    lowest = [ys[0] for ys in losses if ys] + [max(e.bits - e.drawn_error, 0.0) for e in held_out]
    lowest += [y for _, y, _ in _baselines(held_out)]
    low, high = min(lowest + baselines, default=0.0), max(tops)
    reach = low + max(2 * (high - low), 0.5)
    high = max([high, low + 0.05] + [y for y in baselines if y <= reach])
    high = max([high] + [y for _, y, _ in _baselines(held_out) if y <= reach])
    margin = 0.05 * (high - low)
    return low - min(margin, abs(low)), high + margin  # no room below zero: there are no such bits


NAME = "report.html"
TEXT_FACTS = ("label", "sha256", "train_chars", "held_out_chars")
XZ_CHARS_PER_SECOND = 1.5e6
XZ_SHARE = 0.03  # of a run's time, at most, for a baseline that `charlm eval` shows too
XZ_SECONDS = 5.0  # the same for a run that has no time to keep to
LEAST_SECONDS = 0.5  # for the page itself, the table, and leaving Python
LINES_PER_SECOND = 50_000


def report_seconds(corpus: Corpus, budget: float, steps: int) -> float:
    """About how long the report of a run will take, so that its time can be kept."""
    xz = _xz_seconds(corpus)
    return LEAST_SECONDS + steps / LINES_PER_SECOND + (xz if _has_time_for_xz(corpus, budget) else 0.0)


def write_report(
    run: RunFolder,
    session: Session,
    facts: list[tuple[str, str]],
    budget: float | None,
    counts: Baseline | None = None,
    warn: Callable[[str], None] = lambda said: None,
) -> list[tuple[str, str]]:
    """Write the page; the baselines and its path as further rows for the table. Raises OSError.

    `counts` is Kneser-Ney, if it was measured; those that take time are left out where it would be
    too much of the `budget`. `warn` is told of damaged lines in the run's records, as the page is.
    """
    found = [] if counts is None else [(KNESER_NEY, counts.bits_per_char)]
    found += _simple_baselines(session.corpus, with_xz=_has_time_for_xz(session.corpus, budget))
    order = f", {counts.order} {session.corpus.vocabulary.word}s of context" if counts is not None else ""
    few = too_few(session.corpus.held_out_chars)
    rows = [
        (
            f"{name}, for comparison",
            f"{figure:.4f} bits/char on all held-out text{order * (name == KNESER_NEY)}{few}",
        )
        for name, figure in found
    ]
    damaged: list[str] = []
    events, samples = (read_log(run.path, name, damaged.append) for name in (LOG, SAMPLES))
    for said in damaged:
        warn(f"run {run.name}: {said}")
    rows += [("damaged records", ", ".join(damaged))] * bool(damaged)
    steps = [e for e in events if e.get("event") == "Stepped" and {"loss", "learning_rate"} <= set(e)]
    corpus = session.corpus
    kind = session.model_config.model
    bits = len(corpus.train) / corpus.train_chars / log(2)  # from nats a symbol to bits a character
    page = Page(
        title=run.name,
        facts=[*facts, *rows],
        train=[(e["step"], e["loss"] * bits) for e in steps],
        rates=[(e["step"], e["learning_rate"]) for e in steps],
        evaluations=[
            _evaluation(e) for e in events if e.get("event") == "Evaluated" and "nats_per_char" in e
        ],
        training_note=f"Training loss is {note}." if (note := training_note(session)) else "",
        baselines=found,
        settings=[
            ("model", _words(session.model_config.to_json(), kind)),
            ("training", _words(session.training_config.to_json(), kind)),
            ("text", _words({name: getattr(session.run.corpus, name) for name in TEXT_FACTS})),
            ("versions", _words(session.run.versions)),
        ],
        samples=[(line["step"], line["text"]) for line in samples if SAMPLE.keys() <= line.keys()],
    )
    path = run.path / NAME
    files.replace(path, render(page).encode())
    return [*rows, ("report", one_line(str(path)))]


def _evaluation(event: dict[str, Any]) -> Evaluation:
    """A logged evaluation, from nats to bits."""
    bits = {
        name: None if event.get(name) is None else event[name] / log(2)
        for name in (
            "standard_error",
            "compared_nats_per_char",
            "baseline_nats_per_char",
            "difference",
            "difference_error",
        )
    }
    closing = bool(event.get("final"))
    compared = event["nats_per_char"] / log(2) if not closing else bits["compared_nats_per_char"]
    return Evaluation(
        step=event["step"],
        bits=event["nats_per_char"] / log(2),
        error=bits["standard_error"],
        compared_bits=compared,
        baseline_bits=bits["baseline_nats_per_char"],
        difference=bits["difference"],
        difference_error=bits["difference_error"],
        chars=event.get("chars"),
        closing=closing,
    )


def training_note(session: Session) -> str:
    """Why the training loss of this model can lie above its held-out loss; empty for an n-gram model."""
    model = session.model_config
    if model.is_ngram:
        return ""
    reasons = ["before the weights learn from the batch"]
    if any((model.dropout, model.ngram_embedding_dropout, model.prior_dropout)):
        reasons.append("with dropout")
    if model.prior:
        reasons.append(
            f"with an n-gram prior that excludes the batch's own fold of the text (one of {FOLDS})"
        )
    return f"measured {', '.join(reasons)}, so it can lie above held-out"


def _xz_seconds(corpus: Corpus) -> float:
    """Twice through the training part, at most 32 MB of it, and once through what is held out."""
    return (2 * min(corpus.train_chars, LAST_BYTES) + corpus.held_out_chars) / XZ_CHARS_PER_SECOND


def _has_time_for_xz(corpus: Corpus, budget: float | None) -> bool:
    """And room: a held-out part that is longer than what is read of the training part is let be."""
    fits = corpus.held_out_chars <= LAST_BYTES
    return fits and _xz_seconds(corpus) <= (XZ_SECONDS if budget is None else XZ_SHARE * budget)


def _simple_baselines(corpus: Corpus, *, with_xz: bool) -> list[tuple[str, float]]:
    """Those there is time for; `charlm eval` shows all."""
    if not corpus.held_out_chars:
        return []
    found: dict[str, Baseline | str] = {
        **symbol_baselines(corpus.vocabulary, corpus.held_out, corpus.held_out_chars)
    }
    if with_xz:
        found.update(
            compressor_baselines(
                partial(corpus.training_text, LAST_BYTES), without_ends(corpus.held_out_text())
            )
        )
    return [
        (name, measured.bits_per_char) for name, measured in found.items() if isinstance(measured, Baseline)
    ]


def _words(values: dict[str, Any], kind: str = "") -> list[tuple[str, str]]:
    """Names and values, but for settings that act on nothing in that kind of model."""
    return [(name, str(value)) for name, value in values.items() if value is not None and acts(kind, name)]
