"""Compress a file with a model, to as many bits as the model needs to predict it, and decompress it.

Decoding must reproduce the encoder's probabilities to the last bit, which rounding them could not ensure. So both
do the same steps in the same shapes in the same environment, which the file records.

Shapes: B streams side by side, V symbols, N symbols of the file.
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
from charlm.checkpoint.safe_io import dump_tensors
from charlm.checkpoint.snapshot import Snapshot
from charlm.compression.coder import Bounds, Decoder, Encoder, bounds
from charlm.compression.container import (
    Environment,
    Header,
    ModelHashes,
    differences,
    pack,
    streams_for,
    unpack,
)
from charlm.data.detection import byte_order_mark, is_valid
from charlm.data.tokenizer import Ids, Vocabulary
from charlm.errors import CheckpointError, TextError
from charlm.inference.members import predictor_of
from charlm.inference.predictor import Predictor
from charlm.strict_json import dump_json, to_json
from charlm.terminal import one_line
from charlm.threads import threads_restored

WIDE_ENCODINGS = ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
"""Encodings recognised by a byte-order mark, which is kept as one of the characters."""
THREADS = 1
"""Default number of threads, which changes how sums are rounded."""
SYMBOLS_A_REPORT = 512

Progress = tuple[int, int]
"""Symbols done, and of how many."""

_NOT_UTF8 = re.compile("([\udc80-\udcff]+)")


@dataclass(frozen=True)
class EncodedFile:
    """A file as symbols of the vocabulary."""

    ids: Ids  # (N,)
    chars: int  # each invalid byte counts as one
    not_text: int | None  # the offset of the first invalid byte
    encoding: str = ""  # of its characters; empty for UTF-8


def file_to_ids(data: bytes, vocabulary: Vocabulary, usual: str | None = None) -> EncodedFile:
    """Encode a file, with each byte that is not UTF-8 as a byte symbol.

    Byte-order marks and newlines are characters like any other. `usual` is the encoding of the training text; it is
    used for a file that is not UTF-8, if it gives the same bytes back.
    """
    encoding = encoding_of(data, usual)
    if encoding:
        text = data.decode(encoding)
        return EncodedFile(vocabulary.encode(text), len(text), None, encoding)
    text = data.decode(errors="surrogateescape")
    invalid = _NOT_UTF8.search(text)
    if invalid is None:
        return EncodedFile(vocabulary.encode(text), len(text), None)
    pieces = [
        vocabulary.id_of_byte[list(piece.encode(errors="surrogateescape"))]
        if _NOT_UTF8.match(piece)
        else vocabulary.encode(piece)
        for piece in _NOT_UTF8.split(text)
        if piece
    ]
    return EncodedFile(np.concatenate(pieces), len(text), len(text[: invalid.start()].encode()))


def ids_to_file(ids: Ids, vocabulary: Vocabulary, encoding: str = "") -> bytes:
    """Decode symbols (N,) to bytes. Raises UnicodeError if they are not text of that encoding."""
    spellings = vocabulary.spellings
    data = b"".join([spellings[i] for i in ids])
    return data.decode().encode(encoding) if encoding else data


def encoding_of(data: bytes, usual: str | None) -> str:
    """Return an encoding other than UTF-8 that decodes the file and gives the same bytes back; empty if there is none."""
    mark, marked = byte_order_mark(data)
    if mark:
        encoding = marked if marked in WIDE_ENCODINGS else ""
    else:
        encoding = usual if usual and (data.isascii() or not is_valid(data, "utf-8", whole=True)) else ""
    try:
        text = data.decode(encoding) if encoding else ""
        as_utf8 = text.encode("utf-8")  # raises for surrogates, which some codecs accept
        return encoding if text and as_utf8 != data == text.encode(encoding) else ""
    except (UnicodeError, LookupError):
        return ""


@contextmanager
def exactly_threads(threads: int) -> Iterator[None]:
    """Make torch and NumPy's matrix products use exactly this many threads inside the `with` block."""
    with threads_restored(), threadpool_limits(threads):
        torch.set_num_threads(threads)
        yield


