"""Characters or bytes as units: the same text, the same sums, whichever a model is trained on."""

import json
from collections.abc import Callable
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charlm.checkpoint.run_folder import RunFolder
from charlm.checkpoint.snapshot import Snapshot
from charlm.compression.codec import compressing, decompressing
from charlm.data import corpus_cache as cache
from charlm.data import decoding, encode, stream
from charlm.data.load import load
from charlm.data.prepare import prepare
from charlm.data.text_config import TextConfig
from charlm.data.tokenizer import END, Vocabulary, without_ends
from charlm.errors import TextError
from charlm.evaluation.baselines import ngram_baseline
from charlm.evaluation.score import Score, score_text
from charlm.inference.generate import Ended, Piece, default_prompt, generate, sample_text
from charlm.inference.ngram_predictor import NgramPredictor
from charlm.inference.predictor import Predictor, TransformerPredictor
from charlm.inference.sampling_config import SamplingConfig
from charlm.ngram.build import build
from charlm.training.launch import resume_run
from charlm.training.trainer import Trainer
from tests.conftest import After, Never, toy_run
from tests.test_compression import carried_through
from tests.test_loop import assert_same
from tests.test_model import make

SIZES = (
    (decoding, "HEAD"),
    (decoding, "PIECE"),
    (stream, "PIECE"),
    (encode, "AT_ONCE"),
    (encode, "IN_MEMORY"),
)
KINDS = ("chars", "bytes")
UNITS = st.sampled_from(KINDS)
TEXTS = st.one_of(
    st.text(alphabet="\r\na1\u0301\u200d\u0915가\U0001f468\0中", max_size=60), st.text(max_size=40)
)
FAMILY, FLAG, KSHA = (
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U0001f1f3\U0001f1f5",
    "\u0995\u09cd\u09b7\u09bf",
)
ETE = "e\u0301te\u0301 "  # in two code points each
TEXT = "".join(f"{i % 7} ducks née {KSHA}\u0995 {FAMILY}{FLAG}{ETE * (i % 3)}\r\n" for i in range(60))


def least(units: str, min_count: int) -> int | None:
    return None if units == "bytes" else min_count


@given(TEXTS.filter(bool), TEXTS, UNITS, st.integers(1, 3))
def test_every_text_comes_back(training: str, text: str, units: str, min_count: int) -> None:
    vocabulary = Vocabulary.build(training, least(units, min_count), units)
    for some in (training, text):
        ids = vocabulary.encode(some)
        assert vocabulary.decode(ids) == some
        assert vocabulary.ids_per_char(some).sum() == len(ids)
        assert units != "bytes" or len(ids) == vocabulary.count_units(some) == len(some.encode())
    assert list(vocabulary.counts) == np.bincount(vocabulary.encode(training)).tolist(), (
        "nothing else, each there"
    )
    assert Vocabulary.from_json(json.loads(vocabulary.to_json())) == vocabulary


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    TEXTS.filter(lambda text: len(text) > 3 and text.strip("\r\n \x00")),
    UNITS,
    st.integers(1, 7),
    st.sampled_from(["none", "line"]),
    st.sampled_from([0.0, 0.1, 0.4]),
)
def test_a_corpus_is_the_text_whatever_the_blocks(
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    units: str,
    piece: int,
    documents: str,
    val: float,
) -> None:
    if text.startswith("\ufeff"):
        return  # a mark, which files lose
    config = TextConfig(units=units, documents=documents, val=val)
    corpora: list[Any] = []
    for size in (None, piece):
        cache.remove_rest()
        with monkeypatch.context() as patch:
            for module, name in SIZES if size else ():
                patch.setattr(module, name, size)
            Path("t").write_bytes(text.encode())
            try:
                corpora.append(load(["t"], config).corpus if size else prepare(text, config))
            except TextError as error:  # too short, or no end of a document, whichever way it is read
                corpora.append(str(error))
    one, other = corpora
    if isinstance(one, str) or isinstance(other, str):
        assert one == other or "not text" in str(other) or "UTF-" in str(other) or "NUL" in str(other)
        return
    assert one.vocabulary == other.vocabulary and one.key == other.key
    vocabulary, plain = one.vocabulary, prepare(text, TextConfig(documents=documents, val=val))
    for name in ("train", "held_out"):
        ids, again = getattr(one, name), getattr(other, name)
        assert ids.dtype == again.dtype and np.array_equal(ids, again)
        said = vocabulary.decode(ids, END)
        assert np.array_equal(vocabulary.encode(said), ids)
        assert said == plain.vocabulary.decode(getattr(plain, name), END), "the same part, whatever the units"
        assert len(without_ends(said)) == getattr(one, f"{name}_chars") == getattr(plain, f"{name}_chars")
    assert vocabulary.units == units


def counts_of(units: str, order: int = 4, text: str = TEXT) -> NgramPredictor:
    vocabulary = Vocabulary.build(text, None, units)
    built = build(vocabulary.encode(text), vocabulary.n_symbols, order, memory=1 << 30)
    return NgramPredictor(built.model, vocabulary)


def transformer_of(units: str) -> TransformerPredictor:
    vocabulary = Vocabulary.build(TEXT, None, units)
    return TransformerPredictor(make(block_size=9, n_symbols=vocabulary.n_symbols), vocabulary)


