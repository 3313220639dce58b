"""Compression: exact both ways, as small as the model's score says, and refused by name where it cannot be."""

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from charlm.checkpoint.snapshot import Member, Snapshot
from charlm.compression.codec import Compressed, compressing, decompressing, file_to_ids, ids_to_file
from charlm.compression.coder import HIGHEST_TOTAL, Decoder, Encoder, bounds
from charlm.compression.container import FRAME, VERSION, Environment, ModelHashes, pack, streams_for, unpack
from charlm.data.prepare import prepare
from charlm.data.text_config import TextConfig
from charlm.errors import CharlmError, CheckpointError, TextError
from charlm.inference.members import predictor_of
from charlm.model.mixture import Mixture
from charlm.model.recent_ngrams import RecentNgrams
from charlm.native.library import supported_clones
from tests.cli.kept import TOY
from tests.conftest import TEXT, Result, toy_run


def carried_through(work) -> Any:  # type: ignore[no-untyped-def]
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    _, session = toy_run(tmp_path_factory.mktemp("runs"), prepare(TEXT, TextConfig()))
    generator = torch.Generator().manual_seed(1)
    for parameter in session.model.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    return session.snapshot()


@pytest.fixture(scope="module")
def compressed(snapshot: Snapshot) -> Compressed:
    return there(TEXT[:300].encode(), snapshot)


def there(data: bytes, snapshot: Snapshot) -> Compressed:
    found = carried_through(compressing(data, snapshot))
    assert isinstance(found, Compressed)
    return found


def back(file: bytes, snapshot: Snapshot) -> bytes:
    return bytes(carried_through(decompressing(file, "a file", snapshot)))


frequencies = st.lists(st.integers(1, 5) | st.integers(1, 1 << 28), min_size=1, max_size=12)
edges = st.sampled_from([[HIGHEST_TOTAL], [1, HIGHEST_TOTAL - 1], [HIGHEST_TOTAL - 2, 1, 1]])
rows = st.lists(
    st.tuples(frequencies | edges, st.integers(0, 11)).map(lambda r: (r[0], r[1] % len(r[0]))), max_size=200
)


@given(rows)
def test_what_the_coder_encodes_it_decodes(rows: list[tuple[list[int], int]]) -> None:
    encoder = Encoder()
    for row, symbol in rows:
        encoder.add(sum(row[:symbol]), row[symbol], sum(row))
    data = encoder.finish()
    decoder = Decoder(data)
    for row, symbol in rows:
        target, found = decoder.target(sum(row)), 0
        while sum(row[: found + 1]) <= target:
            found += 1
        assert found == symbol
        decoder.take(sum(row[:found]), row[found])
    bits = sum(np.log2(sum(row) / row[symbol]) for row, symbol in rows)
    assert len(data) <= bits / 8 + 1 + 1e-6 * len(rows)


def test_a_carry_runs_through_bytes_that_have_left() -> None:
    row = [HIGHEST_TOTAL - 1, 1]  # the last symbol of the highest interval again and again: 0xFF bytes
    encoder = Encoder()
    symbols = [1] * 40 + [0] + [1] * 3
    encoder.add(0, 1, 2)
    for symbol in symbols:
        encoder.add(sum(row[:symbol]), row[symbol], HIGHEST_TOTAL)
    decoder = Decoder(encoder.finish())
    assert decoder.target(2) == 0
    decoder.take(0, 1)
    for symbol in symbols:
        assert (decoder.target(HIGHEST_TOTAL) >= row[0]) == symbol
        decoder.take(sum(row[:symbol]), row[symbol])


def test_shares_are_at_least_one_and_close_to_the_probabilities() -> None:
    logits = np.random.default_rng(1).normal(0, 8, (6, 3000))
    logits[0, 5:] = -np.inf
    logits[1] = 0
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        found = bounds(np.log(p))
    sizes = np.diff(found)
    assert sizes.min() >= 1 and found[:, 0].max() == 0 and found[:, -1].max() <= HIGHEST_TOTAL
    lost = np.where(p > 0, p * (np.log2(np.maximum(p, 1e-300)) - np.log2(sizes / found[:, -1:])), 0).sum(1)
    assert abs(lost).max() < 1e-4  # bits
    assert (bounds(np.log(p[1:])) == found[1:]).all()
    with pytest.raises(CheckpointError, match="finite"):
        bounds(np.full((1, 3), np.nan))


texts = st.text(st.sampled_from("duck\r\n\0\ufeff née 鴨🦆"), max_size=60).map(str.encode)


@settings(max_examples=40)
@given(texts | st.binary(max_size=60))
@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")
def test_any_bytes_come_back(snapshot: Snapshot, data: bytes) -> None:
    assert back(there(data, snapshot).data, snapshot) == data


@given(st.binary(max_size=60) | texts)
def test_spelling_is_exact_and_says_where_text_ends(data: bytes) -> None:
    from charlm.data.tokenizer import Vocabulary

    vocabulary = Vocabulary.build("duck " * 3 + "é", 2)
    encoded = file_to_ids(data, vocabulary)
    assert ids_to_file(encoded.ids, vocabulary) == data
    try:
        assert encoded.chars == len(data.decode()) and encoded.not_text is None
    except UnicodeDecodeError as error:
        assert encoded.not_text == error.start


