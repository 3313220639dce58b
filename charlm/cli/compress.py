"""`charlm compress` and `decompress`: compress a file losslessly by a model's predictions, and restore it."""

import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.console import Output, count, finish, load_run, print_json, table, warn
from charlm.cli.mistakes import check_files
from charlm.cli.options import ROOT, AsJson, Checkpoints, Which, source_of, threads_option
from charlm.cli.options import Run as RunOption
from charlm.data.text_config import TextConfig
from charlm.errors import CheckpointError, UsageError
from charlm.settings import settings_of
from charlm.terminal import one_line

if TYPE_CHECKING:
    from charlm.checkpoint.snapshot import Snapshot
    from charlm.compression.container import Header
    from charlm.data.tokenizer import Ids
    from charlm.run import Run

Out = Annotated[str, typer.Option("-o", "--out", metavar="OUT", help="File to write; - for standard output.")]
Threads = Annotated[
    int | None,
    threads_option("CPU threads; decompression uses the same number. [default: 1]"),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite OUT; allow writing to a terminal.")]

CHANGING = ("normalize", "newlines", "lowercase", "collapse_spaces")
"""Settings that change the characters of a text."""

EXAMPLES = """Examples:
  charlm compress chapter.txt -o chapter.clm              with the newest run
  charlm compress chapter.txt -o chapter.clm --run novels --json
  zcat log.gz | charlm compress - -o - > log.clm          standard input and output
  charlm decompress chapter.clm -o chapter.txt            restore the original bytes"""
DECOMPRESS_EXAMPLES = """Examples:
  charlm decompress chapter.clm -o chapter.txt
  charlm decompress chapter.clm -o chapter.txt --run novels --checkpoint 859"""


def compress(
    file: Annotated[str, typer.Argument(metavar="FILE", help="File to compress; - for standard input.")],
    out: Out,
    run: RunOption = None,
    checkpoint: Which = None,
    force: Force = False,
    threads: Threads = None,
    as_json: AsJson = False,
    checkpoints: Checkpoints = ROOT,
) -> None:
    """Compress a file losslessly with a model.

    The better the model predicts the file, the smaller the result. Decompression needs the same checkpoint,
    the same software versions and the same kind of machine.
    """
    check_files("compress", [file], checkpoints)
    target = _output(file, out, force, as_json)
    from charlm.data.stream import read_bytes
    from charlm.threads import use_threads

    label = "standard input" if file == "-" else one_line(file)
    data = read_bytes(file, label)
    use_threads(threads)
    model = load_run(checkpoints, run, checkpoint)
    from charlm.compression.codec import compressing

    started = perf_counter()
    done = finish(compressing(data, model.snapshot, threads or 1), "compressing")
    seconds = perf_counter() - started
    if done.not_text is not None:
        warn(
            f"{label} is not UTF-8: the byte at offset {count(done.not_text)} is not part of a valid "
            "character. "
            "Compression is lossless, but saves nothing where the file is not text"
        )
    for note in _read_otherwise(file, data, done.header.encoding, model.text_config):
        warn(f"{label}{note}")
    seen = _in_training_too(done.ids, model.snapshot)
    if seen is not None:
        warn(f"{seen}; a text that the model has not seen would compress less")
    target.write([done.data])
    warnings = {"warnings": [] if seen is None else [seen]}
    _show(model, done.header, len(done.data), seconds, target, as_json, **warnings)


def decompress(
    ctx: typer.Context,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="File made by charlm compress; - for standard input.")
    ],
    out: Out,
    run: RunOption = None,
    checkpoint: Which = None,
    force: Force = False,
    threads: Annotated[
        int | None,
        threads_option("CPU threads. [default: the number that compressed the file, the only one allowed]"),
    ] = None,
    as_json: AsJson = False,
    checkpoints: Checkpoints = ROOT,
) -> None:
    """Decompress a file to exactly the original bytes.

    If that is not possible, it gives an error. It needs the checkpoint that compressed the file, the
    same software versions and the same kind of machine.
    """
    check_files("decompress", [file], checkpoints)
    target = _output(file, out, force, as_json)
    from charlm.compression.container import MAGIC, unpack
    from charlm.data.stream import read_bytes
    from charlm.threads import use_threads

    label = "standard input" if file == "-" else file
    data = read_bytes(file, one_line(label), MAGIC)
    header, _ = unpack(data, label)  # before a run is looked for
    use_threads(_threads_of_file(ctx, threads, header.environment.threads))
    model = load_run(checkpoints, run, checkpoint)
    from charlm.compression.codec import decompressing

    started = perf_counter()
    original = finish(decompressing(data, label, model.snapshot), "decompressing")
    seconds = perf_counter() - started
    target.write([original])
    _show(model, header, len(data), seconds, target, as_json)


