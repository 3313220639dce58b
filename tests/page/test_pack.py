"""What a packed model is: small, whole or refused, pruned to a size with the cost told."""

import gzip
from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from charlm.checkpoint.snapshot import TABLE
from charlm.errors import UsageError
from charlm.page.container import FORMAT, half_precision
from charlm.page.pack import pack
from charlm.page.pruning import page_bytes
from charlm.run import load
from tests.cli.models import prose
from tests.conftest import Result
from tests.page.conftest import Page
from tests.page.test_engine import CLOSE, TOYS
from tests.page.toys import SCORED, Toy, snapshot_of, surprisal

ROWS = 1 << 14
MEGABYTE = 1e6


def test_rows_of_zeros_cost_nothing() -> None:
    """An n-gram embedding that training never touched is one bit, in the file and on the way to it."""
    toy = Toy(members=({"ngram_embeddings": 2, "ngram_embedding_rows": ROWS},))
    snapshot = snapshot_of(toy)
    table = snapshot.weights[TABLE]
    table[100:] = 0
    few = pack(snapshot)
    without = pack(replace(snapshot, weights={**snapshot.weights, TABLE: table * 0}))
    assert len(few.data) - len(without.data) < 100 * table.shape[1] * 2 + 100
    assert len(without.data) < 20_000 < ROWS * 2


def test_a_weight_too_large_for_16_bits_keeps_32() -> None:
    large = np.array([1e5, 1e-3], np.float32)
    np.testing.assert_array_equal(half_precision(large), large)
    assert half_precision(large / np.float32(2)).dtype == np.float16


def test_a_pruned_table_fits_and_the_page_predicts_what_python_does_with_it(page: Page) -> None:
    for name in ("ngram", "mixture", "documents"):
        snapshot = snapshot_of(TOYS[name])
        whole = pack(snapshot)
        full = page_bytes(whole.snapshot.kneser_ney().levels)  # type: ignore[union-attr]
        packed = pack(snapshot, ngram_megabytes=full / 3 / MEGABYTE)
        left = packed.snapshot.kneser_ney()
        assert left is not None and page_bytes(left.levels) <= full / 3
        assert len(packed.data) < len(whole.data)
        page.open(packed.data)
        bits, _ = page.score(SCORED)
        np.testing.assert_allclose(bits, surprisal(packed.predictor, SCORED)[0], atol=CLOSE)
        assert np.abs(np.array(bits) - surprisal(whole.predictor, SCORED)[0]).max() > 0.1


def test_without_a_limit_the_page_keeps_to_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = snapshot_of(TOYS["mixture"])
    whole = pack(snapshot)
    full = page_bytes(whole.snapshot.kneser_ney().levels)  # type: ignore[union-attr]
    weights = 4 / 3 * len(whole.data) - full
    monkeypatch.setattr("charlm.page.pack.LEAST_NGRAM_MEGABYTES", full / 3 / MEGABYTE)
    for megabytes, most in (((weights + full / 2) / MEGABYTE, full * 0.6), (0.0, full / 3)):
        monkeypatch.setattr("charlm.page.pack.PAGE_MEGABYTES", megabytes)
        left = pack(snapshot).snapshot.kneser_ney()
        assert left is not None and 0 < page_bytes(left.levels) <= most


def test_a_table_that_cannot_fit_is_refused() -> None:
    with pytest.raises(
        UsageError, match=r"take .* megabytes of the page, more than the 1e-06 allowed; allow more"
    ):
        pack(snapshot_of(TOYS["ngram"]), ngram_megabytes=1e-6)


