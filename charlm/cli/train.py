"""`charlm train`: train a model on a text."""

from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Annotated, Any

import typer

from charlm.cli.config_file import read_config
from charlm.cli.console import given_command, print_json, say, table
from charlm.cli.mistakes import check_files
from charlm.cli.options import (
    MOST_STEPS,
    ROOT,
    Checkpoints,
    EventsAsJson,
    From,
    ReportTo,
    Teacher,
    Texts,
    VerifyCache,
    Which,
    source_of,
    with_settings,
)
from charlm.cli.ranks import Gpus, RanksOption, Shard, start_as_asked, together
from charlm.config import ModelConfig, TrainingConfig, acts
from charlm.data.addresses import kept_name
from charlm.data.text_config import TextConfig
from charlm.errors import UsageError
from charlm.reporting.trackers import chosen_trackers
from charlm.settings import settings_of
from charlm.terminal import command_line
from charlm.training.request import DEFAULT_TIME, Messages, Prepared, TrainRequest, begun_run, build, prepare
from charlm.training.request_text import describe_paths

if TYPE_CHECKING:
    from charlm.checkpoint.run_folder import RunFolder
    from charlm.training.distributed import Ranks
    from charlm.training.planner import Choice

EXAMPLES = """Examples:
  charlm train corpus.txt                        train for two minutes
  charlm train poems/ --time 10m --run poems     a folder, longer, with a name
  charlm train corpus.txt --steps 500 --seed 3   the same weights every time
  charlm train corpus.txt --model ngram          an n-gram model, as a baseline
  charlm train new.txt --from poems              fine-tune a run on another text
  charlm train corpus.txt --dry-run              show the plan
  zcat log.gz | charlm train -                   standard input"""

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
    typer.Option(
        "--from-text",
        metavar="PATH",
        help="Current path of the text that the run of --from was trained on, if you moved it.",
    ),
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
PlanFrom = Annotated[
    str | None,
    typer.Option(
        "--plan-from",
        metavar="RUN|FILE",
        help="Use the model sizes, steps and schedule of another run or its plan.json, so that each machine trains alike.",
    ),
]
ResumeIfExists = Annotated[
    bool,
    typer.Option(
        "--resume-if-exists",
        help="If the run named by --run exists, resume it, or do nothing if it is finished; else "
        "start it. For requeued jobs.",
    ),
]
Config = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        is_eager=True,
        callback=read_config,
        help="Read options from a TOML file, as in: n_layer = 4. The command line and environment variables "
        "override it.",
    ),
]


@with_settings(PANELS, basic=("run", "time", "steps", "origin", "dry_run"))
def command(
    ctx: typer.Context,
    corpus: Texts = None,
    run: Annotated[
        str | None,
        typer.Option(
            "--run", "--name", metavar="NAME", help="Name of the run. [default: from the text's name]"
        ),
    ] = None,
    time: Time = None,
    steps: Steps = None,
    plan_from: PlanFrom = None,
    origin: From = None,
    teacher: Teacher = None,
    from_text: FromText = None,
    checkpoint: Which = None,
    resume_if_exists: ResumeIfExists = False,
    ranks: RanksOption = None,
    gpus: Gpus = None,
    shard: Shard = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan without training.")] = False,
    verify_cache: VerifyCache = False,
    report_to: ReportTo = None,
    config: Config = None,
    as_json: EventsAsJson = False,
    checkpoints: Checkpoints = ROOT,
    *,
    settings: dict[str, Any],
) -> None:
    """Train a model on a text. charlm plans the model size and hyperparameters for your text, your time
    and your machine, and prints them."""
    time, steps = _budget_by_precedence(ctx, time, steps)
    names = corpus or []
    check_files("train", [*names, *filter(None, [settings["val_file"]])], checkpoints, time)
    if shard:
        _leave_uncompiled(settings)
    start_as_asked(ranks, gpus, settings)
    request = TrainRequest(
        paths=tuple(names),
        settings=settings,
        given=frozenset(name for name in settings if source_of(ctx, name) != "DEFAULT"),
        time=time,
        steps=steps,
        plan_from=plan_from,
        run=run,
        root=checkpoints,
        from_run=origin,
        teacher=teacher,
        checkpoint=checkpoint,
        from_text=tuple(from_text or ()),
        verify_cache=verify_cache,
        report_to=chosen_trackers(report_to),
        command=given_command(),
        started=ctx.obj,
    )
    with together(ctx, settings["device"], shard=shard) as (met, messages):
        _train(request, resume_if_exists, dry_run, as_json, met, messages)


