"""Tensors to bytes and back in the safetensors format, checked before anything is allocated."""

import json
import struct
from collections.abc import Mapping

import safetensors.torch
import torch
from torch import Tensor

from charlm.checkpoint.strict_json import parse
from charlm.errors import CheckpointError

HEADER_LIMIT = 1 << 20
DTYPES = {torch.float32: "F32", torch.float64: "F64", torch.bfloat16: "BF16", torch.float16: "F16"}


def dump(tensors: Mapping[str, Tensor]) -> bytes:
    """Serialise; the same tensors give the same bytes."""
    return safetensors.torch.save({name: tensor.detach().contiguous() for name, tensor in tensors.items()})


def load(data: bytes, expected: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors in `data`, which must have the names, shapes and types of `expected`.

    `expected` may live on the meta device. Raises CheckpointError otherwise, before loading, and
    for values that aren't finite.
    """
    _check_header(data, expected, name)
    try:
        tensors = safetensors.torch.load(data)
    except Exception as error:  # noqa: BLE001  its own kinds, none of them exported
        raise CheckpointError(f"{name} is damaged: {error}") from None
    for key, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{name} is damaged: {key} holds values that are not finite")
    return tensors


def _check_header(data: bytes, expected: Mapping[str, Tensor], name: str) -> None:
    length = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else HEADER_LIMIT + 1
    if length > min(HEADER_LIMIT, len(data) - 8):
        raise CheckpointError(f"{name} is damaged: its header does not fit")
    header = parse(data[8 : 8 + length], name)
    header.pop("__metadata__", None)
    wanted = {
        key: {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape)} for key, tensor in expected.items()
    }
    found = {
        key: {k: entry.get(k) for k in ("dtype", "shape")} if isinstance(entry, dict) else entry
        for key, entry in header.items()
    }
    if json.dumps(found, sort_keys=True) != json.dumps(wanted, sort_keys=True):
        different = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
        raise CheckpointError(
            f"{name} does not hold the tensors that its configuration asks for: {', '.join(map(repr, different[:3]))}"
        )
    if len(data) - 8 - length != sum(tensor.nbytes for tensor in expected.values()):
        raise CheckpointError(f"{name} is damaged: its size does not fit its header")
