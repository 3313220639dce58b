"""`charlm decompress`: what `charlm compress` made, back to the same bytes."""

from typing import Annotated, Any

import typer

from charlm.cli.compress import Force, Out, carried_through, output, show
from charlm.cli.console import checkpoints_root, print_json, warn
from charlm.cli.loading import chosen
from charlm.cli.mistakes import check_files
from charlm.cli.options import AsJson, Checkpoints, Run, Which, threads_option
from charlm.errors import UsageError
from charlm.terminal import one_line

EXAMPLES = """Examples:
  charlm decompress chapter.clm -o chapter.txt
  charlm decompress chapter.clm -o chapter.txt --run novels --checkpoint 859"""


def command(
    ctx: typer.Context,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="File made by charlm compress; - for standard input.")
    ],
    out: Out,
    run: Run = None,
    checkpoint: Which = None,
    force: Force = False,
    threads: Annotated[
        int | None, threads_option("CPU threads; must be the number that the file was compressed with.")
    ] = None,
    as_json: AsJson = False,
    checkpoints: Checkpoints = None,
) -> None:
    """Decompress a file: exactly the bytes that were compressed, or an error.

    It needs the checkpoint that compressed the file, the same software versions and the same kind of machine.
    """
    check_files("decompress", [file], checkpoints_root(checkpoints))
    target = output(file, out, force, as_json)
    from charlm.data.stream import read_bytes
    from charlm.threads import use_threads

    label = "standard input" if file == "-" else file
    from charlm.compression.container import MAGIC, unpack

    data = read_bytes(file, one_line(label), MAGIC)
    header, _ = unpack(data, label)  # before a model is looked for
    use_threads(_threads(ctx, threads, header.environment.threads))
    snapshot, name, which = chosen(checkpoints_root(checkpoints), run, checkpoint)
    from charlm.compression.codec import decompressing

    original, seconds = carried_through(decompressing(data, label, snapshot), "decompressing")
    target.write([original])
    facts: dict[str, Any] = {
        "bytes": header.bytes,
        "chars": header.chars,
        "compressed_bytes": len(data),
        "bits_per_char": 8 * len(data) / header.chars if header.chars else None,
        "streams": header.streams,
        "seconds": round(seconds, 3),
        "chars_per_second": round(header.chars / seconds, 1),
    }
    if as_json:
        print_json({"schema": 1, "run": name, "checkpoint": {"which": which, "step": snapshot.step}, **facts})
    else:
        show(f"{name}, {which}, step {snapshot.step}", facts, target)


def _threads(ctx: typer.Context, asked: int | None, of_file: int) -> int | None:
    """The number of threads, which is that of the file; UsageError where another is asked for."""
    if asked is not None and asked != of_file:
        said = (
            f"{asked}, but the file was compressed with {of_file}: another number of threads rounds "
            "differently"
        )
        source = ctx.get_parameter_source("threads")
        if source is not None and source.name == "COMMANDLINE":
            raise UsageError(f"--threads is {said}; leave it out")
        warn(f"CHARLM_THREADS is {said}, so charlm decompresses with {of_file}")
    return min(of_file, 1024) or None
