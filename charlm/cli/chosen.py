"""Which run, which of its checkpoints and which text a command works on, and saying so."""

from pathlib import Path
from typing import TYPE_CHECKING

from charlm.cli.console import say, warn
from charlm.config import TextConfig
from charlm.errors import CheckpointError
from charlm.terminal import one_line

if TYPE_CHECKING:
    from charlm.checkpoint.snapshot import Snapshot
    from charlm.text.corpus import Corpus


def chosen(root: Path, name: str | None, checkpoint: str | None) -> "tuple[Snapshot, str, str]":
    """The checkpoint asked for, the run's name, and `latest`, `best` or the step.

    Without a run the newest; without a checkpoint `latest`, or `best` after an early stop.
    """
    from charlm.checkpoint.run_folder import find  # here: torch is slow to import
    from charlm.checkpoint.snapshot import read

    run = find(root, name)
    which = checkpoint or "latest"
    snapshot = read(run, which)
    if checkpoint is None and snapshot.state.get("finished") == "early":
        which = "best"
        snapshot = read(run, which)
    newest = "" if name else ", the newest run"
    say(f"using {which} of {one_line(run.name)}{newest}: step {snapshot.step}")
    return snapshot, run.path.name, which


def text_config(snapshot: "Snapshot") -> TextConfig:
    """How the run read its text; CheckpointError where that cannot be."""
    try:
        return TextConfig.from_json(snapshot.run["text"])
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"run.json is damaged: {error}") from None


def corpus_of_run(snapshot: "Snapshot", *, needed: bool) -> "Corpus | None":
    """The text that the run was trained on, if it is still there; CheckpointError if it is `needed`."""
    from charlm.training.texts import corpus_of

    try:
        return corpus_of(snapshot)
    except CheckpointError as error:
        if needed:
            raise
        warn(f"{error}; no yardsticks are made of it, and no look for passages that training has seen")
        return None
