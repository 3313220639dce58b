"""Hostile checkpoints: by hand and mutated, before and behind the manifest; one clear error, soon, in little memory."""

import json
import random
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch

from charlm.checkpoint import safe_io
from charlm.checkpoint.safe_io import NGRAM_FILE, dump_tensors
from charlm.checkpoint.snapshot import read_snapshot
from tests.forks import forked
from tests.hostile import FILES, VOUCHED, Hostile, joined, twice

pytestmark = pytest.mark.native

MEMORY = 300 << 20
STATE, CONFIG, RUN, WORDS = "state.json", "config.json", "run.json", "vocabulary.json"
MODEL, TRAIN, PLAN = "model.safetensors", "train_state.safetensors", "plan.json"


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    """Counts alone, of documents kept apart."""
    root = tmp_path_factory.mktemp("counted")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHARLM_CACHE", str(root / "cache"))
        yield Hostile.made(root, alone=True)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hostile]:
    root = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHARLM_CACHE", str(root / "cache"))
        yield Hostile.made(root)


@pytest.fixture
def used(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hostile]:
    monkeypatch.setenv("CHARLM_CACHE", str(hostile.run.path.parents[1] / "cache"))
    yield hostile
    hostile.restore()


@pytest.fixture
def used_alone(counted: Hostile, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hostile]:
    monkeypatch.setenv("CHARLM_CACHE", str(counted.run.path.parents[1] / "cache"))
    yield counted
    counted.restore()


def edit(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Hostile], None]:
    def act(hostile: Hostile) -> None:
        value = json.loads(hostile.good[name])
        change(value)
        hostile.path(name).write_text(json.dumps(value))

    return act


def write(name: str, data: bytes) -> Callable[[Hostile], None]:
    return lambda hostile: hostile.path(name).write_bytes(data) and None


def counts(change: Callable[[dict[str, Any]], object]) -> Callable[[Hostile], None]:
    def act(hostile: Hostile) -> None:
        arrays = dict(safetensors.numpy.load(hostile.good[NGRAM_FILE]))
        change(arrays)
        hostile.path(NGRAM_FILE).write_bytes(safetensors.numpy.save(arrays))

    return act


def header(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Hostile], None]:
    def act(hostile: Hostile) -> None:
        data = hostile.good[name]
        length = struct.unpack("<Q", data[:8])[0]
        value = json.loads(data[8 : 8 + length])
        change(value)
        hostile.path(name).write_bytes(joined(json.dumps(value).encode(), data[8 + length :]))

    return act


def doubled(name: str) -> Callable[[Hostile], None]:
    """A file as it was, one of its keys standing twice with the same value."""

    def act(hostile: Hostile) -> None:
        text = hostile.good[name].decode().rstrip()
        key, value = next(iter(json.loads(text).items()))
        hostile.path(name).write_text(f"{text[:-1]}, {json.dumps(key)}: {json.dumps(value)}}}")

    return act


def escapes(values: dict[str, Any]) -> None:
    values["\x1b]0;evil\x07"] = values.pop(next(iter(values)))


def longest(hostile: Hostile) -> None:
    entry = b'"x%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = b"{" + b",".join(entry % i for i in range(100_000)) + b"}"
    hostile.path(MODEL).write_bytes(joined(header, b""))


