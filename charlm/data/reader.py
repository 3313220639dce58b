"""From names to strict text, the one way for training, evaluation and prompts.

names -> files (sources) -> bytes (stream) -> text (decoding) -> a field of its records (records)
-> without boilerplate (boilerplate) -> normalized (normalize) -> document ends (documents)
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from charlm.config import TextConfig
from charlm.data.boilerplate import Boilerplate, strip_boilerplate
from charlm.data.decoding import TextDecoder
from charlm.data.detection import check_codec
from charlm.data.documents import FileJoiner, marked_text, split_documents
from charlm.data.normalize import normalize_blocks
from charlm.data.records import BEGINNING, RecordReader, field_names, format_of, is_table_file, list_fields
from charlm.data.sources import find_files, grouped
from charlm.data.stream import Block, ByteStream, Excerpt, label_of, too_large
from charlm.errors import TextError
from charlm.terminal import one_line


@dataclass(frozen=True, kw_only=True)
class Texts:
    """Texts in memory, with END where their documents end, and notes for the user."""

    files: tuple[tuple[str, str], ...]  # name and text of each file that has any
    notes: tuple[str, ...]

    @property
    def joined(self) -> str:
        """All files in order, each beginning on a line of its own, as a model learns from them."""
        joiner = FileJoiner()
        return "".join(
            block.text for name, text in self.files for block in joiner.join([Block.of(text)], name)
        )


def read_texts(
    names: Sequence[str],
    config: TextConfig,
    *,
    encoding: str | None = None,
    field: str | None = None,
) -> Texts:
    """Read files, folders, patterns or "-" into memory as a run with these settings reads its own text.

    An `encoding` or a `field` given here holds for every file. Those of the run hold for the files that they
    fit: valid UTF-8 is read as UTF-8, a file without records as plain text, and a note says so. Raises
    UsageError for an unknown encoding or no names, ResourceError when memory is too small, TextError for what
    is missing, unreadable, changing, not text, or empty.
    """
    if encoding is not None:
        check_codec(encoding)
    inherited = [name for name, given in (("encoding", encoding), ("field", field)) if given is None]
    config = replace(config, encoding=encoding or config.encoding, field=field or config.field)
    has_folders = any(os.path.isdir(name) for name in names)
    include, exclude = (config.include, config.exclude) if has_folders else (None, None)
    paths, notes = find_files(names, include, exclude, config.encoding)
    if include:
        notes.append(
            (names[0], f"only files that match {' or '.join(include)} are read, as in the run's text")
        )
    if exclude:
        notes.append(
            (names[0], f"files that match {' or '.join(exclude)} are left out, as in the run's text")
        )
    files = []
    for path in paths:
        reader, found = FileReader(path, config, inherited=inherited), Boilerplate()
        try:
            text = marked_text(reader.blocks(boilerplate=found))
        except MemoryError:
            raise too_large(label_of(path)) from None
        if text:
            files.append((path, text))
        notes += [(path, note) for note in reader.notes]
        if config.strip is not None and found.chars:
            left_out = f"Project Gutenberg's header and licence left out ({found.chars:,} characters)"
            notes.append((path, f"{left_out}, as in the run's text"))
        if reader.records_note:
            notes.append((path, reader.records_note))
    if not files:
        raise no_text(paths)
    return Texts(files=tuple(files), notes=tuple(grouped(notes)))


def no_text(paths: Sequence[str]) -> TextError:
    """The TextError to raise when none of the files has a character."""
    named = f"The {len(paths)} files are" if len(paths) > 1 else f"{label_of(paths[0])} is"
    return TextError(f"{named} empty: 0 characters. Give a text with at least one.")


class FileReader:
    """Reads one file by the settings of a text.

    Complete once it is read: `notes` for the user; `record_fields`, the fields of a file of records that is read
    as it stands (None for other files); and in `stream` and `decoder` how it was compressed and encoded.
    """

    def __init__(
        self,
        path: str,
        config: TextConfig,
        *,
        inherited: Collection[str] = (),
        label: str | None = None,
        watch: Callable[[int], None] = lambda n_bytes: None,
        excerpt: Excerpt | None = None,
    ) -> None:
        """`inherited`: which of `encoding` and `field` hold only if the file fits them.

        `label` names the file in errors, `watch` is called with the bytes read, `excerpt` limits them.
        """
        self._path, self._label, self._config = path, label or label_of(path), config
        self._inherits_field = "field" in inherited
        self.stream = ByteStream(path, self._label, watch=watch, excerpt=excerpt)
        self.decoder = TextDecoder(self._label, config.encoding, inherited="encoding" in inherited)
        self.record_fields: list[str] | None = None
        self._notes: list[str] = []

    @property
    def notes(self) -> list[str]:
        """What the user should know about the file."""
        packed = [f"decompressed from {self.stream.compression}"] if self.stream.compression else []
        return [*packed, *self.decoder.notes, *self._notes]

    @property
    def records_note(self) -> str:
        """What to say about records that are read as they stand, names and quotes included; else empty."""
        if self.record_fields is None:
            return ""
        table = is_table_file(self._path)
        what = "a table" if table else "JSON"
        said = f"{what}, read as plain text, including ids, {'delimiters' if table else 'braces'} and quotes"
        fields = list_fields(self.record_fields)
        return f"{said}; to read one field only, add --field: {fields}" if self.record_fields else said

    def blocks(
        self, joiner: FileJoiner | None = None, boilerplate: Boilerplate | None = None
    ) -> Iterator[Block]:
        """Yield the text. Raises TextError if it cannot be read by these settings.

        `joiner` keeps its first line apart from the file before; `boilerplate` counts Project Gutenberg's.
        """
        boilerplate = boilerplate or Boilerplate()
        blocks = self._field(self._decoded())
        config = self._config  # without a field, where the file has none
        if config.strip is not None:
            blocks = strip_boilerplate(blocks, boilerplate)
        blocks = normalize_blocks(blocks, config)
        if joiner is not None and config.documents == "none":  # else the end of a document keeps files apart
            blocks = joiner.join(blocks, self._path)
        blocks = split_documents(blocks, config)
        search = config.strip is None and config.field is None
        yield from boilerplate.count_in(blocks) if search else blocks

    def _decoded(self) -> Iterator[Block]:
        pieces = self.stream.pieces()
        first = next(pieces, b"")  # only then is it known whether offsets in the pieces are those in the file
        path = self._path if self.stream.is_plain else None
        return self.decoder.blocks(chain([first], pieces), path)

    def _field(self, blocks: Iterator[Block]) -> Iterable[Block]:
        """The text of the field of every record, or all text of a file without a field to read."""
        first = next(blocks, None)
        if first is None:
            return ()
        blocks = chain([first], blocks)
        begin, field = first.text[:BEGINNING], self._config.field
        if field is None:
            self.record_fields = field_names(self._path, begin)
            return blocks
        found = format_of(self._path, begin, field)
        if self._inherits_field:
            if found is None:
                self._config = replace(self._config, field=None)
                self._notes.append(
                    f"read as plain text, since it has no records with a field {one_line(field)}"
                )
                return blocks
            self._notes.append(f"read only in its field {one_line(field)}, like the run's text")
        records = RecordReader(field, self._label, found, begin, self._notes)
        return records.blocks(blocks, apart=self._config.documents == "line")
