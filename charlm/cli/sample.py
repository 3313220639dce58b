"""`charlm sample`: text from a trained model, streamed."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.console import MESSAGES, foreign, load_run, print_json, say, warn
from charlm.cli.mistakes import text_is_prompt
from charlm.cli.options import (
    ROOT,
    AsJson,
    Checkpoints,
    RunName,
    RunOption,
    Threads,
    Which,
    one_run,
    with_settings,
)
from charlm.config import SamplingConfig, TextConfig
from charlm.errors import CheckpointError, UsageError
from charlm.terminal import one_line, unescaped
from charlm.training.request import build, note_files

if TYPE_CHECKING:
    from charlm.data.tokenizer import Vocabulary
    from charlm.inference.generate import Ended
    from charlm.run import Run as TrainedRun

LARGEST_PROMPT = 1 << 24

EXAMPLES = """Examples:
  charlm sample                                  from the newest run, another text each time
  charlm sample --prompt "To be" --length 1000   continue a text
  charlm sample --prompt "ROMEO:\\n" --seed 7     a prompt with a newline; the same text every time
  charlm sample -n 5 --temperature 0.6 --seed 7  five samples, more predictable
  charlm sample -n 9 --one-document              nine whole documents
  charlm sample --stop "\\n\\n" --json | jq .text  up to the first empty line"""


ESCAPES = "\\n, \\t, \\\\, \\xHH and \\uHHHH are escapes."
MOST_SHOWN = 10
"""Characters of a prompt that a note names."""
Prompt = Annotated[
    str | None,
    typer.Option(metavar="TEXT", help=f"Beginning of the text. {ESCAPES} [default: a newline]"),
]
PromptFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Read the prompt from a file (- for standard input); backslashes are not escapes.",
    ),
]
Length = Annotated[int, typer.Option(min=1, metavar="N", help="Number of characters to write.")]
Samples = Annotated[
    int,
    typer.Option(
        "-n", "--samples", min=1, max=4096, metavar="N", help="Number of samples, generated in parallel."
    ),
]
Stops = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT",
        help=f"Stop before this text. Repeatable; the first match stops the sample. {ESCAPES}",
    ),
]
Raw = Annotated[bool, typer.Option("--raw", help="Print control characters unescaped.")]
OneDocument = Annotated[
    bool,
    typer.Option(
        "--one-document", help="Stop at the end of the document, if the model was trained with --documents."
    ),
]
MapLookalikes = Annotated[
    bool,
    typer.Option(
        "--map-lookalikes",
        help="Replace prompt characters that the model does not know with look-alikes that it knows.",
    ),
]


@with_settings({"Choosing": SamplingConfig})
def command(
    name: RunName = None,
    run: RunOption = None,
    checkpoint: Which = None,
    prompt: Prompt = None,
    prompt_file: PromptFile = None,
    length: Length = 500,
    n: Samples = 1,
    stop: Stops = None,
    raw: Raw = False,
    one_document: OneDocument = False,
    map_lookalikes: MapLookalikes = False,
    threads: Threads = None,
    as_json: AsJson = False,
    checkpoints: Checkpoints = ROOT,
    *,
    settings: dict[str, Any],
) -> None:
    """Write text with a trained model.

    The text streams to standard output. Without --seed the seed is random; charlm prints it on
    standard error; the same seed gives the same text on the same machine. If the model was trained with
    --documents, the prompt is the beginning of a document.
    """
    from charlm.threads import use_threads

    run = _run(name, run, checkpoints)
    config = build(SamplingConfig, settings)
    given = _prompt(prompt, prompt_file)
    if raw and as_json:
        raise UsageError("--raw has no effect with --json, which always escapes; leave one out")
    stops = [unescaped(text) for text in stop or []]
    if "" in stops:
        raise UsageError("--stop is empty; give the text to stop before")
    use_threads(threads)
    model = load_run(checkpoints, run, checkpoint)
    given, lacking = _as_the_run_reads(given, prompt_file, model, map_lookalikes)
    if config.seed is None and config.temperature > 0:
        config = config.seeded()
        say(f"seed {config.seed}; to repeat this sample: --seed {config.seed}")
    _prepare(model, config, stops, alone=threads is None)
    from charlm.inference.generate import Piece, default_prompt

    start = default_prompt(model.predictor) if given is None else given
    events = model.generate(start, config, length=length, n=n, stops=stops, one_document=one_document)
    show = _Json(start, lacking, config.seed) if as_json else _Stream(given or "", n, raw)
    for event in events:
        if isinstance(event, Piece):
            show.piece(event.sample, event.text)
        else:
            show.end(event)


def _run(argument: str | None, option: str | None, root: Path) -> str | None:
    """The run named by the argument or by `--run`; CheckpointError for an argument that is meant as a prompt."""
    if argument is not None:
        from charlm.checkpoint.run_folder import has_run, list_runs  # here: not needed for help
        from charlm.suggestions import name_meant

        if not has_run(root, argument):
            meant = name_meant(argument, [run.path.name for run in list_runs(root)])
            or_run = f"; or did you mean the run {one_line(meant)}?" if meant else ""
            raise CheckpointError(text_is_prompt(argument) + or_run)
    return one_run(argument, option)


def _prompt(prompt: str | None, prompt_file: str | None) -> str | None:
    if prompt is not None and prompt_file is not None:
        raise UsageError("give either --prompt or --prompt-file, not both")
    if prompt is not None:
        prompt = unescaped(prompt)
    if prompt is not None and not prompt.isascii():
        from charlm.data.tokenizer import first_surrogate

        at = first_surrogate(prompt)
        if at is not None:
            raise UsageError(f"the prompt is not valid text: character {at} is invalid")
    return prompt


def _from_file(name: str, text_config: TextConfig) -> str:
    """A prompt from a file, read as the run read its text, as one document."""
    from charlm.data.reader import read_texts

    size = os.path.getsize(name) if os.path.isfile(name) else 0
    if size > LARGEST_PROMPT:
        raise UsageError(
            f"--prompt-file {one_line(name)} has {size:,} bytes; allowed: {LARGEST_PROMPT:,}. "
            "The model sees only the last characters of a prompt: give the end of the file"
        )
    source = read_texts([name], replace(text_config, documents="none", separator=None, split="tail"))
    note_files(source.notes, MESSAGES)
    if source.joined.endswith(("\n", "\r")):
        warn(
            "the prompt ends with a newline, the last character of the file, so the sample starts on a new "
            "line; to continue the last line, remove that newline, or use --prompt"
        )
    return source.joined


def _as_the_run_reads(
    prompt: str | None, file: str | None, run: "TrainedRun", map_lookalikes: bool
) -> tuple[str | None, dict[str, int]]:
    """The prompt, changed as the run's text was, and the characters the model lacks, each with its number."""
    from charlm.data.normalize import find_lookalikes, normalize

    prompt = prompt if file is None else _from_file(file, run.text_config)
    if prompt is None:
        return None, {}
    vocabulary = run.tokenizer
    if map_lookalikes and vocabulary.units == "bytes":
        raise UsageError("--map-lookalikes has no effect on this run, whose units are bytes; leave it out")
    prompt = normalize(prompt, run.text_config)
    found = {} if vocabulary.units == "bytes" else find_lookalikes(prompt, vocabulary)
    pairs = ", ".join(f"{_named(char)} as {_named(instead)}" for char, instead in found.items())
    if map_lookalikes and found:
        say(f"reading {pairs}")
        for char, instead in found.items():
            prompt = prompt.replace(char, instead)
    lacking = vocabulary.unknown_chars(prompt)
    if lacking:
        hint = f"; --map-lookalikes would read {pairs}" if found and not map_lookalikes else ""
        warn(_about_lacking(lacking, vocabulary) + hint)
    return prompt, lacking


