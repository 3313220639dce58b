"""Documents: found wherever blocks are cut, never read across, in scores, counts and samples alike."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charlm.config import ModelConfig
from charlm.data.documents import EndMarker, split_documents
from charlm.data.load import load
from charlm.data.prepare import prepare
from charlm.data.stream import Block
from charlm.data.text_config import TextConfig
from charlm.data.tokenizer import END, Vocabulary, without_ends
from charlm.errors import TextError
from charlm.evaluation.score import score_text
from charlm.inference.generate import Ended, Piece, generate
from charlm.inference.ngram_predictor import NgramPredictor
from charlm.inference.predictor import TransformerPredictor
from charlm.inference.sampling_config import SamplingConfig
from charlm.model.transformer import LanguageModel, initialise
from charlm.ngram.build import build, count_parts, fold_edges, split_spans
from charlm.ngram.keys import Packing
from charlm.ngram.kneser_ney import KneserNey
from charlm.ngram.table import Level, levels_with_folds
from tests.plain_kneser_ney import BEFORE, Plain
from tests.reading import text_with_ends
from tests.test_sampling import Mock

KINDS = st.sampled_from(["file", "line", "blank-line", "separator"])


def config_of(kind: str, **more: object) -> TextConfig:
    return TextConfig(documents=kind, separator="-=-" if kind == "separator" else None, **more)  # type: ignore[arg-type]


def plainly(text: str, kind: str) -> list[str]:
    """The documents of a text that is in memory, found slowly."""
    if kind == "file":
        found = [text]
    elif kind == "line":
        found = text.split("\n")
        found = [line + "\n" for line in found[:-1]] + found[-1:]
    elif kind == "separator":
        found = text.split("-=-")
    else:
        found, breaks = [""], ""
        for char in text:
            if char in "\r\n":
                breaks += char
            else:
                if found[-1].strip("\r\n") and max(breaks.count("\n"), breaks.count("\r")) > 1:
                    found.append("")
                breaks = ""
            found[-1] += char
    return [document for document in found if document]


@given(st.text(alphabet="ab-=\n\r é🦆", max_size=60), KINDS, st.data())
def test_documents_are_found_wherever_blocks_are_cut(text: str, kind: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    blocks = [Block(piece.encode(), piece) for piece in pieces if piece]
    marker, codes = EndMarker(), []
    for block in split_documents(blocks, config_of(kind)):
        codes += marker.mark(block).tolist()
    found = "".join(map(chr, codes))
    assert found == "".join(document + END for document in plainly(text, kind))
    assert text_with_ends(text, config_of(kind)) == found
    assert marker.documents == len(plainly(text, kind))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet="ab\n é🦆", min_size=8), KINDS, st.sampled_from([0.0, 0.1, 0.4]), st.integers(1, 3))
def test_a_corpus_of_documents_is_the_text(text: str, kind: str, val: float, min_count: int) -> None:
    marked = text_with_ends(text, config_of(kind))
    n_train = int(len(marked) * (1 - val))
    config = config_of(kind, val=val, min_count=min_count)
    if END not in marked[:n_train]:
        with pytest.raises(TextError, match="no document ends in the training part"):
            prepare(text, config)
        return
    corpus = prepare(text, config)
    vocabulary = corpus.vocabulary
    assert vocabulary.decode(corpus.train, END) + corpus.held_out_text() == marked
    assert corpus.training_text() == without_ends(marked[:n_train])
    assert corpus.chars == len(text) and sum(corpus.ends) == marked.count(END)
    assert vocabulary.counts[-1] == marked[:n_train].count(END)
    assert Vocabulary.from_json(json.loads(vocabulary.to_json())) == vocabulary
    assert np.array_equal(vocabulary.encode(marked[:n_train]), corpus.train)
    for byte in range(256):
        assert vocabulary.spellings[vocabulary.id_of_byte[byte]] == bytes([byte])


def test_where_documents_end_is_part_of_a_corpus(elsewhere: Path) -> None:
    for name, text in {
        "a": "one\ntwo\n",
        "b": "three\nfour\n",
        "c": "one\ntwo\nthree\n",
        "d": "four\n",
    }.items():
        Path(name).write_text(text)
    first, other = (load(names, config_of("file", val=0.0)).corpus for names in (["a", "b"], ["c", "d"]))
    assert first.sha256 == other.sha256 and first.key != other.key
    assert first.vocabulary.decode(first.train, "|") == "one\ntwo\n|three\nfour\n|"
    again = load(["a", "b"], config_of("file", val=0.0)).corpus
    assert again.key == first.key and again.ends == (2, 0, 0)
    Path("e.jsonl").write_text('{"t": "a\\nb"}\n{"t": "c"}\n')
    records = load(["e.jsonl"], config_of("line", field="t", val=0.0)).corpus
    assert records.vocabulary.decode(records.train, "|") == "a\nb\n|c\n|"


VOCABULARY = Vocabulary("abc", b"", (4, 3, 2, 2), True)
E = VOCABULARY.end


def model_of(**settings_: object) -> TransformerPredictor:
    shape: dict[str, object] = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 12, **settings_}
    model = LanguageModel(ModelConfig(**shape), VOCABULARY.n_symbols).double()  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    initialise(model, generator)
    for weight in model.parameters():
        weight.data += torch.randn(weight.shape, generator=generator, dtype=weight.dtype) / 5
    counts = None
    if model.prior is not None:
        ids = VOCABULARY.encode(f"abc{END}abca{END}bca{END}")
        counts = build(ids, VOCABULARY.n_symbols, 3, memory=1 << 20, end=E).model
    return TransformerPredictor(model.eval(), VOCABULARY, prior=counts)


@pytest.mark.parametrize(
    "settings_",
    [
        {},
        {"ngram_embeddings": 3, "ngram_embedding_rows": 16},
        {"mixer": "convolution", "n_head": None},
        {"mixer": "recurrent", "n_head": None},
        {"mixer": "attention,recurrent"},
        {"prior": True, "prior_order": 3},
    ],
)
def test_no_score_depends_on_another_document(settings_: dict[str, object]) -> None:
    predictor = model_of(**settings_)
    tail = f"{END}cab{END}b"
    scores = [predictor.score(VOCABULARY.encode(before + tail)) for before in ("abca", "cccb")]
    assert np.array_equal(*(row[-6 + 1 :] for row in scores))
    assert not np.allclose(*(row[4:5] for row in scores)), "what ends a document depends on it"
    state = predictor.start(1)
    ids = VOCABULARY.encode(f"{END}cab")
    for t in range(len(ids) - 1):
        state, logp = predictor.step(state, torch.from_numpy(ids[None, t : t + 1].astype(np.int64)))
        assert np.isclose(logp[0, ids[t + 1]], scores[0][5 + t]), (
            "a document is stepped through as it is scored"
        )


def test_training_reads_no_other_document() -> None:
    from charlm.training.step import batch_loss

    model = model_of(ngram_embeddings=2, ngram_embedding_rows=8).model.train()
    windows = torch.tensor([[0, 1, 2, 0, E, 1, 2, 0], [2, 2, 1, 0, E, 1, 2, 0]])
    from charlm.model.masks import documents_of

    docs = documents_of(windows, E)
    assert docs is not None and docs[0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    logits = model(windows, docs=docs)
    assert torch.equal(logits[0, 4:], logits[1, 4:])
    assert not torch.allclose(logits[0, 3], logits[1, 3])
    apart, joined = (batch_loss(model, windows, end=end) for end in (E, None))
    assert not torch.isclose(apart, joined)


class PlainDocuments(Plain):
    """The same formulas for documents: each begins with its end symbol, and with nothing before it."""

    def __init__(self, documents: list[list[int]], end: int, n_symbols: int, order: int) -> None:
        counts: Counter[tuple[int, ...]] = Counter()
        for i, document in enumerate(documents):
            first = [] if i == 0 else [end]
            padded = [BEFORE] * order + first + document + [end]
            counts.update(tuple(padded[j : j + order + 1]) for j in range(len(first), len(padded) - order))
        super().__init__([], n_symbols, order)
        for k in range(order, -1, -1):
            self.counts[k] = {gram: n for gram, n in counts.items() if BEFORE not in gram}
            below: Counter[tuple[int, ...]] = Counter()
            for gram, n in counts.items():
                below[gram[1:]] += n if gram[0] == BEFORE else 1
            counts = below
        from tests.plain_kneser_ney import by_paper

        self.discounts = [by_paper(list(level.values())) for level in self.counts]
        self.after = []
        for level in self.counts:
            after: dict[tuple[int, ...], dict[int, int]] = {}
            for gram, n in level.items():
                after.setdefault(gram[:-1], {})[gram[-1]] = n
            self.after.append(after)


def spelled(levels: Sequence[Level]) -> list[list[tuple[int, ...]]]:
    """The symbols of every entry of each order."""
    grams: list[list[tuple[int, ...]]] = [[()]]
    for level in levels:
        contexts = np.repeat(level.contexts, np.diff(level.starts))
        grams.append(
            [(*grams[-1][at], s) for at, s in zip(contexts.tolist(), level.symbols.tolist(), strict=True)]
        )
    return grams[1:]


documents_ = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=2, max_size=8)


@given(documents_, st.integers(0, 4))
def test_counts_are_of_each_document_by_itself(documents: list[list[int]], order: int) -> None:
    ids = np.array([symbol for document in documents for symbol in [*document, E]])
    model = build(ids, 4, order, memory=1 << 24, end=E).model
    plain = PlainDocuments(documents, E, 4, order)
    before: tuple[int, ...] = ()
    found = model.probabilities(ids)
    rows = model.rows(np.concatenate((model.start(1), model.contexts(ids[None])[0])))
    contexts = model.start(1)
    for t, symbol in enumerate(ids.tolist()):
        wanted = plain.probability(before, symbol)
        assert np.isclose(found[t], wanted) and np.isclose(rows[t, symbol], wanted)
        contexts = model.step(contexts, ids[t : t + 1])
        before = (symbol,) if symbol == E else (*before, symbol)
        assert np.isclose(model.rows(contexts)[0, 1], plain.probability(before, 1))


@given(documents_, st.integers(0, 3), st.integers(2, 4))
def test_what_a_fold_leaves_out_is_what_it_has(documents: list[list[int]], order: int, n_folds: int) -> None:
    ids = np.array([symbol for document in documents for symbol in [*document, E]])
    packing = Packing(4, E)
    bounds = np.arange(n_folds + 1) * len(ids) // n_folds
    folds = [(ids, part) for part in split_spans([(0, len(ids))], fold_edges(len(ids), n_folds))]
    whole = KneserNey(4, *levels_with_folds(count_parts(folds, packing, order)[1], packing, order))
    for fold in range(n_folds):
        spans = [(0, int(bounds[fold])), (int(bounds[fold + 1]), len(ids))]
        rest = count_parts([(ids, spans)], packing, order)[1]
        without, _ = levels_with_folds(rest, packing, order)
        below: dict[tuple[int, ...], int] = {(): 1}
        for k, (level, share) in enumerate(zip(whole.levels, whole.fold_counts, strict=True)):
            left = level.counts.astype(int) - share[fold]
            of_others = dict(zip(spelled(without)[k], without[k].counts.tolist(), strict=True))
            expected = {
                gram: n
                for gram, n in zip(spelled(whole.levels)[k], left.tolist(), strict=True)
                if n
                and gram[:-1] in below  # where the second part begins, what stands before was not counted
            }
            assert of_others == expected
            below = of_others


def test_the_score_of_a_text_includes_its_ends_and_is_of_its_characters() -> None:
    ids = VOCABULARY.encode(f"abc{END}abca{END}bca{END}")
    predictor = NgramPredictor(build(ids, 4, 2, memory=1 << 20, end=E).model, VOCABULARY)
    text = f"ab{END}ca{END}"
    scored = score_text(predictor, "x", text)
    symbols = -predictor.score(VOCABULARY.encode(text))
    assert scored.text == "abca" and scored.ends == 2
    assert np.allclose(
        scored.nats, [symbols[0], symbols[1] + symbols[2], symbols[3], symbols[4] + symbols[5]]
    )
    assert np.isclose(scored.nats.sum(), symbols.sum())
    leading = score_text(predictor, "x", END + "a")
    assert len(leading.nats) == 1 and leading.ends == 1
    unaware = Mock([0.5, 0.25, 0.125, 0.125])
    assert len(unaware.vocabulary.encode(text)) == 4


class Endings(Mock):
    """Known odds; the last symbol ends documents."""

    def __init__(self, odds: list[float]) -> None:
        super().__init__(odds)
        self.vocabulary = VOCABULARY
        self.logp = torch.full((VOCABULARY.n_ids,), -20.0)
        self.logp[: len(odds)] = torch.tensor(odds).log()


def test_samples_stop_where_a_document_ends() -> None:
    said = list(
        generate(
            Endings([0.4, 0.2, 0.2, 0.2]), ["a"], SamplingConfig(seed=1), n=6, length=60, one_document=True
        )
    )
    ended = [event for event in said if isinstance(event, Ended)]
    assert {event.reason for event in ended} == {"document"}
    assert len({event.chars for event in ended}) > 2
    first = generate(Endings([0, 0, 0, 1.0]), [""], SamplingConfig(seed=1), length=5, one_document=True)
    assert list(first) == [Ended(0, "document", 0)]
    with pytest.raises(ValueError, match="one_document has no effect"):
        next(generate(Mock([0.25] * 4), [""], SamplingConfig(seed=1), length=5, one_document=True))


def test_samples_go_on_with_the_next_document_as_if_nothing_preceded() -> None:
    mock = Endings([0.4, 0.2, 0.2, 0.2])
    events = list(generate(mock, ["b"], SamplingConfig(seed=1), n=3, length=60, document_separator="|"))
    texts = ["".join(e.text for e in events if isinstance(e, Piece) and e.sample == i) for i in range(3)]
    assert all(len(text) == 60 and "|" in text for text in texts)
    assert mock.read[0].tolist() == [[E, 1]] * 3
    assert sum(ids.tolist() == [[E]] for ids in mock.read) >= sum(text[:-1].count("|") for text in texts)
    predictor = model_of()
    alone = [
        [
            e.text
            for e in generate(
                predictor, ["b"], SamplingConfig(seed=2), n=n, length=80, document_separator="|"
            )
            if isinstance(e, Piece) and e.sample == 0
        ]
        for n in (1, 4)
    ]
    assert "".join(alone[0]) == "".join(alone[1]) and "|" in "".join(alone[0])
