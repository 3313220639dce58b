"""TensorBoard: event files in the run's folder, written by its own writer, without TensorFlow."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.text import metadata
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from charlm.reporting.trackers.messages import Begin, End, Numbers, Setting, Text


class TensorBoard:
    """Writes the run's event files. Steps that come again follow a START event, at which readers drop the old ones."""

    id = None  # the run's folder identifies it

    def __init__(self, begin: Begin) -> None:
        self._folder = Path(begin.folder)
        self.where = f"tensorboard --logdir {self._folder.parent}"
        self._writer = EventFileWriter(begin.folder)
        self._step = begin.step
        hyperparameters = hparams_pb(begin.settings, trial_id=begin.run)
        self._writer.add_event(Event(wall_time=time.time(), step=begin.step, summary=hyperparameters))
        self.settings(begin.settings)

    def numbers(self, rows: Sequence[Numbers]) -> None:
        """Add scalars."""
        for row in rows:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in row.values.items()]
            self._writer.add_event(Event(wall_time=row.time, step=row.step, summary=Summary(value=values)))
            self._step = row.step
        self._writer.flush()

    def text(self, text: Text) -> None:
        """Add a text, which TensorBoard reads as Markdown: indented, it is shown as it is."""
        lines = "".join(f"    {line}\n" for line in text.text.splitlines())
        self._markdown(text.name, lines, text.step, text.time)

    def settings(self, settings: Mapping[str, Setting]) -> None:
        """Add the settings as a table; the hyperparameters stay those of the beginning."""
        rows = "".join(f"| `{name}` | `{value}` |\n" for name, value in settings.items())
        self._markdown("settings", f"| setting | value |\n|---|---|\n{rows}", self._step, time.time())

    def forget_after(self, step: int) -> bool:
        """Make readers drop the steps after this one."""
        start = SessionLog(status=SessionLog.START)
        self._writer.add_event(Event(wall_time=time.time(), step=step + 1, session_log=start))
        self._step = step
        return True

    def end(self, end: End) -> None:
        """Close the file, after a text with the path of the report, which is in the folder already."""
        if end.report is not None:
            self._markdown("report", f"`{end.report}`", self._step, time.time())
        self._writer.close()

    def _markdown(self, name: str, text: str, step: int, at: float) -> None:
        plugin = SummaryMetadata.PluginData(
            plugin_name=metadata.PLUGIN_NAME,
            content=metadata.create_summary_metadata("", "").plugin_data.content,
        )
        value = Summary.Value(
            tag=name,
            metadata=SummaryMetadata(plugin_data=plugin),
            tensor=TensorProto(dtype=DT_STRING, string_val=[text.encode()]),
        )
        self._writer.add_event(Event(wall_time=at, step=step, summary=Summary(value=[value])))
