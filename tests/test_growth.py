"""A vocabulary that grows, and a model with it: what was known stays exactly as it was."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from charlm.compression.codec import file_to_ids, ids_to_file
from charlm.config import ModelConfig
from charlm.data.tokenizer import END, Vocabulary, code_points
from charlm.inference.predictor import TransformerPredictor
from charlm.model.transformer import LanguageModel, grow_vocabulary, initialise

TEXTS = st.text(min_size=1, alphabet="abcé🦆\n" + END)


def grow(old: Vocabulary, text: str, min_count: int) -> Vocabulary:
    """By the symbols of a text, as `prepare` has it."""
    counts = np.bincount(code_points(text))
    least = None if old.units == "bytes" else min_count
    return old.extended(Vocabulary.from_counts(counts, least, old.units, old.chars))


@given(TEXTS, st.text(min_size=1, alphabet="zabdéü🦆🐢\n" + END), st.integers(1, 3), st.integers(1, 3))
def test_old_symbols_keep_their_ids_and_every_text_comes_back(
    old_text: str, new_text: str, old_count: int, new_count: int
) -> None:
    if not old_text.replace(END, "") or not new_text.replace(END, ""):
        return
    old = Vocabulary.build(old_text, old_count)
    new = grow(old, new_text, new_count)
    ids = old.encode(old_text)
    assert new.decode(old.ids_in(new, ids), END) == old.decode(ids, END)
    assert (old.ids_in(new, ids) == ids).all(), "what training had has not moved"
    assert new.spellings[: old.n_symbols] == old.spellings[: old.n_symbols]
    for text in (old_text, new_text, "all of Ünicode 🐢" + END):
        assert new.decode(new.encode(text)) == text.replace(END, "")
    assert (new.encode(new_text) < new.n_symbols).all(), "training has what it needs"
    assert set(range(old.n_symbols, new.n_symbols)) <= set(new.encode(new_text).tolist()), "and nothing more"
    kept = {c for c in new_text if c != END and new_text.count(c) >= new_count} | set(old.chars)
    assert set(new.chars) == kept
    assert Vocabulary.from_json(json.loads(new.to_json())) == new
    assert ids_to_file(file_to_ids(b"a\xff\x80z", new).ids, new) == b"a\xff\x80z"


@given(TEXTS, st.text(min_size=1, alphabet="zabdéü"))
def test_its_counts_are_those_of_both_texts(old_text: str, new_text: str) -> None:
    if not old_text.replace(END, ""):
        return
    old = Vocabulary.build(old_text, 1)
    new = grow(old, new_text, 1)
    both = np.concatenate((old.ids_in(new, old.encode(old_text)), new.encode(new_text)))
    assert list(new.counts) == list(np.bincount(both, minlength=new.n_symbols))


def test_a_text_with_nothing_new_gives_the_same_symbols() -> None:
    old = Vocabulary.build("hello world é", 1)
    assert replace(grow(old, "hell", 1), counts=old.counts) == old


def test_a_vocabulary_of_bytes_grows_too() -> None:
    old = Vocabulary.build("abc e\u0301e\u0301 é", units="bytes")
    new = grow(old, "o\u0308o\u0308 ü e\u0301🐢" + END, 1)
    assert new.units == "bytes" and new.has_end and new.n_symbols > old.n_symbols and not new.chars
    assert new.spellings[: old.n_symbols] == old.spellings[: old.n_symbols]
    for text in ("abc e\u0301 é", "o\u0308 ü e\u0301🐢", "🦆x"):
        assert new.decode(new.encode(text)) == text
        assert new.decode(old.ids_in(new, old.encode(text))) == text
    assert Vocabulary.from_json(json.loads(new.to_json())) == new


def test_bytes_never_seen_are_found_again_when_they_are_seen() -> None:
    old = Vocabulary.build("aab", 1)
    new = grow(old, "aabé", 2)  # é is rare, and spelled
    before = old.encode("üé")
    assert new.decode(old.ids_in(new, before)) == "üé" == new.decode(new.encode("üé"))
    assert (old.ids_in(new, before) == new.encode("üé")).all()


@pytest.mark.parametrize("ids", [[0, 0], [0, 2], [1], [-1, 0], [0.0, 1]])
def test_ids_that_are_not_each_there_once_are_refused(ids: list[object]) -> None:
    with pytest.raises(ValueError, match="vocabulary"):
        Vocabulary.from_json({"chars": "ab", "bytes": [], "counts": [1, 1], "ids": ids})


def random_model(config: ModelConfig, n_symbols: int) -> LanguageModel:
    model = LanguageModel(config, n_symbols).double()
    initialise(model, torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    for weight in model.parameters():
        weight.data += torch.randn(weight.shape, generator=generator, dtype=weight.dtype) / 5
    return model.eval()


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"ngram_embeddings": 3, "ngram_embedding_rows": 128},
        {"mixer": "recurrent,attention", "n_layer": 2},
        {"position": "learned"},
    ],
)
@pytest.mark.parametrize("new_text", ["abba cab", "zum züb 🐢🐢"])
def test_a_grown_model_says_of_old_symbols_what_it_said(more: dict[str, object], new_text: str) -> None:
    """Among the old symbols exactly; those that are new take at most their number's share, whatever is read."""
    old_text = "abba\ncabé" * 8
    old = Vocabulary.build(old_text, 9)  # é is spelled in bytes
    new = grow(old, new_text, 1)
    n_new = new.n_symbols - old.n_symbols
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 16, "block_size": 8, "dropout": 0.0}
    config = ModelConfig(**{**shape, **more}).completed()  # type: ignore[arg-type]
    model = random_model(config, old.n_symbols)
    larger = LanguageModel(config, new.n_symbols).double().eval()
    larger.load_state_dict(grow_vocabulary(model.state_dict(), new.n_symbols))
    ids = torch.from_numpy(old.encode(old_text).astype(np.int64))[None, :8]
    with torch.inference_mode():
        before, after = model(ids).log_softmax(-1), larger(ids).log_softmax(-1)
    of_new = after[..., old.n_symbols :].exp().sum(-1)
    assert (of_new <= n_new / new.n_symbols + 1e-12).all()
    torch.testing.assert_close(
        after[..., : old.n_symbols] - torch.log1p(-of_new)[..., None], before, rtol=0, atol=1e-9
    )
    scores = [
        TransformerPredictor(m, v).score(old.encode(old_text))[1:] for m, v in ((model, old), (larger, new))
    ]
    if not n_new:
        np.testing.assert_allclose(scores[1], scores[0], rtol=0, atol=1e-5)
    assert (scores[1] >= scores[0] + np.log(old.n_symbols / new.n_symbols) - 1e-6).all()
