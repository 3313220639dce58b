"""A text in many shards is the same text: the same batches, figures and weights, in bounded memory, whole or made again."""

import errno
import json
import os
import random
import signal
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from time import sleep

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm import files
from charlm.data import corpus_cache as cache
from charlm.data import encode, shards, stream
from charlm.data.corpus import BatchSampler, Corpus, reopen
from charlm.data.load import load
from charlm.data.prepare import prepare
from charlm.data.shards import Shards
from charlm.data.text_config import TextConfig
from tests.cli.kept import TOY, Charlm, data, files_below, prose, refused
from tests.reading import write

SYMBOLS = 97
"""Of a shard: no power of two, and no number of windows."""
SONG = "".join(f"the same odd song, {i} times\n" for i in range(120))
MIXED = ("--members", "no-prior,prior,ngram", "--reserved-chars", "300", "--prior-order", "3")


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In which no text is in shards of another size."""
    monkeypatch.setenv("CHARLM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text is one of many shards."""
    monkeypatch.setattr(shards, "SHARD_CHARS", SYMBOLS)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.data())
def test_shards_are_read_as_one_array(lengths: list[int], data: st.DataObject) -> None:
    ids = np.arange(sum(lengths), dtype=np.uint8)
    table = np.arange(256)[::-1]
    parts = Shards(np.split(ids, np.cumsum(lengths)[:-1]))
    for found, wanted in ((parts, ids), (parts.translated(table), table[ids])):
        assert len(found) == len(wanted) and found.dtype == wanted.dtype
        bound = st.none() | st.integers(-110, 110)
        cut = slice(data.draw(bound), data.draw(bound))
        assert found[cut].tolist() == wanted[cut].tolist() and found[cut].dtype == wanted.dtype
        if not len(ids):
            continue
        at = np.array(data.draw(st.lists(st.integers(0, len(ids) - 1), min_size=6, max_size=6))).reshape(2, 3)
        assert found[at].tolist() == wanted[at].tolist()
        starts = np.array(data.draw(st.lists(st.integers(-5, len(ids) - 1), min_size=1)))
        seen = []
        for which, array, first in found.windows(starts, starts + 6):
            for i in which.tolist():
                low, high = max(0, starts[i]), max(starts[i] + 6, max(0, starts[i]) + 1)
                assert array[low - first : high - first].tolist() == wanted[low:high].tolist()
            seen += which.tolist()
        assert sorted(seen) == list(range(len(starts)))


@pytest.mark.parametrize("symbols", [13, SYMBOLS, 3_000])
def test_batches_are_the_same_whatever_the_size_of_a_shard(
    monkeypatch: pytest.MonkeyPatch, symbols: int
) -> None:
    """Windows of 33 ids: within one shard, across two, and across many."""
    whole = prepare(SONG, TextConfig()).train
    cache.remove_rest()
    monkeypatch.setattr(shards, "SHARD_CHARS", symbols)
    corpus = prepare(SONG, TextConfig())
    assert isinstance(corpus.train, Shards) and not isinstance(whole, Shards)
    sampler = BatchSampler(len(whole), 32, 8, 7)
    for step in range(40):
        found = sampler.batch(corpus.train, step)
        assert np.array_equal(found, sampler.batch(whole, step)) and found.dtype == np.int64


