"""Saving during training: checkpoints of a session in its run folder, on one rank or divided over all."""

from collections.abc import Callable

from charlm.checkpoint.run_folder import RunFolder
from charlm.training.events import Saved, SaveFailed
from charlm.training.session import Session, TransformerSession
from charlm.training.sharded_save import save_rows


class Checkpointer:
    """Writes checkpoints of a session, and knows when the next one is due."""

    def __init__(self, session: Session, run: RunFolder, clock: Callable[[], float]) -> None:
        """`clock`: measures how long a save takes."""
        self.session, self.run_folder, self._clock = session, run, clock
        self.failed = False  # did the disk refuse the last checkpoint?
        self._saved_at = session.ranks.clock()

    @property
    def is_due(self) -> bool:
        """Whether `save_every` seconds have passed since the last save and the weights are worth returning to."""
        session = self.session
        overdue = session.ranks.clock() - self._saved_at >= session.training_config.save_every
        return overdue and not session.state.divergence.suspected

    def save(self, *, best: bool = False) -> Saved | SaveFailed | None:
        """Write a checkpoint if all weights are finite. Report once that the disk refuses; a later save tries again."""
        session = self.session
        self._saved_at, started = session.ranks.clock(), self._clock()
        if not session.is_finite():
            return None

        written = self._write(best=best)
        session.ranks.agree()
        failed_before, self.failed = self.failed, "failure" in written
        if self.failed:
            return None if failed_before else SaveFailed(step=session.state.step, reason=written["failure"])
        return Saved(step=session.state.step, path=written["path"], seconds=self._clock() - started)

    def _write(self, *, best: bool) -> dict[str, str]:
        """Write a checkpoint: its `path`, or the `failure`, on all ranks."""
        session = self.session
        if session.ranks.shards and isinstance(session, TransformerSession):
            return save_rows(session, self.run_folder, best=best)

        def write() -> dict[str, str]:
            try:
                snapshot = session.snapshot()
                path = self.run_folder.save(snapshot.step, snapshot.files(), snapshot.run_files(), best=best)
            except OSError as error:
                return {"failure": error.strerror or str(error)}
            return {"path": str(path)}

        if isinstance(session, TransformerSession):
            session.optimizer.gather()
        return dict(session.ranks.broadcast_object(write))
