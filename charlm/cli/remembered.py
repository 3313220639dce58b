"""The figure on the text that another run held out, before and after: what was forgotten, in words."""

from math import log
from typing import Any

from charlm.cli.console import count, say
from charlm.evaluation.intervals import plus_minus, too_few
from charlm.terminal import one_line
from charlm.training.events import Event, Remembered


def say_remembered(event: Event) -> None:
    """Say it when it was measured."""
    if isinstance(event, Remembered):
        before, after = event.before / log(2), event.nats_per_char / log(2)
        said = f", {_change(event.forgotten, event.standard_error)}" if event.final else " as this run begins"
        say(
            f"held-out text of {one_line(event.run)}: {before:.4f} bits/char before, {after:.4f}"
            f"{' now' if event.final else ''}{said}; on {count(event.chars)} of {count(event.of_chars)} characters{too_few(event.chars)}"
        )


def remembered_rows(old_text: dict[str, Any] | None) -> list[tuple[str, str]]:
    """The same as rows of a table, from what a run's state keeps of it."""
    if old_text is None:
        return []
    now, begun = old_text["nats_per_char"] / log(2), old_text["begun"] / log(2)
    before = plus_minus(old_text["before"], old_text["before_error"])
    change = _change(old_text["forgotten"], old_text["standard_error"])
    after = (
        f"{now:.4f} after step {count(old_text['step'])}: {change}" if old_text["step"] else "not yet after"
    )
    return [
        (
            f"held-out text of {one_line(old_text['run'])}",
            f"{before} bits/char before, {begun:.4f} when this run began, {after}; on "
            f"{count(old_text['chars'])} of {count(old_text['of_chars'])} characters{too_few(old_text['chars'])}",
        )
    ]


def _change(nats: float, error: float | None) -> str:
    """The difference, positive where the figure is worse than it was."""
    return f"{plus_minus(abs(nats), error)} bits/char {'forgotten' if nats >= 0 else 'gained'}"