def test_commands_do_the_same_with_a_text_in_shards(
    charlm: Charlm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Weights to the bit, and all figures: of a mixture with its prior, of documents, fine-tuned, compared with its text."""
    Path("prose.txt").write_text(prose(120))
    Path("other.txt").write_text(prose(60, seed=2) + prose(40))
    asked = [
        ("train", "prose.txt", "--steps", "6", "--run", "a", "--documents", "line", *TOY, *MIXED),
        ("train", "other.txt", "--from", "a", "--steps", "4", "--run", "b", "--batch-size", "4"),
        ("train", "prose.txt", "--model", "ngram", "--run", "c"),
    ]
    shown = [
        ("eval", "--run", "a", "--json"),
        ("eval", "--run", "b", "--json"),
        ("inspect", "prose.txt", "--documents", "line", "--json"),
        ("sample", "--run", "a", "-n", "1", "--length", "80", "--seed", "1", "--verbatim", "--json"),
    ]
    found = []
    for symbols in (shards.SHARD_CHARS, SYMBOLS):
        monkeypatch.setenv("CHARLM_CACHE", str(tmp_path / f"cache-{symbols}"))
        monkeypatch.setenv("CHARLM_CHECKPOINTS", str(tmp_path / f"runs-{symbols}"))
        monkeypatch.setattr(shards, "SHARD_CHARS", symbols)
        for words in asked:
            assert charlm(*words).code == 0, words
        folder = tmp_path / f"runs-{symbols}"
        weights = {
            str(path.relative_to(folder)): path.read_bytes()
            for name in ("model.safetensors", "ngram.safetensors")
            for path in sorted(folder.rglob(name))
        }
        figures = [data(charlm(*words)) for words in shown]
        figures[2].pop("plan"), figures[3].pop("chars_per_second")  # which are measured
        found.append((weights, figures))
        kept = data(charlm("cache", "--json"))["texts"]
        for entry in kept:
            there = files_below(tmp_path / f"cache-{symbols}" / "corpora" / entry["key"])
            assert entry["bytes"] == sum(map(len, there.values()))
            assert (len(there) > 20) == (symbols == SYMBOLS)
    assert len(found[0][0]) > 3 and found[0][0] == found[1][0]
    assert found[0][1] == found[1][1]
    assert charlm("cache", "--clear", "--yes").code == 0
    assert not files_below(tmp_path / f"cache-{SYMBOLS}")


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _shorten(path: Path) -> None:
    """The same header without the last id."""
    path.write_bytes(path.read_bytes()[:-1])


def _exchange(path: Path) -> None:
    """With the shard before it, whose header is the same."""
    before = path.with_name("train-1.npy")
    first, second = before.read_bytes(), path.read_bytes()
    before.write_bytes(second)
    path.write_bytes(first)


DAMAGE: dict[str, Callable[[Path], None]] = {
    "flipped": _flip,
    "shortened": _shorten,
    "missing": Path.unlink,
    "exchanged": _exchange,
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.usefixtures("tiny", "elsewhere")
@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_shard_is_found_and_the_text_made_again(
    monkeypatch: pytest.MonkeyPatch, how: str, sampled: bool
) -> None:
    if sampled:
        monkeypatch.setattr(shards, "CHECKED_WHOLE", 8)
    write("t", SONG)
    corpus = load(["t"], TextConfig()).corpus
    folder = cache.corpora() / corpus.key
    DAMAGE[how](folder / "train-2.npy")
    assert reopen(corpus.key) is None
    again = load(["t"], TextConfig()).corpus
    assert again.key == corpus.key and again.training_text() + again.held_out_text() == SONG
    assert reopen(corpus.key) is not None


@pytest.mark.usefixtures("tiny")
def test_after_a_new_start_of_the_machine_shards_are_not_all_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each was synced when it was written; --verify-cache reads them."""
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(descriptor), real(descriptor)))
    monkeypatch.setattr(shards, "_SAMPLE", 4)
    corpus = prepare(SONG[::-1], TextConfig())
    assert len(synced) >= -(-len(SONG) // SYMBOLS)
    monkeypatch.setattr(shards, "CHECKED_WHOLE", 8)
    monkeypatch.setattr(files, "boot", lambda: "another")
    path = cache.corpora() / corpus.key / "train-2.npy"
    content = bytearray(path.read_bytes())
    content[-SYMBOLS // 2] ^= 1
    path.write_bytes(content)
    assert reopen(corpus.key) is not None, "samples do not see it"
    assert reopen(corpus.key, whole=True) is None


@pytest.mark.usefixtures("elsewhere")
def test_a_cache_from_before_there_were_shards_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    write("t", SONG)
    corpus = load(["t"], TextConfig()).corpus
    folder = cache.corpora() / corpus.key
    facts = json.loads((folder / cache.FACTS).read_bytes())
    for name, [shard] in facts.pop("shards").items():
        facts |= {f"{name}_crc": shard["crc"], f"{name}_samples": shard["samples"]}
    (folder / cache.FACTS).write_text(json.dumps({**facts, "facts_sha256": cache._seal(facts)}))
    with monkeypatch.context() as patch:
        patch.setattr(stream.ByteStream, "pieces", lambda self: pytest.fail("the text was read again"))
        assert np.array_equal(load(["t"], TextConfig()).corpus.train, corpus.train)
    _flip(folder / "train.npy")
    assert reopen(corpus.key) is None


@pytest.mark.usefixtures("tiny")
def test_too_many_shards_to_open_are_said_and_nothing_is_removed(
    charlm: Charlm, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert charlm("train", "ducks.txt", "--steps", "1", "--run", "toy", *TOY).code == 0
    before = files_below(tmp_path / "cache" / "corpora")

    def full(path: Path) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(shards, "_map", full)
    refused(charlm("train", "ducks.txt", "--steps", "1", "--run", "other", *TOY), 6, "ulimit -n")
    assert files_below(tmp_path / "cache" / "corpora") == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.usefixtures("tiny", "elsewhere")
def test_killed_while_preparing_at_any_moment_it_is_made_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, thorough: bool
) -> None:
    from tests.forks import start  # which skips where there is no fork

    text = SONG * 8
    write("t", text)
    drawn = random.Random(5)
    unfinished = 0
    for i in range(100 if thorough else 3):
        monkeypatch.setenv("CHARLM_CACHE", str(tmp_path / str(i)))
        child = start(lambda i=i: _prepare(stuck=i == 0))  # type: ignore[misc]
        while not list(tmp_path.glob(f"{i}/corpora/*")):  # it has begun to write
            sleep(0.001)
        sleep(drawn.random() * 0.1 if i else 0)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        entries = cache.entries()
        unfinished += not entries
        assert all(reopen(entry.key) is not None for entry in entries), "what has its name is whole"
        corpus = load(["t"], TextConfig()).corpus
        assert corpus.uncached is None and corpus.training_text() + corpus.held_out_text() == text
    assert unfinished, "the first one at least was killed before the end"


def _prepare(*, stuck: bool) -> int:
    """In a child: prepare the text; `stuck` writes its folder and no further."""
    if stuck:
        shards.write_part = lambda *args, **named: sleep(600)  # type: ignore[assignment]
    return 0 if load(["t"], TextConfig()).corpus else 1


@pytest.mark.usefixtures("elsewhere")
def test_preparing_takes_no_more_memory_for_a_longer_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_CHARS", 1 << 20)
    monkeypatch.setattr(shards, "CHECKED_WHOLE", 1 << 20)
    monkeypatch.setattr(encode, "IN_MEMORY", 1 << 20)

    def peak(n: int) -> int:
        write("t", (SONG + "é") * (n // len(SONG)))
        tracemalloc.start()
        corpus: Corpus = load(["t"], TextConfig()).corpus
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(corpus.train) > 0.8 * n and isinstance(corpus.train, Shards) == (n > 2 << 20)
        return found

    few = peak(1 << 20)
    assert peak(12 << 20) < few + (4 << 20)
