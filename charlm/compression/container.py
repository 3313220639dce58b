"""The format of a compressed file: magic, version, a small JSON header, and the coder's bytes.

    magic (6)  version (1)  length of the header (2)  its CRC-32 (4)  header, deflated  payload

Integers are little-endian. The header says what the decoder needs, and the hash of the original.
"""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields

from charlm.errors import CheckpointError, TextError
from charlm.strict_json import dump_json, from_json, parse_json, to_json
from charlm.terminal import one_line

MAGIC = b"charlm"
VERSION = 2
FRAME = struct.Struct("<6sBHI")
HEADER_LIMIT = 4096
MOST_BYTES = 1 << 42
MOST_THREADS = 1024
MOST_STREAMS = 64
FEWEST_CHARS = 20_000
"""Minimum length of a stream; each starts without context, which costs bits."""

# A preset deflate dictionary of what headers have in common, so that a header deflates to little more than its hashes.
_USUAL = (
    b'{"charlm":"0.1.0","torch":"2.13.0+cpu","numpy":"2.4.6","python":"3.11.","machine":"Linux x86_64",'
    b'"processor":"AVX512","numpy_kernels":"X86_V4","products":"openblas 0.3.31.188.0 Haswell",'
    b'"kernels":"v4bf16 ","precision":"float32","threads":1,"weights":"","ngram":"","reading":"","step":1000,"streams":1,'
    b'"symbols":100000,"chars":100000,"bytes":100000,"sha256":"","payload_bytes":20000,"payload_crc32":'
)


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Everything besides the model that can affect how a sum is rounded."""

    charlm: str
    torch: str
    numpy: str
    python: str
    machine: str
    processor: str  # the instructions that torch's loops use
    numpy_kernels: str  # those that NumPy's loops use
    products: str  # the library of NumPy's matrix products, and its processor type
    kernels: str  # the build and clone of charlm's compiled kernels, or "none"
    precision: str
    threads: int


@dataclass(frozen=True, kw_only=True)
class ModelHashes:
    """The identity of a model: SHA-256 of its files, and 8 digits of that of its configuration and vocabulary."""

    weights: str
    ngram: str
    reading: str


@dataclass(frozen=True, kw_only=True)
class Header:
    """The header of a compressed file."""

    environment: Environment
    model: ModelHashes
    step: int  # of the checkpoint, for people
    streams: int
    symbols: int
    chars: int
    bytes: int
    sha256: str  # of the original
    payload_bytes: int
    payload_crc32: int
    encoding: str = ""  # of the original, unless it is UTF-8


def streams_for(chars: int) -> int:
    """Return how many streams a text of that length is cut into."""
    return max(1, min(MOST_STREAMS, chars // FEWEST_CHARS))


def pack(header: Header, payload: bytes) -> bytes:
    """Serialise the file."""
    values = to_json(header)
    values = {**values.pop("environment"), **values.pop("model"), **values}  # one flat object
    if not header.encoding:
        del values["encoding"]
    plain = dump_json(values, compact=True)
    assert len(plain) <= HEADER_LIMIT
    deflate = zlib.compressobj(9, wbits=-zlib.MAX_WBITS, zdict=_USUAL)
    deflated = deflate.compress(plain) + deflate.flush()
    frame = FRAME.pack(MAGIC, VERSION, len(deflated), zlib.crc32(deflated))
    return frame + deflated + payload


def unpack(data: bytes, label: str) -> tuple[Header, bytes]:
    """Parse a file into the header and the coder's bytes. Raises TextError for a damaged file or another format."""
    label = one_line(label)
    if not data.startswith(MAGIC):
        raise TextError(f"{label} was not made by charlm compress")
    if len(data) < FRAME.size:
        raise _cut(label)
    _, version, length, crc32 = FRAME.unpack_from(data)
    if version != VERSION:
        raise TextError(f"{label} has format version {version}; this charlm reads version {VERSION}")
    deflated = data[FRAME.size : FRAME.size + length]
    if len(deflated) < length:
        raise _cut(label)
    if zlib.crc32(deflated) != crc32:
        raise _damaged(label, "the checksum of its header is wrong")
    header = _header(_inflate(deflated, label), label)
    payload = data[FRAME.size + length :]
    if len(payload) < header.payload_bytes:
        raise _cut(label)
    if len(payload) > header.payload_bytes:
        raise _damaged(label, f"it has {len(payload) - header.payload_bytes} extra bytes")
    if zlib.crc32(payload) != header.payload_crc32:
        raise _damaged(label, "the checksum of its contents is wrong")
    return header, payload


def _inflate(deflated: bytes, label: str) -> bytes:
    try:
        inflate = zlib.decompressobj(wbits=-zlib.MAX_WBITS, zdict=_USUAL)
        plain = inflate.decompress(deflated, HEADER_LIMIT)
    except zlib.error as error:
        raise _damaged(label, f"its header cannot be read ({error})") from None
    if not inflate.eof or inflate.unused_data:
        raise _damaged(label, f"its header is longer than {HEADER_LIMIT} bytes or cut short")
    return plain


def _header(plain: bytes, label: str) -> Header:
    """Parse and check the JSON header."""
    try:
        values = parse_json(plain, label)
        for part, kind in {"environment": Environment, "model": ModelHashes}.items():
            values[part] = {f.name: values.pop(f.name) for f in fields(kind) if f.name in values}
        header = from_json(Header, values)
    except CheckpointError as error:
        raise TextError(str(error)) from None
    except ValueError as error:
        raise _damaged(label, f"wrong values in its header: {one_line(str(error))}") from None
    utf8 = 4 * header.chars if header.encoding else header.bytes  # an upper bound on the UTF-8 bytes
    if not header.chars <= header.symbols <= utf8 <= min(4 * header.chars, MOST_BYTES):
        raise _damaged(label, "the lengths in its header contradict each other")
    if header.streams != streams_for(header.chars):
        raise _damaged(label, "the number of streams in its header does not match its length")
    if not 1 <= header.environment.threads <= MOST_THREADS:
        raise _damaged(label, "invalid number of threads in its header")
    return header


def differences(
    file: Environment | ModelHashes, here: Environment | ModelHashes
) -> Mapping[str, tuple[str, str]]:
    """Return the fields that differ, by name: in the file and here."""
    pairs = {name: (str(value), str(getattr(here, name))) for name, value in vars(file).items()}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _cut(label: str) -> TextError:
    return TextError(f"{label} is cut short: its end is missing. Get the whole file again.")


def _damaged(label: str, why: str) -> TextError:
    return TextError(f"{label} is damaged: {why}. Get the file again.")
