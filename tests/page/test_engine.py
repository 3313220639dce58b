"""The engine of the page computes what Python computes, for every kind of run."""

from typing import Any

import numpy as np
import pytest

from charlm.data.tokenizer import END
from charlm.inference.generate import Piece, generate
from charlm.inference.predictor import Predictor
from charlm.inference.sampling_config import SamplingConfig
from charlm.page.pack import pack
from tests.page.conftest import Page
from tests.page.toys import SCORED, Toy, mixture, probabilities, snapshot_of, surprisal

CLOSE = 1e-3
POSITIONS = ("none", "learned", "sinusoidal", "relative", "rotary", "alibi")
NGRAMS = {"ngram_embeddings": 4, "ngram_embedding_rows": 64}
PRIOR = {"prior": True}
WRITTEN = 250
PROMPTS = ("", "T", "The old", SCORED[:200], SCORED)


def one(**settings: Any) -> Toy:
    return Toy(members=(settings,))


def toys() -> dict[str, Toy]:
    """Every kind of run by name."""
    found = {
        f"attention-{position}{'-prior' * prior}": one(position=position, prior=prior)
        for position in POSITIONS
        for prior in (False, True)
    }
    found |= {
        "simple-attention": one(mixer="simple-attention", position="rotary"),
        "convolution": one(mixer="convolution", position="learned", window=3),
        "recurrent": one(mixer="recurrent"),
        "recurrent-prior": one(mixer="recurrent", **PRIOR, **NGRAMS),
        "recurrent-in-blocks": one(mixer="recurrent", position="sinusoidal"),
        "recurrent-attention": one(mixer="recurrent,attention"),
        "simple-attention-convolution": one(mixer="simple-attention,convolution", position="alibi", **PRIOR),
        "window-locality": one(window=5, locality=True, position="rotary", n_kv_head=1, n_head=2),
        "odd-heads-alibi": one(n_head=3, n_embd=18, position="alibi", locality=True),
        "block-7": one(block_size=7, **NGRAMS),
        "ngram-embeddings": one(**NGRAMS, **PRIOR),
        "ngram": Toy(members=()),
        "bytes": Toy(members=(PRIOR,), text={"units": "bytes"}),
        "bytes-no-prior": Toy(members=(NGRAMS,), text={"units": "bytes"}),
        "documents": Toy(members=({**PRIOR, **NGRAMS},), text={"documents": "line"}),
        "documents-separator": Toy(
            members=({"mixer": "recurrent"},), text={"documents": "separator", "separator": "the "}
        ),
        "rare-in-bytes": Toy(members=({**PRIOR, **NGRAMS},), text={"min_count": 40}),
        "extended": Toy(members=({**PRIOR, **NGRAMS},), extended=True),
        "temperature": Toy(members=(PRIOR,), mixture=mixture(1, ngram=False, recent=True)),
        "mixture": Toy(
            members=({**PRIOR}, {**NGRAMS, "n_layer": 3, "block_size": 24}),
            mixture=mixture(2, ngram=True, recent=True),
        ),
        "mixture-recurrent": Toy(
            members=({"mixer": "recurrent", **PRIOR}, {"mixer": "recurrent", "n_layer": 1}),
            mixture=mixture(2, ngram=False, recent=False),
        ),
    }
    return found


TOYS = toys()
PLAIN = {f"attention-{position}" for position in POSITIONS}
ALIKE = PLAIN | {f"{name}-prior" for name in PLAIN} | {"recurrent-attention", "simple-attention", "block-7"}
"""They write as one of them does; what differs is in their predictions."""