def test_streams_side_by_side_cost_what_the_model_says(
    snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = TEXT + TEXT[::-1][:777]
    monkeypatch.setattr("charlm.compression.container.FEWEST_CHARS", 500)
    done = there(text.encode(), snapshot)
    assert done.header.streams == len(text) // 500 > 4
    assert back(done.data, snapshot) == text.encode()
    predictor, ids = predictor_of(snapshot), snapshot.vocabulary.encode(text)
    parts = np.array_split(ids, done.header.streams)
    bits = -sum(predictor.score(part).sum() for part in parts) / np.log(2)
    assert abs(done.header.payload_bytes - bits / 8) < 2 + 1e-4 * bits / 8
    assert len(done.data) - done.header.payload_bytes < 256


@pytest.mark.parametrize("mixer", ["recurrent", "convolution"])
def test_models_that_are_read_by_torch_compress_too(tmp_path: Path, mixer: str) -> None:
    model = {"mixer": mixer, "n_head": None, "position": "none"}
    _, session = toy_run(tmp_path, prepare(TEXT, TextConfig()), model=model)
    done = there(TEXT[:200].encode(), session.snapshot())
    assert back(done.data, session.snapshot()) == TEXT[:200].encode()


def test_the_kernels_that_compressed_a_file_decompress_it_and_no_others(
    snapshot: Snapshot, kernels: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None at all among them, which is torch's path."""
    data, ways = TEXT[:400].encode(), ("0", *supported_clones())
    made = {}
    for way in ways:
        monkeypatch.setenv("CHARLM_NATIVE", way)
        made[way] = there(data, snapshot)
        assert made[way].header.environment.kernels.split()[0] == ("none" if way == "0" else way)
        assert back(made[way].data, snapshot) == data
    for way, other in permutations(ways, 2):
        monkeypatch.setenv("CHARLM_NATIVE", way)
        with pytest.raises(CheckpointError, match=r"was compressed with kernels .* \(here"):
            back(made[other].data, snapshot)


def test_a_text_is_divided_by_its_length() -> None:
    assert [streams_for(n) for n in (0, 39_999, 40_000, 10**9)] == [1, 1, 2, 64]


@pytest.mark.parametrize(
    "name", [*sorted(set(Environment.__dataclass_fields__) - {"threads"}), *ModelHashes.__dataclass_fields__]
)
def test_whatever_differs_is_refused_by_its_name(
    snapshot: Snapshot, compressed: Compressed, name: str
) -> None:
    header, payload = unpack(compressed.data, "a file")
    for part in ("environment", "model"):
        if name in getattr(header, part).__dataclass_fields__:
            changed = replace(getattr(header, part), **{name: "x\x1b"})
            header = replace(header, **{part: changed})
    with pytest.raises(CheckpointError, match=rf"\b{name} ") as caught:
        back(pack(header, payload), snapshot)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("threads", [0, 1 << 20])
def test_threads_that_cannot_be_are_damage(snapshot: Snapshot, compressed: Compressed, threads: int) -> None:
    header, payload = unpack(compressed.data, "a file")
    header = replace(header, environment=replace(header.environment, threads=threads))
    with pytest.raises(CharlmError, match="threads in its header"):
        back(pack(header, payload), snapshot)


def test_other_weights_are_refused_and_the_step_is_named(snapshot: Snapshot, compressed: Compressed) -> None:
    weights = {name: weight + 1e-7 for name, weight in snapshot.weights.items()}
    with pytest.raises(CheckpointError, match=r"weights .*--checkpoint"):
        back(compressed.data, replace(snapshot, weights=weights))


def test_of_a_mixture_every_member_and_how_they_are_mixed_must_be_the_same(snapshot: Snapshot) -> None:
    """Any of them changes the probabilities, and with others the code is read wrongly."""
    weights = {name: weight / 2 for name, weight in snapshot.weights.items()}
    configs = {"model_config": snapshot.model_config, "training_config": snapshot.training_config}
    first = Member(**configs, weights=weights)  # type: ignore[arg-type]
    recent = RecentNgrams(chars=64, strength=5.0)
    bias, none = (0.6, 0.5), ((0.0,) * 4,) * 2
    mixture = Mixture(n_transformers=2, ngram=False, bias=bias, weights=none, recent=recent)
    mixed = replace(snapshot, earlier=(first,), mixture=mixture)
    file = there(TEXT[:300].encode(), mixed).data
    assert back(file, mixed) == TEXT[:300].encode()
    other = {name: weight + 1e-7 for name, weight in weights.items()}
    for changed in (
        replace(mixed, earlier=(replace(first, weights=other),)),
        replace(mixed, mixture=replace(mixture, bias=(0.6, 0.4))),
        replace(mixed, mixture=replace(mixture, recent=replace(recent, strength=6.0))),
    ):
        with pytest.raises(CheckpointError, match=r"was compressed with another model.*(weights|reading) "):
            back(file, changed)


@pytest.mark.parametrize(
    ("name", "value"),
    [("streams", 2), ("symbols", 1 << 41), ("symbols", 1), ("chars", -1), ("bytes", 10**6), ("step", True)],
)
def test_a_header_that_cannot_be_is_refused(compressed: Compressed, name: str, value: object) -> None:
    header, payload = unpack(compressed.data, "a file")
    with pytest.raises(TextError, match="header"):
        unpack(pack(replace(header, **{name: value}), payload), "a file")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["symbols", "chars", "sha256"])
def test_a_header_that_lies_never_gives_other_bytes(
    snapshot: Snapshot, compressed: Compressed, name: str
) -> None:
    header, payload = unpack(compressed.data, "a file")
    lie = "0" * 64 if name == "sha256" else header.symbols - 1
    changes: dict[str, Any] = {name: lie}
    if name == "symbols":
        changes["chars"] = lie
    if name == "chars":
        assert back(pack(replace(header, **changes), payload), snapshot) == TEXT[:300].encode()  # for people
        return
    with pytest.raises(TextError, match="SHA-256"):
        back(pack(replace(header, **changes), payload), snapshot)


def test_a_header_that_expands_without_end_is_not_read(compressed: Compressed) -> None:
    import zlib

    deflate = zlib.compressobj(9, wbits=-15)
    bomb = deflate.compress(b" " * 10_000_000) + deflate.flush()
    file = FRAME.pack(b"charlm", VERSION, len(bomb), zlib.crc32(bomb)) + bomb
    with pytest.raises(TextError, match="longer than 4096"):
        unpack(file, "a file")


def test_a_cut_file_is_refused_wherever_it_ends(compressed: Compressed) -> None:
    for length in range(len(compressed.data)):
        with pytest.raises(TextError):
            unpack(compressed.data[:length], "a file")
    with pytest.raises(TextError, match="extra bytes"):
        unpack(compressed.data + b"\0", "a file")


@given(st.data())
def test_a_changed_file_is_refused_whatever_changes(compressed: Compressed, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(compressed.data) - 1))
    changed = bytearray(compressed.data)
    changed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(TextError):
        unpack(bytes(changed), "a file")