def environment(predictor: Predictor, threads: int) -> Environment:
    """Describe this environment, in which a predictor computes with this many threads."""
    config = np.show_config(mode="dicts")
    assert isinstance(config, dict)
    blas = (each for each in threadpool_info() if each["user_api"] == "blas")
    products = {f"{each['internal_api']} {each['version']} {each.get('architecture')}" for each in blas}
    return Environment(
        charlm=charlm.__version__,
        torch=str(torch.__version__),
        numpy=np.__version__,
        python=platform.python_version(),
        machine=f"{platform.system()} {platform.machine()}",
        processor=torch.backends.cpu.get_cpu_capability(),
        numpy_kernels=str((config.get("SIMD Extensions", {}).get("found") or ["baseline"])[-1]),
        products=" ".join(sorted(products)),
        kernels=predictor.kernels,
        precision=str(predictor.precision).removeprefix("torch."),
        threads=threads,
    )


@dataclass(frozen=True)
class Compressed:
    """A compressed file, and its contents."""

    data: bytes
    header: Header
    ids: Ids  # the symbols (N,) of the file
    not_text: int | None  # the offset of the first byte that is not UTF-8


def compressing(
    data: bytes, snapshot: Snapshot, threads: int = THREADS
) -> Generator[Progress, None, Compressed]:
    """Compress the bytes of a file. Any file works, but only text like the training text becomes small. Yields progress.

    The result records how many threads computed, and must be decompressed with as many.
    """
    encoded = file_to_ids(data, snapshot.vocabulary, snapshot.run.text.encoding)
    predictor = predictor_of(snapshot)
    n_streams = streams_for(encoded.chars)
    with exactly_threads(threads):
        payload = yield from encoding(predictor, encoded.ids, n_streams)
        header = Header(
            environment=environment(predictor, threads),
            model=hashes_of(snapshot),
            step=snapshot.step,
            streams=n_streams,
            symbols=len(encoded.ids),
            chars=encoded.chars,
            bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            payload_bytes=len(payload),
            payload_crc32=zlib.crc32(payload),
            encoding=encoded.encoding,
        )
    return Compressed(pack(header, payload), header, encoded.ids, encoded.not_text)


def decompressing(file: bytes, label: str, snapshot: Snapshot) -> Generator[Progress, None, bytes]:
    """Decompress a file named `label`.

    Raises TextError for a damaged file, and CheckpointError, naming the differences, if the model or the environment
    differs from the one that compressed it.
    """
    header, payload = unpack(file, label)
    predictor = predictor_of(snapshot)
    with exactly_threads(header.environment.threads):
        _check_same(header, snapshot, predictor, label)
        try:
            ids = yield from decoding(predictor, payload, header.symbols, header.streams)
        except EOFError:
            raise TextError(
                f"{one_line(label)} is damaged: it ends before the {header.symbols:,} symbols of its header. "
                "Get the file again."
            ) from None
    try:
        data = ids_to_file(ids, snapshot.vocabulary, header.encoding)
    except UnicodeError:  # decoded to other characters than the file had
        data = None
    if data is None or hashlib.sha256(data).hexdigest() != header.sha256:
        raise TextError(
            f"{one_line(label)} did not decompress to the original: its SHA-256 differs, so nothing was written. The file "
            "is damaged, or this machine rounds differently although its environment looks the same."
        )
    return data


def encoding(predictor: Predictor, ids: Ids, n_streams: int) -> Generator[Progress, None, bytes]:
    """Encode symbols (N,) as bytes."""
    streams, coder = _Streams(predictor, len(ids), n_streams), Encoder()
    rows = [ids[start:end].astype(np.int64) for start, end in streams.bounds]
    column = None
    for t in range(streams.steps):
        shares = streams.shares(column)
        column = np.array([row[t] for row in rows[: streams.active(t)]])
        totals = shares[:, -1].tolist()
        at = np.arange(len(column))
        starts, ends = shares[at, column].tolist(), shares[at, column + 1].tolist()
        for start, end, total in zip(starts, ends, totals, strict=False):
            coder.add(start, end - start, total)
        yield from streams.report(t)
    return coder.finish()


def decoding(
    predictor: Predictor, payload: bytes, n_symbols: int, n_streams: int
) -> Generator[Progress, None, Ids]:
    """Decode symbols (N,). A damaged payload gives other symbols, or raises EOFError when it is used up."""
    streams, coder = _Streams(predictor, n_symbols, n_streams), Decoder(payload)
    columns: list[NDArray[np.int64]] = []
    for t in range(streams.steps):
        shares = streams.shares(columns[-1] if columns else None)
        column = []
        for row in shares[: streams.active(t)]:
            symbol = int(row.searchsorted(coder.target(int(row[-1])), side="right")) - 1
            start, end = row[symbol : symbol + 2].tolist()
            coder.take(start, end - start)
            column.append(symbol)
        columns.append(np.array(column))
        yield from streams.report(t)
    return streams.joined(columns)


