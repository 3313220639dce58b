"""Texts from JSON lines and tables: every record's field, in order, or a sentence that names the line."""

import csv
import gzip
import io
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charlm.config import TextConfig
from charlm.errors import TextError, UsageError
from charlm.text import fields, stream
from charlm.text.fields import Fields
from charlm.text.load import load
from charlm.text.stream import Block
from tests.reading import write

pytestmark = pytest.mark.usefixtures("elsewhere")
TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))


def read(path: str, data: str, name: str, piece: int) -> str:
    blocks = [Block(data[i : i + piece].encode()) for i in range(0, len(data), piece)]
    return "".join(block.text for block in Fields(name, path, path).blocks(blocks))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TEXT), st.integers(1, 50), st.booleans())
def test_every_record_is_read_in_whatever_pieces(texts: list[str], piece: int, ascii_only: bool) -> None:
    data = "".join(json.dumps({"id": 1, "text": t}, ensure_ascii=ascii_only) + "\n" for t in texts)
    assert read("a.jsonl", data, "text", piece) == "".join(f"{text}\n" for text in texts)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TEXT), st.integers(1, 50), st.sampled_from([("a.csv", ","), ("a.TSV.gz", "\t")]))
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
            "line 3, has no text in text; --field can name: body",
        ),
        ("a.jsonl", '{"body": "a"}', "line 1, has no field text; --field can name: body"),
        ("a.jsonl", "once upon a time\n", "line 1, is no JSON"),
        ("a.jsonl", "[" * 100_000 + "\n", "line 1, is no JSON"),
        ("a.jsonl", "[1]\n", "line 1, is no JSON object"),
        ("a.jsonl", '{"text": "\\ud800"}\n', "half a character"),
        ("a.csv", "id,body\n1,a\n", "line 1, has no field text; --field can name: id, body"),
        ("a.csv", "id,text\n1,a\n2\n", "line 3, has 1 cells, too few"),
        ("a.csv", 'id,text\n1,"a" b\n', "cannot be read as a table"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(name: str, data: str, said: str) -> None:
    write(name, data)
    with pytest.raises(TextError) as caught:
        load([name], TextConfig(field="text"))
    assert said in str(caught.value)


def test_a_folder_of_packed_lines_is_one_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "PIECE", 8)
    monkeypatch.setattr(stream, "WHOLE", 8)
    for name in "ba":
        lines = "".join(json.dumps({"text": f"{name}{i}"}) + "\n" for i in range(50))
        write(f"d/{name}.jsonl.gz", gzip.compress(lines.encode()))
    write("d/notes.txt", "no JSON")
    corpus = load(["d"], TextConfig(field="text", include="*.jsonl.gz")).corpus
    wanted = "".join(f"{name}{i}\n" for name in "ab" for i in range(50))
    assert corpus.training_text() + corpus.held_out_text() == wanted


def test_include_acts_on_folders_only_and_says_when_nothing_matches() -> None:
    write("d/a.txt", "text " * 30)
    write("d/b.md", "mark " * 30)
    assert load(["d"], TextConfig(include="*.txt")).corpus.chars == 150
    with pytest.raises(TextError, match=r"no file that matches --include \*.py"):
        load(["d"], TextConfig(include="*.py"))
    with pytest.raises(UsageError, match="acts on folders"):
        load(["d/a.txt"], TextConfig(include="*.txt"))
