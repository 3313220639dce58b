"""Weights & Biases: online, offline or disabled, as its own environment variables and settings say."""

import os
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import wandb

from charlm.reporting.trackers.messages import PROJECT, Begin, End, Numbers, Setting, Text


class Wandb:
    """One run of wandb, whose step is the training's."""

    def __init__(self, begin: Begin) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # no error reports to its makers unasked
        named: dict[str, Any] = {} if "WANDB_PROJECT" in os.environ else {"project": PROJECT}
        named |= {} if "WANDB_NAME" in os.environ else {"name": begin.run}
        named |= {} if begin.id is None else {"id": begin.id}
        self._run = wandb.init(
            **named,
            resume="allow",
            config=dict(begin.settings),
            allow_val_change=True,
            settings=wandb.Settings(silent=True, console="off"),
        )
        self.id: str | None = self._run.id
        offline = f"offline; to upload it: wandb sync {os.path.dirname(self._run.dir)}"
        self.where = self._run.url or offline

    def numbers(self, rows: Sequence[Numbers]) -> None:
        """Log figures at their steps."""
        for row in rows:
            self._run.log(row.values, step=row.step)

    def text(self, text: Text) -> None:
        """Log a text as it is."""
        self._run.log({text.name: wandb.Html(f"<pre>{escape(text.text)}</pre>")}, step=text.step)

    def settings(self, settings: Mapping[str, Setting]) -> None:
        """Change the run's configuration."""
        self._run.config.update(dict(settings), allow_val_change=True)

    def forget_after(self, step: int) -> bool:
        """Return False: wandb's steps only rise."""
        return False

    def end(self, end: End) -> None:
        """Log the report as an artifact, and wait for the upload."""
        if end.report is not None:
            artifact = wandb.Artifact(f"report-{self.id}", type="report")
            artifact.add_file(end.report)
            self._run.log_artifact(artifact)
        self._run.finish(exit_code=0 if end.status == "done" else 1)
