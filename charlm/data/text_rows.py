"""Texts in memory: any iterable of strings, or a column of a table of datasets, pandas or polars.

Strings are read like files, one after another; those of a column with `field` are read like records. Neither is kept
in memory: a generator is read once. None of the three packages is imported; their objects are known by their methods.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

import numpy as np

from charlm.data.boilerplate import Boilerplate, strip_boilerplate
from charlm.data.documents import FileJoiner, split_documents
from charlm.data.normalize import normalize_blocks
from charlm.data.records import list_fields, record_blocks
from charlm.data.stream import PIECE, Block
from charlm.data.text_config import TextConfig
from charlm.errors import TextError, UsageError
from charlm.terminal import one_line

ROWS = 1000
"""Rows of a `datasets` table that are decoded at once."""


def strings_of(texts: Any, field: str | None) -> Iterable[object]:
    """Return the strings in what was passed as `texts=`. Raises UsageError if there are none, or a `field` is needed."""
    if isinstance(texts, str | bytes | os.PathLike) or (isinstance(texts, Sized) and not len(texts)):
        raise UsageError(
            "texts must be a list or another iterable of at least one text; pass file names without texts="
        )
    if isinstance(texts, Mapping):
        raise UsageError(
            f"texts has several parts ({list_fields(map(str, texts))}); pass one of them: texts=data[NAME]"
        )
    columns = getattr(texts, "column_names", None)
    columns = getattr(texts, "columns", None) if columns is None else columns
    if columns is None and not hasattr(texts, "select_columns"):
        if field is not None:
            raise UsageError(f"field={field!r} has no effect on strings, which have no fields; leave it out")
        if not isinstance(texts, Iterable):
            raise UsageError(f"texts is a {type(texts).__name__}; it must be an iterable of strings")
        return texts
    available = "" if columns is None else f"; available: {list_fields(map(str, columns))}"
    if field is None:
        raise UsageError(f"texts is a table; name the column to read with field={available}")
    if columns is not None and field not in list(columns):
        raise UsageError(f"texts has no column {one_line(field)}{available}")
    if hasattr(texts, "select_columns"):  # datasets would decode images in other columns
        return (text for rows in texts.select_columns([field]).iter(ROWS) for text in rows[field])
    column: Iterable[object] = texts[field]
    return column


class TextRows:
    """The strings of `texts=`, as the text of a run; `count` tells how many there were once they are read."""

    def __init__(self, texts: Any, config: TextConfig) -> None:
        """Raises UsageError as `strings_of`."""
        self._strings, self._config = strings_of(texts, config.field), config
        self.count = 0

    def blocks(self, boilerplate: Boilerplate) -> Iterator[Block]:
        """Yield the text. Raises TextError for what is not a string, or has a lone surrogate."""
        config = self._config
        if config.field is not None:
            rows = (str(block.utf8, "utf-8") for block in map(self._block, self._strings))
            records = record_blocks(rows, apart=config.documents == "line")
            yield from split_documents(normalize_blocks(records, config), config)
        else:
            yield from _joined(self._as_files(boilerplate))

    def _as_files(self, boilerplate: Boilerplate) -> Iterator[Block]:
        config, joiner = self._config, FileJoiner()
        for text in self._strings:
            blocks: Iterable[Block] = [self._block(text)]
            if config.strip is not None:
                blocks = strip_boilerplate(blocks, boilerplate)
            blocks = normalize_blocks(blocks, config)
            if config.documents == "none":
                blocks = joiner.join(blocks, "")
            yield from split_documents(blocks, config)

    def _block(self, text: object) -> Block:
        if not isinstance(text, str):
            raise TextError(
                f"text {self.count} is of the type {type(text).__name__}, not a string; leave such texts out"
            )
        try:
            block = Block.of(text)
        except UnicodeEncodeError:
            raise TextError(
                f"text {self.count} is not valid text: it contains half of a surrogate pair"
            ) from None
        self.count += 1
        return block


def _joined(blocks: Iterable[Block]) -> Iterator[Block]:
    """Merge blocks into fewer, since each costs as much as some thousand characters."""
    held, ends = list[bytes](), list[Any]()
    chars = size = 0

    def together() -> Block:
        return Block(b"".join(held), ends=np.concatenate(ends) if ends else None)

    for block in blocks:
        if block.ends is not None:
            ends.append(block.ends + chars)
        held.append(block.utf8)
        chars, size = chars + block.n_chars, size + len(block.utf8)
        if size >= PIECE:
            yield together()
            held, ends = [], []
            chars = size = 0
    if held:
        yield together()
