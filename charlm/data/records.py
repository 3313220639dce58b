"""Read one field of the records in JSON Lines, a JSON array, CSV or TSV as text, each value followed by a newline."""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np

from charlm.data.sources import suffix_of
from charlm.data.stream import PIECE, Block
from charlm.data.tokenizer import first_surrogate
from charlm.errors import TextError
from charlm.terminal import one_line

LONGEST_CELL = 1 << 25
"""Longest cell or JSON value, in characters: how much is held while its end is sought."""
LONGEST_LINE = 1 << 27
BEGINNING = 1 << 16
"""Characters that decide the format of a file."""
FIRST_LINES = 9
SHOWN = 20
"""Names of fields that a message lists, and lines of a table row that are compared."""
_QUOTED_TABLES, _PLAIN_TABLES = (".csv",), (".tsv", ".tab")
_JSON_FILES = (".jsonl", ".ndjson", ".json")
_COLUMN_FILES = (".parquet", ".arrow", ".feather")
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_SEPARATOR = re.compile(r'"?sep=([^"\s\w]|\t)"?\s*', re.IGNORECASE)
_BETWEEN = re.compile(r"\s*,?\s*")
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


@dataclass(frozen=True)
class Format:
    """How records are written: as JSON values, or as a table with a delimiter."""

    delimiter: str = ""  # empty for JSON
    quoted: bool = False  # whether cells may stand in quotes; in a .tsv they may not
    spaced: bool = False  # whether a space follows each delimiter

    def rows(self, lines: Iterable[str], *, strict: bool = True) -> Iterator[list[str]]:
        """The rows of a table; an empty line is a row without cells. Raises csv.Error."""
        if not self.quoted:
            stripped = (line.rstrip("\r\n") for line in lines)
            return (line.split(self.delimiter) if line else [] for line in stripped)
        csv.field_size_limit(LONGEST_CELL)
        return csv.reader(lines, delimiter=self.delimiter, strict=strict, skipinitialspace=self.spaced)

    def header(self, lines: list[str]) -> list[str]:
        """The cells of the header of a table that begins with these lines."""
        first = lines[1:2] if self.quoted and lines and _SEPARATOR.fullmatch(lines[0]) else lines[:1]
        return next(self.rows(first, strict=False), [])


_JSON = Format()


def is_table_file(path: str) -> bool:
    """Whether the suffix of a file is that of a table."""
    return suffix_of(path) in (*_QUOTED_TABLES, *_PLAIN_TABLES)


def is_record_file(path: str) -> bool:
    """Whether the suffix of a file is that of a table, of JSON, of Parquet or of Arrow."""
    return is_table_file(path) or suffix_of(path) in (*_JSON_FILES, *_COLUMN_FILES)


def format_of(path: str, begin: str, field: str = "") -> Format | None:
    """The format of a file's records, by its suffix, else by how it begins; None for plain text.

    The delimiter of a table is the one that `sep=` names in its first line, or that gives a header with
    `field`, or else the one that gives the most columns.
    """
    suffix, lines = suffix_of(path), _first_lines(begin)
    if suffix in _PLAIN_TABLES:
        return Format("\t")
    if suffix in _QUOTED_TABLES:
        return _table_format(lines, field)
    if suffix in _JSON_FILES or begin.lstrip().startswith("{"):
        return _JSON if suffix in _JSON_FILES or _json_fields(begin) is not None else None
    if field and lines:
        table = _table_format(lines, field)
        widths = {line.count(table.delimiter) + 1 for line in lines}
        is_column = field.isdecimal() and table.delimiter == "\t" and len(widths) == 1
        header = table.header(lines)
        if (len(header) > 1 and field in header) or (is_column and 1 <= int(field) <= min(widths) > 1):
            return table
    return None


def field_names(path: str, begin: str) -> list[str] | None:
    """Return the fields in a file of records that begins with `begin`; None for plain text."""
    form = format_of(path, begin)
    if form is None:
        return None
    return form.header(_first_lines(begin)) if form.delimiter else _json_fields(begin) or []


