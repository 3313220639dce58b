"""From what the user named to a corpus: files, or the manual where nothing is named."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from charlm.config import TextConfig
from charlm.text.corpus import Corpus, prepare
from charlm.text.manual import manual_name, read_manual
from charlm.text.source import read_source

MANUAL = "python-manual"
"""The name of a run on the manual."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A corpus, what was noticed in reading it, and where it can be read again."""

    corpus: Corpus
    notes: tuple[str, ...]
    sources: tuple[str, ...]  # absolute paths; none for the manual; `-` for standard input
    label: str


def load(names: Sequence[str], config: TextConfig) -> Loaded:
    """Read, divide and encode. Raises TextError and UsageError."""
    if names:
        source = read_source(names, encoding=config.encoding)
        text, notes, label = source.text, source.notes, " ".join(names)
    else:
        text, notes, label = read_manual(), (), manual_name()
    val_text = None
    if config.val_file is not None:
        val = read_source([config.val_file], encoding=config.encoding)
        val_text, notes = val.text, (*notes, *val.notes)
    sources = tuple(name if name == "-" else str(Path(name).absolute()) for name in names)
    return Loaded(corpus=prepare(text, config, val_text), notes=notes, sources=sources, label=label)


def run_name(names: Sequence[str]) -> str:
    """The name that a run on these files has by default: the first one's stem."""
    if not names:
        return MANUAL
    return "stdin" if names[0] == "-" else Path(names[0]).absolute().name.split(".")[0]