def _threads_of_file(ctx: typer.Context, asked: int | None, of_file: int) -> int | None:
    """Return the number of threads that compressed the file. Raises UsageError if another is asked for."""
    if asked is not None and asked != of_file:
        said = (
            f"{asked}, but the file was compressed with {of_file}: with another number of threads, "
            "rounding differs"
        )
        if source_of(ctx, "threads") == "COMMANDLINE":
            raise UsageError(f"--threads is {said}; leave it out")
        warn(f"CHARLM_THREADS is {said}, so charlm decompresses with {of_file}")
    return min(of_file, 1024) or None


def _read_otherwise(path: str, data: bytes, encoding: str, config: TextConfig) -> Iterator[str]:
    """Say how the file differs from what the run would read; it is compressed unchanged, so that it can be restored exactly."""
    from charlm.data.boilerplate import Boilerplate, strip_boilerplate
    from charlm.data.normalize import normalize
    from charlm.data.records import format_of
    from charlm.data.stream import Block

    text = data.decode(encoding or "utf-8", "replace")
    kept = "is compressed unchanged, so that decompression restores the same bytes"
    if encoding:
        yield f" is read as {encoding}; decompression restores the same bytes"
    if config.field is not None and format_of(path, text, config.field) is not None:
        yield (
            f" {kept}: text outside the field {one_line(config.field)}, the only one that the run reads, "
            "compresses less"
        )
    left = strip_boilerplate([Block(text.encode(errors="replace"), text)], Boilerplate())
    if config.strip is not None and "".join(block.text for block in left) != text:
        yield (
            f" {kept}: Project Gutenberg's header and licence, which the run leaves out (--strip), "
            "compress less"
        )
    if normalize(text, config) != text:
        options = ", ".join(
            setting.option
            for setting in settings_of(type(config))
            if setting.name in CHANGING and getattr(config, setting.name) != setting.default
        )
        yield f" {kept}: text that {options} would change compresses less"
    if config.documents != "none":
        yield (
            f" {kept}: it is not split into documents as the run's text is, so beginnings of documents "
            "compress less"
        )


def _in_training_too(ids: "Ids", snapshot: "Snapshot") -> str | None:
    """Return a warning if the file occurs in the run's training text, as `charlm eval` gives it."""
    from charlm.data.overlap import about_overlap, overlap
    from charlm.training.run_corpus import corpus_of

    try:
        corpus = corpus_of(snapshot)
    except CheckpointError as error:
        warn(f"{error}; without that text, charlm cannot tell whether it contains this file")
        return None
    return about_overlap([overlap(corpus.train, ids)], snapshot.vocabulary.unit_noun)


def _output(file: str, out: str, force: bool, as_json: bool) -> Output:
    """Open the destination OUT. Raises UsageError if it cannot be written."""
    target = Output("-o", out, inputs=[file], overwrite=force, binary=True)
    if target.is_stdout and as_json:
        raise UsageError("-o - and --json both write to standard output; name a file, or leave --json out")
    return target


def _show(
    run: "Run", header: "Header", size: int, seconds: float, target: Output, as_json: bool, **more: Any
) -> None:
    """Print sizes and speed as JSON or as a table, which goes to standard error if standard output has the file itself."""
    from charlm.evaluation.bootstrap import too_few  # here: NumPy is slow to import

    bits = 8 * size / header.chars if header.chars else None
    speed = header.chars / seconds
    if as_json:
        facts = {
            "schema": 1,
            "run": run.name,
            "checkpoint": {"which": run.which, "step": run.step},
            "bytes": header.bytes,
            "chars": header.chars,
            "compressed_bytes": size,
            "bits_per_char": bits,
            "streams": header.streams,
            "seconds": round(seconds, 3),
            "chars_per_second": round(speed, 1),
        }
        print_json(facts | more)
        return
    kept = "-" if bits is None else f"{bits:.4f}, counting all bytes of the file{too_few(header.chars)}"
    rows = [
        ("run", f"{run.name}, {run.which}, step {run.step}"),
        ("original", f"{count(header.bytes)} bytes, {count(header.chars)} characters"),
        ("compressed", f"{count(size)} bytes"),
        ("bits per character", kept),
        ("speed", f"{speed:,.0f} characters/s, parallel streams: {header.streams}"),
    ]
    with redirect_stdout(sys.stderr if target.is_stdout else sys.stdout):
        table(rows)
