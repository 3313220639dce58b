"""Strict JSON: parse it without surprises, and convert dataclasses to it and back with every type checked."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from charlm.errors import CheckpointError
from charlm.settings import Settings
from charlm.terminal import one_line

T = TypeVar("T")

MAX_BYTES = 64 << 20
MAX_NUMBER = 1e100
"""Far above any loss; the squares of larger numbers could overflow."""
MAX_DEPTH = 300
"""Levels of nesting: half of what Python's recursion limit allows, since the values are traversed later too."""


def parse_json(data: bytes, name: str) -> dict[str, Any]:
    """Parse a JSON object. Raises CheckpointError, naming the file, for anything else.

    Duplicate keys, NaN, infinities, deep nesting and more than MAX_BYTES are refused.
    """
    name = one_line(name)
    if len(data) > MAX_BYTES:
        raise CheckpointError(f"{name} has {len(data)} bytes of JSON; the limit is {MAX_BYTES}")
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=unique_keys, parse_constant=_refuse, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{name} is damaged: {one_line(str(error))}") from None
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH and _is_too_deep(value):
        raise CheckpointError(f"{name} is damaged: it is nested more than {MAX_DEPTH} levels deep")
    if not isinstance(value, dict):
        raise CheckpointError(f"{name} is damaged: it is not a JSON object")
    return value


def dump_json(value: Mapping[str, Any], *, compact: bool = False) -> bytes:
    """Serialise a JSON object: indented, for people to read, or in as few bytes as possible."""
    if compact:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def replace_nonfinite(value: Any) -> Any:
    """Return the value with None for NaN and the infinities, which JSON does not have."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: replace_nonfinite(part) for key, part in value.items()}
    return [replace_nonfinite(part) for part in value] if isinstance(value, list | tuple) else value


def to_json(value: Any) -> Any:
    """Convert dataclasses, and what they hold, to plain JSON values; `from_json` converts them back."""
    if isinstance(value, Settings):
        return value.to_json()
    if is_dataclass(value):
        return {field.name: to_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: to_json(part) for key, part in value.items()}
    return [to_json(part) for part in value] if isinstance(value, list | tuple) else value


def from_json(kind: type[T], value: Any, path: str = "") -> T:
    """Rebuild a dataclass from parsed JSON. Raises ValueError, naming the field, for anything that does not fit.

    Unknown fields are refused, and missing ones that have no default. An int is from 0 to 2^63 - 1.
    """
    result: T = _convert(kind, value, path)
    return result


def read_as(kind: type[T], value: Any, name: str) -> T:
    """Rebuild a dataclass from the contents of a file. Raises CheckpointError, naming the file."""
    try:
        return from_json(kind, value)
    except ValueError as error:
        raise CheckpointError(f"{name} is damaged: {one_line(str(error))}") from None


def _convert(kind: Any, value: Any, path: str) -> Any:
    if kind in (str, bool) and type(value) is kind:
        return value
    if kind is int and type(value) is int and 0 <= value < 2**63:
        return value
    if kind is float and type(value) in (int, float) and abs(value) < MAX_NUMBER:
        return float(value)
    if kind is Any:
        return value
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):  # Literal[...] | None is the former
        return None if value is None else _convert(next(a for a in args if a is not NoneType), value, path)
    if origin is Literal and value in args:
        return value
    if origin is dict and isinstance(value, dict):
        return {key: _convert(args[1], part, f"{path}.{key}") for key, part in value.items()}
    if origin in (list, tuple) and isinstance(value, list):
        parts = [_convert(args[0], part, f"{path}[{i}]") for i, part in enumerate(value)]
        if origin is list or args[-1] is Ellipsis:
            return origin(parts)
        if len(parts) == len(args):
            return tuple(parts)
    if is_dataclass(kind) and isinstance(value, dict):
        return _convert_fields(kind, value, path)
    expected = {int: "a whole number from 0 to 2^63", float: "a number", str: "a text", bool: "true or false"}
    wanted = " or ".join(map(repr, args)) if origin is Literal else expected.get(kind, "an object or list")
    shown = one_line(repr(value))
    raise ValueError(f"{path.lstrip('.') or 'it'} is {shown}; expected {wanted}")


def _convert_fields(kind: Any, value: dict[str, Any], path: str) -> Any:
    if issubclass(kind, Settings):
        return kind.from_json(value)
    types, required = _fields_of(kind)
    for problem, names in (("unknown", value.keys() - types.keys()), ("missing", required - value.keys())):
        if names:
            named = ", ".join(map(repr, sorted(names)))
            raise ValueError(f"{problem} fields in {path.lstrip('.') or 'it'}: {named}")
    return kind(**{name: _convert(types[name], part, f"{path}.{name}") for name, part in value.items()})


@cache
def _fields_of(kind: Any) -> tuple[dict[str, Any], set[str]]:
    """The types of a dataclass's fields, and the names of those without a default."""
    hints = get_type_hints(kind)
    required = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    return {field.name: hints[field.name] for field in fields(kind)}, required


def _is_too_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        inner = (v for outer in level for v in (outer.values() if isinstance(outer, dict) else outer))
        level = [v for v in inner if isinstance(v, dict | list)]
        if not level:
            return False
    return True


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook` that raises ValueError for a duplicate key."""
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key occurs twice")
    return dict(pairs)


def _refuse(word: str) -> float:
    raise ValueError(f"{word} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"{text} is too large")
    return value
