"""Write `report.html`, a self-contained page about a run, from its logs."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise
from math import ceil, log, sqrt
from statistics import fmean
from typing import Any

from markupsafe import Markup

from charlm import files
from charlm.checkpoint.run_folder import RunFolder
from charlm.config import FEWEST_HELD_OUT, ModelConfig, acts
from charlm.data.corpus import Corpus
from charlm.data.tokenizer import without_ends
from charlm.evaluation.baselines import (
    KNESER_NEY,
    LAST_BYTES,
    Baseline,
    compressor_baselines,
    symbol_baselines,
)
from charlm.evaluation.bootstrap import plus_minus, too_few
from charlm.evaluation.calibration import Reliability
from charlm.ngram.build import FOLDS
from charlm.reporting import pages
from charlm.reporting.log import METRICS, SAMPLES, Sample, read_log
from charlm.reporting.pages import BOUND, CHAR_WIDTH, LABEL_GAP, LEFT, TOP, WIDTH, Frame, Point, Range
from charlm.terminal import one_line, visible
from charlm.training.describe import evaluated_model
from charlm.training.events import Evaluated, Stepped
from charlm.training.plan import Plan
from charlm.training.session import Session
from charlm.training.state import member_facts

BaselineRow = tuple[str, float]

MOST_POINTS = 400
MOST_ROWS = 100  # of the table of evaluations
SMOOTHING_PART = 40  # the strong line averages over a fortieth of the run to either side
LOSS_HEIGHT, RATE_HEIGHT, RELIABILITY_HEIGHT = 320.0, 90.0, 240.0
LARGEST_DOT = 12.0  # the radius of the fullest bin's dot
LONGEST_NAME = 12


@dataclass(frozen=True, kw_only=True)
class Page:
    """The contents of a page. Each sequence may be empty, and steps may fall back."""

    title: str
    facts: Sequence[tuple[str, str]]  # the summary rows: label, value
    train: Sequence[tuple[int, float]]  # step, bits per character
    evaluations: Sequence[Evaluated]
    rates: Sequence[tuple[int, float]]  # step, learning rate
    baselines: Sequence[BaselineRow]  # name, bits per character
    settings: Sequence[tuple[str, Sequence[tuple[str, str]]]]  # groups of name, value
    samples: Sequence[tuple[str, str]]  # when it was written, and by what; the text
    training_note: str = ""  # a sentence under the curves
    plan: Plan | None = None  # has the members, and when the training of each ended


def render(page: Page) -> str:
    """Return the page as HTML that loads nothing and runs nothing. Raises nothing."""
    held_out = [event for event in page.evaluations if _is_drawable(event)]
    every = ceil(len(held_out) / MOST_ROWS) or 1
    return pages.render_page(
        "run.html",
        page=page,
        evaluations=[*held_out[:-1][::every], *held_out[-1:]],
        evaluated=lambda event: "" if page.plan is None else evaluated_model(page.plan, event),
        few=FEWEST_HELD_OUT,
        ln2=log(2),
        plus_minus=plus_minus,
        **_calibration(held_out),
        **_figures(page, held_out),
    )


def _is_drawable(event: Evaluated) -> bool:
    """Whether all its figures fit on an axis."""
    loss = (event.nats_per_char, event.compared_nats_per_char, event.standard_error)
    figures = (*loss, event.baseline_nats_per_char, event.difference, event.difference_error)
    return all(figure is None or abs(figure) < BOUND for figure in figures)


def _figures(page: Page, held_out: list[Evaluated]) -> dict[str, Any]:
    """Draw the charts of loss and learning rate, if there is something to draw, and collect the legend of the first."""
    train = [point for point in page.train if abs(point[1]) < BOUND]
    members = _members(page.plan)
    rates = [point for point in page.rates if abs(point[1]) < BOUND]
    baselines = sorted((row for row in page.baselines if abs(row[1]) < BOUND), key=lambda row: -row[1])
    steps = [*(step for step, _ in (*train, *rates)), *(e.step for e in held_out)]
    first, last = min(steps, default=0), max(steps, default=1)
    x = (first if last > first > last / 2 else 0), max(last, 1)
    every = ceil(len(train) / MOST_POINTS) or 1
    drawn = [_thinned(piece, every) for piece in _pieces(train, members)]
    y = _loss_range(list(chain(*drawn)), held_out, [bits for _, bits in baselines])
    labelled = [row for row in baselines if row[1] <= y[1]][-int(LOSS_HEIGHT / LABEL_GAP) :]
    right = WIDTH - 14 - CHAR_WIDTH * max((len(_label(*row)) for row in labelled), default=3)
    loss = rate = None
    if page.train or page.evaluations or baselines:
        loss = _loss_chart(Frame(x, y, right, LOSS_HEIGHT), drawn, held_out, labelled, members)
    if rates:
        highest = max(rate for _, rate in rates)
        frame = Frame(x, (0.0, highest * 1.05 if highest > 1e-99 else 1.0), right, RATE_HEIGHT)
        some = rates[:: ceil(len(rates) / MOST_POINTS)]  # means would round a schedule's corners
        inner = pages.clipped(frame, "rate", pages.curve(frame, [*some, rates[-1]]))
        rate = _drawing(frame, "learning rate", 3, "Learning rate against steps", inner)
    legend = {
        "train": train,
        "members": len(members) > 1,
        "joined": [e for e in held_out if not e.mixed],
        "mixed": [e for e in held_out if e.mixed],
        "closing": [e for e in held_out if e.final and not e.mixed],
        "beside": [e for e in held_out if e.baseline_nats_per_char is not None],
        "within": ", ".join(f"{name} {bits:.2f}" for name, bits in baselines if bits <= y[1]),
        "above": ", ".join(f"{name} {bits:.2f}" for name, bits in baselines if bits > y[1]),
        "lost": len(page.train) + len(page.evaluations) - len(train) - len(held_out),
    }
    return {"loss": loss, "rate": rate, "legend": legend}


def _calibration(held_out: list[Evaluated]) -> dict[str, Any]:
    """Return the last calibration that was measured, and its chart; None if the log has none."""
    found = None
    for event in held_out:
        if event.calibration is not None:
            with suppress(ValueError):
                found = Reliability.from_json(event.calibration)
    return {"calibration": found, "reliability": None if found is None else _reliability_chart(found)}


def _reliability_chart(found: Reliability) -> Markup:
    """Draw accuracy against confidence; the area of a dot is the number of predictions in its bin."""
    frame = Frame((0.0, 1.0), (0.0, 1.0), WIDTH - 14, RELIABILITY_HEIGHT)
    most = max(n for _, _, n in found.bins)
    dots = "".join(
        f'<circle cx="{frame.across(sure):.1f}" cy="{frame.down(right):.1f}" r="{LARGEST_DOT * sqrt(n / most):.1f}"/>'
        for sure, right, n in found.bins
    )
    inner = pages.curve(frame, [(0.0, 0.0), (1.0, 1.0)], "base") + dots
    title = f"Accuracy against confidence: expected calibration error {found.ece:.4f}"
    marks = pages.ticks((0.0, 1.0), 5)
    return pages.drawing(
        frame, title, inner, x_title="confidence", y_title="accuracy", x_ticks=marks, y_ticks=marks
    )


def _loss_chart(
    frame: Frame,
    train: list[list[Point]],
    held_out: list[Evaluated],
    baselines: list[BaselineRow],
    members: list[tuple[int, str]],
) -> Markup:
    means: list[Point] = [(e.step, e.compared_nats_per_char / log(2)) for e in held_out if not e.mixed]
    marks: list[Point] = [(e.step, e.nats_per_char / log(2)) for e in held_out if e.final or e.mixed]
    bars = pages.error_bars(
        frame,
        [(e.step, e.nats_per_char / log(2)) for e in held_out],
        [(e.standard_error or 0.0) / log(2) for e in held_out],
    )
    dots = "".join(pages.path(frame, [point]) for point in means)
    smooth = [_smoothed(piece) for piece in train]
    beside = [(e.step, bits, e.final or bool(e.mixed)) for e in held_out for bits in _baseline_bits(e)]
    curves = (
        _begins(frame, members)
        + "".join(pages.curve(frame, piece, "raw") for piece in train)
        + "".join(pages.curve(frame, piece) for piece in smooth)
        + _joined(frame, [(x, y) for x, y, closing in beside if not closing], members, "base")
        + _joined(frame, means, members, "held")
        + f'<path class="held" d="{bars}"/><path class="held dots" d="{dots}"/>'
        f"{pages.diamonds(frame, [(x, y) for x, y, closing in beside if closing], 'base closing')}"
        f"{pages.diamonds(frame, marks, 'held closing')}"
    )
    ends = [("training", list(chain(*smooth))), ("held-out", marks or means)]
    said = "".join(f", {name} ends at {points[-1][1]:.3f}" for name, points in ends if points)
    title = f"Loss in bits per character against steps{said}"
    inner = pages.clipped(frame, "loss", curves) + _reference_lines(frame, baselines)
    return _drawing(frame, "bits per character", 6, title, inner)


def _joined(frame: Frame, points: list[Point], members: list[tuple[int, str]], kind: str) -> str:
    """Draw a curve through the points of each member."""
    return "".join(pages.curve(frame, piece, kind) for piece in _pieces(points, members))


def _begins(frame: Frame, members: list[tuple[int, str]]) -> str:
    """Draw a line where each member's training begins, if there are several, with its name or number if there is room."""
    places = [*(max(LEFT, frame.across(begin)) for begin, _ in members), frame.right]
    parts = []
    for (left, right), (begin, name) in zip(pairwise(places), members, strict=True):
        if len(members) == 1 or right - left < CHAR_WIDTH:
            continue
        if begin:
            parts.append(f'<path class="member" d="M{left:.1f} {TOP}v{frame.height}"/>')
        number = name.split(",")[0].removeprefix("member ")
        shown = name if CHAR_WIDTH * len(name) < right - left else number
        where = f'x="{left + 5:.1f}" y="{TOP + frame.height - 8:.1f}"'
        parts.append(f'<text class="halo" {where}>{pages.harmless(shown)}</text>\n')
    return "".join(parts)


