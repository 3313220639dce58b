"""The progress bar and the previews of a training run, on a terminal or in plain lines."""

import sys
from collections.abc import Callable, Sequence
from math import log
from textwrap import indent
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from tqdm import tqdm
from tqdm.std import Bar  # type: ignore[attr-defined]

from charlm.config import FEWEST_HELD_OUT
from charlm.evaluation.bootstrap import plus_minus
from charlm.terminal import bars_disabled, colour, fit, is_quiet, visible
from charlm.training.describe import evaluated_model, member_in_training
from charlm.training.events import Evaluated, Event, Finished, Planned, Stepped

if TYPE_CHECKING:  # torch is slow to import, and no live line needs it
    from charlm.training.plan import Plan

LEAST_CELLS, MOST_CELLS = 6, 40
"""Width of the bar."""
DEFAULT_WIDTH = 80


class LiveLine(tqdm):  # type: ignore[type-arg]
    """A tqdm progress bar on standard error, laid out by `laid_out` and removed when it is closed."""

    def __init__(
        self, total: int | None, done: int = 0, *, what: str = "", unit: str = "", **how: Any
    ) -> None:
        """`what` names the work; `unit` follows the number done, which is shown if there is a unit."""
        self.what, self.unit_name = what, unit
        self.pieces: Callable[[], Sequence[str]] = tuple  # figures, the most important one first
        super().__init__(
            total=total,
            initial=done,
            disable=bars_disabled(),
            file=sys.stderr,
            dynamic_ncols=True,
            leave=False,
            **how,
        )

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:  # type: ignore[override]
        """Draw the bar, but not before its delay is over, which tqdm forgets after `external_write_mode`.

        Returns whether it was drawn; only then does tqdm's `close` return to the start of the line.
        """
        now = time()
        if msg is None and self.delay and now < self.start_t + self.delay:
            return False
        self.last_print_t = now
        super().display(msg, pos)
        return True

    def __str__(self) -> str:
        state = self.format_dict
        done, of, elapsed = state["n"], state["total"], state["elapsed"]
        rate = state["rate"] or ((done - state["initial"]) / elapsed if elapsed > 0 else 0)
        left = None if of is None else "?"
        if of is not None and rate and rate > 0:
            left = tqdm.format_interval(max(0, of - done) / rate)
        numbers = f"{done}/{of} {self.unit_name}".rstrip() if self.unit_name and of is not None else ""
        return laid_out(
            width=state["ncols"] or DEFAULT_WIDTH,
            what=self.what,
            share=min(1.0, done / of) if of else None,
            numbers=numbers,
            pieces=list(filter(None, self.pieces())),
            elapsed=tqdm.format_interval(elapsed),
            left=left,
            ascii_only=bool(state.get("ascii")),
        )


def laid_out(
    *,
    width: int,
    what: str = "",
    share: float | None,
    numbers: str = "",
    pieces: Sequence[str] = (),
    elapsed: str,
    left: str | None,
    ascii_only: bool = False,
) -> str:
    """Lay out the line in at most `width - 1` cells, since some terminals wrap a line that fills the last one.

    What does not fit is left out in this order: all pieces but the first two, the bar, the elapsed time, the
    unit of the numbers, the other pieces, the numbers, the name of the work. The share and the time left stay.
    """
    room = max(1, width - 1)
    percent = "" if share is None else f"{100 * share:3.0f}%"
    times, short = (f"[{elapsed}]",) * 2 if left is None else (f"[{elapsed}<{left}]", f"{left} left")

    def joined(*parts: str) -> str:
        return " ".join(filter(None, parts))

    head, kept = joined(what, percent), min(2, len(pieces))
    for n in range(len(pieces), kept - 1, -1) if share is not None else ():
        tail = joined(", ".join(filter(None, (numbers, *pieces[:n]))), times)
        cells = room - len(joined(head, tail)) - 3  # the two borders and a space
        if share is not None and cells >= LEAST_CELLS:
            bar = Bar(share, min(cells, MOST_CELLS), Bar.ASCII if ascii_only else Bar.UTF)
            return joined(head, f"|{bar}|", tail)
    for n in range(kept, -1, -1):
        for number, when in ((numbers, times), (numbers, short), (numbers.split(" ")[0], short)):
            text = joined(head, ", ".join(filter(None, (number, *pieces[:n]))), when)
            if len(text) <= room:
                return text
    found = (joined(*parts) for parts in ((head, short), (percent, short), (left or percent or what,)))
    return next((text for text in found if len(text) <= room), left or percent or what)[:room]