@pytest.mark.parametrize("units", KINDS)
@pytest.mark.parametrize("text", [TEXT[100:300], "d", "Ж\u0301 unseen \U0001f46a\u200d\U0001f9d1", KSHA * 9])
@pytest.mark.parametrize("made", [counts_of, transformer_of])
def test_the_nats_are_the_same_however_they_are_reported(
    units: str, text: str, made: Callable[[str], Predictor]
) -> None:
    predictor = made(units)
    nats = -predictor.score(predictor.vocabulary.encode(text)).sum()
    scored = score_text(predictor, "x", text)
    assert scored.nats.shape == (len(text),)
    assert scored.nats.sum() == pytest.approx(nats, rel=1e-12)
    figure = Score([scored, scored])
    bits = 2 * nats / log(2)
    assert figure.chars == 2 * len(text) and figure.bytes == 2 * len(text.encode())
    assert figure.bits_per_char * figure.chars == pytest.approx(bits)
    assert figure.bits_per_byte * figure.bytes == pytest.approx(bits)
    assert figure.bits_per_unit * figure.units == pytest.approx(bits)
    if units == "bytes":
        assert figure.bits_per_unit == figure.bits_per_byte
    if isinstance(predictor, NgramPredictor):
        ids = predictor.vocabulary.encode(text)
        found = ngram_baseline(predictor.model, predictor.vocabulary, ids, len(text))
        assert found.bits_per_char * len(text) == pytest.approx(bits / 2)


@pytest.mark.parametrize("units", KINDS)
@pytest.mark.parametrize("made", [counts_of, transformer_of])
def test_probabilities_sum_to_one(units: str, made: Callable[[str], Predictor]) -> None:
    predictor = made(units)
    ids = predictor.vocabulary.encode(TEXT[:40] + "unseen Ж")
    for t in range(len(ids)):
        _, logp = predictor.step(predictor.start(1), torch.from_numpy(ids[None, :t].astype(np.int64)))
        assert logp.shape == (1, predictor.vocabulary.n_ids)
        assert float(torch.logsumexp(logp.double(), dim=1)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("units", KINDS)
def test_what_is_sampled_is_text_and_stops(units: str) -> None:
    predictor = counts_of(units, order=8)
    config = SamplingConfig(temperature=0.5, seed=3)
    text = sample_text(predictor, "1 ducks n", config, 300)
    assert len(text) == 300 and "\ufffd" not in text
    assert KSHA in text and FAMILY in text
    assert text.startswith("ée")
    assert default_prompt(predictor) == "\n"
    for stop in (f" {KSHA}", "\u09b7", "\U0001f469", "ducks née"):
        events = list(generate(predictor, ["1 ducks n"], config, n=2, length=300, stops=[stop]))
        pieces = "".join(e.text for e in events if isinstance(e, Piece) and e.sample == 0)
        assert [e.reason for e in events if isinstance(e, Ended)] == ["stop"] * 2
        assert pieces == text[: text.index(stop)]


def run_in(
    units: str, root: Path, name: str, steps: int = 6, *, counts: bool = True
) -> tuple[RunFolder, Any]:
    corpus = prepare(TEXT, TextConfig(units=units))
    model = {"prior": True, "prior_order": 2} if counts else {}
    return toy_run(root, corpus, steps, name, model=model, save_every=1e6)


@pytest.mark.parametrize("units", KINDS)
def test_resume_is_exact(tmp_path: Path, units: str) -> None:
    run, whole = run_in(units, tmp_path, "whole")
    list(Trainer(whole, run).run(Never()))
    run, part = run_in(units, tmp_path, "part")
    trainer = Trainer(part, run)
    list(trainer.run(After(lambda: trainer.step, 3)))
    run.unlock()
    again = resume_run(RunFolder(run.path), pytest.fail)
    assert again.state.step == 3 and again.corpus.vocabulary.units == units
    list(Trainer(again, run).run(Never()))  # type: ignore[arg-type]
    assert_same(whole, again)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=KINDS)
def snapshot(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return run_in(request.param, tmp_path_factory.mktemp("runs"), "toy")[1].snapshot()


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=40) | TEXTS.map(str.encode) | st.just(TEXT[:200].encode() + b"\xff\xc3" + b"e\xcc\x81")
)
def test_any_bytes_are_compressed_and_come_back(snapshot: Snapshot, data: bytes) -> None:
    made = carried_through(compressing(data, snapshot))
    assert bytes(carried_through(decompressing(made.data, "a file", snapshot))) == data


@pytest.mark.parametrize(
    "change",
    [
        {"units": "words"},
        {"units": None},
        {"units": ["chars"]},
        {"units": "bytes"},  # which have no characters
        {"units": "graphemes", "clusters": ["e\u0301"]},
        {"clusters": ["e\u0301"]},
        {"more": 1},
        {"ends": 1},
    ],
)
def test_units_that_cannot_be_are_refused(change: dict[str, Any]) -> None:
    good = {"chars": "ab", "bytes": [], "counts": [1, 2]}
    assert Vocabulary.from_json(good).units == "chars"
    with pytest.raises(ValueError, match="graphemes" if change.get("units") == "graphemes" else "vocabulary"):
        Vocabulary.from_json({**good, **change})
