"""Read the prompts of `charlm sample`: typed, from a file, or one per line or record, as the run read its text.

A file of its own because `sample.py` would grow too long.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from charlm.cli.console import MESSAGES, say, warn
from charlm.data.text_config import TextConfig
from charlm.errors import UsageError
from charlm.terminal import one_line, unescaped
from charlm.training.request_text import note_files

if TYPE_CHECKING:
    from charlm.data.reader import Texts
    from charlm.data.tokenizer import Vocabulary
    from charlm.run import Run as TrainedRun

LARGEST_PROMPT = 1 << 24
MOST_SHOWN = 10
"""Characters of a prompt that a note names."""


@dataclass(frozen=True)
class PromptSource:
    """Where the prompts come from, as given: at most one of the three."""

    prompt: str | None = None
    file: str | None = None
    prompts: str | None = None
    field: str | None = None  # of the records in `prompts`

    def __post_init__(self) -> None:
        given = {"--prompt": self.prompt, "--prompt-file": self.file, "--prompts": self.prompts}
        options = [option for option, value in given.items() if value is not None]
        if len(options) > 1:
            raise UsageError(f"give either {' or '.join(options)}, not both")
        if self.field is not None and self.prompts is None:
            raise UsageError(
                f"--field {one_line(self.field)} applies to --prompts, which is not given; leave it out"
            )
        prompt = unescaped(self.prompt or "")
        if not prompt.isascii():
            from charlm.data.tokenizer import first_surrogate  # here: NumPy is not needed for help

            at = first_surrogate(prompt)
            if at is not None:
                raise UsageError(f"the prompt is not valid text: character {at} is invalid")


@dataclass(frozen=True)
class Prompt:
    """A prompt as the model reads it, and the characters it lacks, each with its count."""

    text: str
    lacking: dict[str, int]
    given: bool = True  # else the default, which is not shown


def read_prompts(source: PromptSource, run: "TrainedRun", map_lookalikes: bool) -> list[Prompt]:
    """Read the prompts, normalized as the run's text was; the default one if none was given."""
    from charlm.data.normalize import normalize
    from charlm.inference.generate import default_prompt

    vocabulary = run.tokenizer
    if source.file is not None:
        texts = [_whole_file(source.file, run.text_config)]
    elif source.prompts is not None:
        texts = _one_a_line(source.prompts, source.field, run.text_config)
    elif source.prompt is not None:
        texts = [unescaped(source.prompt)]
    else:
        return [Prompt(default_prompt(run.predictor), {}, given=False)]
    if map_lookalikes and vocabulary.units == "bytes":
        raise UsageError("--map-lookalikes has no effect on this run, whose units are bytes; leave it out")
    texts = _without_unknown([normalize(text, run.text_config) for text in texts], vocabulary, map_lookalikes)
    return [Prompt(text, vocabulary.unknown_chars(text)) for text in texts]


def _read(option: str, name: str, config: TextConfig, field: str | None = None) -> "Texts":
    """Read a file as the run read its text. Raises UsageError if it is too large, TextError."""
    from charlm.data.reader import read_texts

    size = os.path.getsize(name) if os.path.isfile(name) else 0
    if size > LARGEST_PROMPT:
        advice = (
            "The model sees only the last characters of a prompt: give the end of the file"
            if option == "--prompt-file"
            else "Divide it"
        )
        raise UsageError(
            f"{option} {one_line(name)} has {size:,} bytes; allowed: {LARGEST_PROMPT:,}. {advice}"
        )
    source = read_texts([name], config, field=field)
    note_files(source.notes, MESSAGES)
    return source


def _whole_file(name: str, config: TextConfig) -> str:
    """Read a file as one prompt, as one document."""
    config = replace(config, documents="none", separator=None, split="tail")
    text = _read("--prompt-file", name, config).joined
    if text.endswith(("\n", "\r")):
        warn(
            "the prompt ends with a newline, the last character of the file, so the sample starts on a new "
            "line; to continue the last line, remove that newline, or use --prompt"
        )
    return text


def _one_a_line(name: str, field: str | None, config: TextConfig) -> list[str]:
    """Read the lines of a file, or a field of its records, each as a prompt without the newline at its end."""
    from charlm.data.tokenizer import END

    config = replace(config, documents="line", separator=None, split="tail", field=None, strip=None)
    prompts = []
    for _, text in _read("--prompts", name, config, field).files:
        prompts += [each.removesuffix("\n").removesuffix("\r") for each in text.removesuffix(END).split(END)]
    return prompts


def _without_unknown(prompts: Sequence[str], vocabulary: "Vocabulary", map_lookalikes: bool) -> list[str]:
    """Replace unknown characters by look-alikes if wanted; warn about those that the model lacks."""
    from charlm.data.normalize import find_lookalikes

    found: dict[str, str] = {}
    if vocabulary.units != "bytes":
        for prompt in prompts:
            found |= find_lookalikes(prompt, vocabulary)
    pairs = ", ".join(f"{named(char)} as {named(instead)}" for char, instead in found.items())
    prompts = list(prompts)
    if map_lookalikes and found:
        say(f"reading {pairs}")
        for char, instead in found.items():
            prompts = [prompt.replace(char, instead) for prompt in prompts]
    lacking: Counter[str] = Counter()
    for prompt in prompts:
        lacking.update(vocabulary.unknown_chars(prompt))
    if lacking:
        hint = f"; --map-lookalikes would read {pairs}" if found and not map_lookalikes else ""
        warn(_about_lacking(dict(lacking.most_common()), vocabulary, len(prompts)) + hint)
    return prompts


def _about_lacking(lacking: dict[str, int], vocabulary: "Vocabulary", prompts: int) -> str:
    """Describe which characters of the prompts the model has no symbol for, and how it reads them."""
    shown = [named(char) + (f" {n} times" if n > 1 else "") for char, n in lacking.items()]
    of = "prompts" if prompts > 1 else "prompt"
    what = f"{len(shown)} characters of the {of} are" if len(shown) > 1 else f"1 character of the {of} is"
    trained = set(vocabulary.trained_bytes)
    unseen = any(not trained.issuperset(char.encode()) for char in lacking)
    spelled = f"{what} not in the model's vocabulary, so charlm uses UTF-8 bytes"
    return f"{spelled}{', some of which never occurred in training' if unseen else ''}: {listed(shown)}"


def listed(shown: Sequence[str]) -> str:
    """Join the first of some names, and say how many more there are."""
    rest = f" and {len(shown) - MOST_SHOWN} more" if len(shown) > MOST_SHOWN else ""
    return ", ".join(shown[:MOST_SHOWN]) + rest


def named(text: str) -> str:
    """Format text for a message; a single character with its code point."""
    return f"{one_line(text)} (U+{ord(text):04X})" if len(text) == 1 else one_line(text)