BY_HAND: dict[str, Callable[[Hostile], None]] = {
    "a training without a batch": edit(CONFIG, lambda d: d["training"].update(batch_size=None)),
    "a training without a rate": edit(CONFIG, lambda d: d["training"].update(learning_rate=None)),
    "the widest model there may be": edit(
        CONFIG, lambda d: d["model"].update(n_embd=8192, n_layer=128, block_size=65536, n_head=1)
    ),
    "as many n-grams as there may be": edit(
        CONFIG, lambda d: d["model"].update(ngram_embeddings=8, ngram_embedding_rows=2**24, n_embd=8192)
    ),
    "a model that reads ahead": edit(CONFIG, lambda d: d["model"].update(causal=False)),
    "another optimizer": edit(CONFIG, lambda d: d["training"].update(optimizer="adamw", muon_lr=None)),
    "counts that nothing begins from": edit(CONFIG, lambda d: d["model"].update(prior_order=7)),
    "a seed as long as a book": write(CONFIG, b'{"model": {"n_layer": ' + b"1" * 100_000 + b"}}"),
    "a key twice in the configuration": doubled(CONFIG),
    "a key twice in the state": doubled(STATE),
    "a key twice in the record": doubled(RUN),
    "a key twice in the vocabulary": doubled(WORDS),
    "a key twice in the plan": doubled(PLAN),
    "a tensor twice": lambda hostile: (
        hostile.path(MODEL).write_bytes(twice(hostile.good[MODEL], random.Random(1))) and None
    ),
    "half a surrogate": edit(RUN, lambda d: d["corpus"].update(key="\ud800", sources=["\ud800"])),
    "a key that leaves the cache": edit(RUN, lambda d: d["corpus"].update(key="../../x", sources=["../x"])),
    "a text that is a device": edit(RUN, lambda d: d["corpus"].update(key="x", sources=["/dev/zero"])),
    "a text that is a pattern of numbers": edit(RUN, lambda d: d["corpus"].update(key="x", sources=[1])),
    "a text that was piped": edit(RUN, lambda d: d["corpus"].update(key="x", sources=["-"])),
    "settings of a text there are not": edit(
        RUN, lambda d: (d["corpus"].update(key="x"), d["text"].update(evil=1))
    ),
    "losses that are words": edit(STATE, lambda d: d["divergence"].update(recent=["x"])),
    "a best step that is none": edit(STATE, lambda d: d["early_stopping"].update(best_step="x")),
    "a figure of something": edit(STATE, lambda d: d.update(last_evaluation={"step": 1})),
    "an end there is not": edit(STATE, lambda d: d.update(finished="\x1b[2J")),
    "updates without end": edit(STATE, lambda d: d.update(updates="1" * 5000)),
    "a character twice": edit(WORDS, lambda d: d.update(chars=d["chars"][:-1] + d["chars"][0])),
    "counts of characters below nothing": edit(WORDS, lambda d: d.update(counts=[-1] * len(d["counts"]))),
    "a hundred thousand characters": edit(
        WORDS, lambda d: d.update(chars="".join(map(chr, range(0xE000, 0x2E000))), counts=[1] * 0x20000)
    ),
    "a header of many tensors": longest,
    "a name with escapes": header(MODEL, escapes),
    "tensors on one another": header(
        MODEL,
        lambda h: (
            h["embedding.weight"].update(data_offsets=h["norm.weight"]["data_offsets"])
            if "norm.weight" in h
            else h["embedding.weight"].update(data_offsets=[0, 4])
        ),
    ),
    "a shape below nothing": header(TRAIN, lambda h: next(iter(h.values())).update(shape=[-1])),
    "a shape of numbers too large": header(
        MODEL, lambda h: h["embedding.weight"].update(shape=[2**62, 2**62])
    ),
    "a table lying on its side": header(
        MODEL, lambda h: h["embedding.weight"].update(shape=h["embedding.weight"]["shape"][::-1])
    ),
    "whole numbers for weights": header(MODEL, lambda h: h["embedding.weight"].update(dtype="I32")),
    "a type there is not": header(MODEL, lambda h: h["embedding.weight"].update(dtype="PICKLE")),
    "counts whose starts go back": counts(lambda a: a.update({"1.starts": a["1.starts"][::-1].copy()})),
    "counts of nothing": counts(lambda a: a.update({"0.counts": a["0.counts"] * 0})),
    "counts of symbols there are not": counts(lambda a: a.update({"0.symbols": a["0.symbols"] + 200})),
    "counts out of order": counts(lambda a: a.update({"2.contexts": a["2.contexts"][::-1].copy()})),
    "counts without an order": counts(lambda a: [a.pop(name) for name in list(a) if name.startswith("1.")]),
    "discounts that are not numbers": counts(lambda a: a.update({"1.discounts": a["1.discounts"] * np.nan})),
    "counts that are no tensors": write(NGRAM_FILE, b"\x80\x04\x95evil"),
    "a header of counts that is too long": lambda hostile: (
        hostile.path(NGRAM_FILE).write_bytes(joined(b" " * (20 << 20), b"")) and None
    ),
    "a plan without an end": edit(PLAN, lambda d: d["decisions"][-1].update(schedule="0:0,9999999999999:1")),
    "a plan that begins nowhere": edit(PLAN, lambda d: d["decisions"][-1].update(schedule="5:0,9:1")),
    "a plan of a million corners": edit(
        PLAN, lambda d: d["decisions"][-1].update(schedule=f"0:0{',9:1' * 10**6}")
    ),
    "n-grams there are none, with rows": edit(CONFIG, lambda d: d["model"].update(ngram_embeddings=None)),
    "a plan that never evaluates": edit(PLAN, lambda d: d["decisions"][-1].update(eval_every=0)),
    "a pointer that is a book": write("latest", b"step-00000004" * 1000),
    "a pointer that leaves": write("latest", b"../toy/step-00000004"),
}