def test_what_pruning_costs_is_measured_on_held_out_text(charlm: Callable[..., Result]) -> None:
    """And is None where nothing was pruned, or the text is gone."""
    with open("text.txt", "w") as file:
        file.write(prose(30_000))
    assert charlm("train", "text.txt", "--model", "ngram", "--run", "counts", "-q").code == 0
    snapshot = load("counts").snapshot
    assert pack(snapshot).bits_lost is None
    assert pack(snapshot, ngram_megabytes=100).bits_lost is None
    counts = snapshot.kneser_ney()
    assert counts is not None
    packed = pack(snapshot, ngram_megabytes=page_bytes(counts.levels) / 3 / MEGABYTE)
    assert packed.bits_lost is not None and packed.bits_error is not None
    assert packed.bits_lost > 2 * packed.bits_error > 0
    held_out = prose(30_000)[-3000:]
    of_page, of_run = (
        surprisal(each, held_out)[0].mean() for each in (packed.predictor, load("counts").predictor)
    )
    assert packed.bits_lost == pytest.approx(of_page - of_run, abs=0.05)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: data[: len(data) // 2], "The model in this page is damaged: it cannot be unpacked."),
        (
            lambda data: data[:60] + b"?" + data[61:],
            "The model in this page is damaged: it cannot be unpacked.",
        ),
        (lambda data: b"", "The model in this page is damaged"),
        (lambda data: b"no gzip at all", "The model in this page is damaged: it cannot be unpacked."),
        (
            lambda data: gzip.compress(gzip.decompress(data)[:-1]),
            "The model in this page is damaged: it is cut short.",
        ),
        (
            lambda data: gzip.compress(b"\xff\xff\xff\xffabc"),
            "The model in this page is damaged: it is cut short.",
        ),
        (lambda data: gzip.compress(b"\2\0\0\0{}"), "This page holds no model of charlm"),
        (lambda data: gzip.compress(b"\2\0\0\0{["), "This page holds no model of charlm"),
        (lambda data: renamed(data, b'"version":1', b'"version":9'), "holds a model of format 9"),
        (lambda data: renamed(data, b'"0.norm.weight"', b'"0.xxxx.weight"'), "0.norm.weight does not fit"),
        (lambda data: renamed(data, b'"ngram.2.counts"', b'"ngram.2.counsel"'), "ngram.2.counts"),
    ],
)
def test_damage_is_said_in_a_sentence(page: Page, damage: Callable[[bytes], bytes], says: str) -> None:
    data = pack(snapshot_of(TOYS["temperature"])).data
    found = page.page.evaluate(
        """async (data) => {
            engine = new LocalEngine(WORKER_SOURCE, () => data);
            const first = await engine.open().then(() => 'opened', (error) => error.message);
            return [first, await engine.next('a').then(() => 'answered', (error) => error.message)];
        }""",
        b64encode(damage(data)).decode(),
    )
    assert says in found[0] and found[1] == "The model is not loaded yet."


def renamed(data: bytes, old: bytes, new: bytes) -> bytes:
    """A packed model with another header."""
    whole = gzip.decompress(data)
    length = int.from_bytes(whole[:4], "little")
    header = whole[4 : 4 + length].replace(old, new)
    assert header != whole[4 : 4 + length] and FORMAT.encode() in header
    return gzip.compress(len(header).to_bytes(4, "little") + header + whole[4 + length :])


def test_wrong_questions_are_answered_in_a_sentence(page: Page) -> None:
    page.open(pack(snapshot_of(TOYS["mixture"])).data)
    asked = {
        "engine.inside('abc', 4)": "at is 4; allowed: 0 to 3.",
        "engine.inside('abc', 1, {member: 3})": "member is 3; allowed: 0 to 2.",
        "engine.ask('fly', {})": "The page cannot do fly.",
        "engine.generate('', {temperature: -1}).next()": "temperature is -1; allowed: 0 to 100.",
        "engine.generate('', {topP: 2}).next()": "topP is 2; allowed: 0 to 1.",
        "engine.generate('', {length: 0}).next()": "length is 0; allowed: 1 to 1000000000.",
        "engine.generate('', {stop: ['']}).next()": "A stop text is empty; leave it out.",
    }
    for expression, says in asked.items():
        assert page(f"{expression}.then(() => '', (error) => error.message)") == says
