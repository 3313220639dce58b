"""Which run, which of its checkpoints and which text a command works on, and saying so."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from charlm.cli.console import say, warn
from charlm.config import TextConfig
from charlm.errors import CheckpointError
from charlm.terminal import one_line

if TYPE_CHECKING:
    from charlm.checkpoint.snapshot import Snapshot
    from charlm.data.corpus import Corpus
    from charlm.training.run_text import Moved


def chosen(root: Path, name: str | None, checkpoint: str | None) -> "tuple[Snapshot, str, str]":
    """The checkpoint asked for, the run's name, and `latest`, `best` or the step.

    Without a run the newest; without a checkpoint `latest`, or `best` after an early stop.
    """
    from charlm.checkpoint.run_folder import find  # here: torch is slow to import
    from charlm.checkpoint.snapshot import read

    run = find(root, name, warn)
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


def moved_text(texts: Sequence[str] | None, val_file: str | None = None) -> "Moved | None":
    """Where the user says that the text of a run is now; None where nothing was said."""
    if not texts and val_file is None:
        return None
    from charlm.training.run_text import Moved  # here: torch is slow to import

    val_file = None if val_file is None else os.path.expanduser(val_file)
    return Moved(tuple(map(os.path.expanduser, texts or ())), val_file)


def say_moved(corpus: "Corpus", moved: "Moved | None") -> None:
    """Say that the text was found where it is now, and whether it has to be named again."""
    if moved is None:
        return
    named = one_line(" ".join(moved.texts)) or "its old place"
    if corpus.uncached is None:
        say(f"found the run's text in {named}; it is kept in the cache, so --text is not needed again")
    else:
        warn(
            f"found the run's text in {named}; the cache cannot be written ({corpus.uncached}), so give --text "
            "again the next time, or set CHARLM_CACHE to a folder that can be written"
        )


def corpus_of_run(snapshot: "Snapshot", *, needed: bool, moved: "Moved | None" = None) -> "Corpus | None":
    """The text that the run was trained on, if it is still there; CheckpointError if it is `needed`, or has `moved`."""
    from charlm.training.run_text import corpus_of

    try:
        corpus = corpus_of(snapshot, moved)
        say_moved(corpus, moved)
        return corpus
    except CheckpointError as error:
        if needed or moved is not None:
            raise
        warn(f"{error}; no yardsticks are made of it, and no look for passages that training has seen")
        return None
