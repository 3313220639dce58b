"""`charlm eval`: an honest figure for a text, with yardsticks beside it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.chosen import chosen, corpus_of_run
from charlm.cli.console import checkpoints_root, count, note_files, print_json, say, table, text_of, warn
from charlm.cli.options import AsJson, Checkpoints, Run, Which
from charlm.errors import ResourceError, TextError, UsageError
from charlm.terminal import one_line

if TYPE_CHECKING:
    from charlm.evaluation.report import Evaluation
    from charlm.text.corpus import Corpus

EXAMPLES = """Examples:
  charlm eval                               the newest run on its held-out text
  charlm eval chapter.txt --run novels      any text
  charlm eval --part test                   what --test kept back, once all is chosen
  charlm eval --stride 64 --json            as data; stride = block: blocks without overlap
  charlm eval poem.txt --per-char bits.jsonl  the bits of every character"""

Part = Annotated[
    str | None,
    typer.Option(metavar="held-out|test", help="Which part of the run's text. [default: held-out]"),
]


def command(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE]...", help="Texts to score; none: the run's held-out part."),
    ] = None,
    run: Run = None,
    checkpoint: Which = None,
    stride: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Characters scored in each block; by default half a block."),
    ] = None,
    per_char: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write each character's offset and bits, as JSON lines."),
    ] = None,
    part: Part = None,
    encoding: Annotated[
        str | None, typer.Option(metavar="NAME", help="The encoding of the files; by default UTF-8.")
    ] = None,
    as_json: AsJson = False,
    checkpoints: Checkpoints = None,
) -> None:
    """Measure how well a model predicts a text.

    Every character is scored once, predicted from those before it; context does not cross files.
    """
    from charlm.model.compiled import rows_alone

    _check_part(part, files)
    texts = read_texts(files, encoding) if files else None
    rows_alone()  # beside the import of torch
    snapshot, name, which = chosen(checkpoints_root(checkpoints), run, checkpoint)

    from charlm.context import ContextRule
    from charlm.evaluation.report import evaluate

    corpus = corpus_of_run(snapshot, needed=texts is None)
    if texts is None:
        assert corpus is not None
        texts = [_text_of_part(corpus, part or "held-out", text_of(snapshot.run))]
    try:
        rule = ContextRule.of_model(snapshot.model_config, stride)
    except ValueError as error:
        raise UsageError(str(error)) from None
    evaluation = evaluate(snapshot, which, texts, rule, corpus)
    if per_char is not None:
        _write_per_char(Path(per_char), evaluation)
    if as_json:
        print_json({"run": name, **evaluation.to_json()})
    else:
        _show(name, evaluation)


def _check_part(part: str | None, files: list[str] | None) -> None:
    if part is not None and files:
        raise UsageError(
            f"--part {one_line(part)} is of the run's own text, and files were named; leave one out"
        )
    if part not in (None, "held-out", "test"):
        raise UsageError(f"--part {one_line(part or '')} is none; there are held-out and test")


def _text_of_part(corpus: "Corpus", part: str, name: str) -> tuple[str, str]:
    """The name and the text of a part; TextError where the run has none."""
    text = corpus.test_text() if part == "test" else corpus.held_out_text()
    if not text and part == "test":
        raise TextError("this run kept no test part; train with --test 0.05 for one, or name a file to score")
    if not text:
        raise TextError("this run held nothing out; name a file to score")
    return f"{part} part of {name}", text


def read_texts(files: list[str], encoding: str | None) -> list[tuple[str, str]]:
    """Name and text of each file that has any; what was noticed is said."""
    from charlm.text.source import read_source

    source = read_source(files, encoding=encoding)
    note_files(source.notes)
    return [(file.name, file.text) for file in source.files if file.text]


def _write_per_char(path: Path, evaluation: "Evaluation") -> None:
    from charlm import files

    path = path.resolve()  # a link is followed, not replaced
    if path.exists() and not path.is_file():
        raise UsageError(f"--per-char {one_line(str(path))} is no regular file; name one, or a new one")
    try:
        with files.replacing(path) as file:
            for line in _per_char(evaluation):
                file.write(line)
    except OSError as error:
        raise ResourceError(f"--per-char {one_line(str(path))} cannot be written: {error.strerror}") from None
    say(f"bits of each character: {one_line(str(path))}")


def _per_char(evaluation: "Evaluation") -> Iterator[bytes]:
    several = len(evaluation.figure.texts) > 1
    for scored in evaluation.figure.texts:
        for offset, (char, bits) in enumerate(zip(scored.text, scored.bits.tolist(), strict=True)):
            row: dict[str, Any] = {"char": char, "offset": offset, "bits": round(bits, 6)}
            if several:
                row["file"] = scored.name
            yield json.dumps(row).encode() + b"\n"


def _show(name: str, evaluation: "Evaluation") -> None:
    figure = evaluation.figure
    interval = evaluation.interval_bits
    around = (
        f"  (95 %: {interval[0]:.4f} to {interval[1]:.4f})" if interval else "  (too short for an interval)"
    )
    rows = [
        ("bits per character", f"{figure.bits_per_char:.4f}{around}"),
        ("nats per character", f"{figure.nats_per_char:.4f}"),
        ("bits per byte of UTF-8", f"{figure.bits_per_byte:.4f}"),
        ("perplexity per character", f"{figure.perplexity:.3f}"),
        (
            "characters",
            f"{count(figure.chars)}, all scored, {count(figure.unknown_chars)} not in the vocabulary",
        ),
        ("context", evaluation.context),
        ("text", ", ".join(scored.name for scored in figure.texts)),
    ]
    table([("run", f"{name}, {evaluation.which}, step {evaluation.step}"), *rows])
    print()
    lines = [("this model", f"{figure.bits_per_char:.4f}", "")]
    for title, stick in evaluation.baselines.items():
        if isinstance(stick, str):
            lines.append((title, "-", stick))
        else:
            said = "adapts to this text" if stick.adaptive else ""
            if stick.order is not None:
                said = f"counts of the training part, {stick.order} characters of context"
            lines.append((title, f"{stick.bits_per_char:.4f}", said))
    table(lines, header=("yardstick", "bits/char", ""), numbers=(1,))
    for text in evaluation.warnings:
        warn(text)
