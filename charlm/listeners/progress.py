"""The live line: how far the run is, its losses, its speed."""

import sys
from math import log
from time import monotonic

from charlm.config import FEWEST_HELD_OUT
from charlm.listeners.live_line import LiveLine
from charlm.terminal import is_quiet
from charlm.training.events import Evaluated, Event, Finished, Planned, Stepped

SMOOTHING = 0.97
EVERY_SECONDS = 0.2
PLAIN_EVERY_SECONDS = 10.0


class Progress:
    """A bar on a terminal; elsewhere a plain line every ten seconds. Standard error both times."""

    def __init__(
        self,
        total_steps: int,
        first_step: int,
        chars_per_step: int,
        units: str = "chars",
    ) -> None:
        """`units`: what a symbol is, of which each step reads `chars_per_step`, and whose loss is shown."""
        self._bar = LiveLine(total_steps, first_step, unit="steps", mininterval=EVERY_SECONDS)
        self._bar.pieces = self._pieces
        self._plain = not sys.stderr.isatty() and not is_quiet()
        self._loss: float | None = None
        self._held_out = ""
        self._baseline = ""
        self._units, self._per_unit = units, "" if units == "chars" else f"/{units[:-1]}"
        self._total = total_steps
        self._chars_per_step = chars_per_step
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
            self._total = self._bar.total = event.total_steps
        elif isinstance(event, Finished):
            self._bar.close()

    def close(self) -> None:
        """Take the bar away, whatever happened."""
        self._bar.close()

    def _stepped(self, event: Stepped) -> None:
        now = monotonic()
        self._loss = _smoothed(self._loss, event.loss)
        self._seconds = _smoothed(self._seconds, event.seconds)
        self._bar.n = event.step - 1
        self._bar.update(1)
        if self._plain and now - self._spoken >= PLAIN_EVERY_SECONDS:
            self._spoken = now
            print(
                f"step {event.step}/{self._total}: {', '.join(filter(None, self._pieces()))}",
                file=sys.stderr,
                flush=True,
            )

    def _pieces(self) -> list[str]:
        """The figures, the most important one first: a narrow line loses the last ones."""
        if self._loss is None or self._seconds is None:
            return [self._held_out]
        loss = f"loss {self._loss / log(2):.3f} bits{self._per_unit}"
        speed = f"{self._chars_per_step / self._seconds:,.0f} {self._units}/s" if self._seconds else ""
        return [loss, self._held_out, self._baseline, speed]


def _smoothed(before: float | None, now: float) -> float:
    return now if before is None else SMOOTHING * before + (1 - SMOOTHING) * now
