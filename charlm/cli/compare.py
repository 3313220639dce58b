"""`charlm compare`: train variants and compare them on a text, or compare two trained runs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from charlm.cli.console import MESSAGES, warn
from charlm.cli.mistakes import check_files, quoted
from charlm.cli.options import (
    MOST_STEPS,
    ROOT,
    AsJson,
    Checkpoints,
    MovedText,
    as_options,
    source_of,
    with_settings,
)
from charlm.cli.workers import Worker, check_named, this_worker
from charlm.config import ModelConfig, TrainingConfig
from charlm.data.text_config import TextConfig
from charlm.errors import CheckpointError, UsageError
from charlm.terminal import one_line
from charlm.training.request import budget_seconds, build, refuse_for_ngram
from charlm.training.request_text import (
    check_file_settings,
    load_text,
    moved_text,
    report_moved,
    report_text,
    warn_unless_kept,
)

EXAMPLES = """Examples:
  charlm compare corpus.txt --vary position=none,learned,rotary --time 60s
  charlm compare corpus.txt --vary mixer=attention,recurrent,attention+convolution --seeds 3 --steps 500
  charlm compare corpus.txt --vary model=ngram,transformer --time 60s  an n-gram model and a transformer
  charlm compare corpus.txt --vary window=8,16,auto --vary locality=on,off   every combination
  charlm compare RUN-A RUN-B            compare two runs on their held-out text
  charlm compare RUN-A RUN-B --on FILE  on any text
  charlm compare COMPARISON             show an earlier comparison
  charlm compare corpus.txt --vary window=8,16 --steps 500 --run windows --ranks 2   two at a time
  charlm compare corpus.txt --vary window=8,16 --steps 500 --run windows --share 1/2   half, the rest elsewhere
