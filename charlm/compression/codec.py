"""Compression with a model: a file to as many bits as the model predicts it with, and back.

Axes: B streams side by side, V symbols, N symbols of the file.

Rounding probabilities would not make two computations agree, so encoder and decoder make the same
one: the same steps in the same shapes by the same means, which the file names.
"""

import hashlib
import platform
import re
import zlib
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_info, threadpool_limits

import charlm
from charlm.checkpoint import safe_io as strict_json
from charlm.checkpoint import safe_io as tensors
from charlm.checkpoint.snapshot import Snapshot
from charlm.compression.coder import Bounds, Decoder, Encoder, bounds
from charlm.compression.container import Header, Means, Model, differences, pack, streams_for, unpack
from charlm.data.decoding import byte_order_mark, is_valid
from charlm.data.tokenizer import Ids, Vocabulary
from charlm.errors import CheckpointError, TextError
from charlm.inference.predictor import Predictor, predictor_of
from charlm.terminal import one_line

MARKED = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
"""Encodings that a byte order mark names; the mark is one of the characters."""

_NO_TEXT = re.compile("([\udc80-\udcff]+)")


@dataclass(frozen=True)
class Spelled:
    """A file in symbols."""

    ids: Ids  # (N,)
    chars: int  # each byte that is part of no character counts as one
    not_text: int | None  # the offset of the first such byte
    encoding: str = ""  # that its characters are encoded in; empty for UTF-8


def spell(data: bytes, vocabulary: Vocabulary, usual: str | None = None) -> Spelled:
    """Characters as the model reads them; what is no UTF-8 as the bytes it is.

    Marks and newlines are characters like any other. `usual`: the encoding of the model's own text,
    which is taken for what has no characters of UTF-8, if it gives the same bytes back.
    """
    encoding = encoding_of(data, usual)
    if encoding:
        text = data.decode(encoding)
        return Spelled(vocabulary.encode(text), len(text), None, encoding)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        text = data.decode(errors="surrogateescape")
        pieces = [_spell_piece(piece, vocabulary) for piece in _NO_TEXT.split(text) if piece]
        return Spelled(np.concatenate(pieces), len(text), error.start)
    return Spelled(vocabulary.encode(text), len(text), None)


def unspell(ids: Ids, vocabulary: Vocabulary, encoding: str = "") -> bytes:
    """The bytes that symbols (N,) stand for. Raises UnicodeError where these are none of that encoding."""
    spellings = vocabulary.spellings
    data = b"".join([spellings[i] for i in ids])
    return data.decode().encode(encoding) if encoding else data


def encoding_of(data: bytes, usual: str | None) -> str:
    """The encoding other than UTF-8 in which a file is read and given back exactly; empty if there is none."""
    mark, marked = byte_order_mark(data)
    if mark:
        encoding = marked if marked in MARKED else ""
    else:
        encoding = usual if usual and (data.isascii() or not is_valid(data, "utf-8", whole=True)) else ""
    try:
        text = data.decode(encoding) if encoding else ""
        as_utf8 = text.encode("utf-8")  # raises for the surrogates that some codecs let through
        return encoding if text and as_utf8 != data == text.encode(encoding) else ""
    except (UnicodeError, LookupError):
        return ""


def _spell_piece(piece: str, vocabulary: Vocabulary) -> Ids:
    if not _NO_TEXT.match(piece):
        return vocabulary.encode(piece)
    return vocabulary.id_of_byte[list(piece.encode(errors="surrogateescape"))]


THREADS, MOST_THREADS = 1, 1024
"""How many threads compute unless told, and at most.

Products are split among threads by how many there are, and each split rounds in its own way.
"""


@contextmanager
def exactly(threads: int) -> Iterator[None]:
    """Within it torch and NumPy's products use so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            yield
    finally:
        torch.set_num_threads(before)


def means(precision: torch.dtype, threads: int = THREADS) -> Means:
    """By what means a model of that precision computes here, with so many threads."""
    return Means(
        charlm=charlm.__version__,
        torch=str(torch.__version__),
        numpy=np.__version__,
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}",
        processor=torch.backends.cpu.get_cpu_capability(),
        numpy_kernels=_numpy_kernels(),
        products=_products(),
        precision=str(precision).removeprefix("torch."),
        threads=threads,
    )


def _numpy_kernels() -> str:
    """The widest instructions that NumPy's loops use here."""
    config = np.show_config(mode="dicts")
    assert isinstance(config, dict)
    found = config.get("SIMD Extensions", {}).get("found") or ["baseline"]
    return str(found[-1])


