"""JSON from a file that may be hostile: bounded, without duplicate keys, finite numbers only."""

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

from charlm.errors import CheckpointError
from charlm.terminal import one_line

LARGEST = 64 << 20
LARGEST_NUMBER = 1e100
"""Far above any figure; the squares of larger ones could overflow."""
DEEPEST = 300
"""Levels of nesting that are read: half of what Python's own limits take, since others look at the values too."""


def parse(data: bytes, name: str) -> dict[str, Any]:
    """The object in `data`; CheckpointError, naming the file, for anything else."""
    if len(data) > LARGEST:
        raise CheckpointError(f"{one_line(name)} has {len(data)} bytes of JSON; at most {LARGEST} are read")
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=once, parse_constant=_refuse, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{one_line(name)} is damaged: {one_line(str(error))}") from None
    if data.count(b"[") + data.count(b"{") > DEEPEST and _too_deep(value):
        raise CheckpointError(f"{one_line(name)} is damaged: it is nested more than {DEEPEST} deep")
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


def number(value: Any) -> float:
    """A number that a file must hold; ValueError for whatever else stands there."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST_NUMBER:
        raise ValueError(f"{one_line(repr(value))} is not a number")
    return float(value)


def optional_number(value: Any) -> float | None:
    """The same where a file may hold null."""
    return None if value is None else number(value)


def whole(value: Any) -> int:
    """A count or a step that a file must hold; ValueError for whatever else stands there."""
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{one_line(repr(value))} is not a whole number from 0 to 2^63")
    return value


def _too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(DEEPEST):
        inner = (v for outer in level for v in (outer.values() if isinstance(outer, dict) else outer))
        level = [v for v in inner if isinstance(v, dict | list)]
        if not level:
            return False
    return True


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys stand once each; ValueError otherwise."""
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
