"""Excerpts of texts too long to read through: whole lines of them, from all over, decoded as ever."""

import gzip
import json
from itertools import pairwise
from pathlib import Path

import pytest

from charlm.data.load import load
from charlm.data.text_config import TextConfig
from charlm.data.text_scan import TextScan, spread_over
from charlm.errors import TextError


@pytest.fixture(autouse=True)
def _small(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above 20,000 bytes a text is long; of it 8 pieces of 1,000 bytes are read."""
    for name, value in (("READ_WHOLE", 20_000), ("PIECES", 8), ("PIECE_BYTES", 1_000)):
        monkeypatch.setattr(f"charlm.data.text_scan.{name}", value)


ACROSS = "\u0a05\u0100"  # in UTF-16 the bytes of a line feed stand across them
LINES = [f"{i} Zeile mit ü und {ACROSS} 日本 🦆, {'x' * (i % 50)}\n" for i in range(3_000)]


def read(*names: str, **settings: object) -> tuple[str, TextScan]:
    scan = TextScan()
    config = TextConfig(val=0.0, min_count=1, **settings)  # type: ignore[arg-type]
    loaded = load(names, config, scan=scan)
    return loaded.corpus.vocabulary.decode(loaded.corpus.train), scan


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "cp1252"])
def test_pieces_are_whole_lines_from_all_over(encoding: str) -> None:
    lines = [line.encode(encoding, "replace").decode(encoding) for line in LINES]
    lines = [line.removeprefix("\ufeff") for line in lines]
    Path("long.txt").write_bytes("".join(lines).encode(encoding))
    text, scan = read("long.txt", **({} if "utf" in encoding else {"encoding": encoding}))
    found = text.splitlines(keepends=True)
    assert set(found) <= set(lines) and len(text.encode(encoding)) < 9_000
    places = [int(line.split()[0]) for line in found]
    assert places == sorted(places) and places[0] == 0 and places[-1] > 2_900
    assert scan.partial and scan.manner == "in pieces spread evenly"
    assert scan.total_bytes == Path("long.txt").stat().st_size


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le"])
def test_what_has_no_line_feeds_of_one_byte_is_read_from_its_beginning(encoding: str) -> None:
    Path("long.txt").write_bytes("".join(LINES).encode(encoding))
    text, scan = read("long.txt", **({"encoding": encoding} if encoding == "utf-16-le" else {}))
    assert "".join(LINES).startswith(text) and 7_900 < len(text.encode()) <= 8_000
    assert scan.partial and scan.manner == "from the beginning"


def test_a_line_without_end_is_cut_between_characters() -> None:
    Path("long.txt").write_text("日ü🦆a" * 4_000)
    text, _ = read("long.txt")
    assert ("日ü🦆a" * 4_000).startswith(text) and 7_990 < len(text.encode()) <= 8_000


def test_short_texts_are_read_whole() -> None:
    Path("short.txt").write_text("".join(LINES[:100]))
    text, scan = read("short.txt")
    assert text == "".join(LINES[:100]) and not scan.partial and scan.manner == ""
    assert scan.sample.whole


@pytest.mark.parametrize("name", ["long.gz", "long.jsonl"])
def test_what_cannot_be_entered_anywhere_is_read_from_its_beginning(name: str) -> None:
    if name == "long.gz":
        Path(name).write_bytes(gzip.compress("".join(LINES).encode()))
        text, scan = read(name)
        assert scan.partial and scan.manner == "from the beginning" and len(text.encode()) > 19_000
        assert scan.files[0].compression == "gzip"
    else:
        Path(name).write_text(
            "".join(json.dumps({"t": line.rstrip("\n")}, ensure_ascii=False) + "\n" for line in LINES)
        )
        text, scan = read(name, field="t")
        assert scan.partial and 6_000 < len(text.encode()) < 8_000
    assert "".join(LINES).startswith(text) and text.endswith("\n")


def test_all_that_is_compressed_has_one_budget() -> None:
    for name in ("a.gz", "b.gz", "c.gz"):
        Path(name).write_bytes(gzip.compress("".join(LINES[:200]).encode()))
    text, scan = read("a.gz", "b.gz", "c.gz")
    assert (
        scan.partial and "".join(LINES[:200] * 3).startswith(text) and 19_000 < len(text.encode()) <= 20_000
    )


def test_many_files_are_read_here_and_there() -> None:
    names = [f"{i:03}.txt" for i in range(300)]
    for i, name in enumerate(names):
        Path(name).write_text("".join(LINES[10 * i : 10 * i + 10]))
    text, scan = read(*names)
    assert set(text.splitlines(keepends=True)) <= set(LINES)
    assert 8 <= len(scan.files) < 40 and len(scan.named) == 300


def test_spans_lie_in_their_files() -> None:
    sizes = {"a": 5, "b": 30_003, "c": 1, "d": 7_000}
    for name, spans in spread_over(sizes).items():
        assert all(0 <= a < b <= sizes[name] for a, b in spans)
        assert all(b <= c for (_, b), (c, _) in pairwise(spans))


def test_an_error_says_that_pieces_were_read() -> None:
    Path("long.txt").write_bytes(b"caf\xe9\n" * 9_000)
    with pytest.raises(TextError, match="of which excerpts were read, is not valid UTF-8"):
        read("long.txt")
