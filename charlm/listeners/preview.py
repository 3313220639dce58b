"""A few lines of what the model writes, at each evaluation."""

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from math import log
from pathlib import Path

from tqdm import tqdm

from charlm import files
from charlm.config import FEWEST_HELD_OUT
from charlm.evaluation.intervals import plus_minus
from charlm.listeners.log import cut_log
from charlm.terminal import colour, fit, is_quiet, visible
from charlm.training.events import Evaluated, Event

NAME = "samples.jsonl"


class Preview:
    """Shows a sample on standard error, and keeps it for the report."""

    def __init__(self, run: Path, first_step: int, write: Callable[[], str]) -> None:
        cut_log(run, NAME, first_step)
        self._path = run / NAME
        self._write = write

    def __call__(self, event: Event) -> None:
        """At an evaluation, sample and show."""
        if not isinstance(event, Evaluated):
            return
        text = self._write()
        figure = f"{plus_minus(event.nats_per_char, event.standard_error, 3)} bits/char held-out"
        if event.difference is not None and event.baseline_nats_per_char is not None:
            change = plus_minus(event.difference, event.difference_error, 3, "+")
            figure += f", baseline {event.baseline_nats_per_char / log(2):.3f}, difference {change}"
        few = ": too few to mean much" * (event.chars < FEWEST_HELD_OUT)
        title = f"step {event.step}: {figure}; {event.chars:,} of {event.of_chars:,} characters{few}"
        if not is_quiet():
            with tqdm.external_write_mode(file=sys.stderr):
                shown = _indented(visible(text, dim=colour(sys.stderr)))
                print(_bold(fit(title, sys.stderr)), shown, "", sep="\n", file=sys.stderr, flush=True)
        with suppress(OSError):  # on a full disk the report lacks this sample
            files.append(self._path, json.dumps({"step": event.step, "text": text}).encode() + b"\n")


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.strip("\n").splitlines())


def _bold(text: str) -> str:
    return f"\x1b[1m{text}\x1b[0m" if colour(sys.stderr) else text
