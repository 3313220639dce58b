"""Settings as annotated dataclass fields: name, type, default, help and limits in one line, checked and read from JSON."""

import math
from dataclasses import dataclass, fields
from enum import Enum
from functools import cache
from types import UnionType
from typing import Annotated, Any, Self, get_args, get_origin, get_type_hints

from charlm.suggestions import value_meant

LARGE = 1e5
"""An upper limit above this only rules out nonsense, and is not shown."""


@dataclass(frozen=True)
class Range:
    """The values a number may take, both ends included."""

    low: float
    high: float

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high  # false for nan

    def __str__(self) -> str:
        return f"at least {self.low:g}" if self.high > LARGE else f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Choice:
    """The words a setting may take."""

    words: tuple[str, ...]

    def __contains__(self, value: object) -> bool:
        return value in self.words

    def __str__(self) -> str:
        return ", ".join(self.words)


class Choices(Choice):
    """Some of these words, joined by commas."""

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and all(word in self.words for word in value.split(","))


class Mark(Enum):
    """Properties of a setting, besides its help and limits."""

    BASIC = "most people need it: the short help shows it"
    PLANNED = "the plan chooses it unless it is given"


@dataclass(frozen=True)
class Setting:
    """One field of a configuration, as the command line and the checkpoint read it."""

    name: str
    type: type
    optional: bool  # None is allowed, and means that the plan chooses (or that it is off)
    default: Any
    help: str
    limit: Range | Choice | None
    repeated: bool = False  # several values of that type, each given by an option of its own
    marks: frozenset[Mark] = frozenset()

    @property
    def option(self) -> str:
        """The name on the command line: `n_layer` is `--n-layer`."""
        return "--" + self.name.replace("_", "-")

    def check(self, value: Any) -> None:
        """Raise ValueError, naming the setting, the value and the limit, if it cannot be `value`."""
        if value is None and self.optional:
            return
        if self.repeated:
            if not isinstance(value, tuple) or not value or not all(type(v) is str and v for v in value):
                raise ValueError(f"`{self.name}` is {value!r}; it must be one or more strings")
            return
        kinds = (int, float) if self.type is float else (self.type,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and self.type is not bool):
            raise ValueError(f"`{self.name}` is {value!r}; it must be of type {self.type.__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"`{self.name}` is {value}; it must be a finite number")
        if self.limit is not None and value not in self.limit:
            raise ValueError(f"`{self.name}` is {value!r}; allowed: {self.limit}{self._meant(value)}")

    def _meant(self, value: Any) -> str:
        """Return the end of the error: the word that was meant, or the share where a percentage was given."""
        if isinstance(self.limit, Choice):
            if "," in str(value) and not isinstance(self.limit, Choices):
                return ""
            return value_meant(self.name, value, self.limit.words)
        assert self.limit is not None
        percent = self.type is float and self.limit.high <= 1 < value <= 100 and value / 100 in self.limit
        return f"; write {value:g} % as {value / 100:g}" if percent else ""


class Settings:
    """Base class of configurations: checks each field, and converts to JSON and back."""

    def __post_init__(self) -> None:
        for setting in settings_of(type(self)):
            value = getattr(self, setting.name)
            if setting.repeated and isinstance(value, str | list):
                value = (value,) if isinstance(value, str) else tuple(value) or None
                object.__setattr__(self, setting.name, value)
            setting.check(value)

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values; `from_json` gives the same object again."""
        values = {setting.name: getattr(self, setting.name) for setting in settings_of(type(self))}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Rebuild from `to_json`; ValueError for unknown names, wrong types and limits."""
        unknown = set(values) - {setting.name for setting in settings_of(cls)}
        if unknown:
            raise ValueError(f"unknown settings: {', '.join(map(repr, sorted(unknown)))}")
        return cls(**values)


def settings_of(cls: type[Settings]) -> tuple[Setting, ...]:
    """The settings of a configuration class, in the order written."""
    return _settings_of(cls)  # type: ignore[arg-type]


@cache
def _settings_of(cls: Any) -> tuple[Setting, ...]:
    hints = get_type_hints(cls, include_extras=True)
    return tuple(_setting(field, hints[field.name]) for field in fields(cls))


def _setting(field: Any, hint: Any) -> Setting:
    assert get_origin(hint) is Annotated, f"{field.name} needs Annotated[type, help]"
    kind, text, *limits = get_args(hint)
    optional = isinstance(kind, UnionType)
    base = get_args(kind)[0] if optional else kind
    repeated = get_origin(base) is tuple
    base = get_args(base)[0] if repeated else base
    marks = frozenset(each for each in limits if isinstance(each, Mark))
    limit = next((each for each in limits if not isinstance(each, Mark)), None)
    return Setting(field.name, base, optional, field.default, text, limit, repeated, marks)
