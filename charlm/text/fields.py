"""The texts in a field of JSON lines or of a CSV table, read in blocks, each followed by a newline."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import PurePath

import numpy as np

from charlm.errors import TextError
from charlm.terminal import one_line
from charlm.text.stream import PIECE, Block
from charlm.text.vocabulary import first_surrogate

LONGEST_CELL = 1 << 27
_TABLES = {".csv": ",", ".tsv": "\t"}


class Fields:
    """The field `name` of every record of a file, as text. `lines`: line feeds read so far."""

    def __init__(self, name: str, path: str, label: str, *, apart: bool = False) -> None:
        """`path` tells the form: .csv and .tsv are tables, all others JSON lines.

        `apart`: is each record a document?
        """
        self._name, self._label, self._apart = name, label, apart
        suffixes = [suffix.lower() for suffix in PurePath(path).suffixes[-2:]]  # notes.csv.gz
        self._delimiter = next((_TABLES[suffix] for suffix in suffixes if suffix in _TABLES), None)
        self.lines = 0

    def blocks(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Raises TextError, naming the line, for what is no record, and for one without the field."""
        lines = self._split(blocks)
        texts = self._cells(lines, self._delimiter) if self._delimiter else self._values(lines)
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

    def _joined(self, texts: list[str]) -> Block:
        text = "".join(texts)
        ends = np.cumsum([len(piece) for piece in texts], dtype=np.int64)[1::2] if self._apart else None
        return Block(text.encode(), text, ends=ends)

    def _split(self, blocks: Iterable[Block]) -> Iterator[str]:
        """Lines with their ends."""
        rest: list[str] = []
        for block in blocks:
            first, *others = block.text.split("\n")
            rest.append(first)
            for line in others:
                self.lines += 1
                yield "".join(rest) + "\n"
                rest = [line]
        if last := "".join(rest):
            self.lines += 1
            yield last

    def _values(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            if line.isspace():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise self._wrong(f"is no JSON ({error}); --field reads JSON lines, .csv and .tsv") from None
            if not isinstance(record, dict):
                raise self._wrong("is no JSON object; --field names one of an object's values")
            if not isinstance(record.get(self._name), str):
                raise self._wrong(self._lacks(record, [k for k, v in record.items() if isinstance(v, str)]))
            yield record[self._name]

    def _cells(self, lines: Iterable[str], delimiter: str) -> Iterator[str]:
        csv.field_size_limit(LONGEST_CELL)
        try:
            rows = csv.reader(lines, delimiter=delimiter, strict=True)
            header = next(rows, [])
            if self._name not in header:
                raise self._wrong(self._lacks(header, header))
            column = header.index(self._name)
            for row in rows:
                if row and len(row) <= column:
                    raise self._wrong(f"has {len(row)} cells, too few for {one_line(self._name)}")
                if row:
                    yield row[column]
        except csv.Error as error:
            raise self._wrong(f"cannot be read as a table: {error}") from None

    def _lacks(self, names: Iterable[str], texts: Iterable[str]) -> str:
        what = "has no text in" if self._name in names else "has no field"
        there = ", ".join(map(one_line, texts)) or "none"
        return f"{what} {one_line(self._name)}; --field can name: {there}"

    def _wrong(self, what: str) -> TextError:
        return TextError(f"{self._label}, line {self.lines}, {what}.")
