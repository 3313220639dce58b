"""What is fuzzed: each takes any bytes, and lets nothing out but what a bug would raise."""

import codecs
import json
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from dataclasses import asdict, replace
from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
import typer

from charlm.checkpoint.run_folder import CorpusFacts, RunFolder
from charlm.checkpoint.safe_io import MANIFEST, dump_tensors, find_problems, load_tensors
from charlm.cli.config_file import read_config
from charlm.compression.container import unpack
from charlm.config import ModelConfig, TrainingConfig
from charlm.data import corpus
from charlm.data import corpus_cache as text_cache
from charlm.data.decoding import TextDecoder
from charlm.data.detection import check_codec, compression_of
from charlm.data.documents import marked_text, split_documents
from charlm.data.holdout import PARTS
from charlm.data.prepare import prepare
from charlm.data.reader import read_texts
from charlm.data.records import RecordReader, format_of
from charlm.data.stream import Block, decompress
from charlm.data.text_config import TextConfig
from charlm.data.tokenizer import END, Vocabulary, without_ends
from charlm.errors import CheckpointError, TextError, UsageError
from charlm.experiments import comparison
from charlm.experiments import results as result
from charlm.experiments.variants import Variant
from charlm.inference.predictor import TransformerPredictor
from charlm.model.masks import documents_of
from charlm.model.transformer import LanguageModel
from charlm.ngram.build import build
from charlm.ngram.kneser_ney import KneserNey
from charlm.ngram.table import pruned
from charlm.reporting import log
from charlm.strict_json import parse_json, to_json
from charlm.terminal import one_line, visible
from charlm.training.plan import Plan
from charlm.training.sizes import Budget
from charlm.training.state import read_state

ENCODINGS = (
    None,
    *("utf-8", "utf-16", "utf-7", "cp1252", "shift_jis", "unicode_escape", "idna", "punycode"),
    "hex",
)


def text(data: bytes) -> None:
    """The text decoder, in any encoding: characters that UTF-8 has, or a sentence."""
    encoding = ENCODINGS[data[0] % len(ENCODINGS)] if data else None
    with suppress(TextError, UsageError):
        if encoding is not None:
            check_codec(encoding)
        decoder = TextDecoder("a text", encoding)
        pieces = (data[at : at + 9] for at in range(1, len(data), 9))
        found = "".join(block.text for block in decoder.blocks(pieces))
        found.encode("utf-8")
        assert all(visible(note) == note for note in decoder.notes)
        if encoding == "utf-8" and not data[1:].startswith(codecs.BOM_UTF8):
            assert found.encode() == data[1:]


def config(data: bytes) -> None:
    """The readers of configurations: what they take they give back."""
    with suppress(CheckpointError):
        values = parse_json(data, "config.json")
        for kind in (ModelConfig, TrainingConfig):
            with suppress(ValueError, TypeError):
                made = kind.from_json(values).completed()  # type: ignore[attr-defined]
                assert kind.from_json(json.loads(json.dumps(made.to_json()))) == made


def plan(data: bytes) -> None:
    """The reader of plans, and of the state of a run."""
    with suppress(CheckpointError):
        values = parse_json(data, "plan.json")
        with suppress(ValueError):
            made = Plan.from_json(values)
            assert 0 <= made.schedule.factor(0) <= 1 and Plan.from_json(made.to_json()) == made
        read_state(values)


def manifest(data: bytes) -> None:
    """The reader of manifests: a folder that lists anything reads nothing but its own files."""
    (_folder() / MANIFEST).write_bytes(data)
    find_problems(_folder())


@cache
def _folder() -> Path:
    folder = Path(_kept.name) / "step-00000001"
    folder.mkdir()
    return folder


_kept = TemporaryDirectory()


def header(data: bytes) -> None:
    """The check of tensors, and of tables of counts: exactly what is expected, or refused."""
    expected = {"a": torch.zeros(2, 3), "b": torch.zeros(4)}
    with suppress(CheckpointError):
        found = load_tensors(data, expected, "a file")
        assert {k: (t.shape, t.dtype) for k, t in found.items()} == {
            k: (t.shape, t.dtype) for k, t in expected.items()
        }
    with suppress(CheckpointError):
        KneserNey.from_bytes(data, 20, "counts")


def ngrams(data: bytes) -> None:
    """A table of counts: whatever it holds, C reads within it, and finds what NumPy finds, to the last bit."""
    with suppress(CheckpointError):
        read = KneserNey.from_bytes(data, N_SYMBOLS, "counts")
        drawn = np.frombuffer(data, np.uint8)  # contexts that one level has and the level below has not
        kept = [np.resize(drawn, len(level.contexts)) % 8 > 0 for level in read.levels[1:]]
        torn, _ = pruned(read.levels, [], [np.ones(len(read.levels[0].contexts), bool), *kept])
        ids = drawn[-40:].astype(np.int64) % (N_SYMBOLS + 2)  # two are unknown
        for levels in (read.levels, torn):
            for dense in (True, False):
                in_c = KneserNey(N_SYMBOLS, levels, dense=dense)
                plain = copy(in_c)
                plain.kernel = None
                starts = drawn[:3].astype(np.int64) % 40 - 1
                assert np.array_equal(in_c.log_rows(ids, starts, 20), plain.log_rows(ids, starts, 20))
                cursors = in_c.cursor(2), plain.cursor(2)
                for piece in np.array_split(ids.reshape(2, -1), 4, axis=1):
                    for cursor in cursors:
                        cursor.read(piece)
                    assert np.array_equal(*(cursor.next() for cursor in cursors))


