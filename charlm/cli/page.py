"""`charlm page`: write a run as one self-contained HTML file."""

from typing import Annotated, Any

import typer

from charlm.cli.console import Output, load_run, say, working
from charlm.cli.options import (
    ROOT,
    Checkpoints,
    RunName,
    RunOption,
    Threads,
    Which,
    one_run,
    with_settings,
)
from charlm.page.page_config import PageConfig
from charlm.training.request import build

EXAMPLES = """Examples:
  charlm page                          the newest run as NAME.html
  charlm page poems -o poems.html      a file to open, to mail, or to put on a web server
  charlm page poems --ngram-mb 2       a smaller one, with fewer n-grams"""

Out = Annotated[
    str | None,
    typer.Option(
        "-o", "--out", metavar="FILE", help="File to write; - for standard output. [default: NAME.html]"
    ),
]


@with_settings({"Size": PageConfig})
def command(
    name: RunName = None,
    run: RunOption = None,
    checkpoint: Which = None,
    out: Out = None,
    threads: Threads = None,
    checkpoints: Checkpoints = ROOT,
    *,
    settings: dict[str, Any],
) -> None:
    """Make a web page of a run that needs no network.

    The page is one HTML file that contains the model, for any browser. There you can write with the model, see how
    surprising a text is, and look inside the model. What you write there stays there. The file contains the weights, the
    vocabulary and n-grams of the training text: share it only where you would share these.
    """
    config = build(PageConfig, settings)
    chosen = one_run(name, run)
    early = None if out is None else Output("-o", out)  # so that a mistake is reported before the work
    from charlm.threads import use_threads

    use_threads(threads)
    model = load_run(checkpoints, chosen, checkpoint)
    target = early or Output("-o", f"{model.name}.html")
    target.refuse_inputs(model.snapshot.run.corpus.sources)
    from charlm.page.about import about, page_notes
    from charlm.page.html import local_engine, make_page
    from charlm.page.pack import pack

    with working("packing"):
        packed = pack(model.snapshot, ngram_megabytes=config.ngram_mb, about=about(model))
        notes = page_notes(packed)
        page = make_page(model.name, local_engine(packed.data, notes)).html.encode()
    target.write([page])
    say(f"{len(page) / 1e6:.1f} MB. {' '.join(notes[1:])}".strip())
