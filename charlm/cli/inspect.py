"""`charlm inspect`: what a text is like, before anything is trained on it."""

from contextlib import suppress
from functools import partial
from time import perf_counter
from typing import Annotated, Any

import typer

from charlm.cli.console import checkpoints_root, note_files, print_json, say
from charlm.cli.loading import MESSAGES, Bar, working
from charlm.cli.mistakes import check_files
from charlm.cli.options import AsJson, Threads, with_settings
from charlm.config import ModelConfig, TextConfig, TrainingConfig
from charlm.training.request import (
    DEFAULT_TIME,
    budget_seconds,
    build,
    check_file_settings,
    choose_plan,
    describe_paths,
    load_text,
    use_customary_split,
)

EXAMPLES = """Examples:
  charlm inspect corpus.txt                   what is in it, what to mend, what to expect
  charlm inspect novels/ --documents file     read as `charlm train` would read it
  charlm inspect corpus.txt --newlines lf     is that warning gone?
  charlm inspect corpus.txt --json            as data
Of more than 1 GB a sample is read, and said."""


@with_settings({"Text": TextConfig}, basic=("time", "threads", "as_json"))
def command(
    corpus: Annotated[
        list[str] | None, typer.Argument(help="Files, folders, globs, or -; none: Python's manual.")
    ] = None,
    time: Annotated[
        str,
        typer.Option(metavar="TIME", help="The training to choose a model for.", envvar="CHARLM_TIME"),
    ] = DEFAULT_TIME,
    threads: Threads = None,
    as_json: AsJson = False,
    *,
    settings: dict[str, Any],
) -> None:
    """Look at a text before training: its encoding, characters, repeats and entropies, what
    `charlm train` would choose, what to expect of it, and what to mend, each with the option that does."""
    names = corpus or []
    check_files("inspect", names, checkpoints_root(None), time)
    budget, training = budget_seconds(time), TrainingConfig(threads=threads)
    check_file_settings(names, settings)
    use_customary_split(names, settings, MESSAGES)
    config = build(TextConfig, settings)
    say(f"reading {describe_paths(names, config)}")
    from charlm.data.text_scan import TextScan  # here and below: numpy and torch are slow to import

    look = TextScan()
    loaded = load_text(names, config, MESSAGES, scan=look)
    try:
        _show(loaded, look, config, budget, training, as_json)
    finally:
        if look.partial:
            _forget(loaded.corpus.key)


def _show(
    loaded: Any, look: Any, config: TextConfig, budget: float, training: TrainingConfig, as_json: bool
) -> None:
    from charlm.cli.inspect_show import show
    from charlm.inspection.facts import examine
    from charlm.inspection.facts_data import plain
    from charlm.inspection.warnings import findings

    known = set(look.marks.warnings())  # which the findings say too
    note_files(note for note in loaded.notes if note not in known)
    choice, said = choose_plan(loaded, ModelConfig(), training, budget, None, perf_counter(), MESSAGES)
    with working("looking") as bar:
        found = examine(loaded, look, choice, partial(_looking_at, bar))
    warnings = findings(found, config)
    if as_json:
        print_json(plain(found, warnings))
    else:
        show(found, warnings, said)


def _looking_at(bar: Bar, what: str) -> None:
    say(what)
    bar(what, 0, None)


def _forget(key: str) -> None:
    """Take a sample out of the cache: nobody will ask for it again."""
    from charlm.data import cache

    with suppress(OSError):
        cache.remove(key)