def _leave_uncompiled(settings: dict[str, Any]) -> None:
    """Turn compiling off, since torch gathers the weights of a block while it is computed. Raises UsageError."""
    if settings["compile"] == "on":
        raise UsageError(
            "--compile on has no effect with --shard, whose steps are not compiled; leave one out"
        )
    settings["compile"] = "off"


def _train(
    request: TrainRequest,
    resume_if_exists: bool,
    dry_run: bool,
    as_json: bool,
    ranks: "Ranks | None",
    messages: Messages,
) -> None:
    """Begin or resume the run, or show its plan."""
    request, resume_if_exists = _after_restart(request, ranks, resume_if_exists)
    begun = _begun(request, ranks) if resume_if_exists else None
    if begun is not None:
        _resume(begun, request, dry_run, as_json, ranks, messages)
        return
    prepared = prepare(request, messages, ranks)
    if dry_run:
        if ranks is None or ranks.is_first:
            _show_plan(prepared, as_json)
        return
    from charlm.cli.follow import follow
    from charlm.job import begin  # here and below: torch is slow to import

    follow(begin(prepared, messages, shared_name=resume_if_exists), as_json=as_json)


def _after_restart(request: TrainRequest, ranks: "Ranks | None", resumes: bool) -> tuple[TrainRequest, bool]:
    """Adapt the request of ranks that torchrun has restarted, which resume their run."""
    if ranks is None or not ranks.place.restarts:
        return request, resumes
    name = request.run or ranks.remembered_run()
    return replace(request, run=name), name is not None


def _budget_by_precedence(
    ctx: typer.Context, time: str | None, steps: int | None
) -> tuple[str | None, int | None]:
    """Choose between --time and --steps: the one from the command line, else the environment, else the file."""
    if time is None or steps is None:
        return time, steps
    order = ("COMMANDLINE", "ENVIRONMENT", "DEFAULT_MAP")
    by_time, by_steps = (order.index(source_of(ctx, name)) for name in ("time", "steps"))
    if by_time == by_steps:
        raise UsageError("give either --time or --steps, not both")
    return (time, None) if by_time < by_steps else (None, steps)


def _begun(request: TrainRequest, ranks: "Ranks | None") -> "RunFolder | None":
    """Return the run to resume with --resume-if-exists; None if it has yet to begin."""
    if request.run is None:
        raise UsageError("--resume-if-exists needs --run NAME: otherwise every call would train a new run")
    if ranks is None:
        return begun_run(request.root, request.run)
    from charlm.checkpoint.run_folder import RunFolder  # here: it is slow to import

    name = request.run
    begun = ranks.broadcast_object(lambda: begun_run(request.root, name) is not None)
    return RunFolder(request.root / name) if begun else None


def _resume(
    run: "RunFolder",
    request: TrainRequest,
    dry_run: bool,
    as_json: bool,
    ranks: "Ranks | None",
    messages: Messages,
) -> None:
    """Resume a run that the same command began; report if it is finished."""
    from charlm.cli.follow import follow, print_result
    from charlm.cli.resume import say_where_it_stands
    from charlm.job import check_same_request, reopen

    text = build(TextConfig, request.settings)
    say(f"the run {run.name} exists; reading {describe_paths(request.paths, text)}")

    def look() -> bool:
        """Check the run and return whether there is anything to train."""
        snapshot = check_same_request(run, request, messages)
        finished = snapshot.state.get("finished")
        if dry_run:
            say(
                f"the run {run.name} is at step {snapshot.step}, {finished or 'unfinished'}; without --dry-run it would "
                "be resumed"
            )
            return False
        if finished is not None and (run.path / "report.html").exists():
            say(f"the run {run.name} is finished, after {snapshot.step} steps; there is nothing left to do")
            if as_json:
                print_result(run, finished)
            return False
        return True

    if not (look() if ranks is None else ranks.broadcast_object(look)):
        return
    training = reopen(
        run,
        messages,
        started=request.started,
        first_time=request.asked.get("time"),
        threads=request.settings["threads"],
        report_to=request.report_to,
    )
    say_where_it_stands(training)
    follow(training, as_json=as_json)


