"""`charlm train`: from a text to a trained model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from charlm.cli.config_file import read_config
from charlm.cli.console import checkpoints_root, count, note_files, print_json, say, table
from charlm.cli.finetune import as_before, origin_of, say_origin, take_reading, take_text_settings, told
from charlm.cli.loading import (
    check_named,
    load_text,
    say_text,
    take_customary_split,
    warn_unless_kept,
    working,
)
from charlm.cli.mistakes import check_files
from charlm.cli.options import (
    MOST_STEPS,
    Checkpoints,
    EventsAsJson,
    From,
    VerifyCache,
    Which,
    budget_seconds,
    build,
    with_settings,
)
from charlm.cli.repeat import option_words, train_command, typed_command
from charlm.cli.requeue import asked_for, carry_on, check_same, find_begun
from charlm.cli.summaries import about_model
from charlm.config import ModelConfig, TextConfig, TrainingConfig, acts, refuse_transformer_only
from charlm.errors import CheckpointError, UsageError
from charlm.settings import settings_of
from charlm.terminal import command_line, one_line

EXAMPLES = """Examples:
  charlm train corpus.txt                        train for two minutes
  charlm train poems/ --time 10m --run poems     a folder, longer, with a name
  charlm train corpus.txt --steps 500 --seed 3   the same weights every time
  charlm train corpus.txt --model ngram          an n-gram model, as a baseline
  charlm train new.txt --from poems              fine-tune a run on another text
  charlm train corpus.txt --dry-run              show the plan
  zcat log.gz | charlm train -                   standard input"""

DEFAULT_TIME = "2m"
PANELS = {"Model": ModelConfig, "Training": TrainingConfig, "Text": TextConfig}

Time = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help=f"Total time budget: 60s, 10m, 2h. [default: {DEFAULT_TIME}]",
        envvar="CHARLM_TIME",
        show_envvar=False,
    ),
]
FromText = Annotated[
    list[str] | None,
    typer.Option("--from-text", metavar="PATH", help="Where the text of --from RUN is now, if it was moved."),
]
Steps = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST_STEPS,
        help="Training steps, instead of a time budget.",
        metavar="N",
        envvar="CHARLM_STEPS",
        show_envvar=False,
    ),
]

ResumeIfExists = Annotated[
    bool,
    typer.Option(
        "--resume-if-exists",
        help="Resume the run of --run if it was begun, and succeed if it is finished: for jobs that are requeued.",
    ),
]


@with_settings(PANELS, basic=("run", "time", "steps", "origin", "dry_run"))
def command(
    ctx: typer.Context,
    corpus: Annotated[
        list[str] | None,
        typer.Argument(help="Files, folders, globs, or - (standard input). [default: Python's manual]"),
    ] = None,
    run: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the run. [default: from the text's name]")
    ] = None,
    time: Time = None,
    steps: Steps = None,
    origin: From = None,
    from_text: FromText = None,
    checkpoint: Which = None,
    resume_if_exists: ResumeIfExists = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan without training.")] = False,
    verify_cache: VerifyCache = False,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", is_eager=True, callback=read_config, help="Read options from a TOML file."
        ),
    ] = None,
    as_json: EventsAsJson = False,
    checkpoints: Checkpoints = None,
    *,
    settings: dict[str, Any],
) -> None:
    """Train a model on a text. charlm picks the model size and hyperparameters for your text, your time
    and your machine, and prints them."""
    time, steps = _stronger(ctx, time, steps)
    names, root = corpus or [], checkpoints_root(checkpoints)
    check_files("train", [*names, *filter(None, [settings["val_file"]])], root, time)
    asked = asked_for(settings, _asked_seconds(time, steps), steps, origin, checkpoint)
    if resume_if_exists:
        begun = find_begun(root, run)
        if begun is not None:
            _resume(ctx, begun, names, asked, settings["threads"], dry_run, as_json)
            return
    before = _origin(origin, checkpoint, checkpoints, from_text)
    model, training, text = _configurations(ctx, names, settings, before)
    budget = _seconds(time, steps, model, training)
    if run is not None:
        _check_free(root, run)
    say(f"reading {describe(names, text.include, text.exclude)}")
    warn_unless_kept(names)
    loaded = load_text(names, text, verify=verify_cache, earlier=before and before.earlier())
    note_files(loaded.notes)
    say_text(loaded, free=before is None)
    if before is not None:
        before = before.before(loaded.corpus)
        say_origin(before, loaded.corpus)
    choice, budget_said = choose_for(loaded, model, training, budget, steps, ctx.obj, before)
    say(f"model: {budget_said}")
    if dry_run:
        given = (run, origin, checkpoint, checkpoints)
        _show_plan(choice, names, text, _length(time, steps, model), given, as_json)
        return
    new = _New(ctx.obj, tuple(names), run, checkpoints, asked, resume_if_exists, as_json)
    _train(new, loaded, text, choice, budget, before)


def _asked_seconds(time: str | None, steps: int | None) -> float | None:
    """The time that is asked for, unless it is a number of steps."""
    return None if steps is not None else budget_seconds(time or DEFAULT_TIME)


def _resume(
    ctx: typer.Context,
    run: Any,
    names: list[str],
    asked: dict[str, Any],
    threads: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Go on with a run that the same command began, if it did."""
    say(f"the run {run.name} exists; reading {describe(names, asked.get('include'), asked.get('exclude'))}")
    snapshot = check_same(run, names, asked)
    if dry_run:
        state = snapshot.state.get("finished") or "unfinished"
        say(f"the run {run.name} is at step {snapshot.step}, {state}; without --dry-run it would be resumed")
        return
    carry_on(run, snapshot, ctx.obj, asked.get("time"), threads, as_json=as_json)