def _products() -> str:
    libraries = (each for each in threadpool_info() if each["user_api"] == "blas")
    return " ".join(
        sorted({f"{each['internal_api']} {each['version']} {each.get('architecture')}" for each in libraries})
    )


SYMBOLS_A_REPORT = 512


@dataclass(frozen=True)
class Progress:
    """How far the work is."""

    symbols: int
    of: int


@dataclass(frozen=True)
class Compressed:
    """The file that was made, and what it stands for."""

    data: bytes
    header: Header
    ids: Ids  # the symbols (N,) of the file
    not_text: int | None  # the offset of the first byte that is no UTF-8


def compressing(
    data: bytes, snapshot: Snapshot, threads: int = THREADS
) -> Generator[Progress, None, Compressed]:
    """Compress the bytes of a file; any will do, but only text like the model's becomes small.

    The file says how many threads computed, and is decompressed with as many.
    """
    spelled = spell(data, snapshot.vocabulary, snapshot.run["text"].get("encoding"))
    predictor = predictor_of(snapshot)
    n_streams = streams_for(spelled.chars)
    with exactly(threads):
        payload = yield from encoding(predictor, spelled.ids, n_streams)
        header = Header(
            means=means(predictor.precision, threads),
            model=model_of(snapshot),
            step=snapshot.step,
            streams=n_streams,
            symbols=len(spelled.ids),
            chars=spelled.chars,
            bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            payload_bytes=len(payload),
            payload_crc32=zlib.crc32(payload),
            encoding=spelled.encoding,
        )
    return Compressed(pack(header, payload), header, spelled.ids, spelled.not_text)


def decompressing(file: bytes, label: str, snapshot: Snapshot) -> Generator[Progress, None, bytes]:
    """The bytes that were compressed.

    Raises TextError for a file that is not whole, CheckpointError, with the names of what differs, for
    another model or other means than it was made with.
    """
    header, payload = unpack(file, label)
    predictor = predictor_of(snapshot)
    if not 1 <= header.means.threads <= MOST_THREADS:
        raise TextError(f"{one_line(label)} is damaged: threads in its header cannot be. Get the file again.")
    with exactly(header.means.threads):
        _refuse_others(header, snapshot, predictor, label)
        try:
            ids = yield from decoding(predictor, payload, header.symbols, header.streams)
        except EOFError:
            raise TextError(
                f"{one_line(label)} is damaged: its contents end before the {header.symbols:,} symbols that its header "
                "announces. Get the file again."
            ) from None
    try:
        data = unspell(ids, snapshot.vocabulary, header.encoding)
    except UnicodeError:  # of characters that the file did not have
        data = None
    if data is None or hashlib.sha256(data).hexdigest() != header.sha256:
        raise TextError(
            f"{one_line(label)} did not give back what was compressed: its SHA-256 differs, so nothing was "
            "written. The file is damaged, or this machine computes otherwise in a way it does not tell."
        )
    return data


def encoding(predictor: Predictor, ids: Ids, n_streams: int) -> Generator[Progress, None, bytes]:
    """Symbols (N,) to bytes."""
    walk, coder = _Walk(predictor, len(ids), n_streams), Encoder()
    rows = [ids[start:end].astype(np.int64) for start, end in walk.places]
    column = None
    for t in range(walk.steps):
        shares = walk.shares(column)
        column = np.array([row[t] for row in rows[: walk.active(t)]])
        totals = shares[:, -1].tolist()
        at = np.arange(len(column))
        starts, ends = shares[at, column].tolist(), shares[at, column + 1].tolist()
        for start, end, total in zip(starts, ends, totals, strict=False):
            coder.add(start, end - start, total)
        yield from walk.report(t)
    return coder.finish()


