"""Columns of Parquet and Arrow files are read as the fields of records are, in bounded memory; or one sentence."""

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from charlm.data.load import load
from charlm.data.text_config import TextConfig
from charlm.errors import CharlmError, TextError
from tests.conftest import Result

ROWS = [f"{i} little ducks, né {i * i % 97} 鴨\nand geese" for i in range(3000)]
FORMATS = ("parquet", "arrow", "stream.arrow")


@pytest.fixture(autouse=True)
def _elsewhere(elsewhere: Path) -> None: ...


def table(**columns: Any) -> Any:
    return pytest.importorskip("pyarrow", reason="needs the extra parquet").table(columns)


def save(data: Any, name: str) -> str:
    import pyarrow
    import pyarrow.parquet

    if name.endswith(".parquet"):
        pyarrow.parquet.write_table(data, name, row_group_size=700)
        return name
    opens = pyarrow.ipc.new_stream if "stream" in name else pyarrow.ipc.new_file
    with pyarrow.OSFile(name, "wb") as sink, opens(sink, data.schema) as writer:
        writer.write_table(data, max_chunksize=500)
    return name


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("documents", ["none", "line"])
def test_a_column_is_read_as_the_field_of_records(form: str, documents: str) -> None:
    data = table(n=list(range(len(ROWS))), text=ROWS, other=["x"] * len(ROWS))
    if form == "arrow":
        data = data.set_column(1, "text", data["text"].dictionary_encode())
    Path("a.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in ROWS))
    config = TextConfig(field="text", documents=documents)
    columns, records = (load([name], config).corpus for name in (save(data, f"a.{form}"), "a.jsonl"))
    assert (columns.sha256, columns.ends, columns.key) == (records.sha256, records.ends, records.key)


@pytest.mark.parametrize("form", FORMATS)
def test_a_column_that_is_no_text_is_one_sentence(form: str) -> None:
    path = save(table(n=[1, 2], text=["a", None], other=["x", "y"]), f"a.{form}")
    for field, said in (
        (None, "name the column to read with --field; columns with text: text, other"),
        ("nope", "has no column nope; columns with text: text, other"),
        ("n", "has int64 in the column n, which must be text"),
        ("text", "row 2 has null in the column text"),
    ):
        with pytest.raises(TextError, match=said):
            load([path], TextConfig(field=field))


def test_the_commands_read_columns(charlm: Callable[..., Result]) -> None:
    Path("data").mkdir()
    data = table(text=ROWS[:60])
    save(data, "data/1.parquet")
    save(data, "data/2.parquet")
    Path("data/README.md").write_text("about the data\n")
    words = ("train", "data", "--field", "text", "--include", "*.parquet", "--model", "ngram", "--run", "a")
    done = charlm(*words)
    assert done.code == 0, done.err
    done = charlm("eval", "data/1.parquet")
    assert done.code == 0 and "read only in its column text, like the run's text" in done.err
    done = charlm("train", "data", "--dry-run")  # without --field what is no text is left out, as before
    assert "data/1.parquet and 1 more: a Parquet file, not text; left out" in done.err.replace("\\", "/")
    assert charlm("inspect", "data/1.parquet", "--field", "text", "--time", "5s").code == 0


def test_without_pyarrow_one_sentence_has_the_command(
    charlm: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("a.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    done = charlm("train", "a.parquet", "--field", "text")
    assert done.code == 3 and 'pip install "charlm-cli[parquet]"' in " ".join(done.err.split())


@pytest.mark.parametrize("form", FORMATS)
def test_a_damaged_file_is_one_sentence_or_text(form: str) -> None:
    path = Path(save(table(text=ROWS[:200]), f"a.{form}"))
    whole, rng, refused = path.read_bytes(), random.Random(1), 0
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged[: rng.randrange(9, len(damaged))] if rng.random() < 0.3 else damaged)
        try:
            load([str(path)], TextConfig(field="text"))
        except CharlmError:
            refused += 1
    assert refused > 10
