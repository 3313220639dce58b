"""The texts in a field of JSON lines, a JSON array or a table, read in blocks, each followed by a newline."""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import PurePath
from typing import Any

import numpy as np

from charlm.data.stream import PIECE, Block
from charlm.data.tokenizer import first_surrogate
from charlm.errors import TextError
from charlm.terminal import one_line

LONGEST_CELL = 1 << 25
"""Characters of one cell, or of one element of a JSON array: so much is held to find its end."""
LONGEST_LINE = 1 << 27
BEGINNING = 1 << 16
"""Characters by which it is told how a file is written."""
SHOWN = 20
"""Names of fields that a message lists."""
TABLES, PLAIN_TABLES = (".csv",), (".tsv", ".tab")
JSON = (".jsonl", ".ndjson", ".json")
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zstd", ".lzma")
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_SEPARATOR = re.compile(r'"?sep=([^"\s\w]|\t)"?\s*', re.IGNORECASE)
_BETWEEN = re.compile(r"\s*,?\s*")
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_WRITE_TWICE = (
    'Within a quoted cell each " is written twice (""); a file whose quotes are plain characters '
    "is read right as tab-separated .tsv"
)
_NAME_TSV = (
    "If its quotes are plain characters, name the file .tsv, which has no quoting; in a table with quoted cells each "
    'quote within a cell is written twice ("")'
)


@dataclass(frozen=True)
class Form:
    """How the records of a file are written: JSON lines, other JSON, or a table with its delimiter."""

    kind: str  # "lines", "values" (of a JSON array, or one after another) or "table"
    delimiter: str = ""
    quoted: bool = False  # may cells stand in quotes? In a .tsv they may not
    spaced: bool = False  # does a space follow each delimiter?


def suffix_of(path: str) -> str:
    """What a file's name ends in, in small letters, before the ending of a compression."""
    suffixes = [suffix.lower() for suffix in PurePath(path).suffixes]
    return next((suffix for suffix in reversed(suffixes) if suffix not in _COMPRESSED), "")


def holds_records(path: str) -> bool:
    """Does a file's name say that it holds records?"""
    return suffix_of(path) in (*TABLES, *PLAIN_TABLES, *JSON)


def is_table(path: str) -> bool:
    """Does a file's name say that it is a table?"""
    return suffix_of(path) in (*TABLES, *PLAIN_TABLES)


def form_of(path: str, begin: str, name: str = "") -> Form | None:
    """How the records of a file are written, by its name, else by how it begins; None for plain text.

    The delimiter of a table is the one that `sep=` names in its first line, or that finds the field
    `name` in its header, or else the most fields.
    """
    suffix, lines = suffix_of(path), [line for line in _first_lines(begin) if line.strip()]
    first = lines[0] if lines else ""
    if suffix in PLAIN_TABLES:
        return Form("table", "\t")
    if suffix in TABLES:
        return _table(lines, name)
    if suffix in JSON or first.lstrip().startswith("{"):
        form = Form("values" if suffix == ".json" and not _is_object(first) else "lines")
        return form if suffix in JSON or _names_of(form, begin) is not None else None
    if name and lines:
        table = _table(lines, name)
        header = _header(table, lines)
        if len(header) > 1 and name in header:
            return table
        return table if name.isdecimal() and _has_columns(table, lines, int(name)) else None
    return None


def _has_columns(table: Form, lines: list[str], column: int) -> bool:
    """Is it plainly a table, of tabs and rows of as many cells each, that has that column?"""
    numbers = {line.count(table.delimiter) + 1 for line in lines}
    return table.delimiter == "\t" and len(numbers) == 1 and 1 <= column <= min(numbers) > 1


def _is_object(line: str) -> bool:
    """Is a line a whole JSON object?"""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def names_of(path: str, begin: str) -> list[str] | None:
    """The fields of a file that holds records, by how it begins; None for plain text."""
    form = form_of(path, begin)
    return None if form is None else _names_of(form, begin) or []


def listed(names: Iterable[str]) -> str:
    """Names of fields, as a message shows them."""
    every = list(names)
    more = f" and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return ", ".join(map(one_line, every[:SHOWN])) + more or "none"


def _first_lines(text: str) -> list[str]:
    return [match.group() for match, _ in zip(_LINE.finditer(text), range(9), strict=False)]