def _show_plan(prepared: Prepared, as_json: bool) -> None:
    """Print the plan, its settings as they are typed, and the command that gives them all."""
    from charlm.reporting.commands import option_words, train_command

    request, choice = prepared.request, prepared.choice
    plan, configs = choice.plan, (choice.model, choice.training)
    members = _planned_members(choice)
    if as_json:
        of_first = {"model": choice.model.to_json(), "training": choice.training.to_json()}
        print_json({"type": "plan", "schema": 1, **of_first, "members": members, "plan": plan.to_json()})
        return
    rows = [("steps, about", f"{plan.total_steps:,}"), ("schedule", str(plan.schedule))]
    rows = [] if choice.model.is_ngram else rows
    if len(plan.members) > 1:
        table(rows[:1])
        print()
        _show_members(members)
    else:
        for config in configs:
            for setting in settings_of(type(config)):
                value = getattr(config, setting.name)
                if value is not None and acts(choice.model.model, setting.name):
                    option, *words = option_words(setting, value)
                    rows.append((option, command_line(words)))
        table(rows)
    if len(plan.members) > 1 or request.plan_from is not None:  # each member has settings of its own
        configs = build(ModelConfig, request.settings), build(TrainingConfig, request.settings)
    elif request.from_run is not None:
        configs = configs[0], replace(configs[1], members=None)  # these follow from the other run
    words = request.budget_words
    runs = {
        "--run": request.run,
        "--from": request.from_run,
        "--teacher": request.teacher,
        "--checkpoint": request.checkpoint,
        "--report-to": ",".join(request.report_to or ()) or None,
        "--checkpoints": None if request.root == ROOT else str(request.root),
    }
    for option, name in runs.items():
        words += [] if name is None else [option, name]
    print(f"\n{train_command([*map(kept_name, request.paths)], words, (*configs, prepared.text))}")


def _planned_members(choice: "Choice") -> list[dict[str, Any]]:
    """Return the kind, steps, schedule and settings of each member; the n-gram model, the last, has none."""
    from charlm.training.describe import kinds_of

    plan, begin, found = choice.plan, 0, list[dict[str, Any]]()
    for kind, member in zip_longest(kinds_of(plan), plan.members):
        row: dict[str, Any] = {"number": len(found) + 1, "kind": kind, "begin": None, "end": None}
        row |= {"schedule": None, "model": None, "training": None}
        if member is not None:
            pieces = zip(str(plan.schedule).split("/"), plan.schedule.pieces, strict=True)
            own = [written for written, points in pieces if begin <= points[0][0] < member.end]
            row |= {"begin": begin, "end": member.end, "schedule": "/".join(own)}
            row |= {"model": member.model.to_json(), "training": member.training.to_json()}
            begin = member.end
        found.append(row)
    return found


def _show_members(members: list[dict[str, Any]]) -> None:
    """Print a table of the members' steps, schedules and settings, side by side."""
    from charlm.reporting.commands import option_words

    trained = [member for member in members if member["model"] is not None]
    header = ("", *(f"member {member['number']}, {member['kind']}" for member in members))
    rows = [
        ("steps, about", *(f"{m['begin'] + 1:,} to {m['end']:,}" for m in trained)),
        ("schedule", *(member["schedule"] for member in trained)),
    ]
    for part, config in (("model", ModelConfig), ("training", TrainingConfig)):
        for setting in settings_of(config):
            values = [member[part][setting.name] for member in trained]
            acting = acts(ModelConfig().model, setting.name)
            if acting and any(value is not None for value in values):
                words = [[] if value is None else option_words(setting, value) for value in values]
                shown = [command_line(each[1:] or each) if each else "" for each in words]
                rows.append((setting.option, *shown))
    counted = ("its n-grams are counted",) * (len(members) - len(trained))
    table([(*rows[0], *counted), *((*row, *[""] * len(counted)) for row in rows[1:])], header=header)
