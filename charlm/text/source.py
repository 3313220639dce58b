"""Any raw text the user names -> characters, read once and kept exactly as they are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from charlm.errors import ResourceError, TextError
from charlm.terminal import one_line
from charlm.text.decoding import check_codec
from charlm.text.finding import STDIN, describe, expand, find_files
from charlm.text.remarks import Marks, grouped, remarks
from charlm.text.stream import TextStream

__all__ = ["FileText", "SourceText", "describe", "find_files", "label_of", "read_source", "refuse_empty"]


@dataclass(frozen=True, kw_only=True)
class FileText:
    """One file, decoded."""

    name: str  # as the user named it, or its path below a folder; "-" is standard input
    text: str


@dataclass(frozen=True, kw_only=True)
class SourceText:
    """All that was named, in order, and what is to be said of it."""

    files: tuple[FileText, ...]
    notes: tuple[str, ...]

    @property
    def text(self) -> str:
        """The files joined in order, as a model would learn from them: their lines stay apart."""
        from charlm.text.documents import Joiner  # here: NumPy takes a while to import
        from charlm.text.stream import Block

        joiner, pieces = Joiner(), list[str]()
        for file in self.files:
            blocks = [Block(file.text.encode(), file.text)] if file.text else []
            pieces += [block.text for block in joiner.joined(blocks, file.name)]
        return "".join(pieces)

    @property
    def named(self) -> list[tuple[str, str]]:
        """Name and text of each file that has any."""
        return [(file.name, file.text) for file in self.files if file.text]


def read_source(
    names: Sequence[str], *, encoding: str | None = None, stdin: BinaryIO | None = None
) -> SourceText:
    """Read what `names` mean into memory: files, folders, patterns, "-" for `stdin`; compressed too.

    Decoded strictly, as `encoding` or by the byte order mark or as UTF-8; newlines stay as they
    are. Raises UsageError for an encoding there is not or when nothing is named, ResourceError
    when memory ends, TextError for what is missing, unreadable, changing, not text or empty.
    """
    if encoding is not None:
        check_codec(encoding)
    paths, notes = expand(names, encoding=encoding)
    files = []
    for path in paths:
        stream = TextStream(path, label_of(path), encoding, stdin=stdin)
        try:
            text = "".join(block.text for block in stream.blocks())
        except MemoryError:
            raise ResourceError(
                f"{label_of(path)} does not fit into memory. Give less text, or use a larger machine."
            ) from None
        files.append(FileText(name=path, text=text))
        notes += [(path, note) for note in stream.notes]
    if not any(file.text for file in files):
        raise refuse_empty(paths)
    return SourceText(files=tuple(files), notes=(*grouped(notes), *remarks(_marks(files))))


def label_of(path: str) -> str:
    """A file's name as shown to the user."""
    return "Standard input" if path == STDIN else one_line(path)


def refuse_empty(paths: Sequence[str]) -> TextError:
    """The error to raise where no file has a character."""
    named = f"The {len(paths)} files are" if len(paths) > 1 else f"{label_of(paths[0])} is"
    return TextError(f"{named} empty: 0 characters. Give a text with at least one.")


def _marks(files: Sequence[FileText]) -> Marks:
    first = next(file.text[0] for file in files if file.text)
    chars = sum(len(file.text) for file in files)
    return Marks(
        pairs=_count(files, "\r\n"),
        returns=_count(files, "\r"),
        feeds=_count(files, "\n"),
        nul=_count(files, "\0"),
        lost=_count(files, "\ufffd"),
        white=not any(file.text and not file.text.isspace() for file in files),
        same=chars > 1 and _count(files, first) == chars,
    )


def _count(files: Sequence[FileText], mark: str) -> int:
    return sum(file.text.count(mark) for file in files)
