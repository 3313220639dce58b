"""Read the texts that names stand for, in the same way for training, evaluation and prompts.

names -> files (sources, downloads, archives) -> bytes (stream) -> text (decoding) -> a field of its records
(records), or at once a column of a table (columns) -> without boilerplate (boilerplate) -> normalized (normalize) -> document ends (documents)
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from charlm.data.addresses import kept_name
from charlm.data.boilerplate import Boilerplate, strip_boilerplate
from charlm.data.columns import ColumnReader
from charlm.data.decoding import TextDecoder
from charlm.data.detection import check_codec, table_format
from charlm.data.documents import FileJoiner, marked_pieces, marked_text, split_documents
from charlm.data.downloads import local_path
from charlm.data.normalize import normalize_blocks
from charlm.data.records import (
    BEGINNING,
    RecordReader,
    field_names,
    format_of,
    is_table_file,
    list_fields,
    record_blocks,
)
from charlm.data.sources import Note, find_files, find_members, grouped, may_hold_files
from charlm.data.stream import STDIN, Block, ByteStream, Excerpt, Opened, label_of, too_large
from charlm.data.text_config import TextConfig
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

    As `open_texts`; raises ResourceError too, when memory is too small, and TextError for what is empty.
    """
    readers, notes = open_texts(names, config, encoding=encoding, field=field)
    texts = []
    for reader in readers:
        try:
            text = marked_text(reader.blocks())
        except MemoryError:
            raise too_large(label_of(reader.path)) from None
        texts += [(reader.path, text)] if text else []
        notes += [(reader.path, note) for note in reader.notes]
    if not texts:
        raise no_text([reader.path for reader in readers])
    return Texts(files=tuple(texts), notes=tuple(grouped(notes)))


def open_texts(
    names: Sequence[str],
    config: TextConfig,
    *,
    encoding: str | None = None,
    field: str | None = None,
) -> tuple[list["FileReader"], list[Note]]:
    """Open the files that `names` stand for, to be read as a run with these settings reads its own text. Return notes too.

    An `encoding` or a `field` given here holds for every file. Those of the run hold for the files that they
    fit: valid UTF-8 is read as UTF-8, a file without records as plain text, and a note says so. Raises
    UsageError for an unknown encoding or no names, TextError for what is missing. Reading raises TextError for what
    is unreadable, changing or not text.
    """
    if encoding is not None:
        check_codec(encoding)
    inherited = [name for name, given in (("encoding", encoding), ("field", field)) if given is None]
    config = replace(config, encoding=encoding or config.encoding, field=field or config.field)
    filters = (config.include, config.exclude) if any(map(may_hold_files, names)) else (None, None)
    paths, notes = find_files(names, *filters, config.encoding, field=config.field)
    for patterns, what in zip(
        filters, ("only files that match {} are read", "files that match {} are left out"), strict=True
    ):
        if patterns:
            notes.append((kept_name(names[0]), f"{what.format(' or '.join(patterns))}, as in the run's text"))
    filtered = replace(config, include=filters[0], exclude=filters[1])
    opened = [each for path in paths for each in files_of(path, filtered, notes)]
    return [FileReader(name, config, inherited=inherited, member=member) for name, member in opened], notes


def files_of(path: str, config: TextConfig, notes: list[Note]) -> list[tuple[str, Opened | None]]:
    """The files to read for a path that was found: itself, or those in an archive; notes are added to `notes`.

    Raises TextError for an archive that is damaged or contains no text.
    """
    found = find_members(path, config.include, config.exclude, config.encoding)
    if found is None:
        return [(path, None)]
    notes += found[1]
    return [(name, member.content) for name, member in found[0]]


def no_text(paths: Sequence[str]) -> TextError:
    """The TextError to raise when none of the files has a character."""
    named = f"the {len(paths)} files are" if len(paths) > 1 else f"{label_of(paths[0])} is"
    return TextError(f"{named} empty: 0 characters; give a text with at least one")


