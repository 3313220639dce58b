"""Every setting once: its name, type, default, help and limits (standard library only)."""

import math
from dataclasses import dataclass, fields
from functools import cache
from types import UnionType
from typing import Annotated, Any, Self, get_args, get_origin, get_type_hints

LARGE = 1e5
"""Above this a limit only keeps out nonsense, and is not worth a reader's time."""


@dataclass(frozen=True)
class Range:
    """The values a number may take, both ends included."""

    low: float
    high: float

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high  # false for nan

    def __str__(self) -> str:
        if self.high > LARGE:
            return f"at least {self.low:g}"
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Choice:
    """The words a setting may take."""

    words: tuple[str, ...]

    def __contains__(self, value: object) -> bool:
        return value in self.words

    def __str__(self) -> str:
        return ", ".join(self.words)


@dataclass(frozen=True)
class Setting:
    """One field of a configuration, as the command line and the checkpoint read it."""

    name: str
    type: type
    optional: bool  # None is allowed, and means that the plan chooses (or that it is off)
    default: Any
    help: str
    limit: Range | Choice | None

    @property
    def option(self) -> str:
        """The name on the command line: `n_layer` is `--n-layer`."""
        return "--" + self.name.replace("_", "-")

    def check(self, value: Any) -> None:
        """Raise ValueError, naming the setting, the value and the limit, if it cannot be `value`."""
        if value is None and self.optional:
            return
        kinds = (int, float) if self.type is float else (self.type,)
        if not isinstance(value, kinds) or (isinstance(value, bool) and self.type is not bool):
            raise ValueError(f"{self.name} is {value!r}; it takes a value of type {self.type.__name__}")
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{self.name} is {value}; it takes a finite number")
        if self.limit is not None and value not in self.limit:
            raise ValueError(f"{self.name} is {value!r}; allowed: {self.limit}")


class Settings:
    """Base of the configurations below: checks each field, and goes to JSON and back."""

    def __post_init__(self) -> None:
        for setting in settings_of(type(self)):
            setting.check(getattr(self, setting.name))

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values; `from_json` gives the same object again."""
        return {setting.name: getattr(self, setting.name) for setting in settings_of(type(self))}

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
    limit = limits[0] if limits else None
    return Setting(field.name, base, optional, field.default, text, limit)


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """The shape of the transformer. None means that the plan chooses."""

    n_layer: Annotated[int | None, "Number of blocks.", Range(1, 128)] = None
    n_head: Annotated[int | None, "Heads of attention in each block.", Range(1, 128)] = None
    n_embd: Annotated[int | None, "Width: numbers per character inside the model.", Range(2, 8192)] = None
    block_size: Annotated[int | None, "Characters the model sees at once.", Range(1, 65536)] = None
    dropout: Annotated[float | None, "Share of each block's output dropped in training.", Range(0, 0.9)] = (
        None
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_embd is None or self.n_head is None:
            return
        if self.n_embd % self.n_head or (self.n_embd // self.n_head) % 2:
            raise ValueError(
                f"n_embd is {self.n_embd} and n_head {self.n_head}; "
                "the width must be an even number of values for each head"
            )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Settings):
    """How the model is trained. None means that the plan chooses."""

    batch_size: Annotated[int | None, "Windows of text in one step.", Range(1, 65536)] = None
    accumulation: Annotated[int, "Parts a batch is computed in, to save memory.", Range(1, 1024)] = 1
    learning_rate: Annotated[float | None, "Highest learning rate of AdamW.", Range(1e-8, 10)] = None
    weight_decay: Annotated[float, "Pull of the matrices towards zero.", Range(0, 10)] = 0.1
    clip: Annotated[
        float, "Longest gradient taken as it is; longer ones are shortened.", Range(1e-6, 1e6)
    ] = 1.0
    schedule: Annotated[
        str | None, "Corners STEP:FACTOR,... of the learning rate, instead of the plan's."
    ] = None
    seed: Annotated[int, "First weights, order of the text, dropout.", Range(0, 2**63 - 1)] = 1
    eval_every: Annotated[int | None, "Steps between evaluations.", Range(1, 10**9)] = None
    eval_chars: Annotated[int | None, "Held-out characters in each of them.", Range(1, 10**9)] = None
    patience: Annotated[int, "Worse evaluations after which training stops; 0: never.", Range(0, 10**6)] = 4
    save_every: Annotated[float, "Seconds between saves.", Range(0, 10**6)] = 60.0
    device: Annotated[str, "Where to compute.", Choice(("auto", "cpu", "cuda", "mps"))] = "auto"
    threads: Annotated[int | None, "Threads of the CPU; by default one a core.", Range(1, 1024)] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size is not None and self.batch_size % self.accumulation:
            raise ValueError(
                f"accumulation is {self.accumulation} and batch_size {self.batch_size}; "
                "the batch must divide into that many equal parts"
            )


VAL = 0.1
FEWEST_HELD_OUT = 200
"""Characters below which a figure on them is said to mean little."""


@dataclass(frozen=True, kw_only=True)
class TextConfig(Settings):
    """What is read and how it is divided."""

    val: Annotated[float, "Share of the text, at its end, held out from training.", Range(0, 0.9)] = VAL
    val_file: Annotated[str | None, "A file of its own to hold out, instead of the end of the text."] = None
    encoding: Annotated[str | None, "The text's encoding; by default UTF-8, or what its mark says."] = None
    min_count: Annotated[
        int | None,
        "Rarer characters are spelled in bytes; by default 2 above 100,000 characters, else 1.",
        Range(1, 10**9),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.val_file is not None and self.val != VAL:
            raise ValueError(f"val is {self.val:g}, which cannot act with val_file; leave one out")


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Settings):
    """How the next character is chosen from its probabilities."""

    temperature: Annotated[
        float, "Below 1 bolder on the likely, above 1 wilder; 0: always the likeliest.", Range(0, 100)
    ] = 0.8
    top_k: Annotated[int | None, "Choose among the K likeliest only.", Range(1, 10**7)] = None
    top_p: Annotated[
        float | None, "Choose among the likeliest that together have this probability.", Range(0, 1)
    ] = None
    min_p: Annotated[
        float | None, "Leave out what is less likely than this share of the likeliest.", Range(0, 1)
    ] = None
    seed: Annotated[int, "The same seed gives the same text.", Range(0, 2**63 - 1)] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("top_k", "top_p", "min_p"):
            if self.temperature == 0 and getattr(self, name) is not None:
                raise ValueError(f"{name} cannot act at temperature 0, which always takes the likeliest")
