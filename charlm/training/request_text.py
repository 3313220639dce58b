"""The text of a training request: checks of its settings, its split, reading it, and reports about it."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from charlm.data.text_config import VAL, TextConfig
from charlm.errors import UsageError
from charlm.terminal import one_line
from charlm.training.describe import describe_text, leak_warning

if TYPE_CHECKING:  # NumPy and torch are slow to import
    from charlm.data.holdout import EarlierText
    from charlm.data.load import Loaded
    from charlm.data.text_rows import TextRows
    from charlm.data.text_scan import TextScan
    from charlm.training.request import Messages
    from charlm.training.run_corpus import Moved

FILE_SETTINGS = ("encoding", "field", "include", "exclude", "strip")
"""Text settings that only affect files."""


def check_file_settings(paths: Sequence[str], settings: Mapping[str, Any]) -> None:
    """Raise UsageError for a setting that only affects files if none is named."""
    for name in FILE_SETTINGS:
        if settings[name] is not None and not paths:
            raise UsageError(
                f"--{name} has no effect on Python's manual, the default text; name a file to read"
            )


def use_customary_split(paths: Sequence[str], settings: dict[str, Any], messages: "Messages") -> None:
    """Use the customary split of a published text, unless a split was chosen."""
    from charlm.data.datasets import customary

    chosen = tuple(settings[name] for name in ("val", "test", "val_file", "split"))
    if len(paths) != 1 or chosen != (VAL, 0.0, None, "tail") or not os.path.isfile(paths[0]):
        return
    text = customary(os.path.basename(paths[0]), os.path.getsize(paths[0]))
    if text is None or not text.test:
        return
    settings["val"], settings["test"] = text.val, text.test
    messages.say(f"using the customary split of {text.name}: {text.split}; --val and --test change it")


def moved_text(paths: Sequence[str] | None, val_file: str | None = None) -> "Moved | None":
    """Return where the text of a run is now, according to the user; None if nothing was given."""
    if not paths and val_file is None:
        return None
    from charlm.training.run_corpus import Moved  # here: torch is slow to import

    val_file = None if val_file is None else os.path.expanduser(val_file)
    return Moved(tuple(map(os.path.expanduser, paths or ())), val_file)


def report_moved(uncached: str | None, moved: "Moved | None", messages: "Messages") -> None:
    """Report that the moved text was found, and whether it has to be named again."""
    if moved is None:
        return
    named = one_line(" ".join(moved.texts)) or "its old place"
    if uncached is None:
        messages.say(
            f"found the run's text in {named}; charlm keeps it in the cache, so you need not give --text "
            "again"
        )
    else:
        messages.warn(
            f"found the run's text in {named}; the cache cannot be written ({uncached}), so give --text "
            "again the next time, or set CHARLM_CACHE to a folder that can be written"
        )


def describe_paths(paths: Sequence[str], text: TextConfig) -> str:
    """Describe what is about to be read."""
    from charlm.data import sources

    if not paths:
        return f"{sources.manual_name()}, because you named no file"
    return sources.describe(paths, text.include, text.exclude)


def warn_unless_kept(paths: Sequence[str], messages: "Messages") -> None:
    """Warn, before standard input is read, if the cache cannot keep its text."""
    if "-" not in paths:
        return
    from charlm.data.corpus_cache import cache_folder, unwritable  # here: NumPy is slow to import

    reason = unwritable()
    if reason is not None:
        messages.warn(
            f"the cache {one_line(str(cache_folder()))} cannot be written ({reason}), so the text from standard input "
            "cannot be kept: `charlm resume`, and `charlm eval` on its held-out part, will need it as a "
            "file, given with --text FILE. To keep it, set CHARLM_CACHE to a folder that can be written, or save "
            "the text and train on the file"
        )


def load_text(
    paths: Sequence[str],
    text: TextConfig,
    messages: "Messages",
    *,
    verify: bool = False,
    earlier: "EarlierText | None" = None,
    scan: "TextScan | None" = None,
    texts: "TextRows | None" = None,
) -> "Loaded":
    """Load a text by `charlm.data.load.load`, and report progress."""
    from charlm.data.load import load  # here: NumPy is slow to import

    with messages.progress("", "B") as watch:
        return load(paths, text, watch, verify=verify, earlier=earlier, scan=scan, texts=texts)


def report_text(loaded: "Loaded", messages: "Messages", *, splittable: bool = True) -> None:
    """Report notes about the files, the size of the text, and leakage; `splittable`: see `leak_warning`."""
    note_files(loaded.notes, messages)
    messages.say(describe_text(loaded.corpus))
    leak = leak_warning(loaded.corpus, splittable=splittable)
    if leak:
        messages.warn(leak)


def note_files(notes: Iterable[str], messages: "Messages") -> None:
    """Report notes about the files that were read."""
    for note in notes:
        messages.warn(one_line(note))