def _table(lines: list[str], name: str) -> Form:
    """The form of a table with quotes that begins with these lines."""
    told = _SEPARATOR.fullmatch(lines[0]) if lines else None
    if told or not lines:
        return Form("table", told.group(1) if told else ",", quoted=True)
    forms = [Form("table", each, quoted=True, spaced=_is_spaced(lines[0], each)) for each in _DELIMITERS]
    return max(forms, key=lambda form: (name in _header(form, lines), len(_header(form, lines))))


def _is_spaced(header: str, delimiter: str) -> bool:
    return delimiter in header and header.count(delimiter) == header.count(f"{delimiter} ")


def _header(form: Form, lines: list[str]) -> list[str]:
    """The cells of the header of a table that begins with these lines."""
    rest = lines[1:] if form.quoted and lines and _SEPARATOR.fullmatch(lines[0]) else lines
    return next(_rows(form, rest[:1], strict=False), [])


def _rows(form: Form, lines: Iterable[str], *, strict: bool = True) -> Iterator[list[str]]:
    """The rows of a table, empty ones without a cell. Raises csv.Error."""
    if not form.quoted:
        stripped = (line.rstrip("\r\n") for line in lines)
        return (line.split(form.delimiter) if line else [] for line in stripped)
    csv.field_size_limit(LONGEST_CELL)
    return csv.reader(lines, delimiter=form.delimiter, strict=strict, skipinitialspace=form.spaced)


def _names_of(form: Form, begin: str) -> list[str] | None:
    if form.kind == "table":
        return _header(form, [line for line in _first_lines(begin) if line.strip()])
    start = begin.lstrip()
    start = start[1:].lstrip() if form.kind == "values" and start.startswith("[") else start
    try:
        record = json.JSONDecoder().raw_decode(start)[0]
    except (ValueError, RecursionError):
        return None
    return _texts(record) if isinstance(record, dict) else None


def _texts(record: dict[str, Any]) -> list[str]:
    """The fields of a record that hold text."""
    return [key for key, value in record.items() if isinstance(value, str)]


