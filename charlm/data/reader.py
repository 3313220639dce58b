"""A file as strict text: decoded, its field taken, normalised, its documents marked."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import BinaryIO

from charlm.config import TextConfig
from charlm.data.boilerplate import Tally, stripped
from charlm.data.decoding import check_codec
from charlm.data.documents import Joiner, Marker, with_ends
from charlm.data.excerpts import Excerpt
from charlm.data.normalize import normalised
from charlm.data.records import BEGINNING, Fields, form_of, is_table, listed, names_of
from charlm.data.sources import STDIN, expand
from charlm.data.stream import Block, TextStream
from charlm.data.text_warnings import Marks, grouped, remarks
from charlm.errors import ResourceError, TextError
from charlm.native.text_kernels import Kernels
from charlm.terminal import one_line


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
        from charlm.data.documents import Joiner  # here: NumPy takes a while to import
        from charlm.data.stream import Block

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


def read_as_run(
    names: Sequence[str],
    config: TextConfig,
    *,
    encoding: str | None = None,
    field: str | None = None,
    stdin: BinaryIO | None = None,
) -> SourceText:
    """Read what `names` mean as a run with these settings reads its own text, documents' ends marked.

    An `encoding` or a `field` that is given holds for every file; those of the run for the files that
    they fit: a file of UTF-8 is read as that, and one without records as plain text, which is said.
    Raises as `read_source`.
    """
    if encoding is not None:
        check_codec(encoding)
    fits = {name for name, given in (("encoding", encoding), ("field", field)) if given is None}
    config = replace(config, encoding=encoding or config.encoding, field=field or config.field)
    of_folders = any(os.path.isdir(name) for name in names)
    include, exclude = (config.include, config.exclude) if of_folders else (None, None)
    paths, notes = expand(names, include, exclude, encoding)
    chosen = [f"only files that match {' or '.join(include)} are read"] if include else []
    chosen += [f"files that match {' or '.join(exclude)} are left out"] if exclude else []
    notes += [(names[0], f"{said}, as in the run's text") for said in chosen]
    files = []
    for path in paths:
        reader, marker, tally = FileReader(path, config, fits=fits, stdin=stdin), Marker(), Tally()
        try:
            pieces = [marker.mark(block).astype("<u4").tobytes() for block in reader.blocks(tally=tally)]
            text = b"".join(pieces).decode("utf-32-le", "surrogatepass")
        except MemoryError:
            raise ResourceError(
                f"{label_of(path)} does not fit into memory. Give less text, or use a larger machine."
            ) from None
        files.append(FileText(name=path, text=text))
        notes += [(path, note) for note in reader.notes]
        if config.strip is not None and tally.chars:
            said = f"Project Gutenberg's header and licence left out ({tally.chars:,} characters), as in the run's text"
            notes.append((path, said))
        if reader.record_fields is not None:
            notes.append((path, as_it_stands(path, reader.record_fields)))
    if not any(file.text for file in files):
        raise refuse_empty(paths)
    return SourceText(files=tuple(files), notes=tuple(grouped(notes)))


class FileReader:
    """One file as a run reads it: decoded, its field taken, changed, and told where documents end.

    `notes`: what is to be said of it, complete once it is read. `lines`: ends of lines read so far.
    """

    def __init__(
        self,
        path: str,
        config: TextConfig,
        *,
        fits: set[str] | frozenset[str] = frozenset(),
        label: str | None = None,
        lines: Callable[[], int] = lambda: 0,
        stdin: BinaryIO | None = None,
        watch: Callable[[int], None] = lambda taken: None,
        excerpt: Excerpt | None = None,
        kernels: Kernels | None = None,
    ) -> None:
        """`fits`: of `encoding` and `field`, what is done without where the file is of another kind."""
        self._path, self._label, self._config, self._fits = path, label or label_of(path), config, fits
        self._lines, self._notes = lines, list[str]()
        self.record_fields: list[str] | None = None  # of a file of records that is read as it stands
        self._fields: Fields | None = None
        usual = config.encoding if "encoding" in fits else None
        self.stream = TextStream(
            path,
            self._label,
            None if usual else config.encoding,
            usual=usual,
            stdin=stdin,
            lines=lambda: self.lines(),
            watch=watch,
            excerpt=excerpt,
            kernels=kernels,
        )

    @property
    def notes(self) -> list[str]:
        """What is to be said of the file."""
        return [*self.stream.notes, *self._notes, *(self._fields.notes if self._fields else [])]

    def lines(self) -> int:
        """How many lines were read so far."""
        return self._lines() if self._fields is None else self._fields.lines

    def blocks(self, joiner: Joiner | None = None, tally: Tally | None = None) -> Iterator[Block]:
        """Its text. Raises TextError where it cannot be read so.

        `joiner` keeps its first line apart from the file before, `tally` counts Project Gutenberg's boilerplate.
        """
        config = self._config
        stream = self.stream.blocks()
        first = next(stream, None)  # no more, so that lines are counted rightly where a later one is no text
        begin = "" if first is None else first.text[:BEGINNING]
        blocks: Iterable[Block] = stream if first is None else chain([first], stream)
        name, optional = config.field, "field" in self._fits
        if name is None:
            self.record_fields = names_of(self._path, begin) if begin else None
        elif optional and form_of(self._path, begin, name) is None:
            self._notes.append(f"read as plain text, since it has no records with a field {one_line(name)}")
            config = replace(config, field=None)
        else:
            self._fields = Fields(name, self._path, self._label, apart=config.documents == "line")
            blocks = self._fields.blocks(blocks)
            if optional:
                self._notes.append(f"its field {one_line(name)} is read, as in the run's text")
        tally = tally or Tally()
        if config.strip is not None:
            blocks = stripped(blocks, tally)
        blocks = normalised(blocks, config)
        if joiner is not None and config.documents == "none":  # else the end of a document keeps files apart
            blocks = joiner.joined(blocks, self._path)
        blocks = with_ends(blocks, config)
        watch = config.strip is None and config.field is None
        yield from tally.watched(blocks) if watch else blocks


def as_it_stands(path: str, fields: Sequence[str]) -> str:
    """What is said of a file whose records, with these fields, are read with all that encloses their texts."""
    table = is_table(path)
    said = f"{'a table' if table else 'JSON'}, read as it stands, with ids, {'delimiters' if table else 'braces'} and quotes"
    return f"{said}; --field reads one of its fields only: {listed(fields)}" if fields else said
