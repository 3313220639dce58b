"""`charlm export`: convert a plain decoder for transformers, llama.cpp or onnxruntime."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from charlm.cli.console import load_run, say, working
from charlm.cli.options import ROOT, Checkpoints, RunName, RunOption, Which, one_run, with_settings
from charlm.export.export_config import ExportConfig
from charlm.terminal import one_line
from charlm.training.request import build

EXAMPLES = """Examples:
  charlm export poems --to hf               poems-hf/, for transformers
  charlm export poems --to gguf --dtype q8_0 -o small   small/poems.gguf, for llama.cpp and ollama
  charlm export poems --to onnx -o graph    graph/model.onnx, for onnxruntime"""

Out = Annotated[
    str | None,
    typer.Option("-o", "--out", metavar="DEST", help="New folder to write. [default: NAME-FORMAT]"),
]


@with_settings({"Format": ExportConfig})
def command(
    name: RunName = None,
    run: RunOption = None,
    checkpoint: Which = None,
    out: Out = None,
    checkpoints: Checkpoints = ROOT,
    *,
    settings: dict[str, Any],
) -> None:
    """Export a run to transformers, llama.cpp or onnxruntime.

    The run must be a plain decoder: one trained with --plain, alone or with --teacher. The export
    includes its calibration. Needs the extra: pip install "charlm-cli[export]".
    """
    config = build(ExportConfig, settings)
    chosen = one_run(name, run)
    given = None if out is None else Path(os.path.expanduser(out))
    from charlm.export.write import check_destination, export  # here and below: torch is slow to import

    if given is not None:  # so that a mistake is reported before the work
        check_destination(given)
    model = load_run(checkpoints, chosen, checkpoint)
    from charlm.export.decoder import plain_decoder

    decoder = plain_decoder(model)
    folder = given or Path(f"{model.name}-{config.to}")
    with working("exporting"):
        size = export(decoder, folder, config)
    say(
        f"written: {one_line(str(folder))}: {', '.join(sorted(p.name for p in folder.iterdir()))}; {size / 1e6:.1f} MB"
    )
