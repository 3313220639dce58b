"""`charlm surprisal`: write the surprisal of each character, word or line of a text."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.console import MESSAGES, Bar, Output, foreign, load_run, warn, working
from charlm.cli.mistakes import check_files
from charlm.cli.options import (
    ROOT,
    Checkpoints,
    Encoding,
    Field,
    MovedText,
    MovedValFile,
    Part,
    Run,
    Stride,
    Threads,
    Which,
    check_part,
    with_settings,
)
from charlm.config import DeviceConfig
from charlm.errors import TextError, UsageError
from charlm.evaluation.surprisal_config import PLURALS, SurprisalConfig
from charlm.terminal import colour, one_line, visible
from charlm.training.request import build
from charlm.training.request_text import moved_text, note_files

if TYPE_CHECKING:
    from charlm.evaluation.surprisal import Surprisal, Unit
    from charlm.run import Run as TrainedRun

EXAMPLES = """Examples:
  charlm surprisal chapter.txt > words.tsv                    a row for each word
  charlm surprisal chapter.txt --by char --format jsonl       a JSON object for each character
  charlm surprisal items.csv --field sentence --context line  each sentence by itself
  charlm surprisal chapter.txt --words whitespace --space before --base e
  charlm surprisal candidates.txt --by line --best            the most probable line of each group
  charlm surprisal chapter.txt --format html -o page.html     the text in colours"""

TABLES = {"tsv": "\t", "csv": ","}
WRITTEN_AT_ONCE = 1 << 12
"""Characters of output that are written at once."""

Out = Annotated[str, typer.Option("-o", "--out", metavar="OUT", help="File to write; - for standard output.")]


@with_settings({"Units": SurprisalConfig, "Options": DeviceConfig})
def command(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE...",
            help="Texts to score; - for standard input. [default: the run's held-out part]",
        ),
    ] = None,
    run: Run = None,
    checkpoint: Which = None,
    out: Out = "-",
    stride: Stride = None,
    part: Part = None,
    encoding: Encoding = None,
    field: Field = None,
    threads: Threads = None,
    text: MovedText = None,
    val_file: MovedValFile = None,
    checkpoints: Checkpoints = ROOT,
    *,
    settings: dict[str, Any],
) -> None:
    """Print the surprisal of each word, character or line.

    Each row also has the entropy of the prediction before the unit. A unit's surprisal is the sum over its characters,
    which are the model's own symbols, and agrees with charlm eval. Memory does not grow with the text.
    """
    check_files("surprisal", files or [], checkpoints)
    check_part(part, files, encoding=encoding, field=field)
    for option, value in {"--text": text, "--val-file": val_file}.items():
        if value and files:
            raise UsageError(f"{option} says where the run's own text is, but you named files; leave it out")
    config, device = build(SurprisalConfig, settings), build(DeviceConfig, settings).device
    output = Output("-o", out, inputs=files or [])
    _check_colours(config, output)
    from charlm.threads import use_threads

    use_threads(threads)
    model = load_run(checkpoints, run, checkpoint, device)
    output.refuse_inputs([*model.snapshot.run.corpus.sources, *(text or []), *filter(None, [val_file])])
    from charlm.evaluation.rescoring import surprisal_rows
    from charlm.evaluation.surprisal import Surprisal

    scorer = Surprisal(model.predictor, config, model.context_rule(stride))
    if files:
        rows = _rows_of_files(scorer, config, files, model, encoding=encoding, field=field)
    else:
        from charlm.run import part_of_run

        name, own = part_of_run(model, part or "held-out", moved_text(text, val_file), MESSAGES)
        rows = surprisal_rows(scorer, config, name, [own])
    shows_rows = output.is_stdout and sys.stdout.isatty()  # the rows themselves show progress
    with nullcontext() if shows_rows else working("scoring", " characters") as watch:
        rows = _begun(_watched(rows, config, watch), config)
        output.write(_together(_formatted(rows, config, model.name, output)))


def _check_colours(config: SurprisalConfig, output: Output) -> None:
    """Raise UsageError if only colours are asked for, and none may be shown."""
    if config.format != "ansi":
        return
    if os.environ.get("NO_COLOR"):
        raise UsageError(
            "--format ansi colours the text, which --no-color or NO_COLOR forbids; leave one out, or use --format html"
        )
    if output.is_stdout and sys.stdout.isatty() and not colour(sys.stdout):
        raise UsageError(
            "--format ansi needs a terminal that shows colours, and this one does not; use --format html"
        )


def _rows_of_files(
    scorer: "Surprisal", config: SurprisalConfig, names: list[str], model: "TrainedRun", **reading: str | None
) -> Iterator["Unit"]:
    """Yield the rows of files, each streamed as the run's text was read; notes on a file follow it."""
    from charlm.data.reader import open_texts
    from charlm.data.sources import grouped
    from charlm.evaluation.rescoring import surprisal_rows

    readers, notes = open_texts(names, model.text_config, **reading)
    note_files(grouped(notes), MESSAGES)
    for reader in readers:
        yield from surprisal_rows(scorer, config, visible(reader.path), reader.pieces())
        note_files(grouped([(reader.path, note) for note in reader.notes]), MESSAGES)


def _watched(rows: Iterable["Unit"], config: SurprisalConfig, watch: Bar | None) -> Iterator["Unit"]:
    """Yield the same rows, reporting progress; warn about a last line without a newline."""
    chars = 0
    for unit in rows:
        chars += len(unit.before) + len(unit.text) + len(unit.after)
        if watch is not None:
            watch("scoring", chars, None)
        if config.by == "line" and not unit.after:
            warn(
                f"line {unit.line:,} of {one_line(unit.file)} does not end with a newline, so its surprisal lacks that of "
                "the end of the line; add a newline to compare it with others"
            )
        yield unit


def _begun(rows: Iterator["Unit"], config: SurprisalConfig) -> Iterator["Unit"]:
    """Compute the first row, so that an unreadable text is an error before anything is written; return all rows."""
    first = next(rows, None)
    if first is None:
        raise TextError(f"there is nothing to score: the text has no {PLURALS[config.by]}")
    return chain([first], rows)


def _formatted(rows: Iterator["Unit"], config: SurprisalConfig, run: str, output: Output) -> Iterator[str]:
    """Format the rows as asked for."""
    from charlm.reporting import surprisal_colours, surprisal_table

    scale = surprisal_table.Scale(config.base)
    if config.format == "html":
        return surprisal_colours.page(rows, config, scale, run)
    if config.format == "ansi":
        return surprisal_colours.ansi(rows, config, scale)
    names = surprisal_table.columns(config, scale)
    if config.format == "jsonl":
        return surprisal_table.json_lines(rows, names, scale)
    shown = foreign if output.is_stdout else str
    return surprisal_table.delimited(rows, names, scale, TABLES[config.format], shown)


def _together(parts: Iterable[str]) -> Iterator[bytes]:
    """Encode the parts as UTF-8, joining small ones."""
    held, chars = list[str](), 0
    for part in parts:
        held.append(part)
        chars += len(part)
        if chars >= WRITTEN_AT_ONCE:
            yield "".join(held).encode()
            held, chars = [], 0
    yield "".join(held).encode()