def _origin(
    name: str | None, checkpoint: str | None, checkpoints: str | None, texts: list[str] | None
) -> Any:
    """The run that is gone on from, where there is one; `texts`: where its text is now."""
    if name is not None:
        return origin_of(checkpoints_root(checkpoints), name, checkpoint, texts)
    if texts:
        raise UsageError("--from-text has no effect without --from RUN; leave it out")
    if checkpoint is not None:
        raise UsageError(f"checkpoint is {one_line(checkpoint)}, which cannot act without --from RUN")
    return None


def _configurations(
    ctx: Any, names: list[str], settings: dict[str, Any], before: Any
) -> tuple[ModelConfig, TrainingConfig, TextConfig]:
    """What was said of model, training and text, and what a run that is gone on from says of them."""
    check_named(names, settings)
    given = told(ctx, settings)
    if before is not None:
        take_text_settings(before, settings, given)
        take_reading(before, names, settings, given)
    take_customary_split(names, settings)
    model, training = build(ModelConfig, settings), build(TrainingConfig, settings)
    if before is not None:
        model, training = as_before(before, model, training, given)
    return model, training, build(TextConfig, settings)


def _stronger(ctx: Any, time: str | None, steps: int | None) -> tuple[str | None, int | None]:
    """Of --time and --steps the one from the command line, else the environment, else the file."""
    if time is None or steps is None:
        return time, steps
    order = ("COMMANDLINE", "ENVIRONMENT", "DEFAULT_MAP")
    by_time, by_steps = (order.index(ctx.get_parameter_source(name).name) for name in ("time", "steps"))
    if by_time == by_steps:
        raise UsageError("--time and --steps were both given; a run has one or the other")
    return (time, None) if by_time < by_steps else (None, steps)


def _seconds(
    time: str | None, steps: int | None, model: ModelConfig, training: TrainingConfig
) -> float | None:
    """The seconds that the run has; None for one that has none to keep to: a number of steps, counts alone."""
    if model.is_ngram:
        refuse_for_counts(time, steps, training)
        return None
    return None if steps is not None else _budget(time or DEFAULT_TIME, training)


def refuse_for_counts(time: str | None, steps: int | None, training: TrainingConfig) -> None:
    """UsageError for what acts on the training of a transformer only."""
    for name, value in {"time": time, "steps": steps}.items():
        if value is not None:
            raise UsageError(f"{name} is {value}, which cannot act with model ngram")
    try:
        refuse_transformer_only(training)
    except ValueError as error:
        raise UsageError(str(error)) from None


def _budget(time: str, training: TrainingConfig) -> float:
    budget = budget_seconds(time)
    if training.schedule is not None:
        raise UsageError("--schedule names steps, and cannot act with --time; give --steps")
    return budget


def _check_free(root: Path, name: str) -> None:
    from charlm.checkpoint.run_folder import check_free  # here and below: not needed for help

    check_free(root, name)


def describe(
    names: list[str], include: Sequence[str] | None = None, exclude: Sequence[str] | None = None
) -> str:
    """What is about to be read, in words."""
    if not names:
        from charlm.data.sources import manual_name

        return f"{manual_name()}, since no file was named"
    from charlm.data import sources as finding

    return finding.describe(names, include, exclude)


