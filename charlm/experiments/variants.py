"""The variants of a comparison: one configuration, with some of its settings varied."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import product
from typing import Any

from charlm.config import NGRAM, ModelConfig, TrainingConfig, only_ngram, refuse_transformer_only
from charlm.errors import UsageError
from charlm.settings import Choice, Choices, Setting, settings_of
from charlm.suggestions import setting_meant

MODEL = {s.name: s for s in settings_of(ModelConfig) if s.name != "causal"}
TRAINING = {
    s.name: s
    for s in settings_of(TrainingConfig)
    if s.name
    in (
        "batch_size",
        "grad_accum",
        "optimizer",
        "learning_rate",
        "muon_lr",
        "ngram_embedding_lr",
        "weight_decay",
        "grad_clip",
    )
}
VARIED = {**MODEL, **TRAINING}
WORDS = {"on": True, "off": False}
NOT_SET = "auto"
"""The value that leaves a setting unset, so that the plan chooses it, or the rule in its help."""
LONGEST_NAME = 70
MOST_VARIANTS = 1000


@dataclass(frozen=True)
class Variant:
    """One of the configurations that are compared."""

    values: dict[str, Any]  # of the settings that are varied
    model: ModelConfig
    training: TrainingConfig

    @property
    def label(self) -> str:
        """Its name in tables: `rotary`, or `mixer recurrent, window 8` where several settings vary."""
        if len(self.values) == 1:
            return written(next(iter(self.values.values())))
        return ", ".join(f"{name} {written(value)}" for name, value in self.values.items())

    @property
    def folder(self) -> str:
        """Its name as a folder."""
        parts = (f"{name}-{written(value)}" for name, value in self.values.items())
        whole = "_".join(parts).replace(",", "+")
        cut = f"{whole[:LONGEST_NAME]}-{sha256(whole.encode()).hexdigest()[:8]}"
        return whole if len(whole) <= LONGEST_NAME else cut

    def check(self) -> None:
        """Raise ValueError if `--vary` cannot give such values, or the configurations do not have them."""
        for name, value in self.values.items():
            if name not in VARIED:
                raise ValueError(f"{name!r} cannot be varied")
            VARIED[name].check(value)
            if getattr(self.model if name in MODEL else self.training, name) != value:
                raise ValueError(f"a variant with {name} {value!r} has another {name}")


def written(value: Any) -> str:
    """Format a value as given to `--vary`, except for mixers, which are joined by commas elsewhere."""
    words = {None: NOT_SET, True: "on", False: "off"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def parse_axis(text: str) -> tuple[str, list[Any]]:
    """Parse a setting and its values, such as `position=none,learned`. Raises UsageError if invalid."""
    given, _, values = text.partition("=")
    name = given.strip().removeprefix("--").replace("-", "_")
    if name not in VARIED:
        meant = setting_meant(name, VARIED)
        hint = f"did you mean {meant}?" if meant else f"allowed: {', '.join(VARIED)}"
        why = "use --seeds instead; " if name == "seed" else ""
        raise UsageError(f"--vary {text!r}: {given!r} cannot be varied; {why}{hint}")
    words = [word.strip() for word in values.split(",") if word.strip()]
    found = [_parse(VARIED[name], word, text) for word in words]
    if len(found) < 2 or any(found.count(value) > 1 for value in found):
        raise UsageError(f"--vary {text!r} needs at least two different values, like {name}=A,B")
    return name, found


def _parse(setting: Setting, word: str, text: str) -> Any:
    """Parse one value. Raises UsageError if the setting cannot take it."""
    of_words = isinstance(setting.limit, Choice | Choices)
    reason = f"{word!r} is not a value of `{setting.name}`"
    try:
        if word == NOT_SET and setting.optional and not of_words:
            return None
        if setting.type is bool and word not in WORDS:
            raise ValueError(f"`{setting.name}` is {word!r}; allowed: on, off")
        value = (
            WORDS[word]
            if setting.type is bool
            else setting.type(word.replace("+", ",") if of_words else word)
        )
        setting.check(value)
    except ValueError as error:
        reason = str(error) if str(error).startswith("`") else reason
        raise UsageError(f"--vary {text!r}: {reason}") from None
    return value


def _variant(values: dict[str, Any], model: ModelConfig, training: TrainingConfig) -> Variant:
    """Build a variant with these values. Raises ValueError if they contradict each other.

    An n-gram model compared with a transformer ignores the settings that only a transformer has.
    """
    if values.get("model") == NGRAM:
        model, training = only_ngram(model), only_ngram(training)
    model = replace(model, **{name: value for name, value in values.items() if name in MODEL})
    training = replace(training, **{name: value for name, value in values.items() if name in TRAINING})
    if model.is_ngram:
        refuse_transformer_only(training)
    return Variant(values, model, training)


def variants(
    axes: Mapping[str, Sequence[Any]], model: ModelConfig, training: TrainingConfig
) -> tuple[list[Variant], list[str]]:
    """Return every valid combination of the values, and a sentence for each invalid one.

    Raises UsageError if fewer than two are valid, and, if only one setting is varied, if any is not.
    """
    found, refused = [], []
    for combination in product(*axes.values()):
        values = dict(zip(axes, combination, strict=True))
        try:
            found.append(_variant(values, model, training))
        except ValueError as error:
            named = ", ".join(f"{name} {written(value)}" for name, value in values.items())
            refused.append(f"{named}: {error}")
    if refused and (len(axes) == 1 or len(found) < 2):
        raise UsageError(refused[0])
    if len(found) > MOST_VARIANTS:
        raise UsageError(f"--vary gives {len(found)} combinations; at most {MOST_VARIANTS} are compared")
    return found, refused
