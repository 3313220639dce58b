"""Passages that stand in the training text, against looking at every one of them."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charlm.data import verbatim as module
from charlm.data.corpus import Corpus
from charlm.data.tokenizer import END, Vocabulary
from charlm.data.verbatim import LONG, Verbatim, VerbatimReport, verbatim
from tests.cli.models import TEXT, UNSEEN


def corpus(train: str, held_out: str = "", units: str = "chars") -> Corpus:
    vocabulary = Vocabulary.build(train, units=units)
    ids = vocabulary.encode(train), vocabulary.encode(held_out)
    return Corpus(
        key="k", vocabulary=vocabulary, train=ids[0], held_out=ids[1], test=ids[0][:0],
        sha256="", train_chars=len(train), held_out_chars=len(held_out),
    )  # fmt: skip


def report(of: Corpus, texts: Sequence[str]) -> VerbatimReport:
    work = verbatim(of, texts)
    while True:
        try:
            done, total = next(work)
            assert total is not None and 0 <= done <= total
        except StopIteration as end:
            found: VerbatimReport = end.value
            return found


def by_looking(train: str, text: str) -> Verbatim:
    """The same by looking for every passage; of several that are longest, the one that comes first in `train`."""
    there = {
        (begin, end)
        for begin in range(len(text))
        for end in range(begin + 1, len(text) + 1)
        if text[begin:end] in train
    }
    longest = max((end - begin for begin, end in there), default=0)
    if not longest:
        return Verbatim(0, "", None, 0.0)
    offset, begin = min((train.index(text[a:b]), a) for a, b in there if b - a == longest)
    covered = {i for a, b in there if b - a >= LONG for i in range(a, b)}
    return Verbatim(longest, text[begin : begin + longest], offset, len(covered) / len(text))


WORDS = st.lists(
    st.sampled_from(["the old duck ", "and a fox ", "went over the river", "ab", "a", ".\n", "é"]),
    max_size=12,
)


@pytest.mark.parametrize("block", [4, 1 << 12])
@given(WORDS.map("".join).filter(bool), st.lists(WORDS.map("".join), max_size=4))
def test_it_is_what_looking_at_every_passage_finds(block: int, train: str, texts: list[str]) -> None:
    module.BLOCK, before = block, module.BLOCK
    module.AT_ONCE, at_once = 16, module.AT_ONCE
    try:
        found = report(corpus(train), texts)
    finally:
        module.BLOCK, module.AT_ONCE = before, at_once
    assert list(found.texts) == [by_looking(train, text) for text in texts]


def test_copies_and_half_copies_of_a_long_text() -> None:
    train, other = TEXT[:9000], UNSEEN
    copy = TEXT[5000:5400]
    texts = [copy, other[:150] + copy[:120] + other[150:300], "zzz" * 20, "", TEXT[8990:9100]]
    found = report(corpus(train), texts).texts
    assert (found[0].longest, found[0].offset, found[0].share) == (400, 5000, 1.0)
    assert found[1].longest >= 120 and copy[:120] in found[1].passage
    assert 120 / 420 <= found[1].share < 0.9
    assert found[2] == found[3] == Verbatim(0, "", None, 0.0)
    assert list(found) == [by_looking(train, text) for text in texts]


def test_a_text_of_one_letter_takes_no_longer_than_another() -> None:
    """Every passage of it is everywhere."""
    found = report(corpus("a" * 100_000 + "b"), ["a" * 500, "a" * 300 + "b"]).texts
    assert [(each.longest, each.offset, each.share) for each in found] == [(500, 0, 1.0), (301, 99_700, 1.0)]


def test_in_bytes_passages_are_of_whole_characters() -> None:
    train = "né, où, naïve: " * 3  # 橩 ends with the last byte of é, and ñ begins with the first one of ï
    found = report(corpus(train, units="bytes"), ["橩, où, nañ", "漢"]).texts
    assert (found[0].passage, found[0].longest, found[0].offset) == (", où, na", 8, 2)
    assert found[1] == Verbatim(0, "", None, 0.0)


def test_an_offset_counts_characters_and_no_ends_of_documents() -> None:
    train = f"one\n{END}two 漢\n{END}the third line\n{END}"
    [found] = report(corpus(train), ["a third line"]).texts
    assert (found.passage, found.offset) == (" third line", len("one\ntwo 漢\nthe"))


def test_what_is_usual_is_measured_on_held_out_text_of_the_same_length() -> None:
    train, held_out = TEXT[:9000], TEXT[9000:11000]
    usual = report(corpus(train, held_out), [UNSEEN[:100], UNSEEN[100:300]]).held_out
    assert usual is not None and (usual.symbols, usual.windows) == (150, 13)
    starts = np.linspace(0, 1850, 13).astype(int)
    each = [by_looking(train, held_out[start : start + 150]) for start in starts]
    assert usual.longest == np.median([one.longest for one in each])
    assert usual.share == pytest.approx(np.mean([one.share for one in each]))
    assert report(corpus(train, held_out[:100]), [UNSEEN[:150]]).held_out is None
    assert report(corpus(train, held_out), []).held_out is None


def test_a_piece_of_held_out_text_has_no_ends_of_documents() -> None:
    """Samples have none either, so a passage across one would count for one side only."""
    documents = f"abcdefghij{END}klmnopqrst{END}"
    usual = report(corpus(documents, documents), ["x" * 20]).held_out
    assert usual is not None and (usual.symbols, usual.windows, usual.longest) == (20, 1, 10)
