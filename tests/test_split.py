"""The split: every character is in exactly one part, and nothing held out is ever trained on."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.data import holdout as split
from charlm.data.corpus import BatchSampler, Corpus
from charlm.data.holdout import LEFT_OUT, PARTS, split_blocks, split_tail
from charlm.data.prepare import prepare
from charlm.data.stream import Block
from charlm.data.text_config import TextConfig
from charlm.data.tokenizer import END, without_ends
from charlm.errors import TextError
from charlm.ngram.build import FOLDS, build, fold_edges
from tests.reading import text_with_ends

SHARES = st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.45])


@given(st.integers(0, 3 * 10**6), SHARES, SHARES, st.booleans())
def test_spans_are_the_whole_text_once(n: int, val: float, test: float, blocks: bool) -> None:
    if blocks and val + test == 0:
        return
    config = TextConfig(val=val, test=test, split="blocks" if blocks else "tail")
    spans = split_blocks(n, config) if blocks else split_tail(n, n, config)
    flat = sorted((start, end) for part in spans.values() for start, end in part if start < end)
    assert [0, *(end for _, end in flat)] == [*(start for start, _ in flat), n] if n else not flat
    for part in spans.values():
        assert all(start <= end for start, end in part)
    sizes = {name: sum(end - start for start, end in part) for name, part in spans.items()}
    if n > 1000:
        assert abs(sizes["held_out"] / n - val) < 0.02 and abs(sizes["test"] / n - test) < 0.02
        assert sizes[LEFT_OUT] <= 0.3 * (sizes["held_out"] + sizes["test"]) + 1


def test_between_what_is_trained_on_and_held_out_lies_a_gap() -> None:
    n = 10**6
    spans = split_blocks(n, TextConfig(split="blocks", test=0.05))
    assert len(spans["held_out"]) == split.MOST_STRETCHES
    of = np.empty(n, dtype=np.int8)
    for i, name in enumerate((*PARTS, LEFT_OUT)):
        for start, end in spans[name]:
            of[start:end] = i
    changes = np.flatnonzero(of[1:] != of[:-1])
    inside = [(of[at], of[at + 1]) for at in changes if (at + 1) % (n // split.MOST_STRETCHES)]
    assert all(3 in pair for pair in inside)
    lengths = np.diff(np.flatnonzero(np.concatenate(([True], of[1:] != of[:-1], [True]))))
    kinds = of[np.concatenate(([0], changes + 1))]
    assert set(lengths[kinds == 3]) <= {split.GAP, 2500 // split.GAP_SHARE}


def parts_of(corpus: Corpus) -> list[str]:
    ids = [corpus.train, corpus.held_out, corpus.test]
    return [corpus.vocabulary.decode(part, END) for part in ids if part is not None]


@settings(max_examples=40)
@given(
    st.text(alphabet="ab\né🦆", min_size=30, max_size=200),
    st.sampled_from([0.1, 0.3]),
    st.sampled_from([0.0, 0.2]),
)
def test_whole_documents_are_drawn_by_their_text(text: str, val: float, test: float) -> None:
    config = TextConfig(documents="line", split="documents", val=val, test=test, min_count=1)
    documents = text_with_ends(text, config).split(END)[:-1]
    try:
        corpus = prepare(text, config)
    except TextError:
        return
    parts = [part.split(END)[:-1] for part in parts_of(corpus)]
    for part in parts:
        left = iter(documents)
        assert all(document in left for document in part), "in the order of the text"
    assert sorted(chain(*parts)) == sorted(documents)
    assert sum(len(set(part)) for part in parts) == len(set(documents))
    assert corpus.chars == len(text)
    longer = prepare("bab\n" + text, config)
    assert all(set(a) <= set(b.split(END)) for a, b in zip(parts, parts_of(longer), strict=True))


def test_documents_are_drawn_alike_wherever_blocks_are_cut(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from charlm.data.documents import split_documents
    from charlm.data.prepare import CorpusBuilder

    rng = np.random.default_rng(1)
    text = (
        "".join("".join(map(chr, rng.integers(97, 123, rng.integers(1, 30)))) + "\n" for _ in range(2000))
        + "é"
    )
    config = TextConfig(documents="line", split="documents", test=0.1)
    whole = prepare(text, config)
    sizes = [part.count(END) / 2001 for part in parts_of(whole)]
    assert np.allclose(sizes, [0.8, 0.1, 0.1], atol=0.03)
    monkeypatch.setenv("CHARLM_CACHE", str(tmp_path / "another"))
    pieces = [text[i : i + 11] for i in range(0, len(text), 11)]
    again = CorpusBuilder(config).build(
        split_documents([Block(piece.encode(), piece) for piece in pieces], config)
    )
    assert parts_of(again) == parts_of(whole)


@pytest.mark.parametrize("kind", ["tail", "blocks", "documents"])
def test_nothing_held_out_is_trained_on(kind: str) -> None:
    rng = np.random.default_rng(0)
    chars = [chr(0x4E00 + i) for i in rng.permutation(3000)]  # each once: where it is tells what was read
    text = "".join("".join(chars[i : i + 20]) + "\n" for i in range(0, 3000, 20))
    config = TextConfig(split=kind, documents="line", test=0.1, min_count=1)
    corpus = prepare(text, config)
    kept_back = set(without_ends(corpus.held_out_text() + corpus.test_text())) - {"\n"}
    assert len(kept_back) > 200 and not kept_back & set(corpus.vocabulary.chars)
    sampler = BatchSampler(len(corpus.train), 16, 8, 1)
    read = "".join(
        corpus.vocabulary.decode(sampler.batch(corpus.train, step).flatten()) for step in range(200)
    )
    assert not kept_back & set(read)
    model = build(
        corpus.train,
        corpus.vocabulary.n_symbols,
        2,
        memory=1 << 26,
        folds=fold_edges(len(corpus.train), FOLDS),
        end=corpus.vocabulary.end,
    ).model
    assert sum(int(level.counts.sum()) for level in model.levels[-1:]) <= len(corpus.train)
    again = prepare(text, config)
    assert again.key == corpus.key and np.array_equal(again.train, corpus.train)
    assert corpus.chars == len(text)
