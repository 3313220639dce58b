"""Trackio: a run in its local database, or in the Space or server that its own environment variables name."""

import os
from collections.abc import Mapping, Sequence

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # before it is imported: no telemetry unasked

import trackio

from charlm.reporting.trackers.messages import PROJECT, Begin, End, Numbers, Setting, Text


class Trackio:
    """One run of Trackio, which finds a run by its name, and tells namesakes apart by an id."""

    def __init__(self, begin: Begin) -> None:
        self._settings, self._step = dict(begin.settings), begin.step
        self._run = self._begun(begin.run, "never" if begin.id is None else "allow")
        if begin.id is not None and self._run.id != begin.id:  # the newest of that name is another one
            self._run.finish()
            self._run = self._begun(begin.run, "never")
        self.id: str | None = self._run.id
        self.where = f"trackio show --project {PROJECT}"

    def _begun(self, name: str, resume: str) -> trackio.Run:
        return trackio.init(
            PROJECT,
            name,
            config=self._settings,
            resume=resume,
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def numbers(self, rows: Sequence[Numbers]) -> None:
        """Log figures at their steps."""
        for row in rows:
            self._run.log(row.values, step=row.step)
            self._step = row.step

    def text(self, text: Text) -> None:
        """Log a text, which Trackio reads as Markdown: indented, it is shown as it is."""
        lines = "".join(f"    {line}\n" for line in text.text.splitlines())
        self._run.log({text.name: trackio.Markdown(lines)}, step=text.step)

    def settings(self, settings: Mapping[str, Setting]) -> None:
        """Log settings that have changed as a table; the run's own stay those of the beginning."""
        rows = "".join(f"| `{name}` | `{value}` |\n" for name, value in settings.items())
        self._run.log(
            {"settings": trackio.Markdown(f"| setting | value |\n|---|---|\n{rows}")}, step=self._step
        )

    def forget_after(self, step: int) -> bool:
        """Return False: Trackio cannot remove figures."""
        return False

    def end(self, end: End) -> None:
        """Keep the report as an artifact, and wait for everything to be written."""
        if end.report is not None:
            self._run.log_artifact(end.report, name=f"report-{self.id}", type="report")
        self._run.finish()