class _Streams:
    """A text cut into streams that are predicted side by side; the first ones may be longer by one symbol."""

    def __init__(self, predictor: Predictor, n_symbols: int, n_streams: int) -> None:
        self._predictor, self._state = predictor, predictor.start(n_streams)
        self._n, self._streams = n_symbols, n_streams
        self._least, self._longer = divmod(n_symbols, n_streams)
        self.steps = self._least + (self._longer > 0)

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """The start and end of each stream."""
        ends = [self._least * (b + 1) + min(b + 1, self._longer) for b in range(self._streams)]
        return list(zip([0, *ends[:-1]], ends, strict=True))

    def active(self, t: int) -> int:
        """Return how many streams, counted from the first, have a symbol number t."""
        return self._streams if t < self._least else self._longer

    def shares(self, read: NDArray[np.int64] | None) -> Bounds:
        """Return the cumulative frequencies (B, V + 1) of the next symbols, after reading the last ones (B,)."""
        ids = np.empty((self._streams, 0), dtype=np.int64) if read is None else read[:, None]
        self._state, logp = self._predictor.step(self._state, torch.from_numpy(ids))
        return bounds(logp.cpu().numpy())

    def report(self, t: int) -> Generator[Progress, None, None]:
        """Yield progress after step t, every SYMBOLS_A_REPORT symbols."""
        every = max(1, SYMBOLS_A_REPORT // self._streams)
        if (t + 1) % every == 0 or t + 1 == self.steps:
            yield min((t + 1) * self._streams, self._n), self._n

    def joined(self, columns: list[NDArray[np.int64]]) -> Ids:
        """Join the streams to one text: (N,)."""
        whole = np.array(columns[: self._least], dtype=np.int64).reshape(self._least, self._streams).T
        if not self._longer:
            return whole.reshape(-1)
        rows = [np.append(whole[b], columns[-1][b]) for b in range(self._longer)]
        return np.concatenate([*rows, whole[self._longer :].reshape(-1)])


def hashes_of(snapshot: Snapshot) -> ModelHashes:
    """Return the identity of a checkpoint's model: hashes of its weights, n-gram model, configuration and vocabulary.

    For a mixture, these cover the weights and configurations of all members, and how they are mixed.
    """
    settings: dict[str, Any] = {"model": snapshot.model_config.to_json()}
    if snapshot.mixture is not None:
        earlier = [member.model_config.to_json() for member in snapshot.earlier]
        settings |= {"earlier": earlier, "mixture": to_json(snapshot.mixture)}
    reading = dump_json(settings) + snapshot.vocabulary.to_json().encode()
    return ModelHashes(
        weights=hashlib.sha256(dump_tensors(snapshot.all_weights)).hexdigest(),
        ngram="" if snapshot.ngram is None else hashlib.sha256(snapshot.ngram).hexdigest(),
        reading=hashlib.sha256(reading).hexdigest()[:8],
    )


def _check_same(header: Header, snapshot: Snapshot, predictor: Predictor, label: str) -> None:
    """Raise CheckpointError unless the model and the environment are those that the file was made with."""
    label = one_line(label)
    known = ("", *WIDE_ENCODINGS, snapshot.run.text.encoding)
    if header.encoding not in known:
        raise CheckpointError(
            f"{label} holds text in {one_line(header.encoding)}, which is not the encoding of this run's text. "
            "Name the run that compressed it with --run and --checkpoint."
        )
    other = differences(header.model, hashes_of(snapshot))
    if other:
        named = ", ".join(
            f"{name} ({one_line(there)[:16] or 'none'}, here {here[:16] or 'none'})"
            for name, (there, here) in other.items()
        )
        raise CheckpointError(
            f"{label} was compressed with another model, at step {header.step} of its run. Different: {named}. "
            "Name that model with --run and --checkpoint."
        )
    other = differences(header.environment, environment(predictor, header.environment.threads))
    if other:
        named = ", ".join(
            f"{name} {one_line(there)} (here {one_line(here)})" for name, (there, here) in other.items()
        )
        raise CheckpointError(
            f"{label} was compressed with {named}. It can only be decompressed with the same, because anything else may "
            "round differently."
        )
