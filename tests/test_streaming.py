"""Long texts in blocks: the same ids, the same sentences, nothing left over, nothing half written."""

import bz2
import errno
import gzip
import json
import os
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charlm import files
from charlm.data import corpus_cache as cache
from charlm.data import decoding, encode, shards, stream
from charlm.data import prepare as preparation
from charlm.data.corpus import reopen
from charlm.data.corpus_cache import Fingerprints
from charlm.data.encode import Encoder, Spool, TextCounter, codes_of
from charlm.data.load import load
from charlm.data.prepare import prepare
from charlm.data.stream import Block
from charlm.data.text_config import TextConfig
from charlm.data.tokenizer import Vocabulary, code_points
from charlm.errors import ResourceError, TextError
from tests.reading import read as read_all
from tests.reading import write

pytestmark = pytest.mark.usefixtures("elsewhere")
TEXTS = st.text(alphabet=st.characters(exclude_categories=("Cs",)), max_size=60)
MIXED = "plain ascii, and é, and 字, and 🦆\r\n" * 40


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks so small that every text is a long one."""
    monkeypatch.setattr(decoding, "HEAD", 16)
    monkeypatch.setattr(stream, "PIECE", 11)  # which tells bz2 from text
    monkeypatch.setattr(decoding, "PIECE", 7)
    monkeypatch.setattr(encode, "AT_ONCE", 4)
    monkeypatch.setattr(encode, "IN_MEMORY", 8)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TEXTS, max_size=5), TEXTS, st.integers(1, 3))
def test_blocks_are_encoded_as_the_vocabulary_does(texts: list[str], training: str, least: int) -> None:
    counter = TextCounter()
    blocks = [codes_of(Block(text.encode(), text)) for text in texts]
    for block in blocks:
        counter.add(block)
    whole = "".join(texts)
    assert np.array_equal(np.flatnonzero(counter.counts()), np.unique(code_points(whole)))
    assert counter.counts().sum() == len(whole)
    vocabulary = Vocabulary.build(training + "a" * 3, least)
    encoder = Encoder(vocabulary, counter.counts())
    ids = [encoder.encode(block).tolist() for block in blocks]
    assert [i for block in ids for i in block] == vocabulary.encode(whole).tolist()
    assert encoder.length(counter.counts()) == sum(map(len, ids))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(TEXTS), st.data())
def test_what_is_kept_comes_back(tmp_path: Path, texts: list[str], data: st.DataObject) -> None:
    whole = "".join(texts)
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, len(whole)))
    with closing(Spool(tmp_path)) as spool:
        for text in texts:
            spool.add(codes_of(Block(text.encode())))
        read = [chr(point) for piece in spool.read(start, end) for point in piece.tolist()]
        assert "".join(read) == whole[start:end]
    assert not list(tmp_path.glob(".tmp-*"))


@given(st.lists(st.text("\r\na")))
def test_line_ends_are_counted_across_blocks(texts: list[str]) -> None:
    ends = TextCounter()
    for text in texts:
        ends.add_line_ends(text.encode())
    assert ends.crlf == "".join(texts).count("\r\n")


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("encoding", [None, "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "gb18030", "utf-7"])
@pytest.mark.parametrize(
    "pack", [lambda data: data, gzip.compress, bz2.compress], ids=["plain", "gzip", "bz2"]
)
def test_in_pieces_it_is_the_same_text(encoding: str | None, pack: Any) -> None:
    write("t", pack(MIXED.encode(encoding or "utf-8")))
    assert read_all(["t"], encoding).joined == MIXED
    loaded = load(["t"], TextConfig(encoding=encoding))
    assert loaded.corpus.training_text() + loaded.corpus.held_out_text() == MIXED
    assert any("Lines end in CRLF (40)" in note for note in loaded.notes)
    assert loaded.corpus.sha256 == prepare(MIXED, TextConfig()).sha256


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["utf-8", "utf-16", "utf-32"])
def test_a_mark_is_dropped_from_a_long_text(name: str) -> None:
    write("t", ("\ufeff" + MIXED).encode(name if name == "utf-8" else name + "-le"))
    loaded = load(["t"], TextConfig())
    assert loaded.corpus.training_text().startswith("plain")
    assert loaded.notes[0] == f"t: a {name.upper()} byte-order mark was dropped."
    assert load(["t"], TextConfig(encoding=name + ("-le" if name != "utf-8" else ""))).corpus.chars == len(
        MIXED
    )


@pytest.mark.parametrize(
    ("data", "encoding"),
    [
        (b"tout va bien\n" * 9 + "été\n".encode("cp1252") * 3, None),
        (b"a\r\nb\rc\n" * 9 + b"\xff", None),
        (b"ab\n" * 20 + "é".encode()[:1], None),
        ("ab\n".encode("utf-16-le") * 20 + b"\x00\xd8a\x00", "utf-16-le"),
        (b"ab\n" * 20 + b"\x81", "cp1252"),
    ],
)
def test_what_is_wrong_is_said_as_of_a_short_text(
    monkeypatch: pytest.MonkeyPatch, data: bytes, encoding: str | None
) -> None:
    write("t", data)
    said = []
    for whole in (1 << 20, 16):
        monkeypatch.setattr(decoding, "HEAD", whole)
        monkeypatch.setattr(stream, "PIECE", 8)
        monkeypatch.setattr(decoding, "PIECE", 8)
        with pytest.raises(TextError) as caught:
            load(["t"], TextConfig(encoding=encoding))
        said.append(str(caught.value).split(" (in hex")[0])
    assert "byte offset" in said[0] and said[0] == said[1]


@pytest.mark.usefixtures("small")
def test_a_file_that_changes_between_the_passes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    write("t", "abc " * 40)
    real = preparation.CorpusBuilder._encode

    def later(self: Any, *args: Any) -> Any:
        write("t", "abd " * 41)
        return real(self, *args)

    monkeypatch.setattr(preparation.CorpusBuilder, "_encode", later)
    with pytest.raises(TextError, match="t changed while it was read"):
        load(["t"], TextConfig())


def test_an_unchanged_file_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    write("t", "a\r\n" * 50)
    first = load(["t"], TextConfig())
    with monkeypatch.context() as patch:
        patch.setattr(stream.ByteStream, "pieces", lambda self: pytest.fail("it was read"))
        again = load(["t"], TextConfig())
    assert again.corpus.key == first.corpus.key and again.notes == first.notes
    write("t", "b\r\n" * 50)
    assert load(["t"], TextConfig()).corpus.key != first.corpus.key
    assert load(["t"], TextConfig(val=0.5)).corpus.held_out_chars == 75


def test_a_changed_middle_of_a_long_file_is_seen_by_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charlm.data.corpus_cache.SAMPLED_FROM", 8)
    write("t", "a" * 10_000)
    known = Fingerprints(["t"], TextConfig())
    known.remember("k", ["note"])
    assert Fingerprints(["t"], TextConfig()).recall() == ("k", ("note",))
    os.utime("t", ns=(1, 1))
    assert Fingerprints(["t"], TextConfig()).recall() is None


def test_after_a_new_start_of_the_machine_all_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_SAMPLE", 1)
    monkeypatch.setattr(shards, "_SAMPLES", 2)
    made = prepare("the same odd song " * 30, TextConfig())
    monkeypatch.setattr(shards, "CHECKED_WHOLE", 8)
    path = cache.corpora() / made.key / "train.npy"
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    assert reopen(made.key) is not None, "samples do not see it"
    assert reopen(made.key, whole=True) is None
    monkeypatch.setattr(files, "boot", lambda: "another")
    assert reopen(made.key) is None


@pytest.mark.parametrize(
    "facts",
    ["", "0", "[]", "null", "{}", '"x"', "[" * 100_000, '{"format": 2, "boot": 1, "ends": 3}', "\xff"],
    ids=lambda text: text[:9],
)
def test_facts_that_are_none_are_a_text_that_is_not_there(facts: str) -> None:
    made = prepare("over the hills and far away " * 9, TextConfig())
    path = cache.corpora() / made.key / cache.FACTS
    good = json.loads(path.read_text())
    odd = [{**good, "vocabulary": 3}, {**good, "ends": [float("inf")] * 3}, {**good, "train_chars": []}]
    for text in (facts, *map(json.dumps, odd)):
        path.write_text(text, "latin-1")
        assert made.key not in [entry.key for entry in cache.entries()] or "chars" in text
        found = reopen(made.key, whole=True)
        assert found is None or found.train.tolist() == made.train.tolist()
    assert prepare("over the hills and far away " * 9, TextConfig()).chars == made.chars


@pytest.mark.parametrize("where", ["spool", "ids"])
def test_a_full_disk_is_said_and_nothing_half_written_is_used(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    class Full:
        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None: ...

        def fileno(self) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    text = f"{where} " * 100
    with monkeypatch.context() as patch:
        if where == "spool":
            patch.setattr(files, "scratch", lambda folder, in_memory: Full())
        else:
            patch.setattr(shards, "CHECKED_WHOLE", 0)
            patch.setattr(files, "free_space", lambda folder: 0)
        with pytest.raises(ResourceError, match="CHARLM_CACHE"):
            prepare(text, TextConfig())
    assert prepare(text, TextConfig()).chars == len(text)


def test_a_part_that_cannot_be_written_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CHARLM_CACHE", str(tmp_path / "c"))

    def fail(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "write_synced", fail)
    made = prepare("abc" * 50, TextConfig())
    assert made.uncached == "No space left on device" and made.training_text() == ("abc" * 50)[:135]
    assert not list((tmp_path / "c" / "corpora").iterdir())


@given(st.lists(st.sampled_from("\0aé字🦆"), min_size=1))
def test_code_points_are_those_of_the_text(chars: list[str]) -> None:
    text = "".join(chars)
    assert codes_of(Block(text.encode())).tolist() == [ord(char) for char in text]