Resume a comparison with: charlm resume COMPARISON"""

DEFAULT_TIME = "60s"
PANELS = {"Model": ModelConfig, "Training": TrainingConfig, "Text": TextConfig}

Vary = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=A,B,...",
        help="Setting to vary, and its values; in a value of mixer, + joins several mixers. "
        "Repeat --vary to train every combination.",
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, max=MOST_STEPS, help="Training steps of each run, instead of a time."),
]
Seeds = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=1000,
        help="Runs per variant, each with another seed: --seed, --seed + 1, and so on. [default: 1]",
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        "--run", "--name", metavar="NAME", help="Name of the comparison. [default: from the text's name]"
    ),
]
ShareOption = Annotated[
    str | None,
    typer.Option(
        "--share",
        metavar="I/N",
        help="Train only the I-th of N shares of the runs; other processes, such as those of a job array, train the "
        "others, and the last to finish shows the results. Needs --run.",
    ),
]
RanksOption = Annotated[
    int | None,
    typer.Option(
        "--ranks",
        min=1,
        max=4096,
        metavar="N",
        help="Processes on this machine that train runs side by side, each a share of them, with its part of the "
        "threads or its own GPU. Needs --run.",
    ),
]


@with_settings(PANELS, basic=("vary", "time", "steps", "seeds", "run", "share", "ranks", "on", "as_json"))
def command(
    ctx: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE... | RUN-A RUN-B",
            help="With --vary: a text, as for train. Without: two runs, or one comparison.",
        ),
    ] = None,
    vary: Vary = None,
    time: Annotated[
        str | None, typer.Option(metavar="TIME", help=f"Training time of each run. [default: {DEFAULT_TIME}]")
    ] = None,
    steps: Steps = None,
    seeds: Seeds = None,
    run: Name = None,
    share: ShareOption = None,
    ranks: RanksOption = None,
    on: Annotated[str | None, typer.Option(metavar="FILE", help="Compare two runs on this text.")] = None,
    text: MovedText = None,
    as_json: AsJson = False,
    checkpoints: Checkpoints = ROOT,
    *,
    settings: dict[str, Any],
) -> None:
    """Compare variants that charlm trains, or two trained runs.

    With --vary, charlm trains the variants. Every variant gets the same seeds, the same data order, and the
    same time or steps.
    """
    if not vary:
        _refuse_what_needs_vary(ctx, settings)
        from charlm.threads import use_threads  # here: torch is slow to import

        use_threads(settings["threads"])
        _without_training(
            checkpoints, names or [], on, settings["encoding"], settings["field"], moved_text(text), as_json
        )
        return
    if on is not None:
        raise UsageError("--on compares two trained runs, and has no effect with --vary")
    if text:
        raise UsageError("--text applies only to trained runs; with --vary, name the text as an argument")
    check_files("compare", names or [], checkpoints, time)
    axes, worker = _axes(ctx, vary), this_worker(share, ranks)
    check_named(worker, run)
    folder, comparison, loaded = _prepare(
        checkpoints, names or [], axes, (time, steps), seeds or 1, run, worker, settings
    )

    from charlm.cli.compare_run import follow_comparison

    follow_comparison(folder, comparison, loaded, worker, as_json=as_json)


def _refuse_what_needs_vary(ctx: typer.Context, settings: dict[str, Any]) -> None:
    """Raise UsageError for an option that only has an effect where something is trained."""
    kept = ("encoding", "field", "threads")
    for name in ("time", "steps", "seeds", "run", "share", "ranks", *(s for s in settings if s not in kept)):
        if source_of(ctx, name) == "COMMANDLINE":
            raise UsageError(f"--{name.replace('_', '-')} has no effect without --vary")


def _axes(ctx: typer.Context, vary: list[str]) -> dict[str, list[Any]]:
    """Parse --vary into the values of each setting. Raises UsageError for one that is varied twice, or given as well."""
    from charlm.experiments.variants import parse_axis

    axes = dict(parse_axis(text) for text in vary)
    if len(axes) < len(vary):
        raise UsageError("--vary names the same setting twice; list all its values in one --vary")
    for name in axes:
        if source_of(ctx, name) == "COMMANDLINE":
            raise UsageError(f"--{name.replace('_', '-')} has no effect, because --vary sets {name}")
    return axes


def _without_training(
    root: Path,
    names: list[str],
    on: str | None,
    encoding: str | None,
    field: str | None,
    moved: Any,
    as_json: bool,
) -> None:
    """Compare two trained runs, or show a comparison that was made before."""
    from charlm.checkpoint.run_folder import has_run

    if len(names) == 2:
        from charlm.cli.compare_run import compare_two

        check_files("compare", [on] if on is not None else [], root)
        compare_two(root, (names[0], names[1]), on, encoding, field, moved, as_json=as_json)
        return
    if len(names) == 1:
        from charlm.experiments.comparison import find  # here and below: torch is slow to import

        folder = find(root, names[0])
        if folder is not None:
            from charlm.cli.compare_display import show
            from charlm.experiments.comparison import corpus_of, read

            if (on, encoding, field) != (None, None, None):
                raise UsageError(
                    "--on, --encoding and --field apply only to two runs; a comparison scores its own text"
                )
            comparison = read(folder)
            try:
                corpus = corpus_of(comparison, moved).corpus
                report_moved(corpus.uncached, moved, MESSAGES)
            except CheckpointError as error:
                if moved is not None:
                    raise
                warn(f"{error}; without that text, charlm cannot show baselines")
                corpus = None
            show(folder, comparison, corpus, as_json=as_json)
            return
    if len(names) == 1 and has_run(root, names[0]):
        raise UsageError(
            f"compare needs two runs, but you named only {one_line(names[0])}: charlm compare "
            f"{quoted(names[0])} RUN"
        )
    raise UsageError(
        "name what to compare: a text with --vary NAME=A,B, two runs, or an earlier comparison. For "
        "example: charlm compare corpus.txt --vary position=none,rotary --time 60s"
    )


def _prepare(
    root: Path,
    names: list[str],
    axes: dict[str, list[Any]],
    given: tuple[str | None, int | None],
    seeds: int,
    run: str | None,
    worker: Worker,
    settings: dict[str, Any],
) -> tuple[Any, Any, Any]:
    """Plan a new comparison, or open that of all shares. Return its folder, its description and its text.

    `given`: the time and the steps.
    """
    from charlm.experiments.variants import variants

    time, steps = given
    if time is not None and steps is not None:
        raise UsageError("give either --time or --steps, not both")
    seconds = budget_seconds(time or DEFAULT_TIME) if steps is None else None
    check_file_settings(names, settings)
    model, training = build(ModelConfig, settings), build(TrainingConfig, settings)
    text = build(TextConfig, settings)
    if model.is_ngram:
        refuse_for_ngram(*given, training)
    if training.schedule is not None and seconds is not None:
        raise UsageError(
            "--schedule names steps, so it needs --steps N; a run with a time budget may end at any step"
        )
    found, refused = variants(axes, model, training)
    worker.start()
    for reason in refused:
        worker.messages.warn(f"skipped: {as_options(reason)}")

    from charlm.cli.compare_run import prepare
    from charlm.training.sizes import Budget

    warn_unless_kept(names, worker.messages)
    loaded = load_text(names, text, worker.messages)
    if not loaded.corpus.held_out_chars:
        raise UsageError("there is no held-out text to compare on; give --val or --val-file")
    report_text(loaded, worker.messages)
    budget = Budget(seconds=seconds, steps=steps)
    return *prepare(root, run, loaded, text, found, training, seeds, budget, shared=worker.is_shared), loaded