SMOOTHING = 0.97
EVERY_SECONDS = 0.2
PLAIN_EVERY_SECONDS = 10.0


class Progress:
    """A listener that shows a progress bar on a terminal, elsewhere a plain line every ten seconds, on standard error."""

    def __init__(self, plan: "Plan", first_step: int, chars_read: int, units: str = "chars") -> None:
        """`units`: what a symbol is; `chars_read` of them were read in `first_step` steps, and the loss is per unit."""
        self._bar = LiveLine(plan.total_steps, first_step, unit="steps", mininterval=EVERY_SECONDS)
        self._bar.pieces = self._pieces
        self._plain = not sys.stderr.isatty() and not is_quiet()
        self._loss: float | None = None
        self._held_out = ""
        self._baseline = ""
        self._units, self._per_unit = units, "" if units == "chars" else f"/{units[:-1]}"
        self._plan, self._member = plan, 0
        self._step, self._chars = first_step, chars_read
        self._chars_per_step = 0.0
        self._seconds: float | None = None  # of a step, smoothed; evaluations are not in it
        self._spoken = monotonic()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, Stepped):
            self._stepped(event)
        elif isinstance(event, Evaluated):
            self._held_out = f"held-out {event.nats_per_char / log(2):.3f} bits/char"
            if event.chars < FEWEST_HELD_OUT:
                self._held_out += f" ({event.chars} chars)"
            if event.baseline_nats_per_char is not None:  # on the same windows
                self._baseline = f"baseline {event.baseline_nats_per_char / log(2):.3f}"
        elif isinstance(event, Planned):
            self._bar.total = event.total_steps
            if event.begins_again:
                self._forget_figures()
        elif isinstance(event, Finished):
            self._bar.close()

    def close(self) -> None:
        """Remove the bar, whatever happened."""
        self._bar.close()

    def _forget_figures(self) -> None:
        """Reset the loss, speed and held-out figure when the training of another model begins."""
        self._loss = self._seconds = None
        self._held_out = self._baseline = ""

    def _stepped(self, event: Stepped) -> None:
        now = monotonic()
        if event.member != self._member:
            if self._member:
                self._forget_figures()
            self._member, self._bar.what = event.member, member_in_training(self._plan, event.member)
        if event.step != self._step:
            self._chars_per_step = (event.chars - self._chars) / (event.step - self._step)
        self._step, self._chars = event.step, event.chars
        self._loss = _smoothed(self._loss, event.loss)
        self._seconds = _smoothed(self._seconds, event.seconds)
        self._bar.n = event.step - 1
        self._bar.update(1)
        if self._plain and now - self._spoken >= PLAIN_EVERY_SECONDS:
            self._spoken = now
            print(
                f"step {event.step}/{self._bar.total}: "
                + ", ".join(filter(None, (self._bar.what, *self._pieces()))),
                file=sys.stderr,
                flush=True,
            )

    def _pieces(self) -> list[str]:
        """Return the figures, the most important one first: a narrow line loses the last ones."""
        if self._loss is None or self._seconds is None:
            return [self._held_out]
        loss = f"loss {self._loss / log(2):.3f} bits{self._per_unit}"
        speed = f"{self._chars_per_step / self._seconds:,.0f} {self._units}/s" if self._seconds else ""
        return [loss, self._held_out, self._baseline, speed]


def _smoothed(before: float | None, now: float) -> float:
    return now if before is None else SMOOTHING * before + (1 - SMOOTHING) * now


def show_evaluation(event: Evaluated, sample: str, plan: "Plan") -> None:
    """Print the result of an evaluation and a sample to standard error."""
    if is_quiet():
        return
    of = evaluated_model(plan, event)
    figure = f"{plus_minus(event.nats_per_char, event.standard_error, 3)} bits/char held-out"
    if event.difference is not None and event.baseline_nats_per_char is not None:
        change = plus_minus(event.difference, event.difference_error, 3, "+")
        figure += f", baseline {event.baseline_nats_per_char / log(2):.3f}, difference {change}"
    few = ": too few for a reliable score" * (event.chars < FEWEST_HELD_OUT)
    title = f"step {event.step}{f', {of}' * bool(of)}: {figure}; {event.chars:,} of {event.of_chars:,} characters{few}"
    with tqdm.external_write_mode(file=sys.stderr):
        shown = indent(visible(sample, dim=colour(sys.stderr)).strip("\n"), "  ", lambda line: True)
        head = fit(title, sys.stderr)
        head = f"\x1b[1m{head}\x1b[0m" if colour(sys.stderr) else head
        print(head, *([shown] if sample else []), "", sep="\n", file=sys.stderr, flush=True)
