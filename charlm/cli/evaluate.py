"""`charlm eval`: bits per character of a text, beside baselines."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.console import Output, checkpoints_root, count, note_files, print_json, table, warn
from charlm.cli.loading import Bar, chosen, corpus_of_run, working
from charlm.cli.mistakes import check_files
from charlm.cli.options import AsJson, Checkpoints, MovedText, MovedValFile, Run, Threads, Which
from charlm.errors import TextError, UsageError
from charlm.terminal import one_line
from charlm.training.describe import text_name
from charlm.training.request import moved_text

if TYPE_CHECKING:
    from charlm.checkpoint.snapshot import Snapshot
    from charlm.data.corpus import Corpus
    from charlm.evaluation.report import Evaluation
    from charlm.evaluation.score import Score
    from charlm.inference.context import ContextRule

EXAMPLES = """Examples:
  charlm eval                               the newest run on its held-out text
  charlm eval chapter.txt --run novels      any text
  charlm eval posts.jsonl --field body      a field of its records
  charlm eval --part test                   the test set, for the final score
  charlm eval --stride 64 --json            as data; stride = block: blocks without overlap
  charlm eval --online                      also score adaptively, to compare with xz and ppmd
  charlm eval poem.txt --per-char bits.jsonl  the bits of every character"""

OF_KIND = {"model": "this model", "ngram": "its n-gram prior"}
LEARNS = "adapts to every 64 {word}s after scoring them; compare it only with xz and ppmd"

NOT_THERE = {
    "chars": "not in the vocabulary",
    "bytes": "with bytes that training never saw",
}

Part = Annotated[
    str | None,
    typer.Option(metavar="held-out|test", help="Part of the run's text to score. [default: held-out]"),
]

Encoding = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Encoding of the files. [default: UTF-8 where they are valid UTF-8, else the one trained on]",
    ),
]
Field = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Field of JSON lines, .json, .csv and .tsv to score. [default: the one trained on; other files are read as plain text]",
    ),
]
PerChar = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Write each character's offset and bits as JSON lines; - writes to standard output.",
    ),
]
Learning = Annotated[
    bool,
    typer.Option(
        "--online",
        help="Also score adaptively: model and n-grams learn from every 64 symbols after scoring them.",
    ),
]


def command(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE]...", help="Texts to score. [default: the run's held-out part]"),
    ] = None,
    run: Run = None,
    checkpoint: Which = None,
    stride: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Symbols (see --units) scored in each block. [default: half a block]",
        ),
    ] = None,
    per_char: PerChar = None,
    part: Part = None,
    online: Learning = False,
    encoding: Encoding = None,
    field: Field = None,
    threads: Threads = None,
    text: MovedText = None,
    val_file: MovedValFile = None,
    as_json: AsJson = False,
    checkpoints: Checkpoints = None,
) -> None:
    """Measure how well a model predicts a text.

    charlm scores every character once, predicting it from the characters before it; context does not cross
    files.
    """
    _check_part(part, files, checkpoints_root(checkpoints))
    _refuse_without_files(files, encoding=encoding, field=field)
    bits = _output_of_bits(per_char, files or [], as_json)
    snapshot, name, which = _opened(checkpoints, run, checkpoint, threads)
    if online:
        _check_learns(snapshot)
    from charlm.evaluation.report import evaluate
    from charlm.inference.context import ContextRule

    if bits is not None:
        bits.refuse_inputs([*_sources(snapshot), *(text or []), *filter(None, [val_file])])
    texts = read_texts(files, snapshot, encoding, field) if files else None
    corpus = corpus_of_run(snapshot, needed=texts is None, moved=moved_text(text, val_file))
    if texts is None:
        assert corpus is not None
        texts = [_text_of_part(corpus, part or "held-out", text_name(snapshot.run))]
    try:
        rule = ContextRule.of_model(snapshot.model_config, stride)
    except ValueError as error:
        raise UsageError(str(error)) from None
    with working("scoring") as watch:
        evaluation = evaluate(snapshot, which, texts, rule, corpus, watch)
    if online:
        evaluation = replace(evaluation, online=_online(snapshot, rule, texts))
    if bits is not None:
        bits.write(_per_char(evaluation))
    with redirect_stdout(sys.stderr if bits and bits.is_stdout else sys.stdout):
        print_json({"run": name, **evaluation.to_json()}) if as_json else _show(name, evaluation)


def _opened(
    checkpoints: str | None, run: str | None, which: str | None, threads: int | None
) -> "tuple[Snapshot, str, str]":
    """The checkpoint chosen; the counts' rows are compiled beside the import of torch."""
    from charlm.native.compiler import compile_ngram_rows
    from charlm.threads import use_threads

    compile_ngram_rows()
    use_threads(threads)
    return chosen(checkpoints_root(checkpoints), run, which)


def _check_learns(snapshot: "Snapshot") -> None:
    """UsageError for a run that --online cannot act on."""
    if snapshot.vocabulary.end is not None:
        raise UsageError("--online has no effect on a run with --documents; leave it out")
    if snapshot.model_config.is_ngram:
        raise UsageError("--online needs a transformer, and this run is an n-gram model; leave it out")


