"""A training listener that reports each event to experiment trackers."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from charlm.errors import CheckpointError
from charlm.reporting.trackers import missing_extra
from charlm.reporting.trackers.figures import Figures
from charlm.reporting.trackers.messages import Begin, End
from charlm.reporting.trackers.process import TrackerProcess
from charlm.reporting.trackers.state import read_chosen, write_chosen
from charlm.terminal import one_line
from charlm.training.events import Event
from charlm.training.request import Messages
from charlm.training.session import Session


class Reporting:
    """Reports a run to the `chosen` trackers, or else to those it was reported to before."""

    def __init__(
        self,
        run: Path,
        session: Session,
        chosen: tuple[str, ...] | None,
        sample: Callable[[], str],
        messages: Messages,
    ) -> None:
        """`sample`: returns the sample of the last evaluation. Problems with a tracker are warned about once."""
        self._messages, self._sample = messages, sample
        names = self._remembered(run) if chosen is None else chosen
        if chosen is not None and chosen != read_chosen(run):
            with suppress(OSError):  # a full disk costs only that
                write_chosen(run, chosen)
        self._figures = Figures(session)
        settings = self._figures.settings() if names else {}
        begin = Begin(run=run.name, folder=str(run.absolute()), step=session.state.step, settings=settings)
        self._trackers = [TrackerProcess(name, begin) for name in names]

    def _remembered(self, run: Path) -> tuple[str, ...]:
        """Return the trackers that the run was reported to before, if they are installed here."""
        try:
            names = read_chosen(run)
        except CheckpointError as error:
            self._messages.warn(f"{error}; training goes on without trackers")
            return ()
        for name in names:
            if (sentence := missing_extra(name)) is not None:
                self._messages.warn(f"{sentence}; training goes on without it")
        return tuple(name for name in names if missing_extra(name) is None)

    def __call__(self, event: Event) -> None:
        """Report one event."""
        if not self._trackers:
            return
        for message in self._figures.messages(event, self._sample()):
            for tracker in self._trackers:
                tracker.put(message)
        self._tell()

    def close(self, status: str, report: Path | None, *, hurry: bool = False) -> None:
        """Report the end of the run, and wait for the trackers: briefly in a `hurry`, else as long as they make progress."""
        end = End(status=status, report=None if report is None else str(report.absolute()))
        for tracker in self._trackers:
            with self._messages.progress(f"finishing {tracker.name}", ""):
                tracker.end(end, hurry=hurry)
            if tracker.is_on:
                self._messages.say(f"what {tracker.name} has not taken yet is delivered in the background")
        self._tell()
        self._trackers = []

    def _tell(self) -> None:
        """Report where the figures are, and what went wrong, each once."""
        for tracker in self._trackers:
            where, tracker.where = tracker.where, None
            if where is not None:
                self._messages.say(f"reporting to {tracker.name}: {one_line(where)}")
            if tracker.trouble is not None:
                self._messages.warn(f"{tracker.trouble}, and training goes on")
        self._trackers = [tracker for tracker in self._trackers if tracker.trouble is None]