def decoding(
    predictor: Predictor, payload: bytes, n_symbols: int, n_streams: int
) -> Generator[Progress, None, Ids]:
    """The symbols (N,) again. What is not of the encoder gives other symbols, or EOFError where it is used up."""
    walk, coder = _Walk(predictor, n_symbols, n_streams), Decoder(payload)
    columns: list[NDArray[np.int64]] = []
    for t in range(walk.steps):
        shares = walk.shares(columns[-1] if columns else None)
        column = []
        for row in shares[: walk.active(t)]:
            symbol = int(row.searchsorted(coder.target(int(row[-1])), side="right")) - 1
            start, end = row[symbol : symbol + 2].tolist()
            coder.take(start, end - start)
            column.append(symbol)
        columns.append(np.array(column))
        yield from walk.report(t)
    return walk.joined(columns)


class _Walk:
    """Streams of a text side by side, the first of them longer by one where they cannot be equal."""

    def __init__(self, predictor: Predictor, n_symbols: int, n_streams: int) -> None:
        self._predictor, self._state = predictor, predictor.start(n_streams)
        self._n, self._streams = n_symbols, n_streams
        self._least, self._longer = divmod(n_symbols, n_streams)
        self.steps = self._least + (self._longer > 0)

    @property
    def places(self) -> list[tuple[int, int]]:
        """Where each stream begins and ends."""
        ends = [self._least * (b + 1) + min(b + 1, self._longer) for b in range(self._streams)]
        return list(zip([0, *ends[:-1]], ends, strict=True))

    def active(self, t: int) -> int:
        """How many streams, from the first, have a symbol t."""
        return self._streams if t < self._least else self._longer

    def shares(self, read: NDArray[np.int64] | None) -> Bounds:
        """The shares (B, V + 1) of what comes next, after the symbols (B,) that came last."""
        ids = np.empty((self._streams, 0), dtype=np.int64) if read is None else read[:, None]
        self._state, logp = self._predictor.step(self._state, torch.from_numpy(ids))
        return bounds(logp.cpu().numpy())

    def report(self, t: int) -> Generator[Progress, None, None]:
        """How far step t brought it, now and then."""
        every = max(1, SYMBOLS_A_REPORT // self._streams)
        if (t + 1) % every == 0 or t + 1 == self.steps:
            yield Progress(min((t + 1) * self._streams, self._n), self._n)

    def joined(self, columns: list[NDArray[np.int64]]) -> Ids:
        """The streams one after another: (N,)."""
        whole = np.array(columns[: self._least], dtype=np.int64).reshape(self._least, self._streams).T
        if not self._longer:
            return whole.reshape(-1)
        rows = [np.append(whole[b], columns[-1][b]) for b in range(self._longer)]
        return np.concatenate([*rows, whole[self._longer :].reshape(-1)])


def model_of(snapshot: Snapshot) -> Model:
    """Which model a checkpoint holds: its weights and counts, and how it reads a text."""
    settings: dict[str, Any] = {"model": snapshot.model_config.to_json()}
    reading = strict_json.dump(settings) + snapshot.vocabulary.to_json().encode()
    return Model(
        weights=hashlib.sha256(tensors.dump_tensors(snapshot.weights)).hexdigest(),
        counts="" if snapshot.counts is None else hashlib.sha256(snapshot.counts).hexdigest(),
        reading=hashlib.sha256(reading).hexdigest()[:8],
    )


def _refuse_others(header: Header, snapshot: Snapshot, predictor: Predictor, label: str) -> None:
    """CheckpointError unless everything is as it was when the file was made."""
    label = one_line(label)
    known = ("", *MARKED, snapshot.run["text"].get("encoding"))
    if header.encoding not in known:
        raise CheckpointError(
            f"{label} is of a text in {one_line(header.encoding)}, which is not the encoding of this run's text. "
            "Name the run it was made with, by --run and --checkpoint."
        )
    other = differences(header.model, model_of(snapshot))
    if other:
        named = ", ".join(
            f"{name} ({one_line(there)[:16] or 'none'}, here {here[:16] or 'none'})"
            for name, (there, here) in other.items()
        )
        raise CheckpointError(
            f"{label} was compressed with another model, at step {header.step} of its run: it differs in "
            f"{named}. Name the one it was made with, by --run and --checkpoint."
        )
    other = differences(header.means, means(predictor.precision, header.means.threads))
    if other:
        named = ", ".join(
            f"{name} {one_line(there)} (here {one_line(here)})" for name, (there, here) in other.items()
        )
        raise CheckpointError(
            f"{label} was compressed with {named}, and can only be decompressed with the same, since other "
            "means round otherwise."
        )