def choose_for(
    loaded: Any,
    model: ModelConfig,
    training: TrainingConfig,
    budget: float | None,
    steps: int | None,
    started: float,
    before: Any = None,
) -> tuple[Any, str]:
    """What is trained on a text for so many seconds since `started`, or steps; and that in a sentence."""
    from time import perf_counter  # here and below: only now are numpy and torch needed

    from charlm.threads import use_threads
    from charlm.training.device import about_gpu, pick_device
    from charlm.training.finetune import choose_from
    from charlm.training.planner import Budget, choose
    from charlm.training.start import means_of, recorded

    most = use_threads(training.threads)
    if model.is_ngram:
        choice = recorded(choose(Budget(), len(loaded.corpus.train), model, training), Budget(), 1)
        return choice, about_model(choice, loaded.corpus.vocabulary)
    if (idle := about_gpu(training.device)) is not None:
        say(idle)
    device = pick_device(training.device)
    threads, means = means_of(device, training, steps, budget)
    if budget is not None:
        means = replace(means, seconds=round(max(1.0, budget - (perf_counter() - started)), 2))
    try:
        if before is None:
            choice = choose(means, len(loaded.corpus.train), model, training)
        else:
            choice = choose_from(before, loaded.corpus, means, model, training)
        choice = recorded(choice, means, threads)
    except ValueError as error:
        raise UsageError(str(error)) from None
    busy = f"; on {threads} of {most} threads, since the machine is busy" if threads < most else ""
    return choice, f"{about_model(choice, loaded.corpus.vocabulary)}, chosen {choice.why}{busy}"


def _show_plan(
    choice: Any,
    names: list[str],
    text: TextConfig,
    length: list[str],
    runs: tuple[str | None, ...],
    as_json: bool,
) -> None:
    """The plan, its settings as they are typed, and the command that gives them all.

    `runs`: what was given by the options that name runs and where they are.
    """
    if as_json:
        configs = {"model": choice.model.to_json(), "training": choice.training.to_json()}
        print_json({"type": "plan", "schema": 1, **configs, "plan": choice.plan.to_json()})
        return
    rows = [("steps, about", count(choice.plan.total_steps)), ("schedule", str(choice.plan.schedule))]
    rows = [] if choice.model.is_ngram else rows
    for kind in (choice.model, choice.training):
        for setting in settings_of(type(kind)):
            value = getattr(kind, setting.name)
            if value is not None and acts(choice.model.model, setting.name):
                option, *words = option_words(setting, value)
                rows.append((option, command_line(words)))
    table(rows)
    for option, value in zip(("--run", "--from", "--checkpoint", "--checkpoints"), runs, strict=True):
        length += [] if value is None else [option, value]
    print(f"\n{train_command(names, length, (choice.model, choice.training, text))}")


def _length(time: str | None, steps: int | None, model: ModelConfig) -> list[str]:
    """How long is trained, as it is typed."""
    if model.is_ngram:
        return []
    return ["--time", time or DEFAULT_TIME] if steps is None else ["--steps", str(steps)]


@dataclass(frozen=True)
class _New:
    """A new run, as the command asks for it."""

    started: float
    names: tuple[str, ...]
    run: str | None
    checkpoints: str | None
    asked: dict[str, Any]
    shared_name: bool
    as_json: bool


def _train(
    new: _New, loaded: Any, text: TextConfig, choice: Any, budget: float | None, before: Any = None
) -> None:
    from charlm.checkpoint.run_folder import RunFolder
    from charlm.cli.follow import counts_line, follow, next_commands
    from charlm.data.load import run_name
    from charlm.reporting.run_page import report_seconds
    from charlm.training.deadline import Pace
    from charlm.training.start import begin

    root, names = checkpoints_root(new.checkpoints), list(new.names)
    if new.run:
        if new.shared_name and find_begun(root, new.run) is not None:
            raise CheckpointError(
                f"another process began the run {new.run} in the meantime; give the same command again to resume it"
            )
        folder = RunFolder.create(root, new.run, shared_name=new.shared_name)
    else:
        folder = RunFolder.create_like(root, run_name(names))
    with working("counting n-grams"):
        session = begin(folder, loaded, text, choice, typed_command(), before, new.asked)
        counts = counts_line(session, budget)
    pace = None
    if budget is not None:
        afterwards = report_seconds(loaded.corpus, budget, choice.plan.total_steps)
        pace = Pace(budget=budget, deadline=new.started + budget, afterwards=afterwards)
    code = follow(folder, session, pace, counts, as_json=new.as_json)
    if code:
        raise typer.Exit(code)
    next_commands(folder, session)