def list_fields(names: Iterable[str]) -> str:
    """List names of fields for a message."""
    every = list(names)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(map(one_line, every[:SHOWN])) + more or "none"


def _first_lines(text: str) -> list[str]:
    """The first lines of a text, without blank ones."""
    return [line for match in islice(_LINE.finditer(text), FIRST_LINES) if (line := match.group()).strip()]


def _table_format(lines: list[str], field: str) -> Format:
    first = lines[0] if lines else "sep=,"
    if separator := _SEPARATOR.fullmatch(first):
        return Format(separator.group(1), quoted=True)
    spaced = {each: 0 < first.count(each) == first.count(f"{each} ") for each in _DELIMITERS}
    headers = {
        form: form.header(lines) for form in (Format(each, True, spaced[each]) for each in _DELIMITERS)
    }
    return max(headers, key=lambda form: (field in headers[form], len(headers[form])))


def _json_fields(begin: str) -> list[str] | None:
    """The fields of the first JSON object that hold text; None if there is no JSON object."""
    start = begin.lstrip().removeprefix("[").lstrip()
    try:
        record = json.JSONDecoder().raw_decode(start)[0]
    except (ValueError, RecursionError):
        return None
    return _text_fields(record) if isinstance(record, dict) else None


def _text_fields(record: dict[str, Any]) -> list[str]:
    return [key for key, value in record.items() if isinstance(value, str)]


def record_blocks(texts: Iterable[str], *, apart: bool) -> Iterator[Block]:
    """Pack the texts of records into blocks, a newline after each; with `apart` each is a document."""
    held: list[str] = []
    size = 0
    for text in chain(texts, [None]):
        if text is not None:
            held.append(text + "\n")
            size += len(text) + 1
        if held and (text is None or size >= PIECE):
            ends = np.cumsum([len(text) for text in held], dtype=np.int64) if apart else None
            yield Block.of("".join(held), ends)
            held, size = [], 0