def _baseline_bits(event: Evaluated) -> list[float]:
    """Return the n-gram baseline on the windows of an evaluation; empty if there is none."""
    nats = event.baseline_nats_per_char
    return [] if nats is None else [nats / log(2)]


def _drawing(frame: Frame, y_title: str, most: int, title: str, inner: str) -> Markup:
    x_ticks, y_ticks = pages.ticks(frame.x, 5, whole=True), pages.ticks(frame.y, most)
    return pages.drawing(
        frame, title, inner, x_title="steps", y_title=y_title, x_ticks=x_ticks, y_ticks=y_ticks
    )


def _reference_lines(frame: Frame, baselines: list[BaselineRow]) -> str:
    heights = [frame.down(bits) for _, bits in baselines]
    parts = []
    for row, y, place in zip(baselines, heights, pages.spread(heights, frame), strict=True):
        parts.append(f'<path class="baseline" d="M{LEFT} {y:.1f}H{frame.right:.1f}"/>')
        parts.append(f'<path class="lead" d="M{frame.right:.1f} {y:.1f}l8 {place - y:.1f}"/>')
        where = f'x="{frame.right + 12:.1f}" y="{place:.1f}" dy=".35em"'
        parts.append(f"<text {where}>{pages.harmless(_label(*row))}</text>\n")
    return "".join(parts)