class FileReader:
    """Reads one file by the settings of a text.

    Complete once it is read: `notes`; `record_fields`, the fields of a file of records that is read as plain text
    (None for other files); and in `stream` and `decoder` how it was compressed and encoded.
    """

    def __init__(
        self,
        path: str,
        config: TextConfig,
        *,
        inherited: Collection[str] = (),
        member: Opened | None = None,
        label: str | None = None,
        watch: Callable[[int], None] = lambda n_bytes: None,
        excerpt: Excerpt | None = None,
    ) -> None:
        """`inherited`: which of `encoding` and `field` hold only if the file fits them.

        `member`: the content of a file in an archive, of which `path` is the name. `label` names the file in errors,
        `watch` is called with the bytes read, `excerpt` limits them.
        """
        self.path, self._label, self._config = path, label or label_of(path), config
        self._inherits_field = "field" in inherited
        self._local = path if path == STDIN or member else local_path(path)
        self.stream = ByteStream(self._local, self._label, member=member, watch=watch, excerpt=excerpt)
        self.decoder = TextDecoder(self._label, config.encoding, inherited="encoding" in inherited)
        self._excerpt = excerpt
        self.record_fields: list[str] | None = None
        self._notes: list[str] = []

    @property
    def notes(self) -> list[str]:
        """What the user should know about the file."""
        packed = [f"decompressed from {self.stream.compression}"] if self.stream.compression else []
        return [*packed, *self.decoder.notes, *self._notes]

    def pieces(self) -> Iterator[str]:
        """Yield the text with END where its documents end. Raises TextError if it cannot be read by these settings."""
        return marked_pieces(self.blocks())

    def blocks(
        self, joiner: FileJoiner | None = None, boilerplate: Boilerplate | None = None
    ) -> Iterator[Block]:
        """Yield the text. Raises TextError if it cannot be read by these settings.

        `joiner` keeps its first line apart from the file before. `boilerplate` counts Project Gutenberg's; without it, a
        note says how much was left out.
        """
        found = boilerplate or Boilerplate()
        pieces = self.stream.pieces()
        first = next(pieces, b"")  # only then is it known whether offsets in the pieces are those in the file
        form = table_format(first) if self.stream.is_plain else None
        blocks = self._field(self._decoded(chain([first], pieces))) if form is None else self._column(form)
        config = self._config  # without a field, where the file has none
        if config.strip is not None:
            blocks = strip_boilerplate(blocks, found)
        blocks = normalize_blocks(blocks, config)
        if joiner is not None and config.documents == "none":  # else the end of a document keeps files apart
            blocks = joiner.join(blocks, self.path)
        blocks = split_documents(blocks, config)
        counts = boilerplate is not None and config.strip is None and config.field is None
        yield from found.count_in(blocks) if counts else blocks
        if boilerplate is None and found.chars:
            left_out = f"Project Gutenberg's header and licence left out ({found.chars:,} characters)"
            self._notes.append(f"{left_out}, as in the run's text")

    def _column(self, form: str) -> Iterator[Block]:
        """Yield the text of a column of a Parquet or Arrow file."""
        if self._inherits_field and self._config.field is not None:
            self._notes.append(f"read only in its column {one_line(self._config.field)}, like the run's text")
        texts = ColumnReader(self._local, form, self._config.field, self._label).texts()
        blocks = record_blocks(texts, apart=self._config.documents == "line")
        return self._excerpt.beginning(blocks) if self._excerpt else blocks

    def _decoded(self, pieces: Iterator[bytes]) -> Iterator[Block]:
        path = self._local if self.stream.is_plain else None
        blocks = self.decoder.blocks(pieces, path)
        return self._excerpt.beginning(blocks) if self._excerpt else blocks

    def _field(self, blocks: Iterator[Block]) -> Iterable[Block]:
        """Yield the text of the field of every record, or all text of a file without a field to read."""
        first = next(blocks, None)
        if first is None:
            return ()
        blocks = chain([first], blocks)
        begin, field = first.text[:BEGINNING], self._config.field
        if field is None:
            self.record_fields = field_names(self.path, begin)
            if self.record_fields is not None and self._excerpt is None:  # an inspection says it itself
                what, signs = ("a table", "delimiters") if is_table_file(self.path) else ("JSON", "braces")
                said = f"{what}, read as plain text, including ids, {signs} and quotes"
                advice = "; to read one field only, add --field: " + list_fields(self.record_fields)
                self._notes.append(said + advice * bool(self.record_fields))
            return blocks
        found = format_of(self.path, begin, field)
        if self._inherits_field:
            if found is None:
                self._config = replace(self._config, field=None)
                self._notes.append(
                    f"read as plain text, because it has no records with a field {one_line(field)}"
                )
                return blocks
            self._notes.append(f"read only in its field {one_line(field)}, like the run's text")
        records = RecordReader(field, self._label, found, begin, self._notes)
        return records.blocks(blocks, apart=self._config.documents == "line")