def _online(
    snapshot: "Snapshot", rule: "ContextRule", texts: Sequence[tuple[str, str]]
) -> "Mapping[str, Score]":
    """The figures of what learns as it reads, with a bar meanwhile."""
    from charlm.evaluation.adaptive import Learners, scoring_online

    work, bar = scoring_online(Learners.of(snapshot, rule), texts), Bar(" symbols")
    try:
        while True:
            progress = next(work)
            bar("learning as it reads", progress.symbols, progress.of)
    except StopIteration as end:
        figures: Mapping[str, Score] = end.value
        return figures
    finally:
        bar.close()


def _check_part(part: str | None, files: list[str] | None, root: Path) -> None:
    """UsageError for a part that there is not, or beside files; and for what is no file, where it is known."""
    check_files("eval", files or [], root)
    if part is not None and files:
        raise UsageError(
            f"--part {one_line(part)} selects a part of the run's own text, but you also named files; leave "
            "one out"
        )
    if part not in (None, "held-out", "test"):
        raise UsageError(f"--part {one_line(part or '')} is unknown; allowed: held-out, test")


def _refuse_without_files(files: list[str] | None, **options: str | None) -> None:
    """UsageError for an option on how files are read where none was named."""
    for name, value in options.items():
        if value is not None and not files:
            raise UsageError(f"--{name} {one_line(value)} applies to files, but you named none")


def _text_of_part(corpus: "Corpus", part: str, name: str) -> tuple[str, str]:
    """The name and the text of a part; TextError where the run has none."""
    from charlm.data.tokenizer import without_ends

    text = corpus.test_text() if part == "test" else corpus.held_out_text()
    if not without_ends(text) and part == "test":
        raise TextError(
            "this run has no test part; train with --test 0.05 to create one, or name a file to score"
        )
    if not without_ends(text):
        raise TextError("this run has no held-out part; name a file to score")
    return f"{part} part of {name}", text


def read_texts(
    files: list[str], snapshot: "Snapshot", encoding: str | None, field: str | None
) -> list[tuple[str, str]]:
    """Name and text of each file that has any, read as the run read its own; what was noticed is said."""
    from charlm.data.reader import read_texts

    source = read_texts(files, snapshot.run.text, encoding=encoding, field=field)
    note_files(source.notes)
    return list(source.files)


def _output_of_bits(per_char: str | None, files: list[str], as_json: bool) -> Output | None:
    """Where --per-char writes; UsageError where it cannot."""
    if per_char is None:
        return None
    output = Output("--per-char", per_char, inputs=files)
    if output.is_stdout and as_json:
        raise UsageError(
            "--per-char - and --json both write to standard output; name a file, or leave one out"
        )
    return output


def _sources(snapshot: "Snapshot") -> list[str]:
    """The files that the run was trained on, which must not be overwritten."""
    return list(snapshot.run.corpus.sources)


def _per_char(evaluation: "Evaluation") -> Iterator[bytes]:
    several = len(evaluation.figure.texts) > 1
    for scored in evaluation.figure.texts:
        for offset, (char, bits) in enumerate(zip(scored.text, scored.bits.tolist(), strict=True)):
            row: dict[str, Any] = {"char": char, "offset": offset, "bits": round(bits, 6)}
            if several:
                row["file"] = scored.name
            yield json.dumps(row).encode() + b"\n"


def _show(name: str, evaluation: "Evaluation") -> None:
    from charlm.data.tokenizer import WORDS
    from charlm.evaluation.bootstrap import too_few

    figure = evaluation.figure
    interval = evaluation.interval_bits
    few = too_few(figure.chars)
    around = (
        f"  (95 %: {interval[0]:.4f} to {interval[1]:.4f})" if interval else "  (too short for an interval)"
    )
    around = f"  ({few[2:]})" if few else around
    rows = [
        ("bits per character", f"{figure.bits_per_char:.4f}{around}"),
        ("nats per character", f"{figure.nats_per_char:.4f}"),
        ("bits per byte of UTF-8", f"{figure.bits_per_byte:.4f}"),
        ("perplexity per character", f"{figure.perplexity:.3f}"),
        (
            "characters",
            f"{count(figure.chars)}, all scored, {count(figure.unknown_chars)} {NOT_THERE[evaluation.units]}",
        ),
        *(
            [("documents", f"{count(figure.ends)} document ends also scored; the bits include them")]
            * bool(figure.ends)
        ),
        ("context", evaluation.context),
        ("text", ", ".join(scored.name for scored in figure.texts)),
    ]
    table([("run", f"{name}, {evaluation.which}, step {evaluation.step}"), *rows])
    print()
    word = WORDS[evaluation.units]
    lines = [("this model", f"{figure.bits_per_char:.4f}", few[2:])]
    if evaluation.ngram is not None:
        lines.append((OF_KIND["ngram"], f"{evaluation.ngram.bits_per_char:.4f}", "the n-gram prior alone"))
    for title, baseline in evaluation.baselines.items():
        if isinstance(baseline, str):
            lines.append((title, "-", baseline))
        else:
            said = "adapts to this text" if baseline.adaptive else ""
            if baseline.order is not None:
                said = f"{baseline.order} {word}s of context, {baseline.source}"
            lines.append((title, f"{baseline.bits_per_char:.4f}", said + (few if said else few[2:])))
    table(lines, header=("baseline", "bits/char", ""), numbers=(1,))
    if evaluation.online:
        print()
        lines = [
            (OF_KIND[kind], f"{learned.bits_per_char:.4f}", LEARNS.format(word=word))
            for kind, learned in evaluation.online.items()
        ]
        table(lines[::-1], header=("online", "bits/char", ""), numbers=(1,))
    for text in evaluation.warnings:
        warn(text)
