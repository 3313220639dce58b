"""Texts in memory are read as files or records are, whatever holds them, each once."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from charlm.data.corpus import Corpus
from charlm.data.load import load
from charlm.data.text_config import TextConfig
from charlm.data.text_rows import TextRows

ROWS = [f"{i} little ducks" + "\n" * (i % 3 == 0) + "\tand  geese" * (i % 2) for i in range(300)] + [
    "né\r\n鴨"
]


@pytest.fixture(autouse=True)
def _elsewhere(elsewhere: Path) -> None: ...


class Table:
    """What `datasets` has: rows in batches, of the columns that are selected."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self._columns, self.column_names = columns, list(columns)

    def select_columns(self, names: list[str]) -> "Table":
        return Table({name: self._columns[name] for name in names})

    def iter(self, batch_size: int) -> Iterator[dict[str, list[Any]]]:
        for at in range(0, len(ROWS), 100):
            yield {name: column[at : at + 100] for name, column in self._columns.items()}


class Frame:
    """What a table of pandas or polars has: columns, whose names it is iterated by."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self._columns, self.columns = columns, list(columns)

    def __getitem__(self, name: str) -> list[Any]:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)


def corpus_of(texts: Any, **settings: Any) -> Corpus:
    config = TextConfig(**settings)
    return load(["-"], config, texts=TextRows(texts, config)).corpus


def same(one: Corpus, other: Corpus) -> bool:
    return (one.sha256, one.ends, one.key) == (other.sha256, other.ends, other.key)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"documents": "file"},
        {"documents": "line"},
        {"documents": "separator", "separator": "geese"},
        {"newlines": "lf", "collapse_spaces": True, "normalize": "nfc", "documents": "file"},
        {"documents": "file", "split": "documents"},
    ],
    ids=str,
)
def test_strings_are_read_as_files(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("f").mkdir()
    for i, row in enumerate(ROWS):
        Path("f", f"{i}.txt").write_bytes(row.encode())
    files = load(["f"], TextConfig(**settings)).corpus
    monkeypatch.setattr("charlm.data.text_rows.PIECE", 100)  # of several blocks
    for texts in (ROWS, tuple(ROWS), (row for row in ROWS), dict.fromkeys(ROWS).keys()):
        assert same(corpus_of(texts, **settings), files)


@pytest.mark.parametrize("documents", ["none", "line"])
def test_a_column_is_read_as_the_field_of_records(documents: str) -> None:
    Path("a.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in [*ROWS, "end"]))
    rows = [*ROWS, "end"]
    records = load(["a.jsonl"], TextConfig(field="text", documents=documents)).corpus
    for table in (Table({"n": [*range(len(rows))], "text": rows}), Frame({"n": [], "text": rows})):
        assert same(corpus_of(table, field="text", documents=documents), records)


@pytest.mark.parametrize("package", ["pandas", "polars", "datasets"])
def test_the_packages_themselves(package: str) -> None:
    made = pytest.importorskip(package)
    column = {"n": list(range(len(ROWS))), "text": ROWS}
    files = corpus_of(ROWS)
    if package == "datasets":
        table = made.Dataset.from_dict(column)
        for each in (table, table.to_iterable_dataset()):
            assert same(corpus_of(each, field="text"), corpus_of(Table(column), field="text"))
        assert same(corpus_of(table["text"]), files)
        return
    table = made.DataFrame(column)
    assert same(corpus_of(table["text"]), files)
    assert same(corpus_of(table, field="text"), corpus_of(Table(column), field="text"))


@pytest.mark.parametrize(
    ("texts", "settings", "said"),
    [
        ("a text", {}, "texts must be a list"),
        (Path("a"), {}, "texts must be a list"),
        ([], {}, "texts must be a list"),
        (3, {}, "texts is a int; it must be an iterable of strings"),
        ({"train": ["x"], "test": ["y"]}, {}, r"several parts \(train, test\)"),
        (ROWS, {"field": "text"}, "has no effect on strings"),
        (Table({"text": ROWS}), {}, "name the column to read with field=; available: text"),
        (Table({"text": ROWS}), {"field": "body"}, "has no column body; available: text"),
        (Frame({"text": ROWS}), {}, "name the column to read with field=; available: text"),
        (ROWS, {"encoding": "utf-8"}, "encoding has no effect on texts in memory"),
        (["x" * 900, float("nan")], {}, "text 1 is of the type float, not a string"),
        (["x" * 900, "\ud800"], {}, "text 1 is not valid text"),
        (iter([]), {}, "the text has 0 characters"),
    ],
)
def test_what_holds_no_texts_is_one_sentence(texts: Any, settings: dict[str, Any], said: str) -> None:
    import charlm
    from charlm.errors import CharlmError

    with pytest.raises(CharlmError, match=said):
        charlm.train(texts=texts, steps=2, **settings)
    with pytest.raises(charlm.UsageError, match="is no path; pass texts in memory with texts="):
        charlm.train(SimpleNamespace(), steps=2)  # type: ignore[arg-type]
    assert not Path("checkpoints").exists()