def _about_lacking(lacking: dict[str, int], vocabulary: "Vocabulary") -> str:
    """Which characters of the prompt the model has no symbol for, and how it reads them."""
    shown = [_named(char) + (f" {n} times" if n > 1 else "") for char, n in lacking.items()]
    what = f"{len(shown)} characters of the prompt are" if len(shown) > 1 else "1 character of the prompt is"
    trained = set(vocabulary.trained_bytes)
    unseen = any(not trained.issuperset(char.encode()) for char in lacking)
    spelled = f"{what} not in the model's vocabulary, so charlm uses UTF-8 bytes"
    return f"{spelled}{', some of which never occurred in training' if unseen else ''}: {_listed(shown)}"


def _listed(shown: list[str]) -> str:
    rest = f" and {len(shown) - MOST_SHOWN} more" if len(shown) > MOST_SHOWN else ""
    return ", ".join(shown[:MOST_SHOWN]) + rest


def _named(text: str) -> str:
    """Characters as shown, with the code point where there is one."""
    return f"{one_line(text)} (U+{ord(text):04X})" if len(text) == 1 else one_line(text)


def _prepare(run: "TrainedRun", config: SamplingConfig, stops: list[str], *, alone: bool) -> None:
    """Use one of torch's threads where that is faster and it may compute `alone`; warn of what has no effect.

    That is a top_k above the number of symbols, and stop texts that the model cannot write, or only in bytes.
    """
    import torch

    single = run.predictor.single_threaded
    if alone and single:
        torch.set_num_threads(1)
    vocabulary = run.tokenizer
    trained = set(vocabulary.trained_bytes)
    for stop in stops:
        lacking = list(vocabulary.unknown_chars(stop))
        never = [char for char in lacking if not trained.issuperset(char.encode())]
        shown = _listed([_named(char) for char in never or lacking])
        if never:
            warn(f"--stop {one_line(stop)} cannot occur: the model cannot write {shown}")
        elif lacking:
            warn(f"--stop {one_line(stop)} will be rare: the model can write {shown} only as UTF-8 bytes")
    if config.top_k is not None and config.top_k > vocabulary.n_symbols:
        warn(
            f"--top-k {config.top_k} is lowered to {vocabulary.n_symbols}, the number of symbols of this model"
        )


