"""`charlm sample`: stream text from a trained model."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.console import MESSAGES, finish, load_run, say, warn
from charlm.cli.mistakes import text_is_prompt
from charlm.cli.options import (
    ROOT,
    AsJson,
    Checkpoints,
    MovedText,
    MovedValFile,
    RunName,
    RunOption,
    Threads,
    Which,
    one_run,
    with_settings,
)
from charlm.cli.sample_columns import Columns, columns_fit
from charlm.cli.sample_display import Compare, Display, JsonLines, Stream
from charlm.cli.sample_prompts import PromptSource, listed, named, read_prompts
from charlm.config import DeviceConfig
from charlm.errors import CheckpointError, UsageError
from charlm.inference.sampling_config import SamplingConfig
from charlm.terminal import one_line, unescaped
from charlm.training.request import build
from charlm.training.request_text import moved_text

if TYPE_CHECKING:
    from charlm.cli.sample_prompts import Prompt as PromptRead
    from charlm.inference.generate import Ended, Piece
    from charlm.run import Run as TrainedRun
    from charlm.training.run_corpus import Moved

EXAMPLES = """Examples:
  charlm sample                                  from the newest run, another text each time
  charlm sample --prompt "To be" --length 1000   continue a text
  charlm sample --prompt "ROMEO:\\n" --seed 7     a prompt with a newline; the same text every time
  charlm sample -n 5 --temperature 0.6 --seed 7  five samples, more predictable
  charlm sample -n 9 --one-document              nine whole documents
  charlm sample --stop "\\n\\n" --json | jq .text  up to the first empty line
  charlm sample --regex "[A-Z][a-z]+( [a-z]+)*\\."  a text that matches a pattern
  charlm sample --prompts names.txt --json        continue each line of a file
  charlm sample -n 5 --verbatim                   what each sample copies from the training text"""

ESCAPES = "\\n, \\t, \\\\, \\xHH and \\uHHHH are escapes."
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
Prompts = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Continue each line of a file (- for standard input), or each record's --field; backslashes are not escapes.",
    ),
]
Field = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Field of --prompts that holds the prompt, in JSON Lines, .json, .csv and .tsv."
    ),
]
Regex = Annotated[
    str | None,
    typer.Option(
        metavar="PATTERN",
        help="Write only what matches this pattern, from its first character to its last, in the syntax of Python's re.",
    ),
]
InTraining = Annotated[
    bool,
    typer.Option(
        "--verbatim",
        help="Show the longest passage of each sample that also occurs in the training text, and what is usual for "
        "held-out text.",
    ),
]
Length = Annotated[int, typer.Option(min=1, metavar="N", help="Number of characters to write.")]
Samples = Annotated[
    int,
    typer.Option(
        "-n",
        "--samples",
        "--n",
        min=1,
        max=4096,
        metavar="N",
        help="Number of samples, generated in parallel.",
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


@with_settings({"Sampling": SamplingConfig, "Options": DeviceConfig})
def command(
    name: RunName = None,
    run: RunOption = None,
    checkpoint: Which = None,
    prompt: Prompt = None,
    prompt_file: PromptFile = None,
    prompts: Prompts = None,
    field: Field = None,
    length: Length = 500,
    n: Samples = 1,
    stop: Stops = None,
    regex: Regex = None,
    raw: Raw = False,
    one_document: OneDocument = False,
    map_lookalikes: MapLookalikes = False,
    verbatim: InTraining = False,
    text: MovedText = None,
    val_file: MovedValFile = None,
    threads: Threads = None,
    as_json: AsJson = False,
    checkpoints: Checkpoints = ROOT,
    *,
    settings: dict[str, Any],
) -> None:
    """Generate text with a trained model.

    The text streams to standard output. Without --seed, charlm draws a random seed and prints it on standard error.
    The same seed gives the same text on the same machine and device. If the model was trained with
    --documents, the prompt is the beginning of a document.
    """
    from charlm.threads import use_threads

    run = _run(name, run, checkpoints)
    config, device = build(SamplingConfig, settings), build(DeviceConfig, settings).device
    source = PromptSource(prompt, prompt_file, prompts, field)
    stops, moved = [unescaped(each) for each in stop or []], moved_text(text, val_file)
    _check_options(raw, as_json, stops, verbatim, moved)
    use_threads(threads)
    model = load_run(checkpoints, run, checkpoint, device)
    compare = _comparison(model, moved) if verbatim else None
    given = read_prompts(source, model, map_lookalikes)
    drawn = config.seed is None and config.temperature > 0
    config = config.seeded() if drawn else config
    prepare(model, config, stops, alone=threads is None)
    events = model.generate(
        [each.text for each in given],
        config,
        length=length,
        n=n,
        stops=stops,
        one_document=one_document,
        regex=regex,
    )
    if drawn:
        say(f"seed {config.seed}; to repeat this sample: --seed {config.seed}")
    if as_json:
        _show(events, JsonLines(given, config.seed, model.device.type, compare))
    else:
        _show(events, _text_display(given, n, raw, compare))


def _text_display(prompts: list["PromptRead"], n: int, raw: bool, compare: Compare | None) -> Display:
    """Choose columns if they fit, else one sample after another."""
    if columns_fit(len(prompts) * n) and not raw:
        return Columns(prompts, n, compare)
    return Stream(prompts, n, raw, compare)


def _show(events: Iterator["Piece | Ended"], display: Display) -> None:
    from charlm.inference.generate import Piece  # here: torch is slow to import

    try:
        for event in events:
            if isinstance(event, Piece):
                display.piece(event)
            else:
                display.end(event)
    except KeyboardInterrupt:
        display.stop()
        raise
    display.close()


def _check_options(raw: bool, as_json: bool, stops: list[str], verbatim: bool, moved: "Moved | None") -> None:
    """Raise UsageError for options that have no effect together, and an empty stop text."""
    if raw and as_json:
        raise UsageError("--raw has no effect with --json, which always escapes; leave one out")
    if "" in stops:
        raise UsageError("--stop is empty; give the text to stop before")
    if moved is not None and not verbatim:
        option = "--text" if moved.texts else "--val-file"
        raise UsageError(f"{option} applies to --verbatim, which is not given; leave it out")


def _comparison(run: "TrainedRun", moved: "Moved | None") -> Compare:
    """Return a comparison of samples with the text of a run. Raises CheckpointError before anything is written if it is gone."""
    from charlm.data.verbatim import verbatim
    from charlm.run import text_of_run

    corpus = text_of_run(run.snapshot, MESSAGES, needed=True, moved=moved)
    assert corpus is not None, "what is needed and gone is refused"
    return lambda texts: finish(verbatim(corpus, texts), "searching the training text")


def _run(argument: str | None, option: str | None, root: Path) -> str | None:
    """Return the run named by the argument or `--run`. Raises CheckpointError for an argument that is meant as a prompt."""
    if argument is not None:
        from charlm.checkpoint.run_folder import has_run, list_runs  # here: not needed for help
        from charlm.suggestions import name_meant

        if not has_run(root, argument):
            meant = name_meant(argument, [run.path.name for run in list_runs(root)])
            or_run = f"; or did you mean the run {one_line(meant)}?" if meant else ""
            raise CheckpointError(text_is_prompt(argument) + or_run)
    return one_run(argument, option)


def prepare(run: "TrainedRun", config: SamplingConfig, stops: list[str], *, alone: bool) -> None:
    """Use a single torch thread if that is faster and `alone` allows it; warn about settings without effect.

    These are a top_k above the number of symbols, and stop texts that the model cannot write, or only in bytes.
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
        shown = listed([named(char) for char in never or lacking])
        if never:
            warn(f"--stop {one_line(stop)} cannot occur: the model cannot write {shown}")
        elif lacking:
            warn(f"--stop {one_line(stop)} will be rare: the model can write {shown} only as UTF-8 bytes")
    if config.top_k is not None and config.top_k > vocabulary.n_symbols:
        warn(
            f"--top-k {config.top_k} is lowered to {vocabulary.n_symbols}, the number of symbols of this model"
        )
