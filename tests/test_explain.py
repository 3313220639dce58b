"""Explanations: one text, in the class it is about, and examples that show what it says."""

from collections.abc import Callable
from pathlib import Path

import pytest

from charlm.config import ModelConfig, TrainingConfig
from charlm.experiments.variants import parse_axis, variants
from charlm.explain.topics import PLAIN, TOPICS, explain
from charlm.model.mixers import MIXERS
from charlm.model.positions import POSITIONS
from charlm.settings import settings_of
from charlm.training.planner import choose
from charlm.training.sizes import Budget
from tests.conftest import TEXT, Result

VARIED = [topic for topic, found in TOPICS.items() if found.vary]


def columns(topic: str) -> list[list[float]]:
    """The numbers of an example, column by column, without the names of its rows."""
    rows = explain(topic).example.rows
    return [[float(cell) for cell in column] for column in list(zip(*rows, strict=True))[1:]]


def test_every_mixer_and_position_is_a_topic_by_its_name() -> None:
    for name, cls in {**MIXERS, **POSITIONS}.items():
        assert TOPICS[name].subject is cls


def test_what_compares_topics_can_be_compared() -> None:
    for topic in VARIED:
        found = explain(topic)
        assert found.command and not found.instead
        plain = PLAIN in found.command
        name, values = parse_axis(TOPICS[topic].vary or "")
        assert name in {s.name for kind in (ModelConfig, TrainingConfig) for s in settings_of(kind)}
        base = ModelConfig(prior=False, ngram_embeddings=1) if plain else ModelConfig()
        compared, refused = variants({name: values}, base, TrainingConfig())
        assert len(compared) == len(values) and not refused
        for variant in compared:
            choose(Budget(steps=100), 50_000, variant.model, variant.training)


def test_what_cannot_be_compared_says_what_to_try(charlm: Callable[..., Result]) -> None:
    for topic in set(TOPICS) - set(VARIED):
        assert explain(topic).command is None and explain(topic).instead
    Path("corpus.txt").write_text(TEXT)
    said = explain("causal").instead
    result = charlm(*said.partition(" gives an error")[0].split()[1:])
    assert result.code == 2 and "causal" in result.err and "cannot be trained" in result.err
    assert "--by" in charlm("surprisal", "--help").out


def test_the_examples_of_prediction_show_what_they_say() -> None:
    *_, (_, total, _, mean), (_, _, _, perplexity) = explain("perplexity").example.rows
    assert total == "11" and float(perplexity) == pytest.approx(2 ** float(mean), abs=0.02)
    rows = columns("softmax")
    assert all(sum(column[t] for column in rows) == pytest.approx(1, abs=0.002) for t in range(4))
    assert rows[0] == sorted(rows[0], reverse=True) and rows[0][0] == 1, "the higher, the flatter"
    orders = columns("kneser-ney")
    assert orders[0][2] > orders[0][1] > orders[0][0], "the longer the context, the surer of 'c'"
    index = [row[1:] for row in explain("ngram-embeddings").example.rows]
    assert index[2] == index[6] and index[0] == ("none", "none") and index[5][0] == index[1][0]
    assert min(map(float, explain("muon").example.rows[1][1:])) > 0.6


def test_the_examples_show_what_they_say() -> None:
    weights = columns("causal")
    assert all(weights[s][t] == 0 for s in range(4) for t in range(s))
    assert sum(column[3] for column in weights) == 1
    assert all(step == once for *_, step, once in explain("autoregressive").example.rows)
    assert columns("recurrent")[1] == [0.25, 0.81, 0.98]
    assert [[t for t, y in enumerate(column) if y] for column in columns("convolution")] == [
        [1, 2, 3],
        [1, 3],
    ]
    same = columns("simple-attention")
    assert same[0] == same[2] and {column[0] == column[2] for column in same} == {True}
    through = columns("window")
    assert [s for s in range(5) if through[s][4]] == [2, 3, 4]
    begins, *_, last = columns("locality")
    assert begins[0] > begins[1] and last[0] < last[1]
    assert [column[2] for column in columns("documents")] == [0, 0, 1, 0, 0]
    untrained, doubted, ignored, outvoted = zip(*columns("ngram-prior"), strict=True)
    assert untrained == (0.7, 0.2, 0.1) and ignored == (0.33, 0.33, 0.33)
    assert max(ignored) < max(doubted) < max(untrained) and outvoted[2] > untrained[2]


def test_the_examples_of_positions_show_what_they_say() -> None:
    assert len({row[1:] for row in explain("learned").example.rows}) == 3
    assert columns("sinusoidal")[0][1] == 0.84 and columns("sinusoidal")[1][0] == 1
    assert columns("relative") == [[0, 1, 15, 16, 17, 17, 21, 26, 31, 31]]
    by_distance: dict[float, set[float]] = {}
    for _, _, distance, product in explain("rotary").example.rows:
        by_distance.setdefault(float(distance), set()).add(float(product))
    assert len(by_distance) == 3 and all(len(products) == 1 for products in by_distance.values())
    nearest = columns("alibi")[-1]
    assert nearest == sorted(nearest, reverse=True)
    assert [column[0] for column in columns("none")] == [round(1 / (t + 1), 2) for t in range(6)]
    _, _, read, thought = columns("block")
    assert not any(read[:3] + thought[:3]) and all(read[3:] + thought[3:])


def test_the_same_layer_gives_the_beginning_on_the_beginning() -> None:
    short, _, long = (row[1:] for row in explain("sequence").example.rows)
    assert short[:2] == long[:2] and not any(short[2:])


def test_only_attention_without_mask_and_positions_is_equivariant() -> None:
    (*kind, alone), *others = explain("equivariance").example.rows
    assert kind == ["none", "none"] and float(alone) < 1e-12
    assert {(mask, position) for mask, position, _ in others} == {
        ("causal", "none"), *(("none", position) for position in POSITIONS if position != "none")
    }  # fmt: skip
    assert all(float(difference) > 1e-3 for *_, difference in others)
