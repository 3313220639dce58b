"""Texts from JSON lines and tables: every record's field, in order, or a sentence that names the line."""

import csv
import gzip
import io
import json
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charlm.data import decoding
from charlm.data import records as fields
from charlm.data.load import load
from charlm.data.records import BEGINNING, Format, RecordReader, format_of
from charlm.data.stream import Block
from charlm.data.text_config import TextConfig
from charlm.errors import TextError
from tests.reading import write

pytestmark = pytest.mark.usefixtures("elsewhere")
TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))


def read(path: str, data: str, name: str, piece: int) -> str:
    blocks = [Block(data[i : i + piece].encode()) for i in range(0, len(data), piece)]
    return "".join(
        block.text
        for block in RecordReader(
            name, path, format_of(path, data[:BEGINNING], name), data[:BEGINNING], []
        ).blocks(blocks)
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TEXT), st.integers(1, 50), st.booleans())
def test_every_record_is_read_in_whatever_pieces(texts: list[str], piece: int, ascii_only: bool) -> None:
    data = "".join(json.dumps({"id": 1, "text": t}, ensure_ascii=ascii_only) + "\n" for t in texts)
    assert read("a.jsonl", data, "text", piece) == "".join(f"{text}\n" for text in texts)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(TEXT),
    st.integers(1, 50),
    st.sampled_from([("a.csv", ","), ("a.CSV.gz", ";"), ("a.txt", "\t"), ("a.csv", "|")]),
)
def test_every_cell_is_read(texts: list[str], piece: int, form: tuple[str, str]) -> None:
    path, delimiter = form
    file = io.StringIO()
    rows = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    rows.writerows([["id", "text"], *(["1", text] for text in texts)])
    assert read(path, file.getvalue(), "text", piece) == "".join(f"{text}\n" for text in texts)


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        (
            "a.jsonl",
            '{"text": "a"}\n\n{"text": 3, "body": "b"}\n',
            "line 3, has a number in the field text, which must be text; available fields: body",
        ),
        ("a.jsonl", '{"body": "a"}', "line 1, has no field text; available fields: body"),
        ("a.jsonl", "once upon a time\n", "line 1, is not JSON"),
        ("a.jsonl", "[" * 100_000 + "\n", "line 1, is not JSON"),
        ("a.jsonl", "[1]\n", "line 1, is not a JSON object"),
        ("a.jsonl", '{"text": "\\ud800"}\n', "half a character"),
        ("a.csv", "id,body\n1,a\n", "line 1, has no field text; available fields: id, body"),
        ("a.csv", "id,text\n1,a\n2\n", "row 3, line 3, has 1 cell, too few"),
        ("a.csv", 'id,text\n1,"a" b\n', "row 2, line 2, has unbalanced quotes"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(name: str, data: str, said: str) -> None:
    write(name, data)
    with pytest.raises(TextError) as caught:
        load([name], TextConfig(field="text"))
    assert said in str(caught.value)


def test_a_folder_of_packed_lines_is_one_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "PIECE", 8)
    monkeypatch.setattr(decoding, "HEAD", 8)
    for name in "ba":
        lines = "".join(json.dumps({"text": f"{name}{i}"}) + "\n" for i in range(50))
        write(f"d/{name}.jsonl.gz", gzip.compress(lines.encode()))
    write("d/notes.txt", "no JSON")
    corpus = load(["d"], TextConfig(field="text", include="*.jsonl.gz")).corpus
    wanted = "".join(f"{name}{i}\n" for name in "ab" for i in range(50))
    assert corpus.training_text() + corpus.held_out_text() == wanted


ROWS = "".join(f"{i},line {i}\n" for i in range(3, 40))
TABS = ROWS.replace(",", "\t")


def field_of(name: str, data: str | bytes, field: str = "text") -> tuple[str, tuple[str, ...]]:
    """The texts of a field, and what is said of the file."""
    write(name, data)
    found = load([name], TextConfig(field=field, val=0))
    return found.corpus.training_text(), found.notes


