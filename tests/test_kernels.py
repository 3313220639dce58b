"""The compiled reading of long texts says what Python and NumPy say."""

import codecs
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.config import TextConfig
from charlm.data import load
from charlm.data.codes import N_POINTS, Census
from charlm.native import text_kernels as kernels
from charlm.native.library import codes_alone
from charlm.native.text_kernels import Kernels
from tests.conftest import needed

RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module")
def compiled() -> Kernels:
    """Waited for, as the program never does."""
    needed(codes_alone())
    return Kernels(codes_alone())


@given(st.text(), st.binary(max_size=6), st.text(max_size=9))
def test_decoding_goes_as_far_as_python_does(
    compiled: Kernels, before: str, between: bytes, after: str
) -> None:
    utf8 = before.encode("utf-8", "surrogatepass") + between + after.encode("utf-8", "surrogatepass")
    try:
        text, valid = codecs.utf_8_decode(utf8, "strict", False)
    except UnicodeDecodeError as error:
        valid = error.start
        text = utf8[:valid].decode()
    found = compiled.decode(utf8)
    assert found is not None
    assert found[1] == valid and found[0].tolist() == list(map(ord, text))


def test_every_character_is_decoded(compiled: Kernels) -> None:
    points = np.concatenate((np.arange(0xD800), np.arange(0xE000, N_POINTS))).astype("<u4")
    utf8 = points.tobytes().decode("utf-32-le").encode()
    found = compiled.decode(utf8)
    assert found is not None and found[1] == len(utf8)
    np.testing.assert_array_equal(found[0], points)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32])
def test_counts_are_the_same(compiled: Kernels, kind: type) -> None:
    both = Census(), Census(compiled)
    for n in (0, 1, 1001, 70_000):
        codes = RANDOM.zipf(1.1, n).clip(max=min(np.iinfo(kind).max, N_POINTS - 1)).astype(kind)
        for census in both:
            census.add(codes)
    plain, counted = (census.counts() for census in both)
    n = max(len(plain), len(counted))
    np.testing.assert_array_equal(*(np.pad(c, (0, n - len(c))) for c in (plain, counted)))


@pytest.mark.parametrize("code", [np.uint8, np.uint32])
@pytest.mark.parametrize("number", [np.uint8, np.uint16])
def test_looking_up_is_the_same_and_stays_in_the_table(compiled: Kernels, code: type, number: type) -> None:
    table = RANDOM.integers(0, 256, 200).astype(number)
    codes = RANDOM.integers(0, 256, 999).astype(code)
    codes[::50] = np.iinfo(code).max
    out = np.empty(len(codes), number)
    assert compiled.look_up(codes, table, out)
    np.testing.assert_array_equal(out, table.take(codes, mode="clip"))


@pytest.mark.parametrize("text", ["only ASCII, ", "Größe 天地玄黃, ", "a 👩‍👩‍👧 and \U0001f986, "])
def test_a_long_text_becomes_the_same_corpus(
    compiled: Kernels, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "long.txt"
    rows = (text + str(number) for number in RANDOM.integers(0, 10**6, 700_000))
    path.write_text("\n".join(rows), "utf-8", newline="")
    found = []
    for long in (1 << 40, 1):
        monkeypatch.setattr(kernels, "LONG", long)
        monkeypatch.setenv("CHARLM_CACHE", str(tmp_path / str(long)))
        corpus = load.load([str(path)], TextConfig(min_count=200_000)).corpus
        found.append((corpus.key, corpus.vocabulary.to_json(), *map(bytes, (corpus.train, corpus.held_out))))
    assert found[0] == found[1]


@pytest.mark.parametrize("bad", [b"\xff", b"\xed\xa0\x80", b"\xe5\xa4"])
def test_what_is_wrong_is_said_in_the_same_words(
    compiled: Kernels, bad: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes("Größe\n".encode() * 2_000_000 + bad)
    said = []
    for long in (1 << 40, 1):
        monkeypatch.setattr(kernels, "LONG", long)
        with pytest.raises(Exception, match="UTF-8") as error:
            load.load([str(path)], TextConfig())
        said.append(str(error.value))
    assert said[0] == said[1]