class Fields:
    """The field `name` of every record of a file, as text. `lines`: ends of lines read so far.

    `notes`: what is to be said of the file, complete once it is read.
    """

    def __init__(self, name: str, path: str, label: str, *, apart: bool = False) -> None:
        """The name and the beginning of a file tell how its records are written.

        `apart`: is each record a document?
        """
        self._name, self._path, self._label, self._apart = name, path, label, apart
        self.notes: list[str] = []
        self.lines = 0
        self._row = 0  # the number of the row that is read, the header's is 1
        self._begin = 0  # the line in which it begins

    def blocks(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Raises TextError, naming the place, for what is no record, and for one without the field."""
        texts_of = (block.text for block in blocks)
        begun: list[str] = []
        for piece in texts_of:
            begun.append(piece)
            if sum(map(len, begun)) >= BEGINNING:
                break
        begin, pieces = "".join(begun), chain(begun, texts_of)
        found = form_of(self._path, begin, self._name)
        if found is None and begin.strip() and begin.lstrip()[0] not in "{[":
            raise self._no_records(begin)
        form = found or Form("lines")
        texts: Iterator[str]
        if not begin:
            return
        if form.kind == "values":
            texts = map(self._value, self._elements(pieces))
        elif form.kind == "lines":
            texts = self._values(self._split(pieces))
        else:
            texts = self._cells(form, self._split(pieces))
        held: list[str] = []
        size = 0
        for text in texts:
            at = first_surrogate(text)
            if at is not None:
                raise self._wrong(f"has half a character in {one_line(self._name)} (U+{ord(text[at]):04X})")
            held += [text, "\n"]
            size += len(text) + 1
            if size >= PIECE:
                yield self._joined(held)
                held, size = [], 0
        if held:
            yield self._joined(held)

    def _no_records(self, begin: str) -> TextError:
        first = next((line for line in _first_lines(begin) if line.strip()), "")
        return TextError(
            f"{self._label} holds no records with a field {one_line(self._name)}: it is no JSON, and its first line "
            f"names no such column: {one_line(first.strip()[:60])}. Leave --field out to read it as plain text; a "
            "table is known by the ending .csv or .tsv, or by a header with that name."
        )

    def _joined(self, texts: list[str]) -> Block:
        text = "".join(texts)
        ends = np.cumsum([len(piece) for piece in texts], dtype=np.int64)[1::2] if self._apart else None
        return Block(text.encode(), text, ends=ends)

    def _split(self, pieces: Iterable[str]) -> Iterator[str]:
        r"""Lines with their ends: \n, \r\n or \r."""
        rest: list[str] = []
        size = 0
        for piece in chain(pieces, [""]):
            if rest and rest[-1].endswith("\r") and not piece.startswith("\n"):
                self.lines += 1
                yield "".join(rest)
                rest, size = [], 0
            for match in _LINE.finditer(piece):
                part = match.group()
                rest.append(part)
                size += len(part)
                if part.endswith("\n") or (part.endswith("\r") and match.end() < len(piece)):
                    self.lines += 1
                    yield "".join(rest)
                    rest, size = [], 0
            if size > LONGEST_LINE:
                raise TextError(
                    f"{self._label}, line {self.lines + 1}, is longer than {LONGEST_LINE:,} characters, too "
                    "long for a record. Divide it, or give its text as a plain file."
                )
        if rest:
            self.lines += 1
            yield "".join(rest)

    def _values(self, lines: Iterable[str]) -> Iterator[str]:
        """The field of JSON lines."""
        for line in lines:
            if line.isspace():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise self._wrong(
                    f"is no JSON ({error}); --field reads JSON lines, .json, .csv and .tsv"
                ) from None
            yield self._value(record)

    def _value(self, record: Any) -> str:
        if not isinstance(record, dict):
            raise self._wrong("is no JSON object; --field names one of an object's values")
        text = record.get(self._name)
        if not isinstance(text, str):
            raise self._wrong(self._lacks_text(record))
        return text

    def _elements(self, pieces: Iterable[str]) -> Iterator[Any]:
        """The elements of a JSON array, or JSON values one after another."""
        decoder, held, enough, before = json.JSONDecoder(), "", 0, 0
        opened = array = closed = False
        for piece in chain(pieces, [None]):
            held += piece if piece and not closed else ""
            if closed or (piece is not None and len(held) < enough) or not (opened or held.strip()):
                continue
            at = 0
            if not opened:
                opened, array = True, held.lstrip().startswith("[")
                at = held.index("[") + 1 if array else 0
            while True:
                start = _BETWEEN.match(held, at).end()  # type: ignore[union-attr]
                closed = array and held.startswith("]", start)
                if closed or start == len(held):
                    break
                self.lines = before + held.count("\n", 0, start) + 1
                try:
                    record, end = decoder.raw_decode(held, start)
                except (ValueError, RecursionError) as error:
                    if piece is None or len(held) - at > LONGEST_CELL or isinstance(error, RecursionError):
                        raise self._wrong(f"is no JSON ({error})") from None
                    break
                yield record
                at = end
            before += held.count("\n", 0, at)
            held = held[at:]
            enough = 2 * len(held)  # decoded anew only once it is twice as long: linear in all
        if array and not closed:
            raise self._wrong(
                "is the last one read of a JSON array that does not end; get the whole file again"
            )

    def _cells(self, form: Form, lines: Iterator[str]) -> Iterator[str]:
        """The field's column of a table."""
        lines, stretch = self._without_separator(form, lines), _Stretch(form)
        rows = _rows(form, stretch.watched(lines))
        header = self._next(rows, form) or []
        column, with_header = self._column(header)
        if form.delimiter != "," and form.quoted:
            self.notes.append(f"cells divided by {_DELIMITERS.get(form.delimiter, one_line(form.delimiter))}")
        stretch.end(0, self._row, self._begin)  # of the header, which is no row
        row = self._next(rows, form) if with_header else header
        quoted = 0
        while row is not None:
            if len(row) <= column:
                raise self._wrong(f"has {self._cells_of(row)}, too few for {one_line(self._name)}", row=True)
            if len(row) > len(header) and any(row[len(header) :]):
                raise self._wrong(
                    f"has {self._cells_of(row)}, and the header {len(header)}: {self._remedy_for_more(form)}",
                    row=True,
                )
            quoted += not form.quoted and bool(_QUOTED.fullmatch(row[column]))
            stretch.end(len(header), self._row, self._begin)
            yield row[column]
            row = self._next(rows, form)
        if quoted:
            self.notes.append(
                f"cells that stand in quotes: {quoted:,}; a .tsv has no quoting, so the quotes are kept as characters; "
                "where they only enclose the cell, name the file .csv"
            )
        if stretch.found:
            self.notes.append(stretch.found)

    def _without_separator(self, form: Form, lines: Iterator[str]) -> Iterator[str]:
        """The lines of a table but for a first one that names the delimiter (`sep=;`)."""
        first = next(lines, "")
        if form.quoted and _SEPARATOR.fullmatch(first):
            self._row, self._begin = self._row + 1, self.lines + 1
        else:
            yield first
        yield from lines

    def _next(self, rows: Iterator[list[str]], form: Form) -> list[str] | None:
        """The next row that has cells; None at the end. TextError where its quotes are not balanced."""
        try:
            while True:
                self._row, self._begin = self._row + 1, self.lines + 1
                row = next(rows, None)
                if row != []:
                    return row
        except csv.Error as error:
            remedy = _NAME_TSV if form.delimiter == "\t" else _WRITE_TWICE
            raise self._wrong(f"{self._why(str(error))}. {remedy}", row=True) from None

    def _why(self, error: str) -> str:
        """What the csv module says, in words that tell what to look for."""
        upto = f", up to line {self.lines}" if self.lines > self._begin else ""
        if "unexpected end" in error:
            return "opens a quote that is never closed" + upto
        if "field limit" in error:
            return f"has a cell of more than {LONGEST_CELL:,} characters; a quote is probably never closed"
        if "expected after" in error:
            return f"has unbalanced quotes: text follows a closing quote{upto}"
        return f"cannot be read as a table: {error}"

    def _column(self, header: list[str]) -> tuple[int, bool]:
        """The place of the field among the cells of a row, and whether the first row names the fields."""
        found = header.count(self._name)
        if found > 1:
            raise self._wrong(f"names {found} fields {one_line(self._name)}; rename all but one", row=True)
        if found:
            return header.index(self._name), True
        if self._name.isdecimal() and 0 < int(self._name) <= len(header):
            self.notes.append(
                f"column {int(self._name)} is read from the first row on, as of a table without header"
            )
            return int(self._name) - 1, False
        by_number = ", or a column by its number where there is no header"
        if self._name in [cell.strip('"') for cell in header]:
            by_number = "; a .tsv has no quoting: name the file .csv if quotes enclose its cells"
        raise self._wrong(self._lacks(header, header) + by_number, row=True)

    def _cells_of(self, row: list[str]) -> str:
        return f"{len(row)} cell{'s' * (len(row) != 1)}"

    def _remedy_for_more(self, form: Form) -> str:
        if not form.quoted:
            what = "there is a tab within a cell, which a .tsv cannot have; take it out"
        else:
            what = f"a cell with {one_line(form.delimiter)} in it must stand in quotes"
        return f"{what}. If each row begins with a name, as R writes them, name that column in the header too"

    def _lacks(self, names: Iterable[str], texts: Iterable[str]) -> str:
        what = "has no text in" if self._name in names else "has no field"
        return f"{what} {one_line(self._name)}; --field can name: {listed(texts)}"

    def _lacks_text(self, record: dict[str, Any]) -> str:
        """What is said of a record without text in that field."""
        others = _texts(record)
        if self._name in record:
            kind = {type(None): "null", bool: "true or false", list: "a list", dict: "an object"}
            what = f"has {kind.get(type(record[self._name]), 'a number')} in the field {one_line(self._name)}, which must be text"
        else:
            what = f"has no field {one_line(self._name)}" + ("" if others else ", and no other that is text")
        can = f"; --field can name: {listed(others)}" if others else ""
        nested = any(isinstance(value, dict | list) for value in record.values())
        more = (
            "; what lies within another field cannot be named: take it out first, as with jq"
            if nested
            else ""
        )
        return f"{what}{can}{more or '; leave such records out, or give each of them a text'}"

    def _wrong(self, what: str, *, row: bool = False) -> TextError:
        where = f"row {self._row}, line {self._begin}," if row else f"line {self.lines},"
        return TextError(f"{self._label}, {where} {what}.")


class _Stretch:
    """Looks out for a cell in quotes that spans lines which look like rows: its quote may be a mistake."""

    def __init__(self, form: Form) -> None:
        self._form = form
        self._delimiters: list[int] = []  # in each of the lines of this row
        self.found = ""

    def watched(self, lines: Iterable[str]) -> Iterator[str]:
        """The lines, looked at as they go by."""
        for line in lines:
            if not self.found and len(self._delimiters) < SHOWN:
                self._delimiters.append(line.count(self._form.delimiter))
            yield line

    def end(self, cells: int, row: int, line: int) -> None:
        """A row of a table with so many cells in its header ends."""
        counts, self._delimiters = self._delimiters, []
        if (
            len(counts) > 1
            and cells > 1
            and set(counts) == {cells - 1}
            and self._form.quoted
            and not self.found
        ):
            self.found = (
                f"row {row}, line {line}, has a cell in quotes over lines that each look like a row; if its first "
                'quote is a mistake, write it twice ("") and enclose the cell'
            )
