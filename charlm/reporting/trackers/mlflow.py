"""MLflow: a run in the store that its own environment variables name, by default a database in this folder."""

import os
from collections.abc import Mapping, Sequence

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # before mlflow is imported: no telemetry unasked

import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from charlm.reporting.trackers.messages import PROJECT, Begin, End, Numbers, Setting, Text

MOST_METRICS, MOST_PARAMS = 1000, 100
"""MLflow's limits for one call."""
LONGEST_PARAM = 500
"""Characters of a value that every version accepts."""
STATUS = {"done": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


class MLflow:
    """One run of MLflow."""

    def __init__(self, begin: Begin) -> None:
        self._client = mlflow.MlflowClient()
        self.id: str | None = begin.id if begin.id is not None and self._exists(begin.id) else None
        if self.id is None:
            self.id = self._client.create_run(self._experiment(), run_name=begin.run).info.run_id
        else:
            self._client.update_run(self.id, status="RUNNING")
        self.where = f"run {self.id} in {mlflow.get_tracking_uri()}"
        self.settings(begin.settings)

    def _exists(self, run_id: str) -> bool:
        """Whether that run is in this store; the default store is in the working folder."""
        try:
            self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return True

    def _experiment(self) -> str:
        named = os.environ.get("MLFLOW_EXPERIMENT_ID")
        return named or str(
            mlflow.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)).experiment_id
        )

    def numbers(self, rows: Sequence[Numbers]) -> None:
        """Log figures at their steps, many in a call."""
        metrics = [
            Metric(name, value, int(1000 * row.time), row.step)
            for row in rows
            for name, value in row.values.items()
        ]
        for i in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(self.id, metrics=metrics[i : i + MOST_METRICS])

    def text(self, text: Text) -> None:
        """Keep a text as an artifact."""
        self._client.log_text(self.id, text.text, f"{text.name}/step-{text.step:08d}.txt")

    def settings(self, settings: Mapping[str, Setting]) -> None:
        """Log parameters. They can be set only once, so one that has changed is also set as a tag."""
        known = self._client.get_run(self.id).data.params
        words = {name: str(value)[:LONGEST_PARAM] for name, value in settings.items()}
        params = [Param(name, word) for name, word in words.items() if name not in known]
        tags = [RunTag(f"now/{name}", word) for name, word in words.items() if known.get(name, word) != word]
        for i in range(0, max(len(params), len(tags)), MOST_PARAMS):
            part = slice(i, i + MOST_PARAMS)
            self._client.log_batch(self.id, params=params[part], tags=tags[part])

    def forget_after(self, step: int) -> bool:
        """Return False: MLflow cannot remove figures."""
        return False

    def end(self, end: End) -> None:
        """Keep the report as an artifact, and set the run's status."""
        if end.report is not None:
            self._client.log_artifact(self.id, end.report)
        self._client.set_terminated(self.id, status=STATUS[end.status])
