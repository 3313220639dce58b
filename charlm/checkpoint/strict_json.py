"""JSON from a file that may be hostile: bounded, without duplicate keys, finite numbers only."""

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

from charlm.errors import CheckpointError
from charlm.terminal import one_line

LARGEST = 64 << 20


def parse(data: bytes, name: str) -> dict[str, Any]:
    """The object in `data`; CheckpointError, naming the file, for anything else."""
    if len(data) > LARGEST:
        raise CheckpointError(f"{one_line(name)} has {len(data)} bytes of JSON; at most {LARGEST} are read")
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_once, parse_constant=_refuse, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{one_line(name)} is damaged: {one_line(str(error))}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{one_line(name)} is damaged: it holds no JSON object")
    return value


def dump(value: dict[str, Any]) -> bytes:
    """A JSON object as bytes, readable by people and by `parse`."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def dump_line(value: dict[str, Any]) -> bytes:
    """The same in as few bytes as possible."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def finite(value: Any) -> Any:
    """The same with null for each number that JSON does not have: NaN and the infinities."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(part) for key, part in value.items()}
    return [finite(part) for part in value] if isinstance(value, list | tuple) else value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _refuse(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is too large a number")
    return value