def weights(data: bytes) -> None:
    """The weights of a checkpoint: whatever numbers they are, all that is computed of them stays within its arrays."""
    model = LanguageModel(SMALL, ALPHABET.n_symbols)
    with suppress(CheckpointError):
        model.load_state_dict(load_tensors(data, model.state_dict(), "weights"))
        predictor = TransformerPredictor(model.eval(), ALPHABET)
        ids = torch.tensor(list(data[-30:])).remainder(ALPHABET.n_ids).repeat(3, 1)
        state = predictor.start(3)
        for piece in ids.split([ids.shape[1] - 9, *[1] * 9], dim=1):
            state, found = predictor.step(state, piece)
            assert found.shape == (3, ALPHABET.n_ids)
        window = ids[:, -SMALL.block_size - 1 :].clamp(max=ALPHABET.n_symbols - 1)
        for precision in (torch.float32, torch.bfloat16):
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
                loss = model.train().loss(window[:, :-1], window[:, 1:], documents_of(window[:, :-1], 0))
            loss.backward()  # type: ignore[no-untyped-call]


N_SYMBOLS = 20
ALPHABET = Vocabulary.build("the cat sat on the mat; " * 3 + "z", 2)  # a byte that is never seen, too
SMALL = ModelConfig(
    n_layer=2, n_embd=24, n_head=4, n_kv_head=2, block_size=16, dropout=0.0, ngram_embeddings=2, ngram_embedding_rows=64
)  # fmt: skip


def compressed(data: bytes) -> None:
    """The readers of compressed files: our own, and the usual ones."""
    with suppress(TextError):
        head, payload = unpack(data, "a file")
        assert len(payload) == head.payload_bytes
    kind = compression_of(data)
    if kind is not None:
        with suppress(TextError):
            assert sum(map(len, decompress(kind, iter([data]), "a file", len(data)))) < 10**8
    standard_input = SimpleNamespace(buffer=BytesIO(data))
    with suppress(TextError, UsageError), mock.patch("sys.stdin", standard_input):
        read_texts(["-"], TextConfig())


def terminal(data: bytes) -> None:
    """The terminal filter: nothing is left that steers, in one piece or in two."""
    found = data.decode("utf-32-le", "surrogatepass") if _is_utf32(data) else data.decode("latin-1")
    shown = visible(found)
    assert visible(shown) == shown
    assert not any((ord(c) < 32 and c not in "\n\t") or 0x7F <= ord(c) < 0xA0 for c in shown)
    cut = len(found) // 2
    assert visible(found[:cut]) + visible(found[cut:]) == shown
    assert "\n" not in one_line(found) and len(one_line(found, 10)) <= 10


def fields(data: bytes) -> None:
    """Records of JSON lines and of tables, documents kept apart, in any cut into blocks."""
    text = data.decode("utf-8", "replace").replace("\ud800", "")
    cut = len(text) // 3
    pieces = [piece for piece in (text[:cut], text[cut:]) if piece]
    for name in ("a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt"):
        with suppress(TextError):
            blocks = [Block(piece.encode(), piece) for piece in pieces]
            found = list(
                RecordReader("t", "a file", format_of(name, text, "t"), text, []).blocks(blocks, apart=True)
            )
            assert all(block.ends is not None and block.ends.max() == len(block.text) for block in found)
    for config in DIVIDED:
        marked = marked_text(split_documents([Block.of(text)] if text else [], config))
        if config.documents != "separator":
            assert without_ends(marked) == text
        assert not marked or (marked.endswith(END) and END * 2 not in marked)


DIVIDED = (
    TextConfig(documents="line"),
    TextConfig(documents="blank-line"),
    TextConfig(documents="separator", separator="ab"),
)


def settings(data: bytes) -> None:
    """A file of options: each is known and of its kind, or it is refused in words."""
    path = _folder() / "settings.toml"
    path.write_bytes(data)
    context = typer.Context(typer.main.get_command(_app()), info_name="train")
    with suppress(UsageError):
        read_config(context, str(path))
        assert all(isinstance(value, str | int | float) for value in (context.default_map or {}).values())


@cache
def _app() -> typer.Typer:
    app = typer.Typer(add_completion=False)

    @app.command()
    def train(
        steps: int | None = None,
        time: str | None = None,
        grad_clip: float | None = None,
        locality: bool = False,
    ) -> None: ...

    return app


