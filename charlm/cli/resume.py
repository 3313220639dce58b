"""`charlm resume`: train a run to the end of its plan or further, or finish a comparison."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from charlm.checkpoint.run_folder import RunFolder, run_command
from charlm.cli.console import MESSAGES, say, warn
from charlm.cli.options import (
    MOST_STEPS,
    ROOT,
    Checkpoints,
    EventsAsJson,
    MovedText,
    MovedValFile,
    ReportTo,
    RunName,
    RunOption,
    one_run,
    source_of,
    threads_option,
)
from charlm.cli.ranks import Gpus, RanksOption, Shard, start_as_asked, together
from charlm.cli.workers import Worker, this_worker
from charlm.errors import UsageError
from charlm.reporting.trackers import chosen_trackers
from charlm.terminal import one_line
from charlm.training.describe import member_in_training
from charlm.training.request import budget_seconds
from charlm.training.request_text import moved_text

if TYPE_CHECKING:
    from charlm.job import TrainingJob
    from charlm.training.distributed import Ranks
    from charlm.training.run_corpus import Moved

EXAMPLES = """Examples:
  charlm resume                     finish the newest run
  charlm resume poems --time 10m    ten minutes more, with their own warmup and cooldown
  charlm resume poems --steps 500   500 steps more
  charlm resume poems --text ~/new/poems   after moving its text there
  charlm resume poems-position      finish a comparison"""


def command(
    ctx: typer.Context,
    run: RunName = None,
    run_option: RunOption = None,
    time: Annotated[str | None, typer.Option(metavar="TIME", help="Extra time, start-up included.")] = None,
    steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=MOST_STEPS, help="Extra steps.")
    ] = None,
    threads: Annotated[int | None, threads_option("CPU threads. [default: as many as the run used]")] = None,
    text: MovedText = None,
    val_file: MovedValFile = None,
    ranks: RanksOption = None,
    gpus: Gpus = None,
    shard: Shard = False,
    report_to: ReportTo = None,
    as_json: EventsAsJson = False,
    checkpoints: Checkpoints = ROOT,
) -> None:
    """Finish a run or a comparison, or train a run further.

    Training starts from the last intact checkpoint. To train a finished run further, give --time or --steps.
    If only its report is missing, this command writes the report.
    """
    name = one_run(run, run_option)
    if time is not None and steps is not None:
        raise UsageError("give either --time or --steps, not both")
    budget = None if time is None else budget_seconds(time)
    trackers = chosen_trackers(report_to)
    worker = this_worker()
    root, moved = checkpoints, moved_text(text, val_file)
    if shard and name is not None and _is_comparison(root, name):
        raise UsageError(
            "--shard has no effect on a comparison, each of whose runs is trained by one process; leave it out"
        )
    start_as_asked(ranks, gpus, {})
    say(f"resuming {name or 'the newest run'}")
    if name is not None and _comparison(ctx, root, name, time, steps, report_to, moved, worker, as_json):
        return

    from charlm.job import reopen  # here: torch is slow to import

    with together(ctx, "auto", shard=shard) as (met, messages):
        folder = _find(name, root, met)
        if (time is not None or steps is not None) and (folder.path.parent / "comparison.json").is_file():
            raise UsageError(f"{folder.name} is part of a comparison, in which all runs have the same budget")
        training = reopen(
            folder,
            messages,
            started=ctx.obj,
            time=budget,
            steps=steps,
            threads=threads,
            moved=moved,
            report_to=trackers,
        )
        _finish(training, as_json)


def _find(name: str | None, root: Path, ranks: "Ranks | None") -> RunFolder:
    """Return the folder of the run, which rank 0 finds."""
    from charlm.run import find_run

    if ranks is None:
        return find_run(name, root, MESSAGES)
    return RunFolder(Path(ranks.broadcast_object(lambda: str(find_run(name, root, MESSAGES).path))))


def _finish(training: "TrainingJob", as_json: bool) -> None:
    """Train a run to its end, or report that nothing is left to do."""
    from charlm.cli.follow import follow, next_commands, print_result

    folder = training.folder
    say_where_it_stands(training)
    if not training.complete:
        follow(training, as_json=as_json)
    elif training.is_ngram:
        if as_json:
            print_result(folder, "done")
        next_commands(training, resumable=False)
    else:
        raise UsageError(
            f"the run {folder.name} is finished, after {training.session.state.step} steps; to train it further, set a "
            f"time: {one_line(run_command('resume', folder, '--time', '2m'))}"
        )


def say_where_it_stands(training: "TrainingJob") -> None:
    """Print from which step to which a run trains, or what a finished one lacks."""
    name, state = training.folder.name, training.session.state
    if state.finished is None:
        if not training.is_ngram:
            plan = training.session.plan
            member = member_in_training(plan, training.session.number + 1)
            of = f", {member}" * bool(member)
            say(f"{name}: training from step {state.step} to {plan.total_steps}{of}")
        return
    missing = "" if training.complete else "; only its report is missing"
    if training.is_ngram:
        say(f"{name} is complete: an n-gram model needs no further training{missing}")
    elif missing:
        say(f"{name} is finished, after {state.step} steps{missing}")


def _is_comparison(root: Path, name: str) -> bool:
    from charlm.experiments import comparison as on_disk  # here: NumPy is slow to import

    return on_disk.find(root, name) is not None


def _comparison(
    ctx: typer.Context,
    root: Path,
    name: str,
    time: str | None,
    steps: int | None,
    report_to: str | None,
    moved: "Moved | None",
    worker: Worker,
    as_json: bool,
) -> bool:
    """Resume the comparison of that name. Return False if there is none."""
    from charlm.experiments import comparison as on_disk

    folder = on_disk.find(root, name)
    if folder is None:
        return False
    for option, value in {"--time": time, "--steps": steps}.items():
        if value is not None:
            raise UsageError(f"{option} has no effect on a comparison: all its runs have the same budget")
    if report_to is not None and source_of(ctx, "report_to") == "COMMANDLINE":
        raise UsageError("--report-to has no effect on a comparison, which has a page of its own")
    source = source_of(ctx, "threads")
    if source != "DEFAULT":
        effect = "has no effect on a comparison: all its runs use the first run's number of threads"
        if source == "COMMANDLINE":
            raise UsageError(f"--threads {effect}")
        warn(f"CHARLM_THREADS {effect}")
    from charlm.cli.compare_run import follow_comparison
    from charlm.training.request_text import report_moved

    comparison = on_disk.read(folder)
    loaded = on_disk.corpus_of(comparison, moved)
    report_moved(loaded.corpus.uncached, moved, worker.messages)
    follow_comparison(folder, comparison, loaded, worker, as_json=as_json)
    return True