class RecordReader:
    """Reads a field of every record of one file."""

    def __init__(self, field: str, label: str, form: Format | None, begin: str, notes: list[str]) -> None:
        """`form` and `begin` are the file's format, if it is known, and how it begins.

        `label` names the file in errors; notes for the user are added to `notes`. Raises TextError for a file
        that holds no records.
        """
        self._field, self._label, self._notes = field, label, notes
        if form is None and begin.strip() and begin.lstrip()[0] not in "{[":
            first = next(iter(_first_lines(begin)), "").strip()[:60]
            raise TextError(
                f"{label} has no records with a field {one_line(field)}: it is not JSON, and its first line names no "
                f"such column: {one_line(first)}; to read it as plain text, leave out --field; charlm recognises a "
                "table by the suffix .csv or .tsv, or by a header with that name"
            )
        self._form = form or _JSON
        self._line = 0  # the line of the current record, or lines of a table so far
        self._row = 0  # the number of the current row; the header's is 1
        self._row_begin = 0  # the line in which it begins
        self._widths: list[int] = []  # delimiters in each of the first lines of the current row

    def blocks(self, blocks: Iterable[Block], *, apart: bool = False) -> Iterator[Block]:
        """Yield the texts in blocks, each text a document if `apart`.

        Raises TextError, naming the place, for what is no record and for a record without the field.
        """
        texts = self._cells(self._lines(blocks)) if self._form.delimiter else self._json_texts(blocks)
        return record_blocks(map(self._whole, texts), apart=apart)

    def _whole(self, text: str) -> str:
        """Return the text. Raises TextError if it has a lone surrogate."""
        at = first_surrogate(text)
        if at is not None:
            raise self._wrong(f"has half a character in {one_line(self._field)} (U+{ord(text[at]):04X})")
        return text

    def _lines(self, blocks: Iterable[Block]) -> Iterator[str]:
        r"""Lines with their ends: \n, \r\n or \r."""
        file = io.TextIOWrapper(io.BufferedReader(_BlockFile(blocks)), "utf-8", newline="")
        while line := file.readline(LONGEST_LINE + 1):
            self._line += 1
            if len(line) > LONGEST_LINE:
                raise self._wrong(
                    f"is longer than {LONGEST_LINE:,} characters, too long for a record; divide it, or give its text "
                    "as a plain file"
                )
            yield line

    def _json_texts(self, blocks: Iterable[Block]) -> Iterator[str]:
        """Yield the field of JSON objects that come one a line, one after another, or in an array."""
        decoder, held, needed = json.JSONDecoder(), "", 0
        is_array = is_closed = False
        for block in chain(blocks, [None]):
            if is_closed:  # the file is read to its end all the same
                continue
            held += block.text if block else ""
            if not held or held.isspace() or (block and len(held) < needed):
                continue
            at = 0
            if not self._line:
                is_array = held.lstrip().startswith("[")
                at = held.index("[") + 1 if is_array else 0
                self._line = 1 + held.count("\n", 0, at)
            while True:
                start = _BETWEEN.match(held, at).end()  # type: ignore[union-attr]
                self._line, at = self._line + held.count("\n", at, start), start
                is_closed = is_array and held.startswith("]", at)
                if is_closed or at == len(held):
                    break
                try:
                    record, end = decoder.raw_decode(held, at)
                except (ValueError, RecursionError) as error:
                    why = str(error)
                    if isinstance(error, json.JSONDecodeError):
                        if block and len(held) - at <= LONGEST_CELL:  # more of it may follow
                            break
                        why = f"{error.msg} at column {error.pos - held.rfind(chr(10), 0, error.pos)}"
                    raise self._wrong(f"is not JSON ({why}); --field reads JSON, .csv and .tsv") from None
                yield self._value(record)
                self._line, at = self._line + held.count("\n", at, end), end
            held = held[at:]
            needed = 2 * len(held)  # tried again only once it is twice as long, which keeps the total linear
        if is_array and not is_closed:
            raise self._wrong("is the last one of a JSON array that does not end; get the whole file again")

    def _value(self, record: Any) -> str:
        """Return the field of a JSON record. Raises TextError if it has none, or no text there."""
        if not isinstance(record, dict):
            raise self._wrong("is not a JSON object; --field names one of an object's values")
        text = record.get(self._field)
        if isinstance(text, str):
            return text
        others, name = _text_fields(record), one_line(self._field)
        if self._field in record:
            kinds = {type(None): "null", bool: "true or false", list: "a list", dict: "an object"}
            what = f"has {kinds.get(type(text), 'a number')} in the field {name}, which must be text"
        else:
            what = f"has no field {name}" + ("" if others else ", and no other that is text")
        what += f"; available fields: {list_fields(others)}" if others else ""
        nested = any(isinstance(value, dict | list) for value in record.values())
        advice = "--field cannot reach nested fields; extract the text first, for example with jq"
        raise self._wrong(
            f"{what}; {advice if nested else 'remove such records, or give each of them a text'}"
        )

    def _cells(self, lines: Iterator[str]) -> Iterator[str]:
        """Yield the cells of the field's column in a table."""
        form, name = self._form, one_line(self._field)
        rows = form.rows(self._watched(lines))
        header = self._next_row(rows) or []
        column, with_header = self._column(header)
        if form.delimiter != "," and form.quoted:
            delimiters = _DELIMITERS.get(form.delimiter, one_line(form.delimiter))
            self._notes.append(f"its cells are separated by {delimiters}")
        row = self._next_row(rows) if with_header else header
        in_quotes, suspicious = 0, ""
        while row is not None:
            cells = f"has {len(row)} cell{'s' * (len(row) != 1)}"
            if len(row) <= column:
                raise self._wrong(f"{cells}, too few for {name}", row=True)
            if len(row) > len(header) and any(row[len(header) :]):
                what = "a cell contains a tab, which a .tsv file does not allow; remove the tab"
                if form.quoted:
                    what = f"a cell with {one_line(form.delimiter)} in it must be quoted"
                raise self._wrong(
                    f"{cells}, and the header {len(header)}: {what}; if each row begins with a name, as R writes "
                    "them, name that column in the header too",
                    row=True,
                )
            if not form.quoted:
                in_quotes += bool(_QUOTED.fullmatch(row[column]))
            elif not suspicious and len(self._widths) > 1 and {*self._widths} == {len(header) - 1} != {0}:
                suspicious = f"row {self._row}, line {self._row_begin}"
            yield row[column]
            row = self._next_row(rows)
        if in_quotes:
            self._notes.append(
                f"cells in quotes: {in_quotes:,}; a .tsv has no quoting, so the quotes are kept as characters; if they "
                "only enclose the cell, name the file .csv"
            )
        if suspicious:
            self._notes.append(
                f"{suspicious}, has a cell in quotes over lines that each look like a row; if its first quote is a "
                'mistake, write it twice ("") and enclose the cell'
            )

    def _watched(self, lines: Iterator[str]) -> Iterator[str]:
        """The lines of a table, without one at the beginning that only names the delimiter (`sep=;`)."""
        for line in lines:
            if self._line == 1 and self._form.quoted and _SEPARATOR.fullmatch(line):
                self._row, self._row_begin = self._row + 1, 2
                continue
            if len(self._widths) < SHOWN:
                self._widths.append(line.count(self._form.delimiter))
            yield line

    def _next_row(self, rows: Iterator[list[str]]) -> list[str] | None:
        """The next row that has cells; None at the end. Raises TextError if its quotes are not balanced."""
        row: list[str] | None = []
        try:
            while row == []:
                self._row, self._row_begin, self._widths = self._row + 1, self._line + 1, []
                row = next(rows, None)
        except csv.Error as error:
            upto = f", up to line {self._line}" if self._line > self._row_begin else ""
            known = {
                "unexpected end": f"opens a quote that is never closed{upto}",
                "field limit": f"has a cell of more than {LONGEST_CELL:,} characters; a quote is probably never closed",
                "expected after": f"has unbalanced quotes: text follows a closing quote{upto}",
            }
            what = next(
                (known[words] for words in known if words in str(error)),
                f"cannot be read as a table: {error}",
            )
            raise self._wrong(
                f'{what}; within a quoted cell, write each " twice (""); if its quotes are plain characters, give it '
                "as tab-separated text in a file named .tsv, which has no quoting",
                row=True,
            ) from None
        return row

    def _column(self, header: list[str]) -> tuple[int, bool]:
        """The index of the field's column, and whether the first row is a header."""
        field, name = self._field, one_line(self._field)
        found = header.count(field)
        if found > 1:
            raise self._wrong(f"names {found} fields {name}; rename all but one", row=True)
        if found:
            return header.index(field), True
        if field.isdecimal() and 0 < int(field) <= len(header):
            self._notes.append(
                f"column {int(field)} is read from the first row, as in a table without a header"
            )
            return int(field) - 1, False
        advice = ", or a column by its number where there is no header"
        if field in [cell.strip('"') for cell in header]:
            advice = "; a .tsv has no quoting: name the file .csv if quotes enclose its cells"
        raise self._wrong(f"has no field {name}; available fields: {list_fields(header)}{advice}", row=True)

    def _wrong(self, what: str, *, row: bool = False) -> TextError:
        where = f"row {self._row}, line {self._row_begin}," if row else f"line {self._line},"
        return TextError(f"{self._label}, {where} {what}")


class _BlockFile(io.RawIOBase):
    """The UTF-8 of blocks, as a file."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        self._blocks, self._rest = iter(blocks), memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest and (block := next(self._blocks, None)):
            self._rest = memoryview(block.utf8)
        n = min(len(buffer), len(self._rest))
        buffer[:n], self._rest = self._rest[:n], self._rest[n:]
        return n
