"""`charlm compress`: a file into as many bits as the model needs to predict it."""

import sys
from collections.abc import Generator, Iterator
from contextlib import redirect_stdout
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from charlm.cli.console import Output, checkpoints_root, count, print_json, table, warn
from charlm.cli.loading import chosen, working
from charlm.cli.mistakes import check_files
from charlm.cli.options import AsJson, Checkpoints, Run, Which, threads_option
from charlm.config import TextConfig
from charlm.errors import CheckpointError, UsageError
from charlm.settings import settings_of
from charlm.terminal import one_line

if TYPE_CHECKING:
    from charlm.checkpoint.snapshot import Snapshot
    from charlm.compression.codec import Progress
    from charlm.config import TextConfig
    from charlm.data.tokenizer import Ids

T = TypeVar("T")
Out = Annotated[str, typer.Option("-o", "--out", metavar="OUT", help="File to write; - for standard output.")]
CompressThreads = Annotated[
    int | None,
    threads_option("CPU threads; decompression must use the same number. [default: 1]"),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite OUT; allow writing to a terminal.")]

CHANGING = ("normalize", "newlines", "lowercase", "collapse_spaces")
"""Settings that change the characters of a text."""

EXAMPLES = """Examples:
  charlm compress chapter.txt -o chapter.clm              with the newest run
  charlm compress chapter.txt -o chapter.clm --run novels --json
  zcat log.gz | charlm compress - -o - > log.clm          standard input and output
  charlm decompress chapter.clm -o chapter.txt            restore the original bytes"""


def command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="File to compress; - for standard input.")],
    out: Out,
    run: Run = None,
    checkpoint: Which = None,
    force: Force = False,
    threads: CompressThreads = None,
    as_json: AsJson = False,
    checkpoints: Checkpoints = None,
) -> None:
    """Compress a file with a model; better predictions make smaller files.

    Decompression needs the same checkpoint, the same software versions and the same kind of machine.
    """
    check_files("compress", [file], checkpoints_root(checkpoints))
    target = output(file, out, force, as_json)
    from charlm.data.stream import read_bytes
    from charlm.threads import use_threads

    label = "standard input" if file == "-" else one_line(file)
    data = read_bytes(file, label)
    use_threads(threads)
    snapshot, name, which = chosen(checkpoints_root(checkpoints), run, checkpoint)
    from charlm.compression.codec import compressing

    done, seconds = carried_through(compressing(data, snapshot, threads or 1), "compressing")
    header = done.header
    if done.not_text is not None:
        warn(
            f"{label} is not UTF-8: the byte at offset {count(done.not_text)} is not part of a valid "
            "character. "
            "Compression is lossless, but saves nothing where the file is not text"
        )
    for note in _read_otherwise(file, data, header.encoding, snapshot.run.text):
        warn(f"{label}{note}")
    seen = _in_training_too(done.ids, snapshot)
    if seen is not None:
        warn(f"{seen}; text that the model has not seen compresses less")
    target.write([done.data])
    facts: dict[str, Any] = {
        "bytes": header.bytes,
        "chars": header.chars,
        "compressed_bytes": len(done.data),
        "bits_per_char": 8 * len(done.data) / header.chars if header.chars else None,
        "streams": header.streams,
        "seconds": round(seconds, 3),
        "chars_per_second": round(header.chars / seconds, 1),
    }
    if as_json:
        facts["warnings"] = [] if seen is None else [seen]
        print_json({"schema": 1, "run": name, "checkpoint": {"which": which, "step": header.step}, **facts})
    else:
        show(f"{name}, {which}, step {header.step}", facts, target)


def _read_otherwise(path: str, data: bytes, encoding: str, config: "TextConfig") -> Iterator[str]:
    """How the file differs from what the run would read of it: it is kept whole, so that it comes back exactly."""
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
        yield f" {kept}: text that {options} changed for the run compresses less"
    if config.documents != "none":
        yield (
            f" {kept}: it is not split into documents as the run's text is, so beginnings of documents "
            "compress less"
        )


def _in_training_too(ids: "Ids", snapshot: "Snapshot") -> str | None:
    """What is to be said where the file stands in the text that the run was trained on, as eval says it."""
    from charlm.data.overlap import about_overlap, overlap
    from charlm.training.run_corpus import corpus_of

    try:
        corpus = corpus_of(snapshot)
    except CheckpointError as error:
        warn(f"{error}; without that text, charlm cannot tell whether it contains this file")
        return None
    return about_overlap([overlap(corpus.train, ids)], snapshot.vocabulary.word)


def output(file: str, out: str, force: bool, as_json: bool) -> Output:
    """Where OUT is written; UsageError where it cannot be."""
    target = Output("-o", out, inputs=[file], overwrite=force, binary=True)
    if target.is_stdout and as_json:
        raise UsageError("-o - and --json both write to standard output; name a file, or leave --json out")
    return target


def show(run: str, facts: dict[str, Any], target: Output) -> None:
    """The sizes and the speed, as a table; on standard error where standard output has the file itself."""
    from charlm.evaluation.bootstrap import too_few  # here: NumPy is slow to import

    bits, few = facts["bits_per_char"], too_few(facts["chars"])
    kept = "-" if bits is None else f"{bits:.4f}, counting all bytes of the file{few}"
    with redirect_stdout(sys.stderr if target.is_stdout else sys.stdout):
        table(
            [
                ("run", run),
                ("original", f"{count(facts['bytes'])} bytes, {count(facts['chars'])} characters"),
                ("compressed", f"{count(facts['compressed_bytes'])} bytes"),
                ("bits per character", kept),
                (
                    "speed",
                    f"{facts['chars_per_second']:,.0f} characters/s, parallel streams: {facts['streams']}",
                ),
            ]
        )


def carried_through(work: "Generator[Progress, None, T]", what: str) -> tuple[T, float]:
    """What comes of the work, with a bar meanwhile, and the seconds it took."""
    started = perf_counter()
    with working(what) as watch:
        while True:
            try:
                progress = next(work)
            except StopIteration as end:
                return end.value, perf_counter() - started
            watch(what, progress.symbols, progress.of)