LINES = "".join(f"line {i}\n" for i in range(3, 40))
TWO = "one\ntwo, or 2\n"


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("a.tsv", f'id\ttext\n1\t"one\n2\t"two", or 2\n{TABS}', f'"one\n"two", or 2\n{LINES}'),
        ("a.tab", f'id\ttext\tby\r\n1\t"\tme\r\n2\ta ""b"" \\t\tme\r\n\r\n{TABS}', f'"\na ""b"" \\t\n{LINES}'),
        ("a.csv", f'id;text\n1;one\n2;"two, or 2"\n{ROWS.replace(",", ";")}', TWO + LINES),
        ("a.csv", f'sep=;\nid;text\n1;one\n2;two, or 2\n{ROWS.replace(",", ";")}', TWO + LINES),
        ("a.csv", f'"sep=|"\r\nid|text\r\n1|one\r\n2|two, or 2\r\n{ROWS.replace(",", "|")}', TWO + LINES),
        ("a.csv", f"sep=\t\nid\ttext\n1\tone\n2\ttwo, or 2\n{TABS}", TWO + LINES),
        ("a.csv", f"id\ttext\n1\tone\n2\ttwo, or 2\n{TABS}", TWO + LINES),
        ("a.txt", f'id\ttext\n1\tone\n2\t"two, or 2"\n{TABS}', TWO + LINES),
        ("a.csv", f'id, text\n1, one\n2, "two, or 2"\n{ROWS.replace(",", ", ")}', TWO + LINES),
        ("a.csv", ("\ufeff" + f'id,text\n1,one\n2,"two, or 2"\n{ROWS}').encode("utf-8"), TWO + LINES),
        ("a.csv", f"id\ttext\r\n1\tone\r\n2\ttwo, or 2\r\n{TABS}".encode("utf-16"), TWO + LINES),
        ("a.csv", f'id,text\r1,one\r2,"two, or 2"\r{ROWS}'.replace("\n", "\r"), TWO + LINES),
        ("a.jsonl", '{"text": "one"}\r{"text": "two, or 2"}\r' * 20, TWO * 20),
        ("a.csv", f'id,text\n1,"say ""one"""\n2,"two\r\nor\n""2"""\n{ROWS}', f'say "one"\ntwo\r\nor\n"2"\n{LINES}'),
        ("a.csv", f'id,text\n1,5" nails\n{ROWS}', f'5" nails\n{LINES}'),
        ("a.csv", f"id,text\n1,a\0b\n{ROWS}", f"a\0b\n{LINES}"),
        ("a.csv", f"\n\nid,text,by\n1,one\n\n2,two,,,\n{ROWS}", f"one\ntwo\n{LINES}"),
        ("a.csv", f"id,text\n1,{'x' * 300_000}\n", "x" * 300_000 + "\n"),
        ("a.tsv", f"text\n{LINES}", LINES),
        ("a.json", ' \n[ {"text": "one"},\n {"id": [{"text": 1}], "text": "two"} ]\n', "one\ntwo\n"),
        ("a.json", '{"text": "one"}\n{"text": "two"}\n', "one\ntwo\n"),
        ("a.json", '{\n "text": "one"\n}\n{\n "text": "two"\n}\n', "one\ntwo\n"),
    ],
)  # fmt: skip
def test_each_dialect_gives_its_texts(name: str, data: str | bytes, text: str) -> None:
    assert field_of(name, data)[0] == text


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.csv", f'id,text\n1,one\n2,"two\n{ROWS}', "row 3, line 3, opens a quote that is never closed, up to line 40"),
        ("a.csv", f'id,text\n1,"a\nb"\n2,"two\n{ROWS}9,"9"\n', "row 3, line 4, has unbalanced quotes"),
        ("a.csv", f'id,text\n1,"one" too\n{ROWS}', 'write each " twice'),
        ("a.csv", f"id,text\n1,one, too\n{ROWS}", "row 2, line 2, has 3 cells, and the header 2: a cell with , in it"),
        ("a.tsv", f"id\ttext\n1\tone\ttoo\n{TABS}", "has 3 cells, and the header 2: a cell contains a tab"),
        ("a.tsv", f"id\ttext\n1\tone\n2\n{TABS}", "row 3, line 3, has 1 cell, too few for text"),
        ("a.csv", f"text,id,text\n1,one,2\n{ROWS}", "row 1, line 1, names 2 fields text; rename all but one"),
        ("a.csv", ROWS, "has no field text; available fields: 3, line 3, or a column by its number"),
        ("a.tsv", '"id"\t"text"\n"1"\t"one"\n', 'available fields: "id", "text"; a .tsv has no quoting: name the file .csv'),
        ("a.jsonl", '{"text": "one"}\n{"text": null}\n', "line 2, has null in the field text, which must be text; remove such records"),
        ("a.jsonl", '{"text": "one"}\n{"id": 2}\n', "line 2, has no field text, and no other that is text"),
        ("a.json", '{"messages": [{"text": "one"}]}', "has no field text, and no other that is text; --field cannot reach nested fields"),
        ("a.txt", f'id\ttext\n1\t"one" too\n{TABS}', "in a file named .tsv, which has no quoting"),
        ("a.txt", "\r" * 11 + ",", "has no records with a field text"),  # the beginning has blank lines only
        ("a.txt", "Some prose\nof two lines\n", "has no records with a field text: it is not JSON, and its first line names no such column: Some prose"),
        ("r.tsv", "text\tn\n1\tone\t3\n", "if each row begins with a name, as R writes them"),
        ("a.json", '[{"text": "one"},\n{"text": 2}]', "line 2, has a number in the field text, which must be text"),
        ("a.json", '[{"text": "one"},\n{"text": "two"', "line 2, is not JSON"),
        ("a.json", '[{"text": "one"},\n', "does not end"),
        ("a.json", '[{"text": "one"},\n' + "[" * 100_000, "line 2, is not JSON"),
    ],
)  # fmt: skip
def test_what_is_no_table_is_said_with_its_row_and_what_to_do(name: str, data: str, said: str) -> None:
    with pytest.raises(TextError) as caught:
        field_of(name, data)
    assert said in str(caught.value)