@given(st.binary(max_size=200))
def test_a_foreign_file_is_refused(data: bytes) -> None:
    for file in (data, b"charlm" + data, b"charlm" + bytes([VERSION]) + data):
        with pytest.raises(TextError):
            unpack(file, "a file")


@settings(max_examples=20)
@given(payload=st.binary(max_size=40))
def test_a_hostile_payload_gives_a_sentence(
    snapshot: Snapshot, compressed: Compressed, payload: bytes
) -> None:
    import zlib

    header = replace(compressed.header, payload_bytes=len(payload), payload_crc32=zlib.crc32(payload))
    with pytest.raises(CharlmError, match=r"SHA-256|symbols of its header"):
        back(pack(header, payload), snapshot)


def test_decoding_ends_soon_after_what_was_compressed_is_used_up(
    snapshot: Snapshot, compressed: Compressed
) -> None:
    header, payload = unpack(compressed.data, "a file")
    vast = replace(header, symbols=1 << 40, chars=1 << 40, bytes=1 << 40, streams=64)
    work = decompressing(pack(vast, payload), "vast.clm", snapshot)
    reports = 0
    with pytest.raises(TextError, match=r"vast.clm is damaged: it ends before the 1,099,511,627,776 symbols"):
        for _ in work:
            reports += 1
            assert reports < 1000


@pytest.mark.parametrize("symbol", [0, 1])
def test_texts_whose_code_ends_in_zeros_come_back(symbol: int) -> None:
    coder, n = Encoder(), 5000
    for _ in range(n):
        coder.add(symbol, 1, 2)
    decoder = Decoder(coder.finish())
    for _ in range(n):
        assert decoder.target(2) == symbol
        decoder.take(symbol, 1)


def test_there_are_no_more_threads_within_than_without(snapshot: Snapshot) -> None:
    from threadpoolctl import threadpool_info

    before = [each["num_threads"] for each in threadpool_info()], torch.get_num_threads()
    work = compressing(TEXT.encode(), snapshot)
    next(work)
    assert {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"} <= {1}
    work.close()
    assert before == ([each["num_threads"] for each in threadpool_info()], torch.get_num_threads())


def test_a_file_that_stands_in_the_training_text_is_said_to(charlm: Callable[..., Result]) -> None:
    Path("new.txt").write_text("nothing of this kind was ever seen before by that model\n" * 3)
    assert charlm("train", "ducks.txt", "--run", "seen", *TOY, "--steps", "1", "--no-prior").code == 0
    packed = ("compress", "new.txt", "-o", "o.clm", "--force", "--run", "seen")
    assert "also occurs in the training part" not in charlm(*packed).err
    assert "also occurs in the training part" in charlm("compress", "ducks.txt", *packed[2:]).err
    Path("ducks.txt").unlink()
    charlm("cache", "--clear", "--yes")
    without = charlm(*packed)
    assert without.code == 0 and "cannot tell whether it contains this file" in without.err
