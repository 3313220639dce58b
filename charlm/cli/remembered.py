"""The figure on the text that another run held out, before and after: what was forgotten, in words."""

from math import log
from typing import Any

from charlm.cli.console import count, say
from charlm.terminal import one_line
from charlm.training.events import Event, Remembered


def say_remembered(event: Event) -> None:
    """Say it when it was measured."""
    if isinstance(event, Remembered):
        before, after = event.before / log(2), event.nats_per_char / log(2)
        said = f", {_change(event.forgotten, event.standard_error)}" if event.final else " as this run begins"
        say(
            f"held-out text of {one_line(event.run)}: {before:.4f} bits/char before, {after:.4f}"
            f"{' now' if event.final else ''}{said}; on {count(event.chars)} of {count(event.of_chars)} characters"
        )


def remembered_rows(old_text: dict[str, Any] | None) -> list[tuple[str, str]]:
    """The same as rows of a table, from what a run's state keeps of it."""
    if old_text is None:
        return []
    before, now = old_text["before"] / log(2), old_text["nats_per_char"] / log(2)
    error, begun = old_text["before_error"] / log(2), old_text["begun"] / log(2)
    change = _change(old_text["forgotten"], old_text["standard_error"])
    after = (
        f"{now:.4f} after step {count(old_text['step'])}: {change}" if old_text["step"] else "not yet after"
    )
    return [
        (
            f"held-out text of {one_line(old_text['run'])}",
            f"{before:.4f} ± {error:.4f} bits/char before, {begun:.4f} when this run began, {after}; on "
            f"{count(old_text['chars'])} of {count(old_text['of_chars'])} characters",
        )
    ]


def _change(nats: float, error: float) -> str:
    """The difference, positive where the figure is worse than it was."""
    return (
        f"{abs(nats) / log(2):.4f} ± {error / log(2):.4f} bits/char {'forgotten' if nats >= 0 else 'gained'}"
    )