def test_a_quote_that_is_never_closed_holds_no_more_than_a_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "LONGEST_CELL", 1000)
    read_lines = 0

    def blocks() -> Iterator[Block]:
        nonlocal read_lines
        yield Block(b'id,text\n1,"one\n')
        for i in range(10**6):
            read_lines = i
            yield Block(f"{i},line {i}\n".encode())

    with pytest.raises(TextError, match="row 2, line 2, has a cell of more than 1,000 characters; a quote"):
        list(RecordReader("text", "a.csv", Format(",", quoted=True), "", []).blocks(blocks()))
    assert read_lines < BEGINNING


def test_what_may_be_a_mistake_is_said() -> None:
    _, notes = field_of("a.csv", f'id,text\n1,"one\n2,two\n3,three"\n{ROWS}')
    assert any("row 2, line 2, has a cell in quotes over lines that each look like a row" in n for n in notes)
    assert not any("look like a row" in n for n in field_of("b.csv", f'id,text\n1,"one\ntwo"\n{ROWS}')[1])
    assert not field_of("d.csv", "id,text\n" + "".join(f'{i},"line {i}"\n' for i in range(40)))[1]
    _, notes = field_of("a.tsv", f'id\ttext\n1\t"one ""1"""\n{TABS}')
    assert any("cells in quotes: 1" in note for note in notes)
    assert "cells are separated by semicolons" in str(
        field_of("c.csv", "id;text\n" + ROWS.replace(",", ";"))[1]
    )


def test_a_column_without_a_header_is_named_by_its_number() -> None:
    text, notes = field_of("a.csv", ROWS, "2")
    assert text == LINES and "column 2 is read from the first row" in str(notes)
    assert field_of("b.csv", f"1,2\n{ROWS}", "2")[0] == LINES, "a field of that name goes before"


def test_a_column_of_a_table_of_tabs_without_header_is_named_by_its_number_in_any_file() -> None:
    assert field_of("dump.txt", "1\tone\n2\ttwo, or 2\n", "2")[0] == TWO
    with pytest.raises(TextError, match="has no records with a field 2"):
        field_of("prose.txt", "One, two.\nThree, four.\n", "2")
