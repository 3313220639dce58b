"""`charlm compress`: a file in as many bits as a model predicts it with."""

import os
import sys
from collections.abc import Generator
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from charlm.cli.chosen import chosen
from charlm.cli.console import checkpoints_root, count, print_json, say, table, warn
from charlm.cli.mistakes import check_files
from charlm.cli.options import AsJson, Checkpoints, Run, Which, threads_option
from charlm.errors import CheckpointError, ResourceError, UsageError
from charlm.terminal import bars_disabled, one_line

if TYPE_CHECKING:
    from charlm.checkpoint.snapshot import Snapshot
    from charlm.compression.compress import Progress
    from charlm.text.vocabulary import Ids

T = TypeVar("T")
Out = Annotated[str, typer.Option("-o", "--out", metavar="OUT", help="The file to make.")]
CompressThreads = Annotated[
    int | None,
    threads_option("CPU threads, which the file names: it is decompressed with as many. [default: 1]"),
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite OUT if it is there.")]

EXAMPLES = """Examples:
  charlm compress chapter.txt -o chapter.clm              by the newest run
  charlm compress chapter.txt -o chapter.clm --run novels --json
  charlm decompress chapter.clm -o chapter.txt            the same bytes again"""


def command(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What to compress.")],
    out: Out,
    run: Run = None,
    checkpoint: Which = None,
    force: Force = False,
    threads: CompressThreads = None,
    as_json: AsJson = False,
    checkpoints: Checkpoints = None,
) -> None:
    """Compress a file with a model: the better it predicts, the smaller.

    The same checkpoint decompresses it to the same bytes, with the same versions on the same kind of machine.
    """
    check_files("compress", [file], checkpoints_root(checkpoints))
    target = free_target(out, force)
    from charlm.processors import use_threads
    from charlm.text.stream import file_bytes

    data = file_bytes(file, one_line(file))
    use_threads(threads)
    snapshot, name, which = chosen(checkpoints_root(checkpoints), run, checkpoint)
    from charlm.compression.compress import compressing

    done, seconds = carried_through(compressing(data, snapshot, threads or 1))
    header = done.header
    if done.not_text is not None:
        warn(
            f"{one_line(file)} is not UTF-8: the byte at offset {count(done.not_text)} is part of no character. "
            "It is compressed exactly, but no smaller where it is not text"
        )
    seen = _in_training_too(done.ids, snapshot)
    if seen is not None:
        warn(f"{seen}; text that the model has not seen compresses less")
    write(target, done.data)
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
        show(f"{name}, {which}, step {header.step}", facts)


def _in_training_too(ids: "Ids", snapshot: "Snapshot") -> str | None:
    """What is to be said where the file stands in the text that the run was trained on, as eval says it."""
    from charlm.evaluation.overlap import about_overlap, overlap
    from charlm.training.texts import corpus_of

    try:
        corpus = corpus_of(snapshot)
    except CheckpointError as error:
        warn(f"{error}; so it is not known whether this file stands in it")
        return None
    return about_overlap([overlap(corpus.train, ids)], snapshot.vocabulary.word)


def show(run: str, facts: dict[str, Any]) -> None:
    """The sizes and the speed, as a table."""
    bits = facts["bits_per_char"]
    table(
        [
            ("run", run),
            ("original", f"{count(facts['bytes'])} bytes, {count(facts['chars'])} characters"),
            ("compressed", f"{count(facts['compressed_bytes'])} bytes"),
            ("bits per character", "-" if bits is None else f"{bits:.4f}, all bytes of the file counted"),
            ("speed", f"{facts['chars_per_second']:,.0f} characters/s, {facts['streams']} side by side"),
        ]
    )


def free_target(out: str, force: bool) -> Path:
    """Where to write; UsageError where something stands that must not be overwritten."""
    path = Path(os.path.realpath(out))  # a link is followed, not replaced
    if path.exists() and not path.is_file():
        raise UsageError(f"-o {one_line(out)} is no regular file; name one, or a new one")
    if path.exists() and not force:
        raise UsageError(f"-o {one_line(out)} exists already; give another name, or --force to overwrite it")
    if not path.parent.is_dir():
        raise UsageError(f"-o {one_line(out)} is in a folder that does not exist; make it, or name another")
    return path


def write(path: Path, data: bytes) -> None:
    """Put it there, whole or not at all."""
    from charlm import files

    try:
        files.replace(path, data)
    except OSError as error:
        raise ResourceError(f"-o {one_line(str(path))} cannot be written: {error.strerror}") from None
    say(f"written: {one_line(str(path))}")


def carried_through(work: "Generator[Progress, None, T]") -> tuple[T, float]:
    """What comes of the work, with a bar meanwhile, and the seconds it took."""
    from tqdm import tqdm

    started = perf_counter()
    with tqdm(unit=" symbols", unit_scale=True, disable=bars_disabled(), file=sys.stderr, leave=False) as bar:
        while True:
            try:
                progress = next(work)
            except StopIteration as end:
                return end.value, perf_counter() - started
            bar.total = progress.of
            bar.update(progress.symbols - bar.n)
