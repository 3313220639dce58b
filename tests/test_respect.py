"""What was held out of an earlier text is never trained on in another, wherever it stands there."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.data.corpus import Corpus
from charlm.data.holdout import EarlierText, InheritedSplit, Split
from charlm.data.overlap import PASSAGE
from charlm.data.prepare import prepare
from charlm.data.text_config import TextConfig
from charlm.data.tokenizer import END
from charlm.strict_json import from_json


def noise(n: int, seed: int, alphabet: str = "abcdefgh é\n") -> str:
    return "".join(np.random.default_rng(seed).choice(list(alphabet), n))


def earlier_of(corpus: Corpus, config: TextConfig, *, gone: bool = False) -> EarlierText:
    plain = config.documents == "none"
    before = None if corpus.inherited_split is None else corpus.inherited_split.spans
    return EarlierText(
        vocabulary=corpus.vocabulary,
        key=corpus.key,
        sha256=corpus.sha256,
        chars=corpus.chars,
        spans=before or (Split.of(corpus.chars, corpus.chars, config).spans if plain else None),
        kept_back=None if gone else (corpus.held_out, *([] if corpus.test is None else [corpus.test])),
        looked=not gone,
    )


def passages(text: str) -> set[str]:
    return {text[i : i + PASSAGE] for i in range(len(text) - PASSAGE + 1)}


CONFIGS = (
    TextConfig(),
    TextConfig(val=0.2, test=0.1),
    TextConfig(split="blocks"),
    TextConfig(split="blocks", val=0.05, test=0.05),
)


@given(st.sampled_from(CONFIGS), st.integers(200, 3_000), st.integers(0, 3_000), st.sampled_from(CONFIGS))
@settings(max_examples=40)
def test_a_text_that_has_grown_keeps_its_parts_and_adds_to_them(
    config: TextConfig, n: int, more: int, later: TextConfig
) -> None:
    text, addition = noise(n, 1), noise(more, 2)
    old = prepare(text, config)
    new = prepare(text + addition, later, earlier=earlier_of(old, config))
    assert new.inherited_split is not None and new.inherited_split.begins and new.inherited_split.found == 0
    rest = Split.of(more, more, later).spans
    for name in ("train", "held_out", "test"):
        before = {"train": old.training_text(), "held_out": old.held_out_text(), "test": old.test_text()}[
            name
        ]
        now = {"train": new.training_text(), "held_out": new.held_out_text(), "test": new.test_text()}[name]
        assert now == before + "".join(addition[a:b] for a, b in rest[name])
    spans = sorted(span for part in new.inherited_split.spans.values() for span in part if span[0] < span[1])
    assert [a for a, _ in spans] == [0, *(b for _, b in spans[:-1])] and spans[-1][1] == n + more, (
        "exactly once"
    )
    found = json.loads(json.dumps(asdict(new.inherited_split)))
    assert from_json(InheritedSplit, found) == new.inherited_split


def test_it_holds_from_run_to_run() -> None:
    config, text = TextConfig(), noise(1_000, 1)
    first = prepare(text, config)
    second = prepare(text + noise(500, 2), config, earlier=earlier_of(first, config))
    third = prepare(text + noise(500, 2) + noise(300, 3), config, earlier=earlier_of(second, config))
    assert third.held_out_text() == second.held_out_text() + noise(300, 3)[270:]
    assert second.held_out_text() == first.held_out_text() + noise(500, 2)[450:]


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("block", [100, 1 << 19])
def test_what_was_held_out_is_left_out_wherever_it_stands(
    config: TextConfig, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a folder in which files were added before and between those of before."""
    monkeypatch.setattr("charlm.data.encode.AT_ONCE", block)
    text = noise(4_000, 1)
    old = prepare(text, config)
    new_text = noise(700, 2) + text[:2_000] + noise(300, 3) + text[2_000:] + noise(900, 4)
    new = prepare(new_text, config, earlier=earlier_of(old, config))
    assert new.inherited_split is not None and not new.inherited_split.begins
    trained = passages(new.training_text())
    for kept_back in (old.held_out_text(), old.test_text()):
        assert not trained & passages(kept_back)
    without = prepare(new_text, config)
    assert passages(without.training_text()) & passages(old.held_out_text()), "or there was nothing to find"
    assert new.inherited_split.found == without.train_chars - new.train_chars
    assert (new.held_out_text(), new.test_text()) == (without.held_out_text(), without.test_text())
    assert new.chars == len(new_text)


@pytest.mark.parametrize("documents", ["line", "blank-line"])
def test_it_is_found_though_documents_are_now_told_apart(documents: str) -> None:
    """As well as where they were before, and the last one has grown."""
    text = noise(4_000, 1)
    for before in ("none", documents):
        old = prepare(text, TextConfig(documents=before))
        new = prepare(
            text + noise(900, 2),
            TextConfig(documents=documents),
            earlier=earlier_of(old, TextConfig(documents=before)),
        )
        assert new.inherited_split is not None and new.inherited_split.found > 300
        assert not passages(new.training_text()) & passages(old.held_out_text().replace(END, ""))
        assert new.chars == 4_900


def test_what_is_gone_is_not_looked_for_and_that_makes_another_corpus() -> None:
    config = TextConfig()
    old = prepare(noise(2_000, 1), config)
    text = noise(100, 2) + noise(2_000, 1) + noise(1_000, 3)
    found, not_looked = (
        prepare(text, config, earlier=earlier_of(old, config, gone=gone)) for gone in (False, True)
    )
    assert (
        found.inherited_split is not None
        and found.inherited_split.found == 200 == not_looked.train_chars - found.train_chars
    )
    assert found.key != not_looked.key


def test_known_divisions_are_taken_as_they_were() -> None:
    """As when a run is resumed, its text read again, and that of the run before is gone."""
    config = TextConfig()
    old = prepare(noise(2_000, 1), config)
    text = noise(100, 2) + noise(2_000, 1) + noise(1_000, 3)
    earlier = earlier_of(old, config)
    new = prepare(text, config, earlier=earlier)
    again = replace(earlier, kept_back=None, inherited_split=new.inherited_split)
    once_more = prepare(text, config, earlier=again)
    assert once_more.key == new.key and (once_more.train == new.train).all()


def test_whole_documents_stay_where_they_were() -> None:
    config = TextConfig(split="documents", documents="line", val=0.3)
    lines = [noise(30, i, "abcdef") + "\n" for i in range(200)]
    old = prepare("".join(lines[:100]), config)
    new = prepare("".join(lines[100:] + lines[:100]), config, earlier=earlier_of(old, config))
    trained = set(new.training_text().splitlines())
    before, now = (set(corpus.held_out_text().replace(END, "").splitlines()) for corpus in (old, new))
    assert before and before <= now and not before & trained