def cached(data: bytes) -> None:
    """What the cache says of a text and what it holds of it: whole, or as if it were not there."""
    folder = text_cache.corpora() / "abc"
    folder.mkdir(parents=True, exist_ok=True)
    cut = data.find(b"\x93NUMPY") if b"\x93NUMPY" in data else len(data)
    (folder / text_cache.FACTS).write_bytes(data[:cut])
    for name in PARTS:
        (folder / f"{name}.npy").write_bytes(data[cut:])
    found = corpus.reopen("abc", whole=True)
    assert found is None or found.train.ndim == 1
    text_cache.entries()


def records(data: bytes) -> None:
    """What lies beside a run: its log, a comparison, a result, the vocabulary."""
    run = RunFolder(_folder())
    for name in (log.METRICS, comparison.NAME, result.NAME):
        (run.path / name).write_bytes(data)
    assert all(isinstance(row.step, int) for row in log.read_log(run.path / log.METRICS))
    for read in (comparison.read, result.read_result):
        with suppress(CheckpointError):
            read(run)  # type: ignore[operator]
    with suppress(CheckpointError, ValueError):
        found = Vocabulary.from_json(parse_json(data, "vocabulary.json"))
        assert Vocabulary.from_json(json.loads(found.to_json())) == found


def _is_utf32(data: bytes) -> bool:
    try:
        data.decode("utf-32-le", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


TARGETS: dict[str, Callable[[bytes], None]] = {
    "text": text, "config": config, "plan": plan, "manifest": manifest, "header": header,
    "compressed": compressed, "terminal": terminal, "fields": fields, "settings": settings, "cached": cached,
    "records": records, "ngrams": ngrams, "weights": weights,
}  # fmt: skip


def seeds(name: str) -> list[bytes]:
    """Good inputs to begin from."""
    import bz2
    import gzip
    import lzma

    from charlm.training.schedule import Schedule

    good = dump_tensors({"a": torch.zeros(2, 3), "b": torch.zeros(4)})
    whole = ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=16, dropout=0.0).completed()
    made = Plan(schedule=Schedule.warmup_cooldown(9), eval_every=3, eval_chars=10).record(decided="size")
    known = {
        "text": [
            b"\x00plain",
            b"\x01na\xc3\xafve \xf0\x9f\xa6\x86",
            b"\x02\xff\xfea\x00",
            b"\x00PK\x03\x04",
            b"\x07\x00\x80",
        ],
        "config": [json.dumps(whole.to_json()).encode(), json.dumps(TrainingConfig().to_json()).encode()],
        "plan": [json.dumps(made.to_json()).encode()],
        "manifest": [json.dumps({"format": 1, "files": {}, "run_files": {}}).encode()],
        "header": [good],
        "compressed": [gzip.compress(b"ab" * 50), bz2.compress(b"ab"), lzma.compress(b"ab"), b"charlm\x01"],
        "fields": [b'{"t": "a\\nb"}\n{"t": "\xc3\xa9"}\n', b't,u\n"a ""b""",2\n', b"a\n\n\nb\r\n\r\nc"],
        "settings": [b'steps = 3\ntime = "10s"\ngrad_clip = 0.5\nlocality = true\n'],
        "cached": [_cached()],
        "records": [
            b'{"step": 1, "event": "Saved"}\n{"step": 2',
            json.dumps({"chars": "ab", "bytes": [7], "counts": [1, 2, 3]}).encode(),
            json.dumps(asdict(result.Result(chars=3, before=[(1, 2.0, None)]))).encode(),
            json.dumps(_comparison()).encode(),
        ],
        "ngrams": [_table(3), _table(1), _table(14)],  # of 20 symbols, 12 fit a number
        "weights": [_weights()],
        "terminal": [b"\x1b[31mred", "a\u202eb".encode("utf-32-le")],
    }
    return known[name]


def _cached() -> bytes:
    """The files of a small corpus, one after another."""
    made = prepare("over the hills " * 9, TextConfig())
    folder = text_cache.corpora() / made.key
    return (folder / text_cache.FACTS).read_bytes() + (folder / "train.npy").read_bytes()


def _table(order: int) -> bytes:
    """Counts of a text of documents, some too large for a byte."""
    ids = np.random.default_rng(order).zipf(1.3, 900).clip(max=N_SYMBOLS).astype(np.int64) - 1
    ids[300:600] = 3
    return build(ids, N_SYMBOLS, order, memory=1 << 28, end=1).model.to_bytes()


def _weights() -> bytes:
    """Those of a random model."""
    model = LanguageModel(SMALL, ALPHABET.n_symbols)
    for i, parameter in enumerate(model.parameters()):
        torch.nn.init.normal_(parameter, std=0.4, generator=torch.Generator().manual_seed(i))
    return dump_tensors(model.state_dict())


def _comparison() -> dict[str, object]:
    """One that is whole."""
    model, training = ModelConfig(n_layer=1, n_head=2, n_embd=16, block_size=16), TrainingConfig()
    made = comparison.Comparison(
        name="x", variants=(Variant({"dropout": 0.5}, replace(model, dropout=0.5), training),), seeds=(1,),
        budget=Budget(steps=3), threads=1, text=TextConfig(), command="charlm compare",
        corpus=CorpusFacts(label="x", sources=("x",), key="a" * 32, sha256="b"),
    )  # fmt: skip
    return to_json(made)  # type: ignore[no-any-return]
