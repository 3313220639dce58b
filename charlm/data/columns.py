"""Read one text column of a Parquet file, an Arrow file or an Arrow stream, with pyarrow and in bounded memory."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from charlm.data.records import list_fields
from charlm.errors import TextError
from charlm.terminal import one_line

if TYPE_CHECKING:
    import pyarrow

ROWS = 1024
"""Rows of a Parquet file that are decoded at once."""
BUFFER = 1 << 20


class ColumnReader:
    """Reads a column of one file."""

    def __init__(self, path: str, form: str, field: str | None, label: str) -> None:
        """`path` is a local file of the format `form`, as `table_format` says; `label` names it in errors."""
        self._path, self._form, self._field, self._label = path, form, field, label

    def texts(self) -> Iterator[str]:
        """Yield the text of each row. Raises TextError for a damaged file, a column that is not text, and a null."""
        try:
            import pyarrow
        except ImportError:
            raise TextError(
                f"{self._label} is a {self._kind}; reading it needs pyarrow, which is not installed; install it with: "
                'pip install "charlm-cli[parquet]"'
            ) from None
        row = 0
        try:
            for batch in self._batches(pyarrow):
                column = batch.column(0)
                column.validate(full=True)  # a damaged offset could lead anywhere
                for text in column.to_pylist():
                    row += 1
                    if text is None:
                        raise TextError(
                            f"{self._label}, row {row:,} has null in the column {one_line(self._field or '')}, which must be "
                            "text; remove such rows"
                        )
                    yield text
        except (pyarrow.ArrowException, OSError, ValueError, LookupError) as error:
            why = one_line(str(error)).rstrip(".")
            raise TextError(
                f"{self._label} is damaged after row {row:,}: {why}; get the file again"
            ) from None

    @property
    def _kind(self) -> str:
        return "Parquet file" if self._form == "parquet" else "file of Arrow"

    def _batches(self, arrow: Any) -> "Iterator[pyarrow.RecordBatch]":
        """Yield record batches that have only this column."""
        if self._form == "parquet":
            import pyarrow.parquet

            with pyarrow.parquet.ParquetFile(
                self._path, memory_map=False, pre_buffer=False, buffer_size=BUFFER
            ) as file:
                column = self._column(file.schema_arrow)
                yield from (
                    batch.select([column]) for batch in file.iter_batches(ROWS, columns=[self._field])
                )
            return
        with arrow.OSFile(self._path) as source:
            if self._form == "arrow-stream":
                reader = arrow.ipc.open_stream(source)
                column = self._column(reader.schema)
                yield from (batch.select([column]) for batch in reader)
            else:
                reader = arrow.ipc.open_file(source)
                column = self._column(reader.schema)
                yield from (reader.get_batch(i).select([column]) for i in range(reader.num_record_batches))

    def _column(self, schema: "pyarrow.Schema") -> str:
        """Return the column's name. Raises TextError unless there is one such column, and it is text."""
        texts = [field.name for field in schema if _is_text(field.type)]
        available = f"columns with text: {list_fields(texts)}"
        if self._field is None:
            raise TextError(
                f"{self._label} is a {self._kind}; name the column to read with --field; {available}"
            )
        name, count = one_line(self._field), schema.names.count(self._field)
        if count != 1:
            what = f"names {count} columns {name}" if count else f"has no column {name}"
            raise TextError(f"{self._label} {what}; {available}")
        kind = schema.field(self._field).type
        if not _is_text(kind):
            raise TextError(
                f"{self._label} has {one_line(str(kind))} in the column {name}, which must be text; {available}"
            )
        return self._field


def _is_text(kind: Any) -> bool:
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))