BY_HAND_ALONE: dict[str, Callable[[Hostile], None]] = {
    "weights that counts do not have": lambda hostile: (
        hostile.path(MODEL).write_bytes(dump_tensors({"x": torch.ones(3)})) and None
    ),
    "no counts at all": lambda hostile: hostile.path(NGRAM_FILE).unlink(),
    "a shape that counts do not have": edit(CONFIG, lambda d: d["model"].update(n_layer=1)),
    "counts of another order": edit(CONFIG, lambda d: d["model"].update(prior_order=3)),
    "counts without an order of theirs": edit(CONFIG, lambda d: d["model"].update(prior_order=None)),
    "counts that should be attention": edit(CONFIG, lambda d: d["model"].update(model="transformer")),
    "nothing and attention in turns": edit(CONFIG, lambda d: d["model"].update(mixer="none,attention")),
    "documents that never end": edit(WORDS, lambda d: d.update(ends=False)),
    "an end that is a word": edit(WORDS, lambda d: d.update(ends="yes")),
    "an end that is a number": edit(WORDS, lambda d: d.update(ends=1)),
    "documents of a kind there is not": edit(
        RUN, lambda d: (d["corpus"].update(key="x"), d["text"].update(documents="\x1b[2J"))
    ),
    "a text of one document": edit(
        RUN, lambda d: (d["corpus"].update(key="x"), d["text"].update(documents="none"))
    ),
    "a text divided by something else": edit(
        RUN, lambda d: (d["corpus"].update(key="x"), d["text"].update(split="evil"))
    ),
    "tables on one another": header(
        NGRAM_FILE, lambda h: h["1.starts"].update(data_offsets=h["0.starts"]["data_offsets"])
    ),
    "starts beyond the entries": counts(lambda a: a.update({"2.starts": a["2.starts"] + np.uint32(2**31)})),
    "contexts of an end within": counts(
        lambda a: a.update({"2.contexts": a["2.contexts"] | np.uint64(2**63)})
    ),
}
ALL_BY_HAND = {"model": BY_HAND, "alone": BY_HAND_ALONE}


@pytest.mark.parametrize("kind", ALL_BY_HAND)
def test_made_by_hand_each_gives_one_clear_error(kind: str, used: Hostile, used_alone: Hostile) -> None:
    run = used if kind == "model" else used_alone

    def attempts() -> dict[str, str]:
        found = {}
        run.use()  # what is imported for the first attempt is not its own
        for how, change in ALL_BY_HAND[kind].items():
            change(run)
            run.vouch_again()
            found[how] = outcome(run)
            run.restore()
        return found

    found = forked(attempts, more_memory=MEMORY, seconds=300)
    assert {how: said for how, said in found.items() if said != "refused"} == {}


def outcome(hostile: Hostile) -> str:
    try:
        return hostile.use()
    except Exception as error:  # noqa: BLE001  each is told by its name
        return repr(error)[:300]


def test_the_runs_they_are_made_of_are_whole(used: Hostile, used_alone: Hostile) -> None:
    assert used.use() == "read" == used_alone.use()
    assert set(safe_io.CHECKPOINT_FILES) | set(safe_io.RUN_FILES) <= set(VOUCHED)
    assert read_snapshot(used.run, "latest", training=True).ngram is not None


def mutated(hostile: Hostile, numbers: range) -> list[dict[str, Any]]:
    """What came of the mutations, made in a child that may take little more memory."""

    def attempts() -> list[dict[str, Any]]:
        hostile.use()
        return [hostile.attempt(number) for number in numbers]

    return list(forked(attempts, more_memory=MEMORY, seconds=900))


def judge(found: list[dict[str, Any]], times: int) -> None:
    """Each is refused or harmless, and nothing changed behind an old manifest is read."""
    assert len(found) == times
    for row in found:
        if row["changed"] and not row["behind"] and row["file"] in VOUCHED:
            assert row["outcome"] == "refused", row
    kinds = Counter(row["outcome"] for row in found)
    assert kinds["read"] > times / 50 and kinds["refused"] > times / 2, "both happen, so both are tried"
    assert {row["file"] for row in found} == set(FILES)
    assert sum(row["behind"] for row in found) > 0.45 * times, "half of them behind the hash"


FEW, FEW_ALONE = 200, 60
MANY, MANY_ALONE = {False: 1_500, True: 10_000}, {False: 400, True: 2_000}  # thorough or not


def test_two_hundred_mutations(used: Hostile) -> None:
    judge(mutated(used, range(FEW)), FEW)


def test_some_of_counts_alone(used_alone: Hostile) -> None:
    judge(mutated(used_alone, range(FEW_ALONE)), FEW_ALONE)


@pytest.mark.slow
def test_thousands_of_mutations(used: Hostile, rng: random.Random, thorough: bool) -> None:
    first = rng.randrange(10**9)
    judge(mutated(used, range(first, first + MANY[thorough])), MANY[thorough])


@pytest.mark.slow
def test_hundreds_of_counts_alone(used_alone: Hostile, rng: random.Random, thorough: bool) -> None:
    first = rng.randrange(10**9)
    judge(mutated(used_alone, range(first, first + MANY_ALONE[thorough])), MANY_ALONE[thorough])