def _label(name: str, bits: float) -> str:
    shown = visible(name)  # escapes take more room
    return f"{shown if len(shown) <= LONGEST_NAME else shown[: LONGEST_NAME - 1] + '…'} {bits:.2f}"


def _members(plan: Plan | None) -> list[tuple[int, str]]:
    """Return the name of each member, and the step at which its training began, or began again."""
    found, begin = list[tuple[int, str]](), 0
    for i, member in enumerate(() if plan is None else plan.members):
        again = [step for step in plan.begun_again_at if begin < step < member.end] if plan else []
        found.append((begin, f"member {i + 1}, {member.kind}"))
        found += [(step, f"member {i + 1}, begun again") for step in again]
        begin = member.end
    return found or [(0, "")]


def _pieces(points: Sequence[Point], members: Sequence[tuple[int, str]]) -> list[list[Point]]:
    """Split points by member, since the loss jumps where the training of the next one begins."""
    begins = [begin for begin, _ in members]
    found: list[list[Point]] = [[] for _ in begins]
    for x, y in points:
        found[max(0, bisect_left(begins, x) - 1)].append((x, y))
    return [piece for piece in found if piece]


def _thinned(points: Sequence[Point], every: int) -> list[Point]:
    buckets = [points[i : i + every] for i in range(0, len(points), every)]
    return [(bucket[len(bucket) // 2][0], fmean(y for _, y in bucket)) for bucket in buckets]


def _smoothed(points: list[Point]) -> list[Point]:
    """Smooth by means around each point, looking ahead no further than back, so that a falling loss shows no lag."""
    widest = len(points) // SMOOTHING_PART
    windows = [points[max(i - widest, 0) : i + min(i, widest) + 1] for i in range(len(points))]
    return [(x, fmean(y for _, y in near)) for (x, _), near in zip(points, windows, strict=True)]


def _loss_range(train: list[Point], held_out: list[Evaluated], baselines: list[float]) -> Range:
    """Return a range from just under the lowest value to above all but a twentieth of the losses, or higher.

    Higher for baselines that at most double the range; the first steps would flatten the rest.
    """
    evaluated = [nats / log(2) for e in held_out for nats in (e.nats_per_char, e.compared_nats_per_char)]
    beside = [bits for e in held_out for bits in _baseline_bits(e)]
    losses = [sorted(y for _, y in train), sorted(evaluated)]
    tops = [ys[round(0.95 * (len(ys) - 1))] for ys in losses if ys] or baselines or [1.0]
    lowest = [ys[0] for ys in losses if ys]
    lowest += [max((e.nats_per_char - (e.standard_error or 0.0)) / log(2), 0.0) for e in held_out]
    low, high = min(lowest + beside + baselines, default=0.0), max(tops)
    reach = low + max(2 * (high - low), 0.5)
    high = max([high, low + 0.05] + [y for y in baselines + beside if y <= reach])
    margin = 0.05 * (high - low)
    return low - min(margin, abs(low)), high + margin  # no room below zero: there are no such bits


NAME = "report.html"
TEXT_FACTS = ("label", "sha256", "train_chars", "held_out_chars")
XZ_CHARS_PER_SECOND = 1.5e6
XZ_SHARE = 0.03  # of a run's time, at most, for a baseline that `charlm eval` shows too
XZ_SECONDS = 5.0  # the same for a run that has no time to keep to
LEAST_SECONDS = 0.5  # for the page itself, the table, and the exit of Python
LINES_PER_SECOND = 35_000


def report_seconds(corpus: Corpus, budget: float, steps: int) -> float:
    """Estimate how long the report of a run takes, so that the run's time can be kept."""
    return LEAST_SECONDS + steps / LINES_PER_SECOND + _xz_seconds(corpus, budget)


def write_report(
    run: RunFolder,
    session: Session,
    facts: list[tuple[str, str]],
    budget: float | None,
    counts: Baseline | None = None,
    warn: Callable[[str], None] = lambda said: None,
) -> list[tuple[str, str]]:
    """Write the page. Return the baselines and its path as further rows for the table. Raises OSError.

    `counts` is Kneser-Ney, if it was measured; baselines that would take too much of the `budget` are left out.
    `warn` is called about damaged lines in the run's records, which the page reports too.
    """
    found = _baselines(session.corpus, counts, budget)
    order = (
        f", {counts.order} {session.corpus.vocabulary.unit_noun}s of context" if counts is not None else ""
    )
    few = too_few(session.corpus.held_out_chars)
    rows = [
        (
            f"{name}, for comparison",
            f"{figure:.4f} bits/char on all held-out text{order * (name == KNESER_NEY)}{few}",
        )
        for name, figure in found
    ]
    damaged: list[str] = []
    events, samples = (read_log(run.path / name, damaged.append) for name in (METRICS, SAMPLES))
    for said in damaged:
        warn(f"run {run.name}: {said}")
    rows += [("damaged records", ", ".join(damaged))] * bool(damaged)
    steps = [event for event in events if isinstance(event, Stepped)]
    evaluations = [event for event in events if isinstance(event, Evaluated)]
    corpus = session.corpus
    models = [*(member.model_config for member in session.earlier), session.model_config]
    bits = len(corpus.train) / corpus.train_chars / log(2)  # from nats a symbol to bits a character
    page = Page(
        title=run.name,
        facts=[*facts, *rows],
        train=[(event.step, event.loss * bits) for event in steps],
        rates=[(event.step, event.learning_rate) for event in steps],
        evaluations=evaluations,
        training_note=f"Training loss is {note}." if (note := training_note(*models)) else "",
        baselines=found,
        settings=[
            *_member_settings(session),
            ("text", _words({name: getattr(session.run.corpus, name) for name in TEXT_FACTS})),
            ("versions", _words(session.run.versions)),
        ],
        samples=_named_samples(session.plan, evaluations, samples),
        plan=session.plan,
    )
    path = run.path / NAME
    files.replace(path, render(page).encode())
    return [*rows, ("report", one_line(str(path)))]


def _named_samples(
    plan: Plan, evaluations: Sequence[Evaluated], samples: Sequence[Any]
) -> list[tuple[str, str]]:
    """Name each sample by its step and the model that wrote it; one step may have been evaluated twice."""
    found, names = [], dict[int, list[str]]()
    for event in evaluations:
        names.setdefault(event.step, []).append(evaluated_model(plan, event))
    for sample in samples:
        if isinstance(sample, Sample):
            of = names.get(sample.step) or [""]
            found.append((f"after step {sample.step:,}{', by the ' * bool(of[0])}{of[0]}", sample.text))
            of.pop(0)
    return found


def training_note(*models: ModelConfig) -> str:
    """Explain why the training loss of these models can lie above their held-out loss; empty for an n-gram model."""
    if models[0].is_ngram:
        return ""
    reasons = ["before the weights learn from the batch"]
    if any(m.dropout or m.ngram_embedding_dropout or m.prior_dropout for m in models):
        reasons.append("with dropout")
    if any(model.prior for model in models):
        reasons.append(
            f"with an n-gram prior that excludes the batch's own fold of the text (one of {FOLDS})"
        )
    return f"measured {', '.join(reasons)}, so it can lie above held-out"


def _xz_seconds(corpus: Corpus, budget: float | None) -> float:
    """Estimate how long xz takes; 0 if that is too much of the budget, or the held-out part is too long for it.

    It runs twice through the training part, at most 32 MB of it, and once through the held-out part.
    """
    seconds = (2 * min(corpus.train_chars, LAST_BYTES) + corpus.held_out_chars) / XZ_CHARS_PER_SECOND
    most = XZ_SECONDS if budget is None else XZ_SHARE * budget
    return seconds if corpus.held_out_chars <= LAST_BYTES and seconds <= most else 0.0


def _baselines(corpus: Corpus, counts: Baseline | None, budget: float | None) -> list[BaselineRow]:
    """Compute the baselines that there is time for; `charlm eval` shows all."""
    found: dict[str, Baseline | str] = {} if counts is None else {KNESER_NEY: counts}
    if corpus.held_out_chars:
        found |= symbol_baselines(corpus.vocabulary, corpus.held_out, corpus.held_out_chars)
        if _xz_seconds(corpus, budget):
            text = without_ends(corpus.held_out_text())
            found |= compressor_baselines(partial(corpus.training_text, LAST_BYTES), text)
    return [(name, row.bits_per_char) for name, row in found.items() if isinstance(row, Baseline)]


def _member_settings(session: Session) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield the settings of model and training, for each member if there are several."""
    several = len(session.configs) > 1
    for member in member_facts(session.configs, session.state):
        for title in ("model", "training"):
            of = f" of member {member['number']}, {member['kind']}" * several
            if member[title] is not None:
                yield f"{title}{of}", _words(member[title], session.model_config.model)


def _words(values: dict[str, Any], kind: str = "") -> list[tuple[str, str]]:
    """Format names and values, without settings that have no effect in that kind of model."""
    return [(name, str(value)) for name, value in values.items() if value is not None and acts(kind, name)]