def thinned(slow: set[str]) -> list[Any]:
    """The toys, some of them slow."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in slow)) for name in TOYS]


def written(predictor: Predictor, prompt: str, config: SamplingConfig, separator: str, **how: Any) -> str:
    """One sample."""
    pieces = generate(predictor, [prompt], config, length=WRITTEN, document_separator=separator, **how)
    return "".join(piece.text for piece in pieces if isinstance(piece, Piece))


@pytest.mark.parametrize("name", thinned(PLAIN))
def test_the_page_predicts_what_python_predicts(page: Page, name: str) -> None:
    """Of the packed model: each character of a long text, and all that may come after a few prompts."""
    packed = pack(snapshot_of(TOYS[name]))
    info = page.open(packed.data)
    predictor = packed.predictor
    assert info["kind"] == predictor.kind and info["nSymbols"] == predictor.vocabulary.n_symbols
    bits, entropy = page.score(SCORED)
    expected_bits, expected_entropy = surprisal(predictor, SCORED)
    assert len(bits) == len(SCORED) >= 1000
    np.testing.assert_allclose(bits, expected_bits, atol=CLOSE)
    np.testing.assert_allclose(entropy, expected_entropy, atol=CLOSE)
    for prompt in PROMPTS:
        found = page("engine.next(given, {n: 1000})", prompt)["next"]
        expected = probabilities(predictor, prompt)
        by_name = {each["text"]: each["p"] for each in found}
        assert by_name.keys() == expected.keys() and len(found) == len(by_name)
        assert sum(by_name.values()) == pytest.approx(1, abs=1e-5)
        assert [each["p"] for each in found] == sorted(by_name.values(), reverse=True)
        of_page, of_python = (np.log([each[key] for key in expected]) for each in (by_name, expected))
        np.testing.assert_allclose(of_page, of_python, atol=CLOSE)


@pytest.mark.parametrize("name", thinned(ALIKE - {"attention-rotary-prior"}))
def test_the_page_writes_what_python_writes(page: Page, name: str) -> None:
    """The likeliest text, and one that is drawn with a seed: the same random numbers choose."""
    packed = pack(snapshot_of(TOYS[name]))
    page.open(packed.data)
    separator = TOYS[name].text.get("separator", "")
    greedy = page.generate("The old", length=WRITTEN, temperature=0)
    text = "".join(piece["text"] for piece in greedy)
    assert text == written(packed.predictor, "The old", SamplingConfig(temperature=0.0), separator)
    drawn = page.generate("One", length=WRITTEN, temperature=0.9, topP=0.9, minP=0.01, seed=7)
    config = SamplingConfig(temperature=0.9, top_p=0.9, min_p=0.01, seed=7)
    assert "".join(piece["text"] for piece in drawn) == written(packed.predictor, "One", config, separator)
    assert all(piece["bits"] >= 0 for piece in drawn)


def test_pieces_have_the_bits_that_their_text_has(page: Page) -> None:
    """Of a model without documents or recent n-grams, the bits of what it writes are those of `score`."""
    packed = pack(snapshot_of(TOYS["rare-in-bytes"]))
    page.open(packed.data)
    pieces = page.generate(SCORED[:50], length=200, temperature=1, seed=3)
    scored = surprisal(packed.predictor, SCORED[:50] + "".join(piece["text"] for piece in pieces))[0][50:]
    if "\ufffd" not in "".join(piece["text"] for piece in pieces):
        np.testing.assert_allclose([piece["bits"] for piece in pieces], scored, atol=CLOSE)
    first = next(i for i, piece in enumerate([*pieces, {"text": "\ufffd"}]) if piece["text"] == "\ufffd")
    np.testing.assert_allclose([piece["bits"] for piece in pieces[:first]], scored[:first], atol=CLOSE)


@pytest.mark.parametrize("stop", ["e", "th", "\n", "zzz"])
def test_writing_ends_before_a_stop_text(page: Page, stop: str) -> None:
    packed = pack(snapshot_of(TOYS["ngram"]))
    page.open(packed.data)
    pieces = page.generate("The", length=WRITTEN, temperature=0.8, stop=[stop, "qqq"], seed=4)
    config = SamplingConfig(temperature=0.8, seed=4)
    text = "".join(piece["text"] for piece in pieces)
    assert text == written(packed.predictor, "The", config, "", stops=[stop, "qqq"])
    assert stop not in text and (stop == "zzz") == (len(text) == WRITTEN)


def test_an_answer_in_pieces_ends_when_it_is_aborted(page: Page) -> None:
    """Without an exception; and others are answered while it is in work and afterwards."""
    page.open(pack(snapshot_of(TOYS["mixture"])).data)
    found = page.page.evaluate("""async () => {
        const found = {pieces: 0};
        const abort = new AbortController();
        for await (const piece of engine.generate('The', {length: 1e9, seed: 1}, abort.signal)) {
            if (++found.pieces === 3) found.between = (await engine.next('The', {n: 1})).next.length;
            if (found.pieces === 20) abort.abort();
        }
        for await (const piece of engine.score('a'.repeat(1e6), AbortSignal.abort())) found.pieces += 1000;
        for await (const piece of engine.score('a'.repeat(1e6))) break;
        found.after = (await engine.next('The', {n: 2})).next.length;
        const pause = () => new Promise((resolve) => setTimeout(resolve, 300));
        await pause(); // what the worker had posted before it was told to stop
        found.late = 0;
        engine.worker.addEventListener('message', () => found.late++);
        await pause();
        return found;
    }""")
    assert found == {"pieces": 20, "between": 1, "after": 2, "late": 0}


def test_ends_of_documents_are_never_part_of_a_text(page: Page) -> None:
    """What marks them in our strings is half a surrogate pair; in a text it is read as U+FFFD."""
    packed = pack(snapshot_of(TOYS["documents"]))
    page.open(packed.data)
    found = page.page.evaluate("""async () => {
        const bits = [];
        for await (const piece of engine.score('a\\ud800b')) bits.push(...piece.bits);
        return bits;
    }""")
    np.testing.assert_allclose(found, surprisal(packed.predictor, "a\ufffdb")[0], atol=CLOSE)
    assert END == "\ud800"