class _Stream:
    """Writes the sample whose turn it is as it comes, and keeps those after it."""

    def __init__(self, prompt: str, n: int, raw: bool) -> None:
        self._raw, self._prompt, self._n, self._turn = raw, prompt, n, 0
        self._texts, self._ended = [""] * n, [False] * n
        self._begin()

    def piece(self, sample: int, text: str) -> None:
        """More of a sample."""
        if sample == self._turn:
            self._put(text)
        else:
            self._texts[sample] += text

    def end(self, ended: "Ended") -> None:
        """The end of a sample: the next ones may be shown as far as they are."""
        self._ended[ended.sample] = True
        while self._turn < self._n and self._ended[self._turn]:
            self._put("\n")
            self._turn += 1
            if self._turn < self._n:
                self._begin()
                self._put(self._texts[self._turn])

    def _begin(self) -> None:
        if self._n > 1:
            self._put(f"--- {self._turn + 1} ---\n")
        self._put(self._prompt)

    def _put(self, text: str) -> None:
        sys.stdout.write(text if self._raw else foreign(text))
        sys.stdout.flush()


class _Json:
    """Prints each sample as a JSON object once it is complete."""

    def __init__(self, prompt: str, lacking: dict[str, int], seed: int | None) -> None:
        self._prompt, self._lacking, self._seed = prompt, lacking, seed
        self._started = perf_counter()
        self._texts: dict[int, str] = {}

    def piece(self, sample: int, text: str) -> None:
        """More of a sample."""
        self._texts[sample] = self._texts.get(sample, "") + text

    def end(self, ended: "Ended") -> None:
        """A complete sample."""
        row = {
            "prompt": self._prompt,
            "prompt_unknown": self._lacking,
            "text": self._texts.pop(ended.sample, ""),
            "seed": self._seed,
            "sample": ended.sample,
            "finish_reason": ended.reason,
            "chars_per_second": round(ended.chars / (perf_counter() - self._started), 1),
        }
        print_json(row)
